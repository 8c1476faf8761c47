"""Inputs to datums: which there are, and what decides their results."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.errors import InvalidInputError
from trunkline.pipelines.datums import Code, Match, check_glob, plan
from trunkline.pipelines.model import DatumInput

SOURCE = DatumInput(
    name="images",
    project="default",
    repo="images",
    branch="master",
    commit="c1",
    root="r1",
    paths=(),
    hash="",
    size=0,
)
CODE = Code(
    transform={
        "cmd": ["sh"],
        "stdin": ["x"],
        "env": {"A": "1"},
        "image": "trunkline",
        "code": "src",
        "debug": False,
    },
    environment={"python": None, "path": [], "working_dir": None, "env": {}},
    code_root="code1",
    salt="",
)


def match(path: str, digest: str = "h1") -> Match:
    return Match(path=path, hash=digest, size=1)


def test_one_datum_for_each_match_in_order() -> None:
    planned = plan(SOURCE, [match("/b"), match("/a"), match("/b")], CODE)
    assert [datum.inputs[0].paths for datum in planned] == [("/a",), ("/b",)]
    assert len({datum.id for datum in planned}) == len({datum.identity for datum in planned}) == 2


def test_the_id_names_it_and_the_identity_its_result() -> None:
    [old] = plan(SOURCE, [match("/a", "h1")], CODE)
    [changed] = plan(SOURCE, [match("/a", "h2")], CODE)
    assert (old.id == changed.id, old.identity == changed.identity) == (True, False)
    elsewhere = replace(SOURCE, repo="copy", branch="dev", commit="c9", root="r9", project="other")
    [copied] = plan(elsewhere, [match("/a", "h1")], CODE)
    assert (old.id == copied.id, old.identity == copied.identity) == (False, True)
    [renamed] = plan(replace(SOURCE, name="data"), [match("/a", "h1")], CODE)
    assert old.identity != renamed.identity  # the command sees another path


@pytest.mark.parametrize(
    "changed",
    [
        replace(CODE, salt="s"),
        replace(CODE, code_root="code2"),
        replace(CODE, environment={**CODE.environment, "python": "/opt/python"}),
        *[
            replace(CODE, transform={**CODE.transform, name: value})
            for name, value in {
                "cmd": ["bash"], "stdin": [], "env": {}, "image": "other", "err_cmd": ["x"], "working_dir": "y",
                "secrets": [{"name": "s"}], "accept_return_code": [1],
            }.items()
        ],
    ],
)  # fmt: skip
def test_all_that_can_change_the_result_changes_the_identity(changed: Code) -> None:
    assert plan(SOURCE, [match("/a")], changed)[0].identity != plan(SOURCE, [match("/a")], CODE)[0].identity


def test_what_cannot_change_it_does_not() -> None:
    other = replace(CODE, transform={**CODE.transform, "debug": True, "code": "elsewhere"})
    assert plan(SOURCE, [match("/a")], other) == plan(SOURCE, [match("/a")], CODE)


def test_identities_never_change_between_releases() -> None:
    """Results are kept under them: if this fails, raise IDENTITY_VERSION only if the meaning has changed."""
    [datum] = plan(SOURCE, [match("/a")], CODE)
    assert datum.id == "d320a312538b35bee4b89596c4eacdbdd27b0f653957b1b71c7f0fa6f718f619"
    assert datum.identity == "311c273625146437d37d495bf1442bcadfc3ff9615e54efc009ffbf82feb7da0"


@given(st.sets(st.text(alphabet="ab/c", min_size=1, max_size=6), max_size=20))
def test_no_two_datums_share_a_name(paths: set[str]) -> None:
    planned = plan(SOURCE, [match("/" + path) for path in paths], CODE)
    assert len({datum.id for datum in planned}) == len(planned) == len(paths)


@pytest.mark.parametrize(
    ("given_glob", "normal"), [("/", "/"), ("*", "/*"), ("/**.png", "/**.png"), ("/{a,b}/*", "/{a,b}/*")]
)
def test_globs(given_glob: str, normal: str) -> None:
    assert check_glob(given_glob) == normal


@pytest.mark.parametrize("bad", ["", "/[a", "/{a", "/(a", "/a)", "/a\\"])
def test_bad_globs_name_the_field(bad: str) -> None:
    with pytest.raises(InvalidInputError, match=r"input.pfs.glob: .*for example '/'") as caught:
        check_glob(bad)
    assert caught.value.kind == "bad_glob"


def test_a_datum_of_a_whole_tree() -> None:
    [datum] = plan(SOURCE, [match("/")], CODE)
    seen: Any = datum.inputs[0]
    assert (seen.paths, seen.hash, seen.root) == (("/",), "h1", "r1")
