"""Many files out of a stream (``filestream.py``) at once, for a receiver who keeps what it gets where it is.

The reader gives all small files that have come, as columns, and their contents lie where they were received, until the receiver
gives the memory back. At tens of thousands of files a second every call and every copy for a file counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from threading import Lock
from typing import NamedTuple, Protocol

from trunkline.core.filestream import (
    EXECUTABLE,
    FAILURE,
    FAILURE_BYTES_MAX,
    FILE,
    HEAD,
    MAGIC,
    SMALL_BYTES_MAX,
    TIMED,
    Source,
    bad_stream,
    check_end,
    failure_in,
)

STEP_BYTES = 2 * 2**20
"""So much is waited for before it is looked at."""
BUFFER_BYTES = 2 * SMALL_BYTES_MAX
COPIED_BYTES_MAX = 4096
"""Contents of up to this size are copied: they would hold much more memory than they have."""


class Memory(Protocol):
    """Buffers of several MiB that go round; each is in use once for every time it was taken or held."""

    def take(self) -> memoryview: ...

    def release(self, piece: memoryview, /) -> None: ...


class Buffers:
    """The memory of one stream, for as many threads as use it."""

    def __init__(self) -> None:
        self._free: list[memoryview] = []
        self._uses: dict[int, int] = {}
        self._lock = Lock()

    def take(self) -> memoryview:
        with self._lock:
            buffer = self._free.pop() if self._free else memoryview(bytearray(BUFFER_BYTES))
            self._uses[id(buffer)] = 1
            return buffer

    def hold(self, whole: memoryview) -> None:
        """One use more of a buffer."""
        with self._lock:
            self._uses[id(whole)] += 1

    def release(self, whole: memoryview) -> None:
        """One use less; without any, it is filled again: new memory costs more than filling it."""
        with self._lock:
            self._uses[id(whole)] -= 1
            if not self._uses[id(whole)]:
                self._free.append(whole)


class Batch(NamedTuple):
    """Small files that follow each other."""

    whole: memoryview
    """The buffer in which their contents lie; it may be filled again once the next item is asked for, unless it is held."""
    names: list[bytes]
    contents: list[bytes | memoryview]
    times: list[int | None]
    executables: list[bool]


class LargeFile(NamedTuple):
    """A file of more than ``SMALL_BYTES_MAX``."""

    name: bytes
    size: int
    modified_ns: int | None
    executable: bool
    fill: Callable[[memoryview], int]
    """Fills some of a buffer with what comes next of the content, 0 at its end; to be used up before the next item."""


def read_batches(source: Source, memory: Memory) -> Iterator[Batch | LargeFile]:
    """The files of a stream, in order, to its end marker. Names are as they came: not looked at.

    :raises InvalidInputError: ``bad_stream``, if it is cut short or not such a stream. :raises StreamFailureError:
    """
    reader = _Reader(source, memory)
    try:
        yield from reader.items()
    finally:
        memory.release(reader.buffer)


class _Reader:
    def __init__(self, source: Source, memory: Memory) -> None:
        self._source = source
        self._memory = memory
        self.buffer = memory.take()
        self._at = 0
        self._filled = 0
        self._left = 0
        """Bytes of a large file that nobody has asked for yet."""

    def items(self) -> Iterator[Batch | LargeFile]:
        self._need(len(MAGIC))
        if self._take(len(MAGIC)) != MAGIC:
            raise bad_stream("it does not begin as one of version 1 does")
        count = 0
        while True:
            batch = self._whole_records()
            if batch.names:
                count += len(batch.names)
                yield batch
            if self._filled - self._at < HEAD.size:
                self._more()
                continue
            kind, flags, name_bytes, time, size = HEAD.unpack_from(self.buffer, self._at)
            if kind != FILE or flags > EXECUTABLE | TIMED:
                self._at += HEAD.size
                self._last(kind, size, count)
                return
            if size <= SMALL_BYTES_MAX:
                self._more()
                continue
            self._need(HEAD.size + name_bytes)
            self._at += HEAD.size
            name = self._take(name_bytes)
            self._left = size
            yield LargeFile(name, size, time if flags & TIMED else None, bool(flags & EXECUTABLE), self._fill)
            if self._left:
                raise AssertionError("the content of a large file is used up before the next is asked for")
            count += 1

    def _whole_records(self) -> Batch:
        """The small files that have come as a whole."""
        unpack, head_bytes, buffer = HEAD.unpack_from, HEAD.size, self.buffer
        at, filled = self._at, self._filled
        found = Batch(buffer, [], [], [], [])
        _, names, contents, times, executables = found
        while filled - at >= head_bytes:
            kind, flags, name_bytes, time, size = unpack(buffer, at)
            start = at + head_bytes + name_bytes
            end = start + size
            if kind != FILE or flags > EXECUTABLE | TIMED or size > SMALL_BYTES_MAX or end > filled:
                break
            names.append(bytes(buffer[at + head_bytes : start]))
            content = buffer[start:end]
            contents.append(bytes(content) if size <= COPIED_BYTES_MAX else content)
            times.append(time if flags & TIMED else None)
            executables.append(flags & EXECUTABLE != 0)
            at = end
        self._at = at
        return found

    def _fill(self, target: memoryview) -> int:
        """The next bytes of a large file: what has come already, then straight from the source."""
        wanted = min(len(target), self._left)
        ready = min(wanted, self._filled - self._at)
        if ready:
            target[:ready] = self.buffer[self._at : self._at + ready]
            self._at += ready
        elif wanted:
            ready = self._source.fill(target[:wanted])
            if not ready:
                raise bad_stream("it ends in the middle of a file")
        self._left -= ready
        return ready

    def _last(self, kind: int, size: int, count: int) -> None:
        if kind == FAILURE and size <= FAILURE_BYTES_MAX:
            self._need(size)
            raise failure_in(self._take(size))
        check_end(kind, size, count)
        if self._filled != self._at or self._source.readinto(memoryview(bytearray(1))):
            raise bad_stream("it goes on behind its end")

    def _take(self, size: int) -> bytes:
        taken = bytes(self.buffer[self._at : self._at + size])
        self._at += size
        return taken

    def _need(self, size: int) -> None:
        while self._filled - self._at < size:
            self._more()

    def _more(self) -> None:
        """Receive more; in another buffer, where this one is full."""
        if self._filled == len(self.buffer):
            full, rest = self.buffer, self._filled - self._at
            self.buffer = self._memory.take()
            self.buffer[:rest] = full[self._at :]
            self._at, self._filled = 0, rest
            self._memory.release(full)
        read = self._source.fill(self.buffer[self._filled : self._filled + STEP_BYTES])
        if not read:
            raise bad_stream("it is cut short")
        self._filled += read
