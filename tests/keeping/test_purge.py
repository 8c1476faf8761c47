"""A purge: the bytes are gone, from every place that was named, and the record says what they were and what used them."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest

from tests.conftest import FakeClock
from tests.keeping.test_gc import CrashError, fill, noise
from tests.versioning.conftest import contents, open_service, put, shown, stage
from trunkline.core.hashing import digest
from trunkline.errors import InvalidInputError, NotFoundError, StateError
from trunkline.storage.db.engine import Database
from trunkline.storage.objects.local import LocalStore
from trunkline.versioning.service import VersioningService

pytestmark = [pytest.mark.slow, pytest.mark.local_only]

SECRET = noise(1)
LATER = noise(2)


def is_on_disk(folder: Path, content: bytes) -> bool:
    """Stored as it is, since noise does not compress."""
    return any(content[:1000] in path.read_bytes() for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def history(versioning: VersioningService, clock: FakeClock) -> VersioningService:
    fill(versioning, "people", {"/a/id.png": SECRET, "/a/other": noise(3), "/b": noise(4)})
    versioning.modify("default", "people@master", [put("/a/id.png", LATER), put("/c", noise(5))])
    versioning.modify("default", "people@master", [put("/d", b"d")])
    return versioning


def test_every_version_of_a_file_goes(
    history: VersioningService, db: Database, objects: LocalStore, clock: FakeClock, tmp_path: Path
) -> None:
    ids = [commit.id for commit in history.list_commits("default", "people")]
    looked = history.purge("default", "people:/a/id.png", dry_run=True)
    assert (looked.state, looked.id) == ("dry-run", None)
    assert is_on_disk(tmp_path / "objects", SECRET)
    done = history.purge("default", "people:/a/id.png", who="owner", why="asked by the person")
    assert done.state == "done"
    assert {one["hash"] for one in done.contents} == {digest(SECRET).hex(), digest(LATER).hex()}
    assert done.report["found_in_count"] == 3
    for content in (SECRET, LATER):
        assert not is_on_disk(tmp_path, content)
    service = open_service(db, objects, clock)
    assert [commit.id for commit in service.list_commits("default", "people")] == ids
    assert service.check().problems == ()
    assert shown(service, "people@master") == {
        "/a/other": noise(3),
        "/b": noise(4),
        "/c": noise(5),
        "/d": b"d",
    }
    assert shown(service, f"people@{ids[-1]}") == {"/a/other": noise(3), "/b": noise(4)}
    with pytest.raises(
        NotFoundError, match=r"people:/a/id.png was purged on 1970-01-12 \(asked by the person\)"
    ) as caught:
        service.resolve("default", f"people@{ids[1]}:/a/id.png")
    assert caught.value.kind == "purged"
    assert service.resolve("default", "people@master:/a/other")[2] == "/a/other"
    service.modify("default", "people@master", [put("/a/id.png", b"a new one")])
    assert service.resolve("default", "people@master:/a/id.png")[2] == "/a/id.png"
    assert [one.why for one in service.list_purges()] == ["asked by the person"]


def test_a_directory_goes_with_all_below_it(history: VersioningService, tmp_path: Path) -> None:
    done = history.purge("default", "people:/a")
    assert len(done.contents) == 3
    assert not any(is_on_disk(tmp_path, content) for content in (SECRET, LATER, noise(3)))
    assert set(shown(history, "people@master")) == {"/b", "/c", "/d"}


def test_other_places_are_named_and_need_everywhere(
    history: VersioningService, db: Database, objects: LocalStore, clock: FakeClock, tmp_path: Path
) -> None:
    copy = fill(history, "copies", {"/x/1": SECRET, "/y": b"y"})
    with pytest.raises(StateError, match=r"commit default/copies@.*--everywhere") as caught:
        history.purge("default", "people:/a/id.png")
    assert caught.value.kind == "held_elsewhere"
    assert contents(history, copy)["/x/1"] == SECRET
    held = stage(history, {"/staged": SECRET})
    done = history.purge("default", "people:/a/id.png", everywhere=True)
    assert any("copies" in label for label in done.report["found_in"])
    assert not is_on_disk(tmp_path, SECRET)
    service = open_service(db, objects, clock)
    assert shown(service, "copies@master") == {"/y": b"y"}
    assert service.check().problems == ()
    with pytest.raises(NotFoundError):
        service.check_tree(held)


def test_parts_that_other_files_share_stay_and_are_counted(
    versioning: VersioningService, db: Database, objects: LocalStore, clock: FakeClock, tmp_path: Path
) -> None:
    big = noise(7, 4 * 2**20)
    fill(versioning, "r", {"/purged": big, "/kept": big + b"more"})
    done = versioning.purge("default", "r:/purged")
    assert done.report["chunks shared with other files"] > 3
    service = open_service(db, objects, clock)
    assert shown(service, "r@master") == {"/kept": big + b"more"}
    assert service.check().problems == ()


def test_what_cannot_be_purged(history: VersioningService) -> None:
    with pytest.raises(NotFoundError, match="no commit of default/people has /none"):
        history.purge("default", "people:/none")
    for address in ("people", "people:/", "people@master:/a"):
        with pytest.raises(InvalidInputError, match="repo:/path"):
            history.purge("default", address)


@pytest.mark.parametrize(
    "step",
    ["trees stored", "rewritten", "rewritten pack stored", "rows moved", "rows deleted", "object deleted"],
)
def test_a_purge_that_crashed_is_finished(
    history: VersioningService, db: Database, objects: LocalStore, clock: FakeClock, tmp_path: Path, step: str
) -> None:
    fill(history, "alone", {"/alone": noise(40)})

    def crash(at: str) -> None:
        if at == step:
            raise CrashError

    with suppress(CrashError):
        history.purge("default", "people:/a", at=crash)
    service = open_service(db, objects, clock)
    assert service.check().problems == ()
    if step == "trees stored":  # nothing was recorded yet: it has not happened
        assert shown(service, "people@master")["/a/id.png"] == LATER
        service.purge("default", "people:/a")
    else:
        assert [one.state for one in service.list_purges()] in (["erasing"], ["done"])
        service.gc()
    assert [one.state for one in service.list_purges()] == ["done"]
    assert not any(is_on_disk(tmp_path, content) for content in (SECRET, LATER, noise(3)))
    last = open_service(db, objects, clock)
    assert set(shown(last, "people@master")) == {"/b", "/c", "/d"}
    assert shown(last, "alone@master") == {"/alone": noise(40)}
    assert last.check().problems == ()
