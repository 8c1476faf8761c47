"""Which ranges go past the page cache, and which do not."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from pathlib import Path
from typing import Any

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


def test_what_is_read_past_the_cache_does_not_come_into_it(
    on_disk: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged: list[bool] = []

    def is_cached(descriptor: int, offset: int, ask: Any = reading._is_cached) -> bool:
        judged.append(ask(descriptor, offset))
        return judged[-1]

    monkeypatch.setattr(reading, "_is_cached", is_cached)
    for number in range(20):
        path = Path(on_disk) / f"object{number}"
        path.write_bytes(os.urandom(8 * MIB))
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            if share_in_memory(descriptor, 8 * MIB) > 0.5:
                pytest.skip("this file system keeps all of it in memory")
            read_into(str(path), memoryview(bytearray(5 * MIB)), MIB, 4 * MIB, FirstReads())
            # To be asked for one byte may have the system read some; who reads through the cache leaves half of it there.
            if judged == [False]:
                assert share_in_memory(descriptor, 8 * MIB) < 0.25
                return
        finally:
            os.close(descriptor)
        judged.clear()  # while this program was kept from going on, what it had asked for has come: busy machines do that
    raise AssertionError("nothing was read past the cache")


def share_in_memory(descriptor: int, size: int) -> float:
    """How much of a file is in memory; to ask so does not bring it there. See mincore(2)."""
    mincore = ctypes.CDLL(None, use_errno=True).mincore
    with mmap.mmap(descriptor, size, access=mmap.ACCESS_COPY) as mapped:
        start = ctypes.c_char.from_buffer(mapped)
        pages = (ctypes.c_ubyte * (size // mmap.PAGESIZE))()
        assert mincore(ctypes.byref(start), ctypes.c_size_t(size), pages) == 0, os.strerror(
            ctypes.get_errno()
        )
        del start  # else the map could not be closed
    return sum(page & 1 for page in pages) / len(pages)
