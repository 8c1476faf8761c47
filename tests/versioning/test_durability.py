"""Writers that race, disks that fail, bits that flip, processes that are killed: what was acknowledged is whole."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.conftest import FakeClock
from tests.versioning.conftest import contents, open_service, put, shown
from trunkline.core.hashing import digest
from trunkline.errors import (
    ConflictError,
    CorruptionError,
    LimitError,
    NotFoundError,
    TrunklineError,
    UnavailableError,
)
from trunkline.storage.db import schema
from trunkline.storage.db.engine import Database
from trunkline.storage.objects.base import ObjectStore
from trunkline.storage.objects.local import LocalStore
from trunkline.testing.faulty import Fault, FaultyStore
from trunkline.versioning.model import Change, DeletePath, PutFile
from trunkline.versioning.packs import object_key
from trunkline.versioning.service import VersioningService


@pytest.fixture(autouse=True)
def repo(versioning: VersioningService) -> None:
    versioning.create_repo("default", "r")


def in_threads(count: int, work) -> list[BaseException]:  # type: ignore[no-untyped-def]
    failures: list[BaseException] = []

    def run(number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failures


def test_writers_to_one_branch_all_land(versioning: VersioningService) -> None:
    def write(number: int) -> None:
        for turn in range(5):
            name = f"/{number}/{turn}"
            versioning.modify(
                "default",
                "r@master",
                [put(name + "a", b"1"), put("/log", b"%d;" % number, append=True), put(name + "b", b"2")],
            )

    assert in_threads(6, write) == []
    files = shown(versioning, "r@master")
    assert len(files) == 61
    assert sorted(files["/log"].split(b";")) == sorted(
        [b""] + [b"%d" % n for n in range(6) for _ in range(5)]
    )
    made = versioning.list_commits("default", "r", branch="master", limit=1000)
    assert len(made) == 30
    assert sorted(c.file_count for c in made) == list(range(3, 62, 2))  # one after the other, each whole


@pytest.mark.slow
def test_writers_to_one_open_commit_all_land(
    versioning: VersioningService, db: Database, objects: ObjectStore, clock: FakeClock
) -> None:
    opened = versioning.start_commit("default", "r@master")
    other = open_service(db, objects, clock)  # as another process would: it shares no lock with the first

    def write(number: int) -> None:
        for turn in range(6):
            (versioning, other)[number % 2].modify("default", "r@master", [put(f"/{number}/{turn}", b"x")])

    assert in_threads(4, write) == []
    assert len(shown(versioning, f"r@{opened.id}")) == 24
    assert versioning.finish_commit("default", "r@master").file_count == 24


@pytest.mark.parametrize("how", ["error", "lost_response", "disk_full"])
@pytest.mark.parametrize("nth", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 3))])
def test_a_failed_write_leaves_what_was_there(
    versioning: VersioningService, db: Database, objects: ObjectStore, clock: FakeClock, how: str, nth: int
) -> None:
    versioning.modify("default", "r@master", [put("/kept", b"kept")])
    faulty = FaultyStore(objects, Fault(operation="put", nth=nth, how=how))  # type: ignore[arg-type]
    service = open_service(db, faulty, clock)
    generator = random.Random(nth)
    files = {f"/new/{i}": generator.randbytes(2**20) for i in range(33)}
    changes = [put(path, data) for path, data in files.items()]
    with pytest.raises(LimitError if how == "disk_full" else UnavailableError):
        service.modify("default", "r@master", changes)
    assert shown(versioning, "r@master") == {"/kept": b"kept"}
    assert versioning.fsck() == []
    service.modify("default", "r@master", changes)  # the same again, and now it works
    reopened = open_service(db, objects, clock)
    assert shown(reopened, "r@master") == {"/kept": b"kept", **files}
    assert reopened.fsck() == []


def test_no_row_without_its_object(
    versioning: VersioningService, db: Database, objects: ObjectStore, clock: FakeClock
) -> None:
    service = open_service(db, FaultyStore(objects, Fault(operation="put", nth=2, sticky=True)), clock)
    with pytest.raises(UnavailableError):
        service.modify(
            "default", "r@master", [put(f"/{i}", random.Random(i).randbytes(2**20)) for i in range(40)]
        )
    with db.read() as connection:
        rows = connection.execute(sa.select(schema.packs.c.name)).scalars().all()
    assert [key.key for key in objects.list()] == [object_key(name) for name in rows]


KILLED = """
import sys, random
from pathlib import Path
from trunkline.core.clock import SystemClock
from trunkline.jobs.outbox import Outbox
from trunkline.storage.db.engine import Database
from trunkline.storage.objects.local import LocalStore
from trunkline.versioning.model import Change, DeletePath, PutFile
from trunkline.versioning.service import VersioningService

home, clock = Path(sys.argv[1]), SystemClock()
db = Database(f"sqlite:///{home / 'trunkline.db'}")
service = VersioningService(db=db, objects=LocalStore(home / "objects"), clock=clock, publish=Outbox(db, clock).publish)
for turn in range(10_000):
    generator = random.Random(turn)
    changes = [PutFile(path=f"/{turn}/{i}", parts=[generator.randbytes(300_000)]) for i in range(5)]
    commit = service.modify("default", "r@master", changes)
    print(turn, commit.id, flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("after", range(8))
def test_what_was_acknowledged_survives_a_kill(
    tmp_path: Path,
    versioning: VersioningService,
    db: Database,
    objects: ObjectStore,
    clock: FakeClock,
    after: int,
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    acknowledged = [process.stdout.readline().split() for _ in range(after + 1)]
    threading.Event().wait(random.Random(after).random() / 20)
    process.send_signal(signal.SIGKILL)
    acknowledged += [line.split() for line in process.stdout.read().splitlines() if len(line.split()) == 2]
    process.wait()
    process.stdout.close()
    service = open_service(db, objects, clock)
    for turn, commit_id in acknowledged:
        _, root, _ = service.resolve("default", f"r@{commit_id}")
        generator = random.Random(int(turn))
        for i in range(5):
            assert b"".join(service.read(root, f"/{turn}/{i}")) == generator.randbytes(300_000)
    for commit in service.list_commits("default", "r", limit=10_000):
        assert commit.file_count % 5 == 0
    assert service.fsck() == []


# --- damage -------------------------------------------------------------------------------------------------------


def one_pack(objects: ObjectStore) -> str:
    (info,) = objects.list("packs/")
    return info.key


def damage(objects: ObjectStore, key: str, at: int) -> None:
    data = bytearray(objects.get(key))
    data[at] ^= 0x10
    objects.put(key, [bytes(data)])


def test_a_flipped_bit_is_found_on_read(versioning: VersioningService, objects: ObjectStore) -> None:
    content = random.Random(5).randbytes(50_000)
    made = versioning.modify("default", "r@master", [put("/good", b"good" * 50), put("/d/bad", content)])
    key = one_pack(objects)
    at = objects.get(key).index(content[:100])
    damage(objects, key, at + 20)
    assert made.root is not None
    assert b"".join(versioning.read(made.root, "/good")) == b"good" * 50
    with pytest.raises(CorruptionError) as caught:
        list(versioning.read(made.root, "/d/bad"))
    error = caught.value
    assert (error.kind, error.details["path"]) == ("damaged_chunk", "/d/bad")
    for part in ("/d/bad", digest(content).hex(), key.rpartition("/")[2], "fsck"):
        assert part in str(error)
    problems = versioning.fsck()
    assert [p.kind for p in problems] == ["damaged_pack", "damaged_chunk"]
    assert problems[1].what == digest(content).hex()
    assert problems[1].referred_by == (f"commit default/r@{made.id}:/d/bad",)


@pytest.mark.parametrize("stride", [41, pytest.param(1, marks=pytest.mark.slow)])
def test_no_damage_to_any_byte_gives_wrong_content(
    versioning: VersioningService, db: Database, objects: ObjectStore, clock: FakeClock, stride: int
) -> None:
    """Every byte of every object flipped, and every length that it could be cut to: ``fsck`` always sees it, and a reader
    gets the right bytes (a few mean nothing to it: of zstd's header, of a pack's index) or an error."""
    files = {"/a": b"text " * 40, "/b": b"\x01\x02"}
    made = versioning.modify("default", "r@master", [put(path, data) for path, data in files.items()])
    for info in list(objects.list()):
        whole = objects.get(info.key)
        damaged = [whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :] for at in range(len(whole))]
        damaged += [whole[:length] for length in range(len(whole))]
        damaged += [whole + b"\0"]
        for data in damaged[::stride]:
            objects.put(info.key, [data])
            service = open_service(db, objects, clock)
            with suppress(CorruptionError):
                assert contents(service, made.root) == files
            assert service.fsck()[0].kind == "damaged_pack"
        objects.put(info.key, [whole])
    assert versioning.fsck() == []


def test_what_is_lost_is_named(
    versioning: VersioningService, db: Database, objects: ObjectStore, clock: FakeClock
) -> None:
    first = versioning.modify("default", "r@master", [put("/a", b"1" * 100)])
    key = one_pack(objects)
    second = versioning.modify("default", "r@master", [put("/b", b"2" * 100)])
    objects.delete(key)
    service = open_service(db, objects, clock)
    with pytest.raises(CorruptionError, match=key.rpartition("/")[2]):
        contents(service, first.root)
    lost = service.fsck()
    assert [p.kind for p in lost] == ["lost_pack", "lost_pack", "lost_pack"]
    needed_by = {label for p in lost for label in p.referred_by}
    assert needed_by == {f"commit default/r@{first.id}", f"commit default/r@{second.id}:/a"}
    with db.write() as connection:
        connection.execute(sa.delete(schema.chunks).where(schema.chunks.c.hash == digest(b"2" * 100)))
    service = open_service(db, objects, clock)
    assert "lost_chunk" in {p.kind for p in service.fsck()}


def test_the_index_can_be_rebuilt_from_the_packs(
    versioning: VersioningService, db: Database, objects: ObjectStore, clock: FakeClock
) -> None:
    files = {f"/{i}": random.Random(i).randbytes(40_000 * i) for i in range(30)}
    made = versioning.modify("default", "r@master", [put(path, data) for path, data in files.items()])
    columns = (
        schema.packs.c.name,
        schema.packs.c.size,
        *schema.chunks.c["hash", "offset", "length", "raw_length", "codec"],
    )
    query = sa.select(*columns).join_from(schema.chunks, schema.packs).order_by(schema.chunks.c.hash)
    with db.read() as connection:
        before = connection.execute(query).all()
    assert versioning.reindex() == 0
    with db.write() as connection:
        connection.execute(sa.delete(schema.chunks))
        connection.execute(sa.delete(schema.packs))
    service = open_service(db, objects, clock)
    assert "lost_chunk" in {problem.kind for problem in service.fsck()}
    assert service.reindex() == len({row.name for row in before})
    with db.read() as connection:
        assert connection.execute(query).all() == before
    assert contents(service, made.root) == files
    assert service.fsck() == []
    objects.put("packs/00/" + "0" * 64, [b"not a pack"])
    with pytest.raises(CorruptionError, match="pack 000"):
        service.reindex()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_full_disk_breaks_nothing(tmp_path: Path, db: Database, clock: FakeClock) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)], capture_output=True, check=False
    ).returncode:
        pytest.skip("this machine does not let us mount a file system")
    try:
        service = open_service(db, LocalStore(folder), clock)
        service.modify("default", "r@master", [put("/a", random.Random(1).randbytes(2**20))])
        for _ in range(2):
            with pytest.raises(LimitError, match="disk is full"):
                service.modify("default", "r@master", [put("/b", random.Random(2).randbytes(9 * 2**20))])
        assert list(shown(service, "r@master")) == ["/a"]
        assert [path.name for path in folder.rglob(".tmp-*")] == []
        service.modify("default", "r@master", [put("/c", random.Random(3).randbytes(2**20))])
        assert list(shown(service, "r@master")) == ["/a", "/c"]
    finally:
        subprocess.run(["umount", str(folder)], check=True)


# --- costs --------------------------------------------------------------------------------------------------------


def stored(objects: ObjectStore) -> tuple[int, int]:
    """Objects and bytes."""
    sizes = [info.size for info in objects.list()]
    return len(sizes), sum(sizes)


@pytest.mark.slow
def test_many_small_files_are_few_objects(versioning: VersioningService, objects: ObjectStore) -> None:
    generator = random.Random(1)
    versioning.modify(
        "default", "r@master", (put(f"/d{i % 10}/{i}.png", generator.randbytes(2_000)) for i in range(10_000))
    )
    count, size = stored(objects)
    assert count <= 10
    assert size < 10_000 * 2_150


def test_a_commit_costs_what_changed(versioning: VersioningService, objects: ObjectStore) -> None:
    versioning.modify("default", "r@master", (put(f"/d{i // 1000}/{i:06}", b"%d" % i) for i in range(20_000)))
    count, size = stored(objects)
    made = versioning.modify("default", "r@master", [put("/d3/003500", b"changed")])
    assert stored(objects)[0] == count + 1
    assert stored(objects)[1] - size < 40_000
    count, size = stored(objects)
    again = versioning.modify("default", "r@master", [put("/d3/003500", b"changed", modified_at=None)])
    assert again.root == made.root
    assert stored(objects) == (count, size)


def test_text_is_compressed_and_what_cannot_be_is_not(
    versioning: VersioningService, objects: ObjectStore
) -> None:
    versioning.stage([put("/text", b"the same words again and again " * 20_000)])
    assert stored(objects)[1] < 20_000
    versioning.stage([put("/noise", random.Random(1).randbytes(500_000))])
    assert stored(objects)[1] < 525_000


FLAT = """
import random, resource, sys
from pathlib import Path
from trunkline.core.clock import SystemClock
from trunkline.jobs.outbox import Outbox
from trunkline.storage.db.engine import Database
from trunkline.storage.objects.local import LocalStore
from trunkline.versioning.model import Change, DeletePath, PutFile
from trunkline.versioning.service import VersioningService

home, clock = Path(sys.argv[1]), SystemClock()
db = Database(f"sqlite:///{home / 'trunkline.db'}")
service = VersioningService(db=db, objects=LocalStore(home / "objects"), clock=clock, publish=Outbox(db, clock).publish)

def stream(mib):
    generator = random.Random(mib)
    return (generator.randbytes(2**16) for _ in range(mib * 16))

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

service.stage([PutFile(path="/warm", parts=stream(1))])
before = peak()
root = service.stage([PutFile(path="/big", parts=stream(200))]).root
size = sum(map(len, service.read(root, "/big")))
print(size, peak() - before)
"""


@pytest.mark.slow
def test_a_large_file_never_sits_in_memory(tmp_path: Path, versioning: VersioningService) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FLAT, str(tmp_path)], capture_output=True, text=True, check=True
    )
    size, grown_mib = map(int, done.stdout.split())
    assert size == 200 * 2**20
    assert grown_mib < 100


@pytest.mark.slow
def test_a_hundred_thousand_puts_and_what_comes_between(versioning: VersioningService) -> None:
    def changes() -> Iterator[Change]:
        for i in range(110_000):
            yield put(f"/d{i % 100}/{i}", b"old")
        yield DeletePath(path="/d7")
        for i in range(60_000):
            yield put(f"/d{i % 100}/{i}", b"new")
        yield put("/d1/1", b"er", append=True)

    versioning.modify("default", "r@master", [put("/d7/base", b"base"), put("/d8/base", b"base")])
    made = versioning.modify("default", "r@master", changes())
    assert made.root is not None
    assert made.file_count == 110_001 - 500
    assert b"".join(versioning.read(made.root, "/d1/1")) == b"newer"
    assert b"".join(versioning.read(made.root, "/d1/60001")) == b"old"
    assert [i.path for i in versioning.list_dir(made.root, "/d7")][:2] == ["/d7/10007", "/d7/1007"]
    with pytest.raises(ConflictError, match="/d1 "):
        versioning.modify(
            "default",
            "r@master",
            (put(f"/{name}") for i in range(50_001) for name in ([i] if i < 50_000 else ["d1"])),
        )


def test_errors_are_ours(versioning: VersioningService) -> None:
    with pytest.raises(TrunklineError):
        versioning.modify("default", "r@master", [object()])  # type: ignore[list-item]
    with pytest.raises(NotFoundError):
        versioning.stat(versioning.stage([PutFile(path="/a", parts=[])]).root, "/b")
