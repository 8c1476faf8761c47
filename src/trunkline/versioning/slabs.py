"""Large files on their way through memory: copied once into buffers that are used again and again, and cut there.

New memory costs more than copying into it, because the system has to clear it first; so the buffers ("slabs") go round.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from pyfastcdc import FastCDC

from trunkline.storage.objects.aligned import Buffers
from trunkline.versioning.files import CUT_MAX_BYTES, ONE_CHUNK_BYTES_MAX, new_cutter

SLAB_BYTES = 8 * 2**20


SPARE_MAX = 3
_spare = Buffers(SLAB_BYTES, kept_max=SPARE_MAX)


class Slabs:
    """The buffers of one writer, and how many pieces of each are in use. For one thread."""

    def __init__(self) -> None:
        self._free: list[memoryview] = []
        self._uses: dict[int, int] = {}

    def take(self) -> memoryview:
        """A buffer, in use once."""
        slab = self._free.pop() if self._free else _spare.take()
        self._uses[id(slab.obj)] = 1
        return slab

    def hold(self, piece: bytes | memoryview) -> None:
        """Another use of the buffer that ``piece`` lies in, if it lies in one."""
        if isinstance(piece, memoryview):
            self._uses[id(piece.obj)] += 1

    def release(self, piece: bytes | memoryview) -> None:
        """One use less; without any, the buffer will be filled again."""
        if isinstance(piece, memoryview):
            slab = piece.obj
            self._uses[id(slab)] -= 1
            if self._uses[id(slab)] == 0:
                del self._uses[id(slab)]
                self._free.append(memoryview(slab))

    def close(self) -> None:
        """Leave the buffers that are not in use to the next writer."""
        while self._free:
            _spare.give_back(self._free.pop())


class Cut(NamedTuple):
    """Chunks that follow each other, in one buffer, which is in use until ``whole`` is released."""

    whole: memoryview
    chunks: list[bytes | memoryview]


Fill = Callable[[memoryview], int]
"""Fills some of a buffer with what comes next; 0 at the end."""


def from_parts(parts: Iterable[bytes | memoryview]) -> Fill:
    """What fills buffers with these parts. A part is copied before the next one is asked for."""
    source = iter(parts)
    rest = memoryview(b"")

    def fill(buffer: memoryview) -> int:
        nonlocal rest
        while not rest:
            part = next(source, None)
            if part is None:
                return 0
            rest = memoryview(part).cast("B")
        taken = min(len(rest), len(buffer))
        buffer[:taken] = rest[:taken]
        rest = rest[taken:]
        return taken

    return fill


def cut(fill: Fill, slabs: Slabs) -> Iterator[Cut]:
    """Cut a content, received straight into the buffers; a short one is one chunk."""
    cutter: FastCDC | None = None
    whole, filled = slabs.take(), 0
    while read := fill(whole[filled:]):
        filled += read
        if filled == len(whole):
            cutter = cutter or new_cutter()
            # A cut is final only where a chunk of the largest size would have had room.
            chunks, done = _chunks(cutter, whole, CUT_MAX_BYTES)
            following = slabs.take()
            filled -= done
            following[:filled] = whole[done:]
            yield Cut(whole, chunks)
            whole = following
    if cutter is None and filled <= ONE_CHUNK_BYTES_MAX:
        yield Cut(whole, [bytes(whole[:filled])])
    else:
        yield Cut(whole, _chunks(cutter or new_cutter(), whole[:filled], 0)[0])


def _chunks(cutter: FastCDC, data: memoryview, keep: int) -> tuple[list[bytes | memoryview], int]:
    """The chunks, and where the last one ends: before there are less than ``keep`` bytes left."""
    chunks: list[bytes | memoryview] = []
    done = 0
    for chunk in cutter.cut_buf(data):
        if len(data) - done < max(keep, 1):
            break
        chunks.append(data[done : done + chunk.length])
        done += chunk.length
    return chunks, done
