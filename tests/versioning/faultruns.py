"""A scenario of puts, commits and branches on stores that may be broken at any point; see ``test_faults``."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.conftest import FakeClock
from tests.versioning.conftest import open_service, put, shown
from trunkline.errors import TrunklineError
from trunkline.storage.db.engine import Database
from trunkline.testing.bucket import BucketServer
from trunkline.testing.faulty import FaultyStore
from trunkline.testing.points import FaultPoints
from trunkline.testing.postgres import Postgres
from trunkline.testing.stores import CloudStores, LocalStores, Stores
from trunkline.versioning.model import CommitStatus, CopyTree, DeletePath
from trunkline.versioning.service import VersioningService

Branch = tuple[str, dict[str, bytes]]
State = dict[str, Branch]
"""By branch: the status of its head, and its files."""
BIG = bytes(range(256)) * 300


def _put(service: VersioningService) -> None:
    files = {"/a": b"one", "/big": BIG, "/d/b": b"two"}
    service.modify("default", "r@master", [put(path, data) for path, data in files.items()])


def _change(service: VersioningService) -> None:
    changes = [DeletePath(path="/a"), put("/d/b", b"+", append=True), put("/c", b"three")]
    service.modify("default", "r@master", changes)


def _branch(service: VersioningService) -> None:
    service.create_branch("default", "r@dev", head="master")


def _open(service: VersioningService) -> None:
    service.start_commit("default", "r@dev")


def _write(service: VersioningService) -> None:
    service.modify("default", "r@dev", [put("/new", BIG[::-1])])


def _finish(service: VersioningService) -> None:
    service.finish_commit("default", "r@dev")


def _copy(service: VersioningService) -> None:
    root = service.resolve("default", "r@dev")[1]
    service.modify("default", "r@master", [CopyTree(path="/copied", root=root, source_path="/")])


def _diverge(service: VersioningService) -> None:
    service.modify("default", "r@dev", [put("/on-dev", b"four")])


def _merge(service: VersioningService) -> None:
    service.merge_branch("default", "r@dev", "r@master")


def _delete_branch(service: VersioningService) -> None:
    service.delete_branch("default", "r@dev")


STEPS: list[Callable[[VersioningService], None]] = [
    _put, _change, _branch, _open, _write, _finish, _copy, _diverge, _merge, _delete_branch,
]  # fmt: skip


def look(service: VersioningService) -> State:
    found: State = {}
    for branch in service.list_branches("default", "r"):
        address = f"r@{branch.name}"
        status = service.inspect_commit("default", address).status if branch.head else CommitStatus.FINISHED
        found[branch.name] = (status.value, shown(service, address))
    return found


class Place:
    """The stores of one run."""

    def __init__(self, stores: Stores, points: FaultPoints | None = None) -> None:
        self.stores = stores
        self.points = points or FaultPoints()
        self._db: Database | None = None

    def open(self) -> VersioningService:
        """As a process that has just started."""
        self.close()
        self._db = Database(self.stores.database_url)
        objects = self.stores.open_objects()
        if not self.stores.is_local:  # on a local disk the system calls are the points
            objects = FaultyStore(objects, points=self.points)
        return open_service(self._db, objects, FakeClock())

    def close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    def break_it(self, step: int) -> tuple[VersioningService, bool]:
        """Run one step with the fault; whether it was acknowledged all the same."""
        service = self.open()
        folder = self.stores.folder / "objects" if isinstance(self.stores, LocalStores) else Path("/nowhere")
        try:
            with self.points.armed(folder):
                STEPS[step](service)
        except TrunklineError as error:
            assert self.points.has_struck, error
            return service, False
        return service, True

    def check(self, service: VersioningService, step: int, states: list[State]) -> None:
        """Whatever a break in a step has left is one of two states, and the step works now."""
        what = f"{STEPS[step].__name__} broke at {self.points.at}: {self.points.trail[-1:]}"
        present = look(service)
        assert present in (states[step], states[step + 1]), what
        assert service.fsck() == [], what
        if present == states[step]:
            STEPS[step](service)
        again = self.open()
        assert look(again) == states[step + 1], what
        assert again.fsck() == [], what


class Templates(ABC):
    """Stores as they are before each step, to be copied."""

    def __init__(self) -> None:
        self.states: list[State] = []
        """Before each step, and after the last."""

    @abstractmethod
    def copy(self, step: int) -> contextlib.AbstractContextManager[Stores]: ...

    @abstractmethod
    def _keep(self, stores: Stores) -> None: ...

    def _make(self, stores: Stores) -> None:
        place = Place(stores)
        place.open().create_repo("default", "r")
        for step in STEPS:
            self.states.append(look(place.open()))
            place.close()
            self._keep(stores)
            step(place.open())
        self.states.append(look(place.open()))
        place.close()
        assert len({repr(sorted(state.items())) for state in self.states}) == len(STEPS) + 1

    def trail(self, step: int) -> list[str]:
        """The points of a step, in order."""
        points = FaultPoints()
        with self.copy(step) as stores:
            place = Place(stores, points)
            assert place.break_it(step)[1]
            place.close()
        return points.trail


class LocalTemplates(Templates):
    """Folders; on a disk that is quick to sync, where there is one: what is lost in a power cut is simulated."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        work = folder / "work"
        work.mkdir()
        self._make(LocalStores(work))

    @classmethod
    @contextlib.contextmanager
    def in_memory(cls) -> Iterator[LocalTemplates]:
        memory = Path("/dev/shm")
        with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
            yield cls(Path(folder))

    def _keep(self, stores: Stores) -> None:
        shutil.copytree(self._folder / "work", self._folder / str(len(self.states) - 1))

    @contextlib.contextmanager
    def copy(self, step: int) -> Iterator[Stores]:
        folder = self._folder / "run"
        shutil.copytree(self._folder / str(step), folder)
        try:
            yield LocalStores(folder)
        finally:
            shutil.rmtree(folder)


class CloudTemplates(Templates):
    """Databases and prefixes of a bucket."""

    def __init__(self, postgres: Postgres, bucket: BucketServer) -> None:
        super().__init__()
        self._postgres = postgres
        self._bucket = bucket
        self._kept: list[tuple[str, dict[str, bytes]]] = []
        stores = self._stores(postgres.new_database())
        self._make(stores)
        postgres.drop_database(stores.database_url)

    def _stores(self, database_url: str) -> CloudStores:
        return CloudStores(database_url, self._bucket.new_url(), self._bucket.options)

    def _keep(self, stores: Stores) -> None:
        objects = stores.open_objects()
        contents = {info.key: objects.get(info.key) for info in objects.list()}
        self._kept.append((self._postgres.new_database(like=stores.database_url), contents))

    @contextlib.contextmanager
    def copy(self, step: int) -> Iterator[Stores]:
        database_url, contents = self._kept[step]
        stores = self._stores(self._postgres.new_database(like=database_url))
        objects = stores.open_objects()
        for key, data in contents.items():
            objects.put(key, [data])
        try:
            yield stores
        finally:
            self._postgres.drop_database(stores.database_url)

    def close(self) -> None:
        for url, _ in self._kept:
            self._postgres.drop_database(url)


def main() -> None:
    """A process for a fault to end: ``STEP AT HOW`` and the places of ``CloudStores``, in its arguments and environment."""
    step, at, how = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    options = {
        "endpoint": os.environ["TRUNKLINE_OBJECTS_ENDPOINT"],
        "region": os.environ["TRUNKLINE_OBJECTS_REGION"],
    }
    stores = CloudStores(os.environ["TRUNKLINE_DATABASE_URL"], os.environ["TRUNKLINE_OBJECTS"], options)
    Place(stores, FaultPoints(at, how)).break_it(step)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
