"""gc, purge, repair and backup broken at every single point in turn: each system call on an object, each statement and commit.

Whatever breaks: what is needed is whole, ``fsck`` finds nothing, and the same work, done again, comes to its end.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import FakeClock
from tests.keeping.test_gc import fill, noise
from tests.versioning.conftest import open_service, put, shown
from tests.versioning.faultruns import in_memory
from trunkline.errors import NotFoundError, TrunklineError
from trunkline.storage.db.engine import Database
from trunkline.storage.objects.local import LocalStore
from trunkline.testing.points import FaultPoints, How, in_a_fork
from trunkline.versioning import backup
from trunkline.versioning.model import CopyTree
from trunkline.versioning.service import VersioningService

KEPT = {"/3": noise(3, 3000), "/own": b"own" * 99}
SECRET = noise(77, 3000)


def gc(service: VersioningService, folder: Path) -> None:
    service.gc(grace_seconds=0)


def purge(service: VersioningService, folder: Path) -> None:
    with suppress(NotFoundError):  # done already
        service.purge("default", "kept:/secret")
    service.gc(grace_seconds=0)


def repair(service: VersioningService, folder: Path) -> None:
    service.check(repair=True)


def save(service: VersioningService, folder: Path) -> None:
    target = LocalStore(folder / "backup")
    service.backup(target, folder=folder, release="test", files={}, keep=1)


WORKS: dict[str, Callable[[VersioningService, Path], None]] = {
    "gc": gc, "purge": purge, "repair": repair, "backup": save,
}  # fmt: skip


@dataclass
class Place:
    folder: Path
    db: Database | None = None

    def open(self) -> VersioningService:
        """As a server that has just started."""
        self.close()
        self.db = Database(f"sqlite:///{self.folder / 'trunkline.db'}")
        service = open_service(self.db, LocalStore(self.folder / "objects"), FakeClock())
        service.forget_crashed_work()
        return service

    def close(self) -> None:
        if self.db is not None:
            self.db.close()
            self.db = None


def make_template(folder: Path, work: str) -> None:
    place = Place(folder)
    service = place.open()
    root = fill(service, "sparse", {f"/{i}": noise(i, 3000) for i in range(8)})
    fill(service, "dead", {"/a": noise(50, 3000)})
    service.create_repo("default", "kept")
    copied = [CopyTree(path="/3", root=root, source_path="/3"), put("/own", KEPT["/own"])]
    service.modify("default", "kept@master", [*copied, put("/secret", SECRET)])
    if work != "purge":
        fill(service, "kept", {"/more": b"more"})
    service.delete_repo("default", "sparse")
    service.delete_repo("default", "dead")
    if work == "backup":
        save(service, folder)
        service.modify("default", "kept@master", [put("/new", b"new")])
    place.close()
    if work == "repair":
        with closing(sqlite3.connect(folder / "trunkline.db", isolation_level=None)) as db:
            db.execute("DELETE FROM chunks WHERE raw_length > 1000")
            db.execute("UPDATE chunks SET offset = offset + 1 WHERE raw_length < 300")
            db.execute("UPDATE branches SET head = 99")


def attempt(place: Place, work: str, points: FaultPoints) -> bool:
    service = place.open()
    try:
        with points.armed(place.folder):
            WORKS[work](service, place.folder)
    except TrunklineError as error:
        assert points.has_struck, error
        return False
    return True


def attempt_in_a_child(place: Place, work: str, points: FaultPoints) -> None:
    place.close()
    status = in_a_fork(lambda: attempt(place, work, points))
    # A backup copies with threads, and takes a few points more or less each time: the last ones may not come.
    assert os.WIFSIGNALED(status) or (work == "backup" and status == 0), "the point was reached"


def check(place: Place, work: str, what: str) -> None:
    service = place.open()
    if work != "repair":
        assert service.fsck() == [], what
        assert shown(service, "kept@master").items() >= KEPT.items(), what
    if work == "backup":
        check_backup(place, what)
    WORKS[work](service, place.folder)
    last = place.open()
    assert last.fsck() == [], what
    assert shown(last, "kept@master").items() >= KEPT.items(), what
    if work in ("gc", "purge"):
        assert last.gc(grace_seconds=0, dry_run=True).reclaimable_bytes == 0, what
    on_disk = any(
        SECRET[:500] in path.read_bytes() for path in (place.folder / "objects").rglob("*") if path.is_file()
    )
    assert on_disk == (work != "purge"), what
    if work == "backup":
        check_backup(place, what)


def check_backup(place: Place, what: str) -> None:
    """The newest finished backup is whole."""
    new = Place(place.folder / "restored")
    new.folder.mkdir()
    try:
        backup.restore(LocalStore(place.folder / "backup"), new.folder)
        service = new.open()
        assert service.fsck() == [], what
        assert shown(service, "kept@master").items() >= KEPT.items(), what
    finally:
        new.close()
        shutil.rmtree(new.folder)


@pytest.fixture
def folder() -> Iterator[Path]:
    with in_memory() as found:
        yield found


def break_everywhere(folder: Path, work: str, how: How, stride: int) -> int:
    template, run = folder / "template", folder / "run"
    template.mkdir()
    make_template(template, work)
    shutil.copytree(template, run)
    counted = FaultPoints()
    place = Place(run)
    assert attempt(place, work, counted)
    place.close()
    shutil.rmtree(run)
    numbers = range(1 + len(how), len(counted.trail) + 1, stride)
    for at in numbers:
        shutil.copytree(template, run)
        points = FaultPoints(at, how)
        if how in ("kill", "power_cut"):
            attempt_in_a_child(place, work, points)
        else:
            attempt(place, work, points)
        check(place, work, f"{work} broke at point {at}: {counted.trail[at - 1]}")
        place.close()
        shutil.rmtree(run)
    return len(numbers)


@pytest.mark.slow
@pytest.mark.local_only
@pytest.mark.parametrize("how", ["error", "kill"])
@pytest.mark.parametrize("work", WORKS)
def test_some_points(folder: Path, work: str, how: How) -> None:
    assert break_everywhere(folder, work, how, stride=37 if work == "backup" else 97) >= 1


@pytest.mark.slow
@pytest.mark.local_only
@pytest.mark.parametrize("how", ["error", "lost_response", "kill"])
@pytest.mark.parametrize("work", WORKS)
def test_many_points(folder: Path, work: str, how: How) -> None:
    assert break_everywhere(folder, work, how, stride=3 if work == "backup" else 5) > 5


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.local_only
@pytest.mark.parametrize("how", ["error", "lost_response", "kill"])
@pytest.mark.parametrize("work", WORKS)
def test_every_point(folder: Path, work: str, how: How) -> None:
    assert break_everywhere(folder, work, how, stride=1) > 20
