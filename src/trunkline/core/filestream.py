"""The stream in which many files travel between a client and the server, both ways; specified in ``docs/format.md``.

Pure functions, and a reader of streams without content; ``filebatches.py`` reads the others.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import Protocol

from trunkline.errors import InvalidInputError

MEDIA_TYPE = "application/x-trunkline-files"
HEADS_MEDIA_TYPE = "application/x-trunkline-heads"
"""The same stream without the content of the files."""
MAGIC = b"TLFILES\x01"
HEAD = struct.Struct("<BBHqQ")
"""Kind, flags, bytes of the name, modification time, bytes of content."""
FILE, END, FAILURE = 1, 2, 3
EXECUTABLE, TIMED = 1, 2
NAME_BYTES_MAX = 2**16 - 1
FAILURE_BYTES_MAX = 64 * 1024
SMALL_BYTES_MAX = 512 * 1024
"""Up to this size a file's content is handed over in one piece."""
BUFFER_BYTES = 2 * SMALL_BYTES_MAX


class Source(Protocol):
    """Where a stream comes from."""

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill some of the buffer; 0 at the end."""

    def fill(self, buffer: memoryview, /) -> int:
        """The same for who wants much: fill more of it, if that costs fewer calls."""


def file_head(name: bytes, size: int, modified_ns: int | None, executable: bool) -> bytes:
    """What comes before a file's content."""
    flags = (EXECUTABLE if executable else 0) | (TIMED if modified_ns is not None else 0)
    return HEAD.pack(FILE, flags, len(name), modified_ns or 0, size) + name


def end(count: int) -> bytes:
    """What comes after the last of ``count`` files."""
    return HEAD.pack(END, 0, 0, 0, count)


def failure(error_class: str, kind: str, message: str) -> bytes:
    """What comes instead of the rest, where the sender cannot go on."""
    said = json.dumps({"class": error_class, "kind": kind, "message": message[:8000]}).encode()
    return HEAD.pack(FAILURE, 0, 0, 0, len(said)) + said


class StreamFailureError(Exception):
    """The other side sent why it could not go on: ``class``, ``kind`` and ``message`` of its error."""

    def __init__(self, said: dict[str, str]) -> None:
        super().__init__(said.get("message", ""))
        self.said = said


def read_heads(source: Source) -> Iterator[tuple[bytes, int, int | None, bool]]:
    """The files of a stream without content: name, size, modification time and executable bit of each.

    :raises InvalidInputError: ``bad_stream``. :raises StreamFailureError:
    """
    return _Reader(source).heads()


class _Reader:
    def __init__(self, source: Source) -> None:
        self._source = source
        self._buffer = memoryview(bytearray(BUFFER_BYTES))
        self._at = 0
        self._filled = 0

    def heads(self) -> Iterator[tuple[bytes, int, int | None, bool]]:
        unpack, head_bytes, buffer = HEAD.unpack_from, HEAD.size, self._buffer
        self._need(len(MAGIC))
        if self._take(len(MAGIC)) != MAGIC:
            raise bad_stream("it does not begin as one of version 1 does")
        count = 0
        while True:
            if self._filled - self._at < head_bytes:
                self._need(head_bytes)
            kind, flags, name_bytes, time, size = unpack(buffer, self._at)
            self._at += head_bytes
            if kind != FILE or flags > EXECUTABLE | TIMED:
                self._last(kind, size, count)
                return
            if self._filled - self._at < name_bytes:
                self._need(name_bytes)
            name = bytes(buffer[self._at : self._at + name_bytes])
            self._at += name_bytes
            count += 1
            yield name, size, time if flags & TIMED else None, bool(flags & EXECUTABLE)

    def _last(self, kind: int, size: int, count: int) -> None:
        if kind == FAILURE and size <= FAILURE_BYTES_MAX:
            self._need(size)
            raise failure_in(self._take(size))
        check_end(kind, size, count)
        if self._filled != self._at or self._source.readinto(self._buffer[:1]):
            raise bad_stream("it goes on behind its end")

    def _take(self, size: int) -> bytes:
        taken = bytes(self._buffer[self._at : self._at + size])
        self._at += size
        return taken

    def _need(self, size: int) -> None:
        """Have at least so many bytes in the buffer."""
        if self._at + size > BUFFER_BYTES:
            rest = self._filled - self._at
            self._buffer[:rest] = bytes(self._buffer[self._at : self._filled])
            self._at, self._filled = 0, rest
        elif self._at == self._filled:
            self._at = self._filled = 0
        while self._filled - self._at < size:
            read = self._source.readinto(self._buffer[self._filled :])
            if not read:
                raise bad_stream("it is cut short")
            self._filled += read


def failure_in(text: bytes) -> Exception:
    """The error that a failure record stands for."""
    try:
        said = json.loads(text)
    except ValueError:
        return bad_stream("what it says went wrong is not readable")
    return StreamFailureError({str(key): str(value) for key, value in dict(said).items()})


def check_end(kind: int, size: int, count: int) -> None:
    """:raises InvalidInputError: ``bad_stream``, if this is not the record that ends a stream of ``count`` files."""
    if kind != END:
        raise bad_stream("it holds a record of an unknown kind")
    if size != count:
        raise bad_stream(f"it holds {count} files and says that it holds {size}")


def bad_stream(why: str) -> InvalidInputError:
    """The error for a stream that cannot be used."""
    return InvalidInputError(f"the stream of files is not usable: {why}", kind="bad_stream")
