"""Memory that begins at a page, as reads and writes past the page cache want it, and that goes round: fresh memory costs as much
as the disk does, because the system has to clear it first, and in a virtual machine has to get it back from its host."""

from __future__ import annotations

import ctypes
import mmap
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from trunkline.directio import BLOCK_BYTES


def new_memory(size: int) -> memoryview:
    """Fresh memory, in large pages where the system has them: it is cleared in one go instead of 4 KiB at a time."""
    # Private: what is mapped without a file is shared with forked processes otherwise.
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(memory)


def aligned(buffer: memoryview) -> memoryview:
    """A writable buffer from its first whole block on."""
    address = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
    return buffer[-address % BLOCK_BYTES :]


class Buffers:
    """Buffers of one size that are lent to one user after the other. Safe between threads."""

    def __init__(self, size: int, *, kept_max: int) -> None:
        self._size = size
        self._kept_max = kept_max
        self._lock = threading.Lock()
        self._free: list[memoryview] = []

    def take(self) -> memoryview:
        """One that nobody else has."""
        with self._lock:
            found = self._free.pop() if self._free else None
        return new_memory(self._size) if found is None else found

    def give_back(self, buffer: memoryview) -> None:
        """The whole of what was taken."""
        with self._lock:
            if len(self._free) < self._kept_max:
                self._free.append(buffer)

    @contextmanager
    def lent(self) -> Iterator[memoryview]:
        """One for a while."""
        buffer = self.take()
        try:
            yield buffer
        finally:
            self.give_back(buffer)
