"""A large file's bytes past the page cache (``O_DIRECT``).

A page cache that has to grow costs more than the disk does: in a virtual machine its host must first give the memory back. So
the bytes are gathered in a buffer that is used again and again, and the system writes from there. That asks for addresses,
offsets and lengths in whole blocks: the last one is padded, and what is too much is cut off. Where the file system refuses, it
is an ordinary write.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterable, Iterator

BLOCK_BYTES = 4096
"""What addresses, offsets and lengths must be multiples of."""
BUFFER_BYTES = 4 * 2**20
"""A good length for one write."""

_DIRECT: int = getattr(os, "O_DIRECT", 0)


def write_parts(descriptor: int, parts: Iterable[bytes | memoryview]) -> Iterator[int]:
    """Write to an empty file after ``turn_direct`` has said yes. A part is used up before the next one is asked for; yields its
    length then."""
    import mmap  # noqa: PLC0415 (most programs that import this module have buffers of their own)

    writer = DirectWriter(descriptor, memoryview(mmap.mmap(-1, BUFFER_BYTES)))
    for part in parts:
        writer.write(part)
        yield len(part)
    writer.finish()


class DirectWriter:
    """Writes one file from its start, where the descriptor stands. What is written is not durable before an ``fsync``."""

    def __init__(self, descriptor: int, buffer: memoryview) -> None:
        """``descriptor``: of an empty file, after ``turn_direct``. ``buffer``: whole blocks, from a page's start."""
        self._descriptor = descriptor
        self._buffer = buffer
        self._filled = 0
        self.size = 0

    def write(self, part: bytes | memoryview) -> None:
        """Take the next bytes. :raises OSError: as writing does."""
        view = memoryview(part)
        self.size += len(view)
        while view:
            taken = min(len(view), len(self._buffer) - self._filled)
            self._buffer[self._filled : self._filled + taken] = view[:taken]
            view, self._filled = view[taken:], self._filled + taken
            if self._filled == len(self._buffer):
                self._write(self._buffer)
                self._filled = 0

    def finish(self) -> None:
        """Write what is left of it."""
        padding = -self._filled % BLOCK_BYTES
        if self._filled:
            self._buffer[self._filled : self._filled + padding] = bytes(padding)
            self._write(self._buffer[: self._filled + padding])
        if padding:
            os.ftruncate(self._descriptor, self.size)

    def _write(self, view: memoryview) -> None:
        while view:
            try:
                done = os.write(self._descriptor, view)
            except OSError as error:
                # Some file systems find out only now that they cannot; and what follows a write that stopped inside a block
                # is not aligned any more.
                if error.errno != errno.EINVAL or not is_direct(self._descriptor):
                    raise
                turn_direct(self._descriptor, on=False)
                continue
            view = view[done:]


def is_direct(descriptor: int) -> bool:
    """Whether writes go past the page cache."""
    return bool(fcntl.fcntl(descriptor, fcntl.F_GETFL) & _DIRECT)


def turn_direct(descriptor: int, *, on: bool) -> bool:
    """Whether the file system has agreed."""
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL) & ~_DIRECT
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | (_DIRECT if on else 0))
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return False
    return _DIRECT != 0
