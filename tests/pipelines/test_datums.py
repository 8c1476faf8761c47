"""Inputs to datums: which there are, and what decides their results."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.pipelines.datums import (
    Code,
    code_changes,
    datum_id,
    digest_of_code,
    digest_of_version,
    environment_of,
    identity,
)
from trunkline.pipelines.inputs import Seen

INPUT = {"pfs": {"name": "images", "project": "default", "repo": "images", "branch": "master", "glob": "/*"}}
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


def seen(path: str, digest: str = "h1", **more: str) -> Seen:
    place = {"leaf": "images", "project": "default", "repo": "images", "branch": "master", **more}
    return Seen(path=path, hash=digest, size=1, **place)


def identity_of(*files: Seen, code: Code = CODE) -> str:
    return identity(files, digest_of_code(code, INPUT))


def test_the_id_names_it_and_the_identity_its_result() -> None:
    old, changed = seen("/a", "h1"), seen("/a", "h2")
    assert datum_id((old,)) == datum_id((changed,))
    assert identity_of(old) != identity_of(changed)
    copied = seen("/a", repo="copy", branch="dev", project="other")
    assert datum_id((old,)) != datum_id((copied,))
    assert identity_of(old) == identity_of(copied)
    assert identity_of(old) != identity_of(seen("/a", leaf="data"))  # the command sees another path
    assert identity_of(old) != identity_of(seen("/a", join_on="x"))  # and another environment
    assert environment_of((seen("/a", join_on="x"), seen("/b", leaf="d", group_by="y"))) == {
        "PACH_DATUM_images_JOIN_ON": "x", "PACH_DATUM_d_GROUP_BY": "y",
    }  # fmt: skip


def test_a_datum_of_several_files_is_named_by_all_of_them() -> None:
    one, two = seen("/a"), seen("/b", leaf="labels")
    assert len({datum_id((one,)), datum_id((two,)), datum_id((one, two))}) == 3
    assert identity_of(one, two) == identity_of(two, one)  # it sees the same, whatever their order


TEXT = st.text(st.characters(), max_size=5)  # with quotes, backslashes, halves of surrogate pairs


@given(st.lists(st.builds(Seen, *[TEXT] * 6, st.integers(), TEXT, TEXT), min_size=1, max_size=3))
def test_digests_are_those_of_canonical_json(files: list[Seen]) -> None:
    def digest(value: Any) -> str:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"))
        return hashlib.blake2b(text.encode(), digest_size=32).hexdigest()

    def what(one: Seen) -> list[Any]:
        keys = [[one.join_on, one.group_by]] if one.join_on or one.group_by else []
        return [one.leaf, [one.path], one.hash, *keys]

    assert datum_id(tuple(files)) == digest([[*one[:4], [one.path]] for one in files])
    assert identity(tuple(files), "code") == digest(["code", sorted(map(what, files))])


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
    assert identity_of(seen("/a"), code=changed) != identity_of(seen("/a"))
    names = code_changes(CODE, changed)
    assert len(names) == (0 if changed.salt else 1)


def test_what_cannot_change_it_does_not() -> None:
    other = replace(CODE, transform={**CODE.transform, "debug": True, "code": "elsewhere"})
    assert digest_of_code(other, INPUT) == digest_of_code(CODE, INPUT)
    assert code_changes(CODE, other) == []


def test_how_files_are_seen_is_part_of_the_code_where_it_matters() -> None:
    lazy, empty = ({"pfs": {**INPUT["pfs"], name: True}} for name in ("lazy", "empty_files"))
    assert digest_of_code(CODE, lazy) == digest_of_code(CODE, INPUT)
    assert digest_of_code(CODE, empty) != digest_of_code(CODE, INPUT)
    assert digest_of_version("c", lazy) != digest_of_version("c", INPUT)


def test_identities_never_change_between_releases() -> None:
    """Results are kept under them: if this fails, raise IDENTITY_VERSION only if the meaning has changed."""
    assert datum_id((seen("/a"),)) == "d320a312538b35bee4b89596c4eacdbdd27b0f653957b1b71c7f0fa6f718f619"
    assert identity_of(seen("/a")) == "311c273625146437d37d495bf1442bcadfc3ff9615e54efc009ffbf82feb7da0"


@given(st.sets(st.text(alphabet="ab/c", min_size=1, max_size=6), max_size=20))
def test_no_two_datums_share_a_name(paths: set[str]) -> None:
    assert len({datum_id((seen("/" + path),)) for path in paths}) == len(paths)
