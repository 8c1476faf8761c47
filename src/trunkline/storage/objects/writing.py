"""The bytes of one object into its file: large ones past the page cache.

Nobody reads a pack again soon, and a page cache that has to grow costs more than the disk does: in a virtual machine its host
must first give the memory back. So a large object is gathered in a buffer that is used again and again, and the system writes
from there (``O_DIRECT``). That asks for addresses, offsets and lengths in whole blocks: the last one is padded, and what is too
much is cut off. Where the file system refuses, and for small objects, it is an ordinary write.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterable, Iterator
from itertools import chain

from trunkline.storage.objects.aligned import BLOCK_BYTES, Buffers

DIRECT_FROM_BYTES = 2**20
"""For less, what has to be written at once costs more than the copy into the page cache."""
BUFFER_BYTES = 4 * 2**20
BUFFERS_KEPT_MAX = 2
PARTS_PER_WRITE = 512
"""The system takes 1,024."""
WRITE_BYTES = 128 * 2**10
"""For larger writes the page cache asks for larger blocks of memory, and from 1 MiB on for those that a virtual machine has
given back to its host: getting a gigabyte of them again takes 2 to 3.5 seconds of the processor, copying into small ones 0.2."""

_DIRECT: int = getattr(os, "O_DIRECT", 0)


def write_all(descriptor: int, parts: Iterable[bytes], buffers: Buffers) -> None:
    """Write the parts to an empty file, from its start. What is written is not durable yet."""
    source = iter(parts)
    start: list[bytes] = []
    size = 0
    for part in source:
        start.append(part)
        size += len(part)
        if size >= DIRECT_FROM_BYTES and _turn_direct(descriptor, on=True):
            with buffers.lent() as buffer:
                _write_direct(descriptor, chain(start, source), buffer)
            return
        if size >= DIRECT_FROM_BYTES:
            break
    _write_buffered(descriptor, chain(start, source))


def _write_direct(descriptor: int, parts: Iterable[bytes], buffer: memoryview) -> None:
    size = filled = 0
    for part in parts:
        view = memoryview(part)
        size += len(view)
        while view:
            taken = min(len(view), BUFFER_BYTES - filled)
            buffer[filled : filled + taken] = view[:taken]
            view, filled = view[taken:], filled + taken
            if filled == BUFFER_BYTES:
                _write(descriptor, buffer)
                filled = 0
    padding = -filled % BLOCK_BYTES
    if filled:
        buffer[filled : filled + padding] = bytes(padding)
        _write(descriptor, buffer[: filled + padding])
    if padding:
        os.ftruncate(descriptor, size)


def _write(descriptor: int, view: memoryview) -> None:
    while view:
        try:
            done = os.write(descriptor, view)
        except OSError as error:
            # Some file systems find out only now that they cannot; and what follows a write that stopped inside a block
            # is not aligned any more.
            if error.errno != errno.EINVAL or not is_direct(descriptor):
                raise
            _turn_direct(descriptor, on=False)
            continue
        view = view[done:]


def is_direct(descriptor: int) -> bool:
    """Whether writes go past the page cache."""
    return bool(fcntl.fcntl(descriptor, fcntl.F_GETFL) & _DIRECT)


def _turn_direct(descriptor: int, *, on: bool) -> bool:
    """Whether the file system has agreed."""
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL) & ~_DIRECT
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | (_DIRECT if on else 0))
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return False
    return _DIRECT != 0


def _write_buffered(descriptor: int, parts: Iterable[bytes]) -> None:
    """Many parts in one call of the system, and no copy of any."""
    for views in _batches(parts):
        while views:
            written = os.writev(descriptor, views)
            done = 0
            while done < len(views) and written >= len(views[done]):
                written -= len(views[done])
                done += 1
            del views[:done]
            if written:
                views[0] = views[0][written:]


def _batches(parts: Iterable[bytes]) -> Iterator[list[memoryview]]:
    """What goes into one call each."""
    batch: list[memoryview] = []
    room = WRITE_BYTES
    for part in parts:
        view = memoryview(part)
        while view:
            piece = view[:room]
            batch.append(piece)
            view, room = view[len(piece) :], room - len(piece)
            if not room or len(batch) == PARTS_PER_WRITE:
                yield batch
                batch, room = [], WRITE_BYTES
    if batch:
        yield batch
