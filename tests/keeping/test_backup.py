"""Backups: whole, incremental, verified both ways, and never less than the one before."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path

import pytest

from tests.conftest import FakeClock
from tests.keeping.test_gc import fill, noise, stored
from tests.versioning.conftest import open_service, put, shown
from trunkline.api import offline
from trunkline.errors import CorruptionError, InvalidInputError, NotFoundError, StateError, UnavailableError
from trunkline.services import build
from trunkline.settings import Settings
from trunkline.storage.db.engine import Database
from trunkline.storage.objects.base import ObjectStore
from trunkline.storage.objects.local import LocalStore
from trunkline.testing.bucket import BucketServer
from trunkline.testing.faulty import Fault, FaultyStore
from trunkline.versioning import backup
from trunkline.versioning.service import VersioningService

pytestmark = [pytest.mark.slow, pytest.mark.local_only]

FILES = {"/a": noise(1), "/d/b": b"text " * 1000}


@pytest.fixture
def target(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "backup")


def save(service: VersioningService, target: ObjectStore, tmp_path: Path, keep: int | None = None):
    return service.backup(target, folder=tmp_path, release="test", files={"trunkline.toml": ""}, keep=keep)


def restored(target: ObjectStore, folder: Path, clock: FakeClock) -> VersioningService:
    folder.mkdir()
    backup.restore(target, folder)
    return open_service(
        Database(f"sqlite:///{folder / 'trunkline.db'}"), LocalStore(folder / "objects"), clock
    )


def test_a_second_backup_copies_only_what_is_new(
    versioning: VersioningService, target: LocalStore, objects: LocalStore, clock: FakeClock, tmp_path: Path
) -> None:
    fill(versioning, "r", FILES)
    first = save(versioning, target, tmp_path)
    assert first.packs_copied == len(stored(objects)) == first.manifest.packs
    clock.advance(60)
    versioning.modify("default", "r@master", [put("/c", noise(2))])
    second = save(versioning, target, tmp_path)
    assert second.packs_copied == 1
    assert [one.id for one in backup.list_backups(target)] == [first.manifest.id, second.manifest.id]
    service = restored(target, tmp_path / "new", clock)
    assert shown(service, "r@master") == {**FILES, "/c": noise(2)}
    assert service.check().problems == ()
    (tmp_path / "old").mkdir()
    backup.restore(target, tmp_path / "old", backup_id=first.manifest.id)
    assert (tmp_path / "old" / "trunkline.db").stat().st_mode & 0o777 == 0o600


def test_old_backups_go_with_what_only_they_needed(
    versioning: VersioningService, target: LocalStore, clock: FakeClock, tmp_path: Path
) -> None:
    for number in range(4):
        fill(versioning, f"r{number}", {"/a": noise(number)})
        if number:
            versioning.delete_repo("default", f"r{number - 1}")
        versioning.gc(grace_seconds=0)
        clock.advance(60)
        done = save(versioning, target, tmp_path, keep=2)
    assert done.backups_deleted == 1
    assert len(backup.list_backups(target)) == 2
    kept = {info.key for info in target.list()}
    assert len(kept) == 1 + 2 * 3 + 2 * 1  # manifest, list and database each; a pack each
    assert shown(restored(target, tmp_path / "new", clock), "r3@master") == {"/a": noise(3)}


def test_the_newest_of_one_second_is_the_newest(
    versioning: VersioningService, target: LocalStore, clock: FakeClock, tmp_path: Path
) -> None:
    made = []
    for number in range(6):
        fill(versioning, f"r{number}", {"/a": noise(number)})
        clock.advance(0.01)
        made.append(save(versioning, target, tmp_path).manifest.id)
    assert [one.id for one in backup.list_backups(target)] == made
    save(versioning, target, tmp_path, keep=1)
    assert shown(restored(target, tmp_path / "new", clock), "r5@master") == {"/a": noise(5)}


@pytest.mark.parametrize("nth", range(1, 8))
def test_an_interrupted_backup_leaves_the_one_before(
    versioning: VersioningService, target: LocalStore, clock: FakeClock, tmp_path: Path, nth: int
) -> None:
    fill(versioning, "r", FILES)
    save(versioning, target, tmp_path)
    versioning.modify("default", "r@master", [put("/c", noise(2))])
    fill(versioning, "s", {"/s": noise(3)})
    with suppress(UnavailableError):
        save(versioning, FaultyStore(target, Fault(operation="put", nth=nth)), tmp_path)  # type: ignore[arg-type]
    service = restored(target, tmp_path / "new", clock)
    assert shown(service, "r@master") in (FILES, {**FILES, "/c": noise(2)})
    assert service.check().problems == ()
    assert list(tmp_path.glob(".backup-*")) == []
    clock.advance(60)
    save(versioning, target, tmp_path)
    assert shown(restored(target, tmp_path / "newer", clock), "s@master") == {"/s": noise(3)}


def test_damage_is_never_copied(
    versioning: VersioningService, target: LocalStore, objects: LocalStore, clock: FakeClock, tmp_path: Path
) -> None:
    fill(versioning, "r", FILES)
    save(versioning, target, tmp_path)
    ((key, _),) = stored(objects).items()
    path = tmp_path / "backup" / key
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(CorruptionError, match="damaged in the backup"):
        restored(target, tmp_path / "new", clock)
    path.unlink()
    with pytest.raises(CorruptionError, match="lost in the backup"):
        restored(target, tmp_path / "new2", clock)
    source = tmp_path / "objects" / key
    source.write_bytes(source.read_bytes()[:-1] + b"?")
    with pytest.raises(CorruptionError, match=r"damaged in the store: run 'trunkline fsck"):
        save(versioning, target, tmp_path)
    assert len(backup.list_backups(target)) == 1


def test_nothing_is_collected_meanwhile(
    versioning: VersioningService,
    db: Database,
    objects: LocalStore,
    target: LocalStore,
    clock: FakeClock,
    tmp_path: Path,
) -> None:
    fill(versioning, "gone", FILES)
    versioning.delete_repo("default", "gone")
    slow = FaultyStore(objects, Fault(operation="get", nth=1, how="latency", seconds=0.3))
    service = open_service(db, slow, clock)
    running = threading.Thread(target=save, args=(service, target, tmp_path))
    running.start()
    while slow.calls.get("get", 0) == 0 and running.is_alive():
        threading.Event().wait(0.005)
    with pytest.raises(StateError, match="backup is at work"):
        versioning.gc(grace_seconds=0)
    running.join()
    assert restored(target, tmp_path / "new", clock).check().problems == ()


def test_writers_go_on_while_a_backup_runs(
    versioning: VersioningService, target: LocalStore, clock: FakeClock, tmp_path: Path
) -> None:
    acknowledged: list[str] = []
    ended = threading.Event()
    versioning.create_repo("default", "r")

    def write() -> None:
        while not ended.is_set():
            name = f"/{len(acknowledged)}"
            versioning.modify("default", "r@master", [put(name, noise(len(acknowledged), 5000))])
            acknowledged.append(name)

    writer = threading.Thread(target=write)
    writer.start()
    while len(acknowledged) < 3:
        threading.Event().wait(0.005)
    before = len(acknowledged)
    save(versioning, target, tmp_path)
    ended.set()
    writer.join()
    service = restored(target, tmp_path / "new", clock)
    found = shown(service, "r@master")
    assert set(acknowledged[:before]) <= set(found) and all(
        found[f"/{n}"] == noise(n, 5000) for n in range(len(found))
    )
    assert service.check().problems == ()


def test_restoring_a_home(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "run").mkdir(parents=True)
    (home / "trunkline.toml").write_text('domain = "example.org"\n')
    services = build(Settings(home=home))
    token = services.access.admin_token(home / "token")
    fill(services.versioning, "r", FILES)
    for wrong in (str(home / "inside"), "relative"):
        with pytest.raises(InvalidInputError, match="outside"):
            backup.check_target(wrong, home, str(home / "objects"))
    with pytest.raises(InvalidInputError, match="outside"):
        backup.check_target("s3://bucket/data/x", home, "s3://bucket/data")
    with pytest.raises(InvalidInputError, match="something else than backups"):
        services.versioning.backup(LocalStore(home / "objects"), folder=home, release="test", files={})
    place = str(tmp_path / "copies")
    services.versioning.backup(
        backup.open_target(place), folder=home, release="test", files=backup.settings_files(home)
    )
    services.db.close()
    assert (tmp_path / "copies").stat().st_mode & 0o777 == 0o700
    with pytest.raises(StateError, match="not empty"):
        offline.restore(place, Settings(home=home))
    with pytest.raises(NotFoundError, match="no folder"):
        offline.restore(str(tmp_path / "none"), Settings(home=tmp_path / "new"))
    new = tmp_path / "deeper" / "new"
    _, report = offline.restore(place, Settings(home=new))
    assert report.problems == ()
    assert sorted(path.name for path in new.parent.iterdir()) == ["new"]
    assert not (new / "token").exists()
    assert Settings(home=new).domain == "example.org"
    again = build(Settings(home=new))
    assert shown(again.versioning, "r@master") == FILES
    assert again.access.admin_token(new / "token") != token
    again.db.close()
    assert offline.check(Settings(home=new), repair=False).problems == ()


def test_a_restore_that_fails_leaves_nothing(
    tmp_path: Path, versioning: VersioningService, target: LocalStore
) -> None:
    fill(versioning, "r", FILES)
    save(versioning, target, tmp_path)
    for info in list(target.list("packs/")):
        target.delete(info.key)
    (tmp_path / "x").mkdir()
    with pytest.raises(CorruptionError, match="back up to the same place again"):
        offline.restore(str(tmp_path / "backup"), Settings(home=tmp_path / "x" / "new"))
    assert list((tmp_path / "x").iterdir()) == []


def test_only_an_empty_place_becomes_one_for_backups(
    versioning: VersioningService, target: LocalStore, tmp_path: Path
) -> None:
    target.put("holiday/1.jpg", [b"picture"])
    (tmp_path / "backup").chmod(0o755)
    with pytest.raises(InvalidInputError, match=r"something else than backups \(holiday/1.jpg\)"):
        save(versioning, backup.open_target(str(tmp_path / "backup")), tmp_path)
    assert [info.key for info in target.list()] == ["holiday/1.jpg"]
    assert (tmp_path / "backup").stat().st_mode & 0o777 == 0o755
    for nowhere in ("", "relative"):
        with pytest.raises(InvalidInputError, match="name an absolute folder"):
            backup.check_target(nowhere, tmp_path / "home", str(tmp_path / "home" / "objects"))


def test_a_bucket_as_the_place(
    bucket_server: BucketServer, versioning: VersioningService, clock: FakeClock, tmp_path: Path
) -> None:
    fill(versioning, "r", FILES)
    url = bucket_server.new_url()
    place = backup.open_target(url, bucket_server.options)
    save(versioning, place, tmp_path)
    clock.advance(60)
    versioning.modify("default", "r@master", [put("/c", noise(2))])
    assert save(versioning, place, tmp_path, keep=1).packs_copied == 1
    service = restored(backup.open_target(url, bucket_server.options), tmp_path / "new", clock)
    assert shown(service, "r@master") == {**FILES, "/c": noise(2)}
    assert service.check().problems == ()
