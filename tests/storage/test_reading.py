"""Which ranges go past the page cache, and which do not."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.conftest import folder_on_disk
from trunkline.storage.objects import reading
from trunkline.storage.objects.base import GET_SLACK_BYTES
from trunkline.storage.objects.reading import DIRECT_FROM_BYTES, FirstReads, read_into

MIB = 2**20


def test_a_range_is_first_once() -> None:
    firsts = FirstReads()
    assert firsts.is_first("a", 2 * MIB, 2 * MIB)  # readers that run ahead of each other come in any order
    assert firsts.is_first("a", 0, 2 * MIB)
    assert not firsts.is_first("a", 0, 2 * MIB)
    assert firsts.is_first("b", 0, 2 * MIB)


def test_only_so_much_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "KEYS_KNOWN_MAX", 2)
    firsts = FirstReads()
    for key in ("a", "b", "c"):
        assert firsts.is_first(key, 0, MIB)
    assert not firsts.is_first("c", 0, MIB)
    assert firsts.is_first("a", 0, MIB)


@pytest.mark.parametrize("refuses", ["nothing", "direct", "cached only"])
@pytest.mark.parametrize("is_cached", [False, True])
def test_every_way_reads_the_same(
    tmp_path: Path, refuses: str, is_cached: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = os.urandom(3 * MIB + 17)
    path = tmp_path / "object"
    path.write_bytes(data)
    if not is_cached:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)
    real_open, real_read = os.open, os.preadv

    def open_file(path: str, flags: int) -> int:
        if refuses == "direct" and flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "this file system cannot")
        return real_open(path, flags)

    def read(descriptor: int, buffers: list[memoryview], offset: int, flags: int = 0) -> int:
        if refuses == "cached only" and flags:
            raise OSError(errno.EOPNOTSUPP, "this kernel cannot")
        return real_read(descriptor, buffers, offset, flags)

    monkeypatch.setattr(os, "open", open_file)
    monkeypatch.setattr(os, "preadv", read)
    firsts = FirstReads()
    buffer = memoryview(bytearray(4 * MIB))
    for offset, length in (
        (0, DIRECT_FROM_BYTES),
        (5, MIB),
        (MIB + 1, 2 * MIB),
        (3 * MIB, MIB - GET_SLACK_BYTES),
    ):
        for _ in range(3):
            got = read_into(str(path), buffer, offset, length, firsts)
            assert bytes(got) == data[offset : offset + length]


on_disk = pytest.fixture(folder_on_disk)


def test_what_is_read_past_the_cache_does_not_come_into_it(on_disk: str) -> None:
    path = Path(on_disk) / "object"
    path.write_bytes(os.urandom(8 * MIB))
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        if in_memory(descriptor, [0]):
            pytest.skip("this file system keeps all of it in memory")
        read_into(str(path), memoryview(bytearray(5 * MIB)), MIB, 4 * MIB, FirstReads())
        # To be asked may have the system read some itself; whoever reads through the cache would find all 32.
        assert in_memory(descriptor, range(MIB + 64 * 1024, 5 * MIB, 128 * 1024)) < 16
    finally:
        os.close(descriptor)


def in_memory(descriptor: int, offsets: Iterable[int]) -> int:
    """How many of some bytes are in memory."""
    found = 0
    for offset in offsets:
        with contextlib.suppress(BlockingIOError):
            found += os.preadv(descriptor, [bytearray(1)], offset, os.RWF_NOWAIT)
    return found
