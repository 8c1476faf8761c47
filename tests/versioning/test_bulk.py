"""Much at once: many files read with reading ahead, large ones cut in buffers that go round, long runs of puts."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import FakeClock
from tests.versioning.conftest import contents, open_service, put, stage
from trunkline.core.hashing import digest
from trunkline.errors import ConflictError, CorruptionError, LimitError
from trunkline.storage.db.engine import Database
from trunkline.storage.objects.aligned import Buffers
from trunkline.storage.objects.local import LocalStore
from trunkline.storage.objects.memory import MemoryStore
from trunkline.versioning import files, slabs, staging, steps
from trunkline.versioning.model import DeletePath, PutFile
from trunkline.versioning.packs import Compressor
from trunkline.versioning.service import VersioningService

MIB = 2**20


def _mixed() -> dict[str, bytes]:
    pick = random.Random(5)
    made = {f"/many/{n:04}": pick.randbytes(pick.randrange(2000)) for n in range(700)}
    made["/big"] = pick.randbytes(3 * MIB)
    made["/empty"] = b""
    made["/many/twice"] = made["/twice"] = b"the same"
    made["/text"] = b"words and words " * 100_000
    return made


# --- reading


def test_read_files_gives_every_file_its_bytes(versioning: VersioningService) -> None:
    data = _mixed()
    root = stage(versioning, data)
    read = {info.path: b"".join(parts) for info, parts in versioning.read_files(root, versioning.walk(root))}
    assert read == data
    backwards = sorted(versioning.walk(root), key=lambda info: info.path, reverse=True)
    assert [(i.path, b"".join(p)) for i, p in versioning.read_files(root, backwards)] == [
        (info.path, data[info.path]) for info in backwards
    ]


def test_bytes_that_are_not_taken_are_passed_over(versioning: VersioningService) -> None:
    data = _mixed()
    root = stage(versioning, data)
    kept = []
    for number, (info, parts) in enumerate(versioning.read_files(root, versioning.walk(root, dirs=True))):
        if info.is_dir:
            assert list(parts) == []
        elif number % 3 == 0:
            assert b"".join(parts) == data[info.path]
        elif number % 3 == 1:
            next(parts, None)
        kept.append(parts)
    assert len(kept) == len(data) + 2
    assert all(next(parts, None) is None for parts in kept)  # an old one takes nothing from a later file


def test_read_files_stopped_in_the_middle_leaves_no_thread(versioning: VersioningService) -> None:
    root = stage(versioning, _mixed())
    before = set(threading.enumerate())
    reading = versioning.read_files(root, versioning.walk(root))
    next(reading)
    reading.close()  # type: ignore[attr-defined]
    assert set(threading.enumerate()) <= before


@pytest.mark.local_only
def test_a_damaged_file_is_named_and_the_others_are_read(
    versioning: VersioningService, objects: LocalStore, tmp_path: Path
) -> None:
    data = {f"/f{n:03}": random.Random(n).randbytes(5000) for n in range(300)}
    root = stage(versioning, data)
    for pack in (tmp_path / "objects").rglob("*"):
        if pack.is_file() and (at := pack.read_bytes().find(data["/f123"])) >= 0:
            changed = bytearray(pack.read_bytes())
            changed[at + 7] ^= 1
            pack.write_bytes(changed)
    read: dict[str, bytes] = {}
    wrong: list[CorruptionError] = []
    for info, parts in versioning.read_files(root, versioning.walk(root)):
        try:
            read[info.path] = b"".join(parts)
        except CorruptionError as error:
            wrong.append(error)
    assert read == {path: some for path, some in data.items() if path != "/f123"}
    assert [(error.kind, error.details["path"]) for error in wrong] == [("damaged_chunk", "/f123")]


def test_ranges_of_a_large_file(versioning: VersioningService) -> None:
    data = random.Random(8).randbytes(9 * MIB)
    root = stage(versioning, {"/big": data})
    for offset, length in ((0, None), (1, 5), (MIB, 4 * MIB), (9 * MIB - 3, 100), (0, 0), (9 * MIB, 1)):
        read = b"".join(versioning.read(root, "/big", offset=offset, length=length))
        assert read == data[offset : None if length is None else offset + length]


# --- writing


def _in_one_buffer(data: bytes, size: int) -> Iterator[memoryview]:
    """Parts as a server reads them: all in the same memory, one after the other."""
    buffer = bytearray(size)
    for start in range(0, len(data), size):
        part = data[start : start + size]
        buffer[: len(part)] = part
        yield memoryview(buffer)[: len(part)]
        buffer[:] = b"\xee" * size


@pytest.mark.parametrize("size", [100_000, MIB, 3 * MIB + 7])
@pytest.mark.parametrize("length", [5, 900_000, 2 * MIB, 20 * MIB])
def test_parts_may_be_views_of_a_buffer_that_changes(db: Database, size: int, length: int) -> None:
    service = open_service(db, MemoryStore(), FakeClock())
    data = random.Random(length).randbytes(length)
    root = service.stage([PutFile(path="/f", parts=_in_one_buffer(data, size))]).root
    assert b"".join(service.read(root, "/f")) == data
    assert root == stage(service, {"/f": data})


@pytest.mark.parametrize("kind", ["random", "zeros", "text"])
@pytest.mark.parametrize("extra", [-MIB, -1, 0, 1, 2 * MIB + 5])
def test_buffers_are_cut_as_whole_files_are(kind: str, extra: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slabs, "_spare", Buffers(3 * MIB, kept_max=2))
    length = 6 * MIB + extra
    data = {
        "random": random.Random(extra).randbytes(length),
        "zeros": bytes(length),
        "text": (b"some words %d " * (length // 14 + 1))[:length],
    }[kind]
    pool = slabs.Slabs()
    pieces: list[bytes] = []
    for whole, chunks in slabs.cut(slabs.from_parts([data[:10], data[10:]]), pool):
        pieces += [bytes(chunk) for chunk in chunks]
        pool.release(whole)
    assert pieces == [data[c.offset : c.offset + c.length] for c in files.new_cutter().cut_buf(data)]


def test_a_full_disk_surfaces_and_no_thread_is_left(db: Database, clock: FakeClock) -> None:
    class Full(MemoryStore):
        def put(self, key: str, parts: object) -> None:
            raise LimitError("the disk is full", kind="disk_full")

    service = open_service(db, Full(), clock)
    before = set(threading.enumerate())
    with pytest.raises(LimitError):
        stage(service, {f"/{n}": random.Random(n).randbytes(20 * MIB) for n in range(3)})
    assert set(threading.enumerate()) <= before


def test_text_between_pictures_is_compressed() -> None:
    compress = Compressor()
    pick = random.Random(1)
    assert {compress(pick.randbytes(20_000))[0] for _ in range(200)} == {0}
    codec, stored = compress(b"a line of a table,1,2,3\n" * 1000)
    assert codec == 1
    assert len(stored) < 1000


def test_an_object_of_many_parts(objects: LocalStore) -> None:
    parts = [b"", *[b"%d," % n for n in range(3000)], b"", memoryview(b"end")]
    objects.put("packs/x", parts)  # type: ignore[arg-type]
    assert objects.get("packs/x") == b"".join(parts)


# --- long runs of puts

NAMES = st.text(alphabet="ab-.0/é", min_size=1, max_size=5).filter(
    lambda name: all(part not in ("", ".", "..") for part in name.split("/"))
)


@settings(max_examples=2 * settings.default.max_examples, deadline=None)
@given(
    puts=st.lists(st.tuples(NAMES, st.binary(max_size=3)), max_size=30),
    base=st.lists(NAMES, max_size=3),
    limit=st.integers(1, 9),
)
def test_a_long_run_is_what_its_puts_are_one_by_one(
    puts: list[tuple[str, bytes]], base: list[str], limit: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("run")
    database = Database(f"sqlite:///{folder}/t.db")
    service = open_service(database, MemoryStore(), FakeClock())
    changes = [put("/" + name, data) for name, data in puts]
    below: str | None = None
    try:
        for name in base:
            below = stage(service, [DeletePath(path="/" + name), put("/" + name, b"old")], below)  # type: ignore[arg-type]
    except ConflictError:
        below = None
    with pytest.MonkeyPatch.context() as patch:
        found = []
        for most in (32_000, limit):
            for module in (staging, steps):
                patch.setattr(module, "EDITS_MAX", most)
            try:
                found.append(stage(service, list(changes), below))  # type: ignore[arg-type]
            except ConflictError as error:
                found.append(error.kind)  # type: ignore[arg-type]
    database.close()
    assert found[0] == found[1]


def test_many_files_in_any_order_make_the_same_tree(
    versioning: VersioningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = {f"/d{n % 13}/f{n}": b"%d" % n for n in range(1000)}
    expected = stage(versioning, data)
    for module in (staging, steps):
        monkeypatch.setattr(module, "EDITS_MAX", 80)
    shuffled = random.Random(2).sample(sorted(data), len(data))
    again = [*[put(path, b"old") for path in shuffled[:500]], *[put(path, data[path]) for path in shuffled]]
    assert stage(versioning, again) == expected
    assert stage(versioning, [put(path, data[path]) for path in sorted(data)]) == expected
    assert stage(versioning, [*again, DeletePath(path="/d3"), put("/d3/f3", b"3")]) == stage(
        versioning, {path: some for path, some in data.items() if "/d3/" not in path or path == "/d3/f3"}
    )
    assert contents(versioning, expected)["/d1/f1"] == b"1"
    assert digest(b"1").hex() == versioning.stat(expected, "/d1/f1").hash
