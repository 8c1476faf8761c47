"""Tags: names with dots that never mean two things, and that keep what they name."""

from __future__ import annotations

import pytest

from tests.versioning.conftest import put, shown
from trunkline.core.paths import parse_address
from trunkline.errors import AlreadyExistsError, InvalidInputError, NotFoundError, StateError
from trunkline.versioning.model import Commit
from trunkline.versioning.service import VersioningService


@pytest.fixture(autouse=True)
def made(versioning: VersioningService) -> list[Commit]:
    versioning.create_repo("default", "data")
    return [versioning.modify("default", "data@master", [put("/n", b"%d" % n)]) for n in range(3)]


def test_a_tag_stands_wherever_a_commit_does(versioning: VersioningService, made: list[Commit]) -> None:
    tag = versioning.create_tag("default", "data@v1.0", commit="master^", description="the first")
    assert (tag.name, tag.commit, tag.description) == ("v1.0", made[1].id, "the first")
    assert shown(versioning, "data@v1.0") == {"/n": b"1"}
    _, _, path = versioning.resolve("default", "data@v1.0:/n")
    assert path == "/n"
    assert versioning.inspect_commit("default", "data@v1.0^").id == made[0].id
    assert versioning.create_branch("default", "data@fix", head="v1.0").head == made[1].id
    found = versioning.list_commits("default", "data", branch="v1.0")
    assert [one.id for one in found] == [made[1].id, made[0].id]
    assert versioning.create_tag("default", "data@stable", commit="v1.0").commit == made[1].id
    assert versioning.merge_branch("default", "data@v1.0", "data@master").is_up_to_date
    assert [one.name for one in versioning.list_tags("default", "data")] == ["stable", "v1.0"]
    assert [one.name for one in versioning.list_tags("default", "data", limit=1, after="stable")] == ["v1.0"]


@pytest.mark.parametrize("name", ["v1.0.0", "1.2", "2026-11", "v1.0-rc.1", "x.y", "a.01"])
def test_names(versioning: VersioningService, made: list[Commit], name: str) -> None:
    versioning.create_tag("default", f"data@{name}", commit="master")
    assert versioning.inspect_tag("default", f"data@{name}").commit == made[2].id
    assert versioning.inspect_commit("default", f"data@{name}").id == made[2].id
    assert str(parse_address(f"data@{name}:/x")) == f"default/data@{name}:/x"
    versioning.delete_tag("default", f"data@{name}")
    with pytest.raises(NotFoundError):
        versioning.inspect_commit("default", f"data@{name}")


@pytest.mark.parametrize(
    "name", ["v1.", ".v1", "v..1", "v 1", "v1^", "a=b", "f" * 32, "f" * 32 + ".1", "x" * 129]
)
def test_names_that_are_refused(versioning: VersioningService, name: str) -> None:
    with pytest.raises(InvalidInputError):
        versioning.create_tag("default", f"data@{name}", commit="master")
    assert versioning.list_tags("default", "data") == []


def test_an_address_never_means_two_things(versioning: VersioningService, made: list[Commit]) -> None:
    assert versioning.inspect_commit("default", "data@master.2").id == made[1].id
    for name in ("master", "master.2", "master.7"):
        with pytest.raises(AlreadyExistsError, match="branch"):
            versioning.create_tag("default", f"data@{name}", commit="master")
    versioning.create_tag("default", "data@v1.0", commit="master")
    versioning.create_tag("default", "data@v2", commit="master")
    versioning.create_tag("default", "data@w.x", commit="master")
    for branch, tag in (("v1", "v1.0"), ("v2", "v2")):
        with pytest.raises(AlreadyExistsError, match=f"there is a tag default/data@{tag}"):
            versioning.create_branch("default", f"data@{branch}")
    versioning.create_branch("default", "data@w", head="master")  # w.x is no number: nothing else it could be
    assert versioning.inspect_commit("default", "data@w.1").id == made[0].id
    versioning.create_tag("default", "data@v1", commit="master^")  # .N counts along branches, not from tags
    assert versioning.inspect_commit("default", "data@v1.0").id == made[2].id
    for ref, match in (("v2.1", "no branch or tag 'v2.1'"), ("v3.0", "no tag 'v3.0'"), ("v1.1^", "mixed")):
        with pytest.raises((NotFoundError, InvalidInputError), match=match):
            versioning.inspect_commit("default", f"data@{ref}")


def test_a_tag_stays_where_it_is(versioning: VersioningService, made: list[Commit]) -> None:
    versioning.create_tag("default", "data@v1", commit=made[0].id)
    assert versioning.create_tag("default", "data@v1", commit=made[0].id).commit == made[0].id
    with pytest.raises(AlreadyExistsError, match=f"names commit {made[0].id} already: .*--move"):
        versioning.create_tag("default", "data@v1", commit="master")
    assert versioning.create_tag("default", "data@v1", commit="master", move=True).commit == made[2].id


def test_nothing_is_written_to_a_tag(versioning: VersioningService, made: list[Commit]) -> None:
    versioning.create_tag("default", "data@v1", commit="master")
    versioning.create_tag("default", "data@v1.2", commit="master")
    for address in ("data@v1", "data@v1.2"):
        for change in (
            lambda at=address: versioning.modify("default", at, [put("/x")]),
            lambda at=address: versioning.start_commit("default", at),
            lambda at=address: versioning.merge_branch("default", "data@master", at),
        ):
            with pytest.raises(
                (StateError, InvalidInputError, AlreadyExistsError), match=r"tag|a branch is needed"
            ):
                change()
    assert len(versioning.list_commits("default", "data")) == 3
    assert [one.name for one in versioning.list_branches("default", "data")] == ["master"]


def test_what_cannot_be_tagged(versioning: VersioningService) -> None:
    versioning.create_repo("default", "other")
    versioning.modify("default", "other@master", [])
    versioning.start_commit("default", "data@slow")
    with pytest.raises(StateError, match="finish it, then tag it"):
        versioning.create_tag("default", "data@v1", commit="slow")
    with pytest.raises(InvalidInputError, match="not a commit of repo"):
        versioning.create_tag("default", "data@v1", commit="other@master")
    with pytest.raises(NotFoundError, match="no repo"):
        versioning.create_tag("default", "dat@v1", commit="master")
    with pytest.raises(NotFoundError, match="did you mean 'v10'"):
        versioning.create_tag("default", "data@v10", commit="master")
        versioning.inspect_tag("default", "data@v1")
    with pytest.raises(InvalidInputError, match="names no tag"):
        versioning.inspect_tag("default", "data@v1:/x")
