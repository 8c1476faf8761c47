"""Trees put together out of parts: what belongs to whom, and what contradicts what."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.versioning.conftest import contents
from trunkline.core.ids import TreeHash
from trunkline.errors import ConflictError
from trunkline.versioning.assembling import STREAMS_MAX
from trunkline.versioning.model import PutFile, TreePart
from trunkline.versioning.service import VersioningService


def part(versioning: VersioningService, label: str, files: dict[str, str], prefix: str = "") -> TreePart:
    changes = [PutFile(path=prefix + path, parts=[text.encode()]) for path, text in files.items()]
    return TreePart(label, versioning.stage(changes).root, prefix)


def test_parts_come_and_go(versioning: VersioningService) -> None:
    one = part(versioning, "one", {"/a": "1", "/d/x": "2"})
    two = part(versioning, "two", {"/d/y": "3"}, prefix="/0123")
    whole = versioning.assemble(None, [], [one, two])
    assert contents(versioning, whole.root) == {"/a": b"1", "/d/x": b"2", "/d/y": b"3"}
    assert (whole.size, whole.file_count) == (3, 3)
    changed = part(versioning, "one", {"/a/b": "now a folder"})
    edited = versioning.assemble(whole.root, [one], [changed])
    assert contents(versioning, edited.root) == {"/a/b": b"now a folder", "/d/y": b"3"}
    assert versioning.assemble(edited.root, [changed], []).root == versioning.assemble(None, [], [two]).root
    assert versioning.assemble(whole.root, [one, two], []).file_count == 0
    assert versioning.assemble(None, [], [one]).root == one.root


def test_what_is_not_there_any_more_can_be_taken_out(versioning: VersioningService) -> None:
    one = part(versioning, "one", {"/a": "1"})
    two = part(versioning, "two", {"/b": "2"})
    assert contents(versioning, versioning.assemble(one.root, [one, two], [two]).root) == {"/b": b"2"}
    three = part(versioning, "three", {"/c": "3"})  # as large as all there is, and none of it
    assert versioning.assemble(one.root, [three], []).root == one.root


@pytest.mark.parametrize("filler", [0, STREAMS_MAX])
@pytest.mark.parametrize(
    ("other", "path", "kind"),
    [
        ({"/d/x": "another"}, "/d/x", "duplicate_path"),
        ({"/d/x": "1"}, "/d/x", "duplicate_path"),  # also where it is the same
        ({"/d": ""}, "/d", "path_collision"),
        ({"/d/x/y": ""}, "/d/x", "path_collision"),
    ],
)
def test_two_parts_with_one_path_are_both_named(
    versioning: VersioningService, other: dict[str, str], path: str, kind: str, filler: int
) -> None:
    one, two = part(versioning, "one", {"/a": "", "/d/x": "1"}), part(versioning, "two", other, prefix="/p")
    more = [part(versioning, f"more {n}", {f"/more/{n}": ""}) for n in range(filler)]
    for parts in ([one, two, *more], [two, *more, one]):
        with pytest.raises(ConflictError) as caught:
            versioning.assemble(None, [], parts)
        assert (caught.value.kind, caught.value.details["path"]) == (kind, path)
        assert set(caught.value.details["labels"]) == {"one", "two"}
        assert caught.value.message.startswith(f"{path} is written by both ")


def test_a_path_of_the_base_is_asked_for(versioning: VersioningService) -> None:
    base = part(versioning, "old", {"/d/x": "1"})
    new = part(versioning, "new", {"/d/x": "1"})
    with pytest.raises(ConflictError, match="/d/x is written by both the old one and new"):
        versioning.assemble(
            base.root, [], [new], owner=lambda path: "the old one" if path == "/d/x" else None
        )
    assert versioning.has_part_at(base, "/d/x") and versioning.has_part_at(base, "/d")
    assert not versioning.has_part_at(base, "/x")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    owners=st.lists(
        st.tuples(st.sampled_from("abcd"), st.sampled_from("xyz"), st.sampled_from("12")), max_size=12
    ),
    gone=st.sets(st.sampled_from("abcd")),
)
def test_any_edit_is_the_same_as_from_scratch(
    versioning: VersioningService, owners: list[tuple[str, str, str]], gone: set[str]
) -> None:
    files: dict[str, dict[str, str]] = {}
    for owner, name, text in owners:
        files.setdefault(owner, {})[f"/{name}/{owner}"] = text
    parts = {owner: part(versioning, owner, some, f"/{owner}0") for owner, some in files.items()}
    base = versioning.assemble(None, [], list(parts.values()))
    changed = {owner: part(versioning, owner, {f"/z/{owner}": "new"}) for owner in gone if owner in parts}
    edited = versioning.assemble(base.root, [parts[one] for one in changed], list(changed.values()))
    assert edited == versioning.assemble(None, [], list({**parts, **changed}.values()))


def test_a_tree_that_is_none(versioning: VersioningService) -> None:
    empty = versioning.assemble(None, [], [])
    assert empty.file_count == 0
    assert versioning.assemble(TreeHash(empty.root), [], []).root == empty.root
