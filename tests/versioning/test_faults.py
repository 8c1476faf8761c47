"""A scenario of puts, commits and branches, broken at every single point in turn: each system call on an object, each object
operation, each statement and commit of the database. Whatever breaks: what was acknowledged is whole, the step that broke is
there as a whole or not at all, ``fsck`` finds nothing, and the same step works when it is tried again.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import FakeClock
from tests.versioning.conftest import open_service, put, shown
from trunkline.errors import TrunklineError
from trunkline.storage.db.engine import Database
from trunkline.storage.objects.base import ObjectStore
from trunkline.testing.points import FaultPoints, How
from trunkline.testing.stores import LocalStores, Stores
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


def _delete_branch(service: VersioningService) -> None:
    service.delete_branch("default", "r@dev")


STEPS: list[Callable[[VersioningService], None]] = [
    _put, _change, _branch, _open, _write, _finish, _copy, _delete_branch,
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

    def __init__(self, stores: Stores) -> None:
        self.stores = stores
        self._db: Database | None = None

    def open(self, wrap: Callable[[ObjectStore], ObjectStore] = lambda store: store) -> VersioningService:
        """As a process that has just started."""
        self.close()
        self._db = Database(self.stores.database_url)
        return open_service(self._db, wrap(self.stores.open_objects()), FakeClock())

    def close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    def check(self, service: VersioningService, step: int, states: list[State], what: str) -> None:
        """Whatever a break in a step has left is one of two states, and the step works now."""
        present = look(service)
        assert present in (states[step], states[step + 1]), f"{STEPS[step].__name__} broke at {what}"
        assert service.fsck() == []
        if present == states[step]:
            STEPS[step](service)
        again = self.open()
        assert look(again) == states[step + 1]
        assert again.fsck() == []


@pytest.fixture(scope="module")
def states() -> Iterator[list[State]]:
    with in_memory() as folder:
        yield make_templates(folder)


@pytest.fixture
def templates(states: list[State]) -> Iterator[Path]:
    """A folder with one data directory for each step, as it is before that step."""
    with in_memory() as folder:
        assert make_templates(folder) == states
        yield folder


@contextlib.contextmanager
def in_memory() -> Iterator[Path]:
    """A folder on a disk that is quick to sync, where there is one: what is lost in a power cut is simulated."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield Path(folder)


def make_templates(folder: Path) -> list[State]:
    """The states before each step and after the last; the data directory before step N is ``folder/N``."""
    work = folder / "work"
    work.mkdir()
    place = Place(LocalStores(work))
    place.open().create_repo("default", "r")
    states: list[State] = []
    for number, step in enumerate(STEPS):
        states.append(look(place.open()))
        place.close()
        shutil.copytree(work, folder / str(number))
        step(place.open())
    states.append(look(place.open()))
    place.close()
    assert len({repr(sorted(state.items())) for state in states}) == len(states)
    return states


def break_it(place: Place, step: int, points: FaultPoints) -> tuple[VersioningService, bool]:
    """Run one step with a fault; whether it was acknowledged all the same."""
    service = place.open()
    try:
        with points.armed(place.stores.folder / "objects"):  # type: ignore[attr-defined]
            STEPS[step](service)
    except TrunklineError as error:
        assert points.has_struck, error
        return service, False
    return service, True


def break_it_in_a_child(place: Place, step: int, points: FaultPoints) -> bool:
    """The same in a forked process, which the fault ends; whether it came to its end."""
    place.close()
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # of forking with threads; the child uses none of them
        pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = 0 if break_it(place, step, points)[1] else 2
        finally:
            os._exit(code)
    status = os.waitpid(pid, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFEXITED(status)


@contextlib.contextmanager
def a_copy(templates: Path, step: int) -> Iterator[Place]:
    folder = templates / "run"
    shutil.copytree(templates / str(step), folder)
    place = Place(LocalStores(folder))
    try:
        yield place
    finally:
        place.close()
        shutil.rmtree(folder)


def trail_of(templates: Path, step: int) -> list[str]:
    """The points of a step, in order."""
    points = FaultPoints()
    with a_copy(templates, step) as place:
        assert break_it(place, step, points)[1]
    return points.trail


def break_at(templates: Path, states: list[State], step: int, at: int, how: How) -> None:
    """Break a fresh copy at one point, and see what is left."""
    points = FaultPoints(at, how)
    with a_copy(templates, step) as place:
        if how in ("kill", "power_cut"):
            acknowledged = break_it_in_a_child(place, step, points)
            assert not acknowledged, "the point was reached"
            service = place.open()
        else:
            service, acknowledged = break_it(place, step, points)
            assert points.has_struck
        if acknowledged:  # what broke did not matter
            assert look(service) == states[step + 1]
        place.check(service, step, states, f"point {at}: {points.trail[at - 1 : at]}")
        if how == "error":
            assert list(templates.rglob("run/objects/**/.tmp-*")) == []


def every_point(templates: Path, states: list[State], how: How, stride: int = 1, start: int = 0) -> int:
    """Break at every point of every step, or at one of ``stride`` of them; returns how often that was."""
    trails = [trail_of(templates, step) for step in range(len(STEPS))]
    found = [
        (step, number + 1)
        for step, trail in enumerate(trails)
        for number, what in enumerate(trail)
        if how != "power_cut" or not what.startswith("statement")  # there a power cut is no worse than a kill
    ]
    for step, at in found[start::stride]:
        break_at(templates, states, step, at, how)
    return len(found[start::stride])


@pytest.mark.local_only
@pytest.mark.parametrize("how", ["error", "lost_response", "kill", "power_cut"])
def test_some_points(templates: Path, states: list[State], how: How) -> None:
    assert every_point(templates, states, how, stride=9 if how == "power_cut" else 41, start=len(how)) >= 3


@pytest.mark.slow
@pytest.mark.local_only
@pytest.mark.parametrize("how", ["error", "lost_response", "kill", "power_cut"])
def test_every_point(templates: Path, states: list[State], how: How) -> None:
    assert every_point(templates, states, how) > (25 if how == "power_cut" else 200)
