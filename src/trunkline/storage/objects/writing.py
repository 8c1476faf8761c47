"""The bytes of one object into its file: large ones past the page cache (``directio``), as nobody reads a pack again soon."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from itertools import chain

from trunkline.directio import DirectWriter, turn_direct
from trunkline.storage.objects.aligned import Buffers

DIRECT_FROM_BYTES = 2**20
"""For less, what has to be written at once costs more than the copy into the page cache."""
BUFFERS_KEPT_MAX = 2
PARTS_PER_WRITE = 512
"""The system takes 1,024."""
WRITE_BYTES = 128 * 2**10
"""For larger writes the page cache asks for larger blocks of memory, and from 1 MiB on for those that a virtual machine has
given back to its host: getting a gigabyte of them again takes 2 to 3.5 seconds of the processor, copying into small ones 0.2."""


def write_all(descriptor: int, parts: Iterable[bytes], buffers: Buffers) -> None:
    """Write the parts to an empty file, from its start. What is written is not durable yet."""
    source = iter(parts)
    start: list[bytes] = []
    size = 0
    for part in source:
        start.append(part)
        size += len(part)
        if size >= DIRECT_FROM_BYTES and turn_direct(descriptor, on=True):
            with buffers.lent() as buffer:
                writer = DirectWriter(descriptor, buffer)
                for one in chain(start, source):
                    writer.write(one)
                writer.finish()
            return
        if size >= DIRECT_FROM_BYTES:
            break
    _write_buffered(descriptor, chain(start, source))


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
