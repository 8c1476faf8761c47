"""Large files past the page cache: exactly their bytes, wherever the file system agrees and where it does not."""

from __future__ import annotations

import errno
import io
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.conftest import folder_on_disk
from tests.core.test_filestream import Arriving, File, stream_of
from trunkline import directio
from trunkline.core.filestream import SMALL_BYTES_MAX
from trunkline.sdk.transfer import copied
from trunkline.sdk.unpacking import write_files

tmp_path = pytest.fixture(folder_on_disk)
BLOCK = directio.BLOCK_BYTES


def pieces(data: bytes, size: int) -> Iterator[memoryview]:
    """In one buffer that is used again, as a download gives them."""
    buffer = bytearray(size)
    for at in range(0, len(data), size):
        piece = data[at : at + size]
        buffer[: len(piece)] = piece
        yield memoryview(buffer)[: len(piece)]


@pytest.mark.parametrize("size", [0, 1, BLOCK, BLOCK + 1, 3 * BLOCK - 1, 8 * BLOCK, 8 * BLOCK + 5])
def test_a_file_has_exactly_its_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(directio, "BUFFER_BYTES", 2 * BLOCK)
    data = random.Random(size).randbytes(size)
    with (tmp_path / "file").open("wb") as file:
        directio.turn_direct(file.fileno(), on=True)
        sizes = list(directio.write_parts(file.fileno(), pieces(data, 5000)))
    assert sum(sizes) == size
    assert (tmp_path / "file").read_bytes() == data


def test_a_file_system_that_refuses_in_the_middle_gets_ordinary_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directio, "BUFFER_BYTES", 2 * BLOCK)
    real, asked = os.write, []

    def write(descriptor: int, data: memoryview) -> int:
        asked.append(directio.is_direct(descriptor))
        if len(asked) == 2 and asked[-1]:
            raise OSError(errno.EINVAL, "no")
        return real(descriptor, data)

    data = random.Random(1).randbytes(7 * BLOCK + 1)
    with (tmp_path / "file").open("wb") as file:
        agreed = directio.turn_direct(file.fileno(), on=True)
        monkeypatch.setattr(os, "write", write)
        list(directio.write_parts(file.fileno(), [data]))
        monkeypatch.undo()
    assert (tmp_path / "file").read_bytes() == data
    assert asked[:3] == ([True, True, False] if agreed else [False] * 3)


def test_a_write_that_is_not_aligned_is_an_ordinary_one(tmp_path: Path) -> None:
    data = os.urandom(20_001)
    with (tmp_path / "file").open("wb") as file:
        directio.turn_direct(file.fileno(), on=True)
        writer = directio.DirectWriter(file.fileno(), memoryview(bytearray(BLOCK + 1))[1:])
        writer.write(data)
        writer.finish()
    assert (tmp_path / "file").read_bytes() == data


def test_an_error_of_the_disk_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int, _data: memoryview) -> int:
        raise OSError(errno.ENOSPC, "no room")

    with (tmp_path / "file").open("wb") as file:
        parts = directio.write_parts(file.fileno(), [bytes(2 * directio.BUFFER_BYTES)])
        with monkeypatch.context() as patched, pytest.raises(OSError, match="no room"):
            patched.setattr(os, "write", full)
            list(parts)


@pytest.mark.parametrize("agrees", [True, False])
def test_only_large_files_of_a_stream_are_written_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, agrees: bool
) -> None:
    seen: list[str] = []
    real = directio.write_parts

    def write_parts(descriptor: int, parts: Iterator[bytes]) -> Iterator[int]:
        seen.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        return real(descriptor, parts)

    monkeypatch.setattr(directio, "write_parts", write_parts)
    monkeypatch.setattr(directio, "turn_direct", lambda *_, on: agrees)
    limit = SMALL_BYTES_MAX + 10
    texts = {"a/small": b"1" * (limit - 1), "a/large": b"2" * limit, "b": b"3" * (limit + 1)}
    files: list[File] = [(name, text, 10**18, name == "b") for name, text in texts.items()]

    def write(folder: Path, past_cache_from: int | None = None) -> int:
        return write_files(Arriving(stream_of(files), 30_000), folder, past_cache_from=past_cache_from)

    assert write(tmp_path / "new", limit) == 3
    assert seen == (["large", "b"] if agrees else [])
    assert write(tmp_path / "old") == 3
    assert len(seen) == (2 if agrees else 0)
    for folder in ("new", "old"):
        assert {name: (tmp_path / folder / name).read_bytes() for name in texts} == texts
        found = (tmp_path / folder / "b").stat()
        assert (found.st_mtime, found.st_mode & 0o100) == (10**9, 0o100)


class Body(io.BytesIO):
    """As a download, which the kernel could move."""

    size = 0
    headers: ClassVar[dict[str, str]] = {}
    is_spliced = False

    def spliced(self, _target: int) -> Iterator[int]:
        self.is_spliced = True
        return iter(())


@pytest.mark.parametrize(
    ("large", "agrees", "spliced"), [(True, True, False), (True, False, True), (False, True, True)]
)
def test_only_a_large_body_is_copied_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large: bool, agrees: bool, spliced: bool
) -> None:
    monkeypatch.setattr(directio, "turn_direct", lambda *_, on: agrees)
    body: Any = Body(b"x" * 3 * BLOCK + b"y")
    body.size = 3 * BLOCK + 1
    told: list[int] = []
    with (tmp_path / "file").open("wb") as file:
        assert (
            copied(body, file, told.append, past_cache_from=body.size if large else body.size + 1)
            == body.size
        )
    assert (tmp_path / "file").read_bytes() == body.getvalue()
    assert (sum(told), body.is_spliced) == (body.size, spliced)


def test_a_pipe_is_never_written_so(tmp_path: Path) -> None:
    body: Any = Body(b"x" * BLOCK)
    body.size = BLOCK
    source, target = os.pipe()
    with open(target, "wb") as file:
        assert copied(body, file, past_cache_from=1) == BLOCK
    with open(source, "rb") as file:
        assert file.read() == body.getvalue()
    assert body.is_spliced
