"""Names that people cannot tell apart are not put beside each other, unless that is allowed."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import FakeClock
from tests.versioning.conftest import contents, open_service, put, shown
from trunkline.errors import ConflictError
from trunkline.jobs.outbox import Outbox
from trunkline.storage.db.engine import Database
from trunkline.storage.objects.local import LocalStore
from trunkline.storage.objects.memory import MemoryStore
from trunkline.versioning.lookalikes import Lookalikes
from trunkline.versioning.model import Change, CopyTree, DeletePath, TreePart
from trunkline.versioning.service import VersioningService

NFC, NFD = "/caf\u00e9", "/cafe\u0301"


def refused(service: VersioningService, changes: list[Change]) -> ConflictError:
    with pytest.raises(ConflictError) as raised:
        service.modify("default", "r@master", changes)
    assert raised.value.kind == "lookalike_name"
    return raised.value


@pytest.mark.parametrize(("first", "second"), [(NFC, NFD), (NFD, NFC)])
def test_the_second_spelling_is_refused_and_both_are_shown(
    versioning: VersioningService, first: str, second: str
) -> None:
    versioning.create_repo("default", "r")
    versioning.modify("default", "r@master", [put(first, b"1")])
    error = refused(versioning, [put(second, b"2")])
    assert (
        r"caf\xe9" in error.message and r"cafe\u0301" in error.message and "allow_lookalikes" in error.message
    )
    refused(versioning, [put("/other", b"x"), put(second + "/below", b"2")])
    assert shown(versioning, "r@master") == {first: b"1"}
    versioning.modify("default", "r@master", [put(first, b"3")])
    versioning.modify("default", "r@master", [put(first, b"4", append=True)])
    versioning.modify("default", "r@master", [DeletePath(path=first), put(second, b"5")])
    assert shown(versioning, "r@master") == {second: b"5"}


def test_within_one_commit_and_between_folders(versioning: VersioningService) -> None:
    versioning.create_repo("default", "r")
    refused(versioning, [put(NFC, b"1"), put(NFD, b"2")])
    refused(versioning, [put(NFC + "/a", b"1"), put(NFD + "/b", b"2")])
    versioning.modify(
        "default", "r@master", [put("/x" + NFC, b"1"), put("/y" + NFD, b"2"), put(NFC + "/a", b"3")]
    )
    tree = versioning.stage([put(NFD + "/b", b"4")])
    refused(versioning, [CopyTree(path="/", root=tree.root, merge=True)])
    with pytest.raises(ConflictError):
        versioning.assemble(None, [], _parts(versioning))


def _parts(versioning: VersioningService) -> list[TreePart]:
    return [TreePart(name, versioning.stage([put(name)]).root, "") for name in (NFC, NFD)]


def test_a_setting_allows_both(db: Database, objects: LocalStore, clock: FakeClock) -> None:
    service = VersioningService(
        db=db, objects=objects, clock=clock, publish=Outbox(db, clock).publish, allow_lookalikes=True
    )
    root = service.stage([put(NFC, b"1"), put(NFD, b"2")]).root
    assert contents(service, root) == {NFC: b"1", NFD: b"2"}
    merged = service.assemble(None, [], _parts(service))
    assert merged.file_count == 2


@given(st.lists(st.text("eé\u0301a\u00e9\u030a/", min_size=1, max_size=5), max_size=12))
def test_no_two_names_that_normalize_alike_are_let_in(names: list[str]) -> None:
    there: set[bytes] = set()

    def exists(key: bytes) -> bool:
        return key in there or any(name.startswith(key + b"/") for name in there)

    checker = Lookalikes(exists)
    for name in names:
        if "" in name.split("/"):
            continue
        key = name.encode()
        normal = {unicodedata.is_normalized(form, name) for form in ("NFC", "NFD")}
        try:
            checker.check(key)
        except ConflictError as error:
            other = error.details["other"].removeprefix("/")
            assert exists(other.encode())
            assert unicodedata.normalize("NFC", other) in {
                unicodedata.normalize("NFC", name[: len(part)]) for part in _prefixes(name)
            }
            continue
        if True in normal:
            twins = [one for one in there if one != key and _same(one.decode(), name)]
            assert twins == []
        there.add(key)


def _prefixes(name: str) -> list[str]:
    parts = name.split("/")
    return ["/".join(parts[:n]) for n in range(1, len(parts) + 1)]


def _same(one: str, other: str) -> bool:
    return unicodedata.normalize("NFC", one) == unicodedata.normalize("NFC", other)


def test_ordinary_names_cost_nothing(tmp_path: Path, clock: FakeClock) -> None:
    service = open_service(Database(f"sqlite:///{tmp_path / 'x.db'}"), MemoryStore(), clock)
    names = [f"/写真/{i:05}.jpg" for i in range(3000)] + [f"/plain/{i:05}" for i in range(3000)]
    root = service.stage([put(name, b"x") for name in names]).root
    assert service.stat(root, "/写真").size == 3000
    service._db.close()


@pytest.mark.parametrize("ours, theirs", [("/é", "/e\u0301"), ("/é/a", "/e\u0301/b"), ("/d/e\u0301", "/d/é")])
def test_a_merge_brings_none_in(versioning: VersioningService, ours: str, theirs: str) -> None:
    versioning.create_repo("default", "r")
    versioning.modify("default", "r@master", [put("/base", b"1")])
    versioning.create_branch("default", "r@dev", head="master")
    versioning.modify("default", "r@master", [put(ours, b"1")])
    versioning.modify("default", "r@dev", [put(theirs, b"2")])
    with pytest.raises(ConflictError, match="Unicode"):
        versioning.merge_branch("default", "r@dev", "r@master")
    assert versioning.inspect_commit("default", "r@master").file_count == 2


def test_a_merge_may_rename_one(versioning: VersioningService) -> None:
    versioning.create_repo("default", "r")
    versioning.modify("default", "r@master", [put("/é", b"1")])
    versioning.create_branch("default", "r@dev", head="master")
    versioning.modify("default", "r@dev", [DeletePath(path="/é"), put("/e\u0301", b"1")])
    versioning.modify("default", "r@master", [put("/other", b"1")])
    versioning.merge_branch("default", "r@dev", "r@master")
    assert set(shown(versioning, "r@master")) == {"/e\u0301", "/other"}
