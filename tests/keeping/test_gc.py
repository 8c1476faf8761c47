"""Garbage collection: it frees what nothing refers to, and never anything else, whoever writes meanwhile."""

from __future__ import annotations

import os
import queue
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.conftest import FakeClock
from tests.versioning.conftest import contents, open_service, put, shown, stage
from trunkline.core.ids import TreeHash
from trunkline.errors import CorruptionError, NotFoundError, StateError, TrunklineError
from trunkline.storage.db.engine import Database
from trunkline.storage.objects.local import LocalStore
from trunkline.versioning.model import Change, CopyTree
from trunkline.versioning.packs import object_key
from trunkline.versioning.service import VersioningService

DAY = 24 * 3600.0
STEPS = (
    "marked",
    "planned",
    "rows deleted",
    "object deleted",
    "rewritten pack stored",
    "rows moved",
    "orphans condemned",
)


def noise(seed: int, size: int = 50_000) -> bytes:
    return random.Random(seed).randbytes(size)


def fill(service: VersioningService, repo: str, files: dict[str, bytes]) -> TreeHash:
    with suppress(TrunklineError):
        service.create_repo("default", repo)
    root = service.modify("default", f"{repo}@master", [put(path, data) for path, data in files.items()]).root
    assert root is not None
    return root


def stored(objects: LocalStore) -> dict[str, int]:
    return {info.key: info.size for info in objects.list("packs/")}


def test_what_a_deleted_repo_held_is_freed_and_nothing_else(
    versioning: VersioningService, objects: LocalStore
) -> None:
    fill(versioning, "kept", {f"/{i}": noise(i) for i in range(5)})
    before = stored(objects)
    fill(versioning, "gone", {f"/{i}": noise(100 + i) for i in range(20)})
    versioning.delete_repo("default", "gone")
    planned = versioning.gc(grace_seconds=0, dry_run=True)
    assert planned.packs_deleted == 0 and len(stored(objects)) == len(before) + 1
    assert planned.reclaimable_bytes == sum(stored(objects).values()) - sum(before.values())
    done = versioning.gc(grace_seconds=0)
    assert (done.packs_deleted, done.freed_bytes) == (1, planned.reclaimable_bytes)
    assert stored(objects) == before
    assert versioning.fsck() == []
    assert shown(versioning, "kept@master") == {f"/{i}": noise(i) for i in range(5)}
    again = versioning.gc(grace_seconds=0)
    assert (again.packs_deleted, again.packs_rewritten, again.dead_bytes == 0) == (0, 0, True)


def test_a_pack_that_is_mostly_dead_is_rewritten(
    versioning: VersioningService, db: Database, objects: LocalStore, clock: FakeClock
) -> None:
    root = fill(versioning, "gone", {f"/{i}": noise(i) for i in range(20)})
    versioning.create_repo("default", "kept")
    versioning.modify(
        "default", "kept@master", [CopyTree(path=f"/{i}", root=root, source_path=f"/{i}") for i in (3, 7)]
    )
    reader = open_service(db, objects, clock)
    assert reader.read(root, "/3") and b"".join(reader.read(root, "/3")) == noise(
        3
    )  # it knows the old places
    versioning.delete_repo("default", "gone")
    before = sum(stored(objects).values())
    done = versioning.gc(grace_seconds=0)
    assert done.packs_rewritten == 1
    assert before - sum(stored(objects).values()) == done.freed_bytes > 17 * 50_000
    for service in (versioning, reader, open_service(db, objects, clock)):
        assert shown(service, "kept@master") == {"/3": noise(3), "/7": noise(7)}
    assert versioning.fsck() == []


def test_the_grace_protects_what_is_young(
    versioning: VersioningService, objects: LocalStore, clock: FakeClock
) -> None:
    fill(versioning, "gone", {"/a": noise(1)})
    versioning.delete_repo("default", "gone")
    done = versioning.gc(grace_seconds=DAY)
    assert done.packs_deleted == 0 and done.young_bytes == done.dead_bytes > 50_000
    clock.advance(DAY + 1)
    assert versioning.gc(grace_seconds=DAY).packs_deleted == 1
    assert stored(objects) == {}


def test_a_staged_tree_is_kept_for_a_day(
    versioning: VersioningService, objects: LocalStore, clock: FakeClock
) -> None:
    root = stage(versioning, {"/a": noise(1)})
    versioning.gc(grace_seconds=0)
    assert contents(versioning, root) == {"/a": noise(1)}
    clock.advance(DAY + 1)
    versioning.check_tree(root)  # somebody will refer to it
    versioning.gc(grace_seconds=0)
    assert contents(versioning, root) == {"/a": noise(1)}
    clock.advance(DAY + 1)
    versioning.gc(grace_seconds=0)
    versioning.gc(grace_seconds=0)  # the first one forgot it
    assert stored(objects) == {}
    with pytest.raises(NotFoundError, match="upload"):
        versioning.check_tree(root)


def test_a_tree_that_is_there_in_part_is_not_taken(versioning: VersioningService, clock: FakeClock) -> None:
    content = noise(1, 200_000)
    fill(versioning, "content", {"/x": content})  # in a pack of its own
    clock.advance(DAY)
    root = fill(versioning, "tree", {"/a": content})
    versioning.delete_repo("default", "content")
    versioning.delete_repo("default", "tree")
    assert versioning.gc(grace_seconds=3600).packs_deleted == 1  # the tree's own node is too young
    with pytest.raises(NotFoundError, match="no tree"):
        versioning.check_tree(root)
    versioning.create_repo("default", "again")
    with pytest.raises(NotFoundError, match="no tree"):
        versioning.modify("default", "again@master", [CopyTree(path="/", root=root)])


def test_a_file_with_the_bytes_of_a_tree_node_hides_nothing(
    versioning: VersioningService, objects: LocalStore, db: Database, clock: FakeClock
) -> None:
    root = fill(versioning, "trees", {"/a": noise(1), "/b": noise(2)})
    node = versioning._chunks.get(bytes.fromhex(root))
    fill(versioning, "files", {"/0": node, "/1": b"x"})
    for repo in ("files", "trees"):
        assert versioning.gc(grace_seconds=0).packs_deleted == 0, repo
    assert contents(open_service(db, objects, clock), root) == {"/a": noise(1), "/b": noise(2)}


def test_large_files_are_followed_through_their_lists(
    versioning: VersioningService, db: Database, objects: LocalStore, clock: FakeClock
) -> None:
    big = noise(9, 5 * 2**20)
    fill(versioning, "kept", {"/big": big})
    fill(versioning, "gone", {"/big": noise(10, 3 * 2**20)})
    versioning.delete_repo("default", "gone")
    assert versioning.gc(grace_seconds=0).packs_deleted == 1
    assert shown(open_service(db, objects, clock), "kept@master") == {"/big": big}


@pytest.mark.local_only
def test_orphans_and_temporary_files_go_when_they_are_old(
    versioning: VersioningService, objects: LocalStore, clock: FakeClock, tmp_path: Path
) -> None:
    clock.time = time.time()
    fill(versioning, "kept", {"/a": noise(1)})
    kept = stored(objects)
    objects.put(object_key("ab" * 32), [b"of a write that failed"])
    left = tmp_path / "objects" / "packs" / "ab" / ".tmp-0123"
    left.write_bytes(b"half")
    assert versioning.gc(grace_seconds=DAY).orphans == 0
    old = time.time() - 2 * DAY
    for path in (left, tmp_path / "objects" / object_key("ab" * 32)):
        os.utime(path, (old, old))
    planned = versioning.gc(grace_seconds=DAY, dry_run=True)
    assert (planned.orphans, planned.temporary_files, planned.temporary_bytes) == (1, 1, 4)
    assert left.exists()
    versioning.gc(grace_seconds=DAY)
    assert stored(objects) == kept and not left.exists()


def test_nothing_goes_while_something_needed_is_lost(
    versioning: VersioningService, objects: LocalStore
) -> None:
    fill(versioning, "damaged", {"/a": noise(1)})
    (key,) = stored(objects)
    fill(versioning, "gone", {"/a": noise(2)})
    versioning.delete_repo("default", "gone")
    objects.delete(key)
    before = stored(objects)
    with pytest.raises(CorruptionError, match="nothing was deleted, because commit default/damaged"):
        open_service(versioning._db, objects, versioning._clock).gc(grace_seconds=0)  # type: ignore[arg-type]
    assert stored(objects) == before


def test_one_at_a_time(
    versioning: VersioningService, db: Database, objects: LocalStore, clock: FakeClock
) -> None:
    other = open_service(db, objects, clock)

    def meanwhile(step: str) -> None:
        with pytest.raises(StateError, match="gc is at work"):
            other.gc()

    versioning.gc(at=meanwhile)
    other.gc()


# --- crashes ------------------------------------------------------------------------------------------------------


class CrashError(BaseException):
    """Nobody catches it."""


def garbage(service: VersioningService, objects: LocalStore) -> dict[str, bytes]:
    """Packs that are dead, mostly dead and orphans; returns what must stay."""
    root = fill(service, "sparse", {f"/{i}": noise(i) for i in range(12)})
    fill(service, "dead", {f"/{i}": noise(50 + i) for i in range(4)})
    fill(service, "dead2", {f"/{i}": noise(70 + i) for i in range(4)})
    service.create_repo("default", "kept")
    service.modify(
        "default", "kept@master", [CopyTree(path="/3", root=root, source_path="/3"), put("/own", b"own" * 99)]
    )
    for repo in ("sparse", "dead", "dead2"):
        service.delete_repo("default", repo)
    objects.put(object_key("ab" * 32), [b"an orphan"])
    return {"/3": noise(3), "/own": b"own" * 99}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("nth", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_crash_at_any_step_is_finished_by_the_next_run(
    versioning: VersioningService, db: Database, objects: LocalStore, clock: FakeClock, step: str, nth: int
) -> None:
    clock.time = time.time() + 10
    kept = garbage(versioning, objects)
    seen = 0

    def crash(at: str) -> None:
        nonlocal seen
        seen += at == step
        if seen == nth and at == step:
            raise CrashError

    with suppress(CrashError):
        versioning.gc(grace_seconds=0, at=crash)
    reopened = open_service(db, objects, clock)
    assert shown(reopened, "kept@master") == kept
    assert reopened.fsck() == []
    again = fill(reopened, "dead", {f"/{i}": noise(50 + i) for i in range(4)})  # the same packs once more
    reopened.gc(grace_seconds=0)
    last = open_service(db, objects, clock)
    assert contents(last, again) == {f"/{i}": noise(50 + i) for i in range(4)}
    assert shown(last, "kept@master") == kept
    assert last.fsck() == []
    with db.read() as connection:
        from trunkline.versioning import chunkindex, writers

        assert writers.list_condemned(connection) == []
        assert {object_key(name) for name, _ in chunkindex.list_packs(connection)} == set(stored(objects))
    assert last.gc(grace_seconds=0, dry_run=True).reclaimable_bytes == 0


# --- writers in between -------------------------------------------------------------------------------------------


class Stepped:
    """Something in a thread that goes on one step at a time, when it is told to."""

    def __init__(self, work: Callable[[Callable[[], None]], object]) -> None:
        self._go: queue.Queue[None] = queue.Queue()
        self._paused: queue.Queue[bool] = queue.Queue()
        self.result: object = None
        self.error: BaseException | None = None
        self._done = False
        self._thread = threading.Thread(target=self._run, args=(work,))
        self._thread.start()
        self._done = self._paused.get()

    def _run(self, work: Callable[[Callable[[], None]], object]) -> None:
        try:
            self._pause()
            self.result = work(self._pause)
        except BaseException as error:
            self.error = error
        self._paused.put(True)

    def _pause(self) -> None:
        self._paused.put(False)
        self._go.get()

    def step(self, wait: bool = True) -> None:
        if not self._done:
            self._go.put(None)
            with suppress(queue.Empty):
                self._done = self._paused.get(timeout=None if wait else 0.05)

    def finish(self) -> None:
        while not self._done:
            self.step()
        self._thread.join()


FILES = {f"/{i}": noise(i, 30_000) for i in range(160)}
"""More than a writer holds back before it asks what is stored already."""


def _changes(pause: Callable[[], None], source: TreeHash, how: str) -> Iterator[Change]:
    for n, (path, data) in enumerate(FILES.items()):
        if how == "copy":
            yield CopyTree(path=path, root=source, source_path=path)
        else:
            yield put(path, data)
        if n % 40 == 39:
            pause()


@settings(
    max_examples=max(3, settings.default.max_examples // 3),
    phases=(Phase.reuse, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    how=st.sampled_from(["put", "copy", "stage", "base"]),
    before=st.integers(0, 5),
    steps=st.lists(st.integers(0, 3), min_size=8, max_size=8),
    deleted_at=st.integers(0, 5),
    split=st.booleans(),
)
def test_writers_and_a_collection_in_any_order(
    tmp_path_factory: pytest.TempPathFactory,
    how: str,
    before: int,
    steps: list[int],
    deleted_at: int,
    split: bool,
) -> None:
    """A writer reuses what was just deleted, in as many ways as there are, while it is being collected."""
    folder = tmp_path_factory.mktemp("gc")
    db, objects, clock = Database(f"sqlite:///{folder / 'db'}"), LocalStore(folder / "objects"), FakeClock()
    service = open_service(db, objects, clock)
    try:
        fill(service, "kept", {"/kept": b"kept", **({"/7": FILES["/7"]} if split else {})})
        source = fill(service, "source", FILES)
        service.create_repo("default", "new")

        def work(pause: Callable[[], None]) -> TreeHash | None:
            if how == "stage":
                return service.stage(_changes(pause, source, "put")).root
            if how == "base":
                return service.stage(
                    [put("/more", b"x"), *_changes(pause, source, "none")][:1], base=source
                ).root
            return service.modify("default", "new@master", _changes(pause, source, how)).root

        writer = Stepped(work)
        turn = 0

        def advance(count: int) -> None:
            for _ in range(count):
                writer.step(wait=False)

        def between(step: str) -> None:
            nonlocal turn
            advance(steps[turn % len(steps)])
            turn += 1

        for n in range(before):
            if n == deleted_at:
                service.delete_repo("default", "source")
            advance(1)
        with suppress(NotFoundError):
            service.delete_repo("default", "source")
        service.gc(grace_seconds=0, at=between)
        service.gc(grace_seconds=0, at=between)
        writer.finish()
        reopened = open_service(db, objects, clock)
        if writer.error is None:
            assert isinstance(writer.result, str)
            expected = {**FILES, "/more": b"x"} if how == "base" else FILES
            assert contents(reopened, TreeHash(writer.result)) == expected
        else:  # what it wanted to copy from was gone before it began
            assert isinstance(writer.error, CorruptionError | NotFoundError) and how in ("copy", "base"), (
                writer.error
            )
        reopened.gc(grace_seconds=0)
        assert reopened.fsck() == []
        if writer.error is None:
            assert contents(reopened, TreeHash(str(writer.result))) == expected
        assert shown(reopened, "kept@master")["/kept"] == b"kept"
    finally:
        db.close()


@pytest.mark.slow
def test_threads_that_write_delete_and_collect(
    versioning: VersioningService, db: Database, objects: LocalStore, clock: FakeClock
) -> None:
    """The same few contents again and again, while others delete them and collect: each acknowledged commit is whole."""
    failures: list[BaseException] = []
    ended = threading.Event()
    roots: list[TreeHash] = []

    def write(number: int) -> None:
        generator = random.Random(number)
        try:
            for turn in range(12):
                files = {f"/{n}": noise(n, 20_000) for n in generator.sample(range(12), 6)}
                root = fill(versioning, f"r{number}", files)
                assert contents(versioning, root).items() >= files.items()
                if turn % 3 == 2:
                    versioning.delete_repo("default", f"r{number}")
                else:
                    roots.append(stage(versioning, files))
        except BaseException as error:
            failures.append(error)

    def collect() -> None:
        while not ended.is_set():
            try:
                versioning.gc(grace_seconds=0)
            except BaseException as error:
                failures.append(error)

    collector = threading.Thread(target=collect)
    collector.start()
    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ended.set()
    collector.join()
    assert failures == []
    reopened = open_service(db, objects, clock)
    assert reopened.fsck() == []
    for root in roots:
        contents(reopened, root)
