"""File contents as chunks: cutting, lists of chunks, reading a range, appending.

A file of at most 1 MiB is one chunk. A larger one is cut where its content says so, and a list of its chunks (nested, where
it is long) stands for it. Both are functions of the content alone, so equal files have equal hashes, however they were
written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Literal, NamedTuple

from pyfastcdc import FastCDC

from trunkline.errors import InternalError
from trunkline.versioning.nodes import NODE_ITEMS_MAX, ListRef, decode_list, encode_list

ONE_CHUNK_BYTES_MAX = 2**20
CUT_MIN_BYTES = 64 * 2**10
CUT_AVERAGE_BYTES = 256 * 2**10
CUT_MAX_BYTES = 2**20
CUT_NORMALIZATION: Literal[2] = 2
CUT_SEED = 0
_BUFFER_BYTES = 4 * 2**20
LIST_LEVEL_MAX = 15

Put = Callable[[bytes], bytes]
PutStream = Callable[[Iterable[bytes | memoryview]], Iterable[ListRef]]
Get = Callable[[bytes], bytes]


class Content(NamedTuple):
    """What a tree entry says about a file's content."""

    size: int
    hash: bytes
    level: int


def cut(parts: Iterable[bytes | memoryview]) -> Iterator[bytes]:
    """The chunks of a stream; a short one is one chunk. Memory stays below a few MiB, whatever the sizes of the parts."""
    buffer = bytearray()
    cutter: FastCDC | None = None
    for part in parts:
        view = memoryview(part)
        for start in range(0, len(view), _BUFFER_BYTES):
            buffer += view[start : start + _BUFFER_BYTES]
            if len(buffer) > _BUFFER_BYTES:
                cutter = cutter or new_cutter()
                yield from _cut_buffer(cutter, buffer, keep=CUT_MAX_BYTES)
    if cutter is None and len(buffer) <= ONE_CHUNK_BYTES_MAX:
        yield bytes(buffer)
    else:
        yield from _cut_buffer(cutter or new_cutter(), buffer, keep=0)


def new_cutter() -> FastCDC:
    return FastCDC(
        CUT_AVERAGE_BYTES,
        min_size=CUT_MIN_BYTES,
        max_size=CUT_MAX_BYTES,
        normalized_chunking=CUT_NORMALIZATION,
        seed=CUT_SEED,
    )


def _cut_buffer(cutter: FastCDC, buffer: bytearray, *, keep: int) -> list[bytes]:
    """Take whole chunks off the buffer. A cut is final only where at least ``keep`` bytes follow the chunk's start: with
    less, the end of the buffer could have made it."""
    data = bytes(buffer)
    chunks: list[bytes] = []
    done = 0
    for chunk in cutter.cut_buf(data):
        if keep and len(data) - done < keep:
            break
        chunks.append(data[done : done + chunk.length])
        done += chunk.length
    del buffer[:done]
    return chunks


class ListBuilder:
    """Builds a chunk list from the chunks in order; nodes end where a child's hash says so."""

    def __init__(self, put: Put) -> None:
        self._put = put
        self._pending: list[list[ListRef]] = [[]]
        self.size = 0

    def add(self, ref: ListRef) -> None:
        """Add a chunk or a whole node below; only nodes that end by themselves may be followed by more."""
        self.size += ref.size
        self._push(ref)

    def finish(self) -> Content:
        level = 0
        while True:
            pending = self._pending[level]
            is_top = level + 1 == len(self._pending)
            if is_top and len(pending) == 1:
                root = pending[0]
                return Content(self.size, root.hash, root.level)
            if pending:
                self._close(level)
            level += 1

    def _push(self, ref: ListRef) -> None:
        while len(self._pending) <= ref.level:
            self._pending.append([])
        pending = self._pending[ref.level]
        pending.append(ref)
        if ref.hash[0] & 0x7F == 0 or len(pending) >= NODE_ITEMS_MAX:
            self._close(ref.level)

    def _close(self, level: int) -> None:
        refs, self._pending[level] = self._pending[level], []
        if level >= LIST_LEVEL_MAX:
            raise InternalError("a chunk list is nested too deep")
        self._push(ListRef(level + 1, self._put(encode_list(level + 1, refs)), sum(ref.size for ref in refs)))


def write_content(
    parts: Iterable[bytes | memoryview], put: Put, put_stream: PutStream | None = None
) -> Content:
    """Store a stream. ``put_stream`` is a quicker way to cut a long one and ``put`` its chunks.

    A part that is not ``bytes`` may be changed by its owner once the next one is asked for.
    """
    source = iter(parts)
    start: list[bytes] = []
    size = 0
    for part in source:
        size += len(part)
        if size > ONE_CHUNK_BYTES_MAX:
            stream = chain(start, [part], source)
            break
        start.append(part if isinstance(part, bytes) else bytes(part))
    else:
        return Content(size, put(start[0] if len(start) == 1 else b"".join(start)), 0)
    builder = ListBuilder(put)
    for ref in put_stream(stream) if put_stream else _put_stream(stream, put):
        builder.add(ref)
    return builder.finish()


def _put_stream(parts: Iterable[bytes | memoryview], put: Put) -> Iterator[ListRef]:
    for chunk in cut(parts):
        yield ListRef(0, put(chunk), len(chunk))


def read_content(content: Content, get: Get, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
    """The bytes of a range, chunk by chunk."""
    for ref, low, high in chunks_of(content, get, offset, length):
        data = get(ref.hash)
        yield data if high - low == ref.size else data[low:high]


def chunks_of(
    content: Content, get: Get, offset: int = 0, length: int | None = None
) -> Iterator[tuple[ListRef, int, int]]:
    """The chunks of a range, and from where to where it is in each."""
    end = content.size if length is None else min(content.size, offset + length)
    if offset < end:
        for ref, start in _chunks(ListRef(content.level, content.hash, content.size), 0, get, offset, end):
            yield ref, max(0, offset - start), min(ref.size, end - start)


def _chunks(ref: ListRef, start: int, get: Get, offset: int, end: int) -> Iterator[tuple[ListRef, int]]:
    """The chunks that overlap ``[offset, end)``, with where they start in the file."""
    if ref.level == 0:
        yield ref, start
        return
    for child in decode_list(get(ref.hash), ref.level):
        if start + child.size > offset and start < end:
            yield from _chunks(child, start, get, offset, end)
        start += child.size


def append_content(base: Content, added: Content, get: Get, put: Put) -> Content:
    """``base`` followed by ``added``, which is stored already. Costs what is added and the last chunk of ``base``: all
    chunks before it stay, because cutting starts afresh at every chunk."""
    if base.size == 0 or added.size == 0:
        return added if base.size == 0 else base
    if base.size + added.size <= ONE_CHUNK_BYTES_MAX or base.level == 0:
        return write_content(_chain(base, added, get), put)
    builder = ListBuilder(put)
    last = _add_all_but_last(ListRef(base.level, base.hash, base.size), builder, get)
    tail = Content(last.size, last.hash, 0)
    for chunk in _cut_rest(_chain(tail, added, get)):
        builder.add(ListRef(0, put(chunk), len(chunk)))
    return builder.finish()


def _chain(base: Content, added: Content, get: Get) -> Iterator[bytes]:
    yield from read_content(base, get)
    yield from read_content(added, get)


def _add_all_but_last(ref: ListRef, builder: ListBuilder, get: Get) -> ListRef:
    """Re-open the right edge of a list: everything but its last chunk goes into the builder."""
    while ref.level:
        *before, ref = decode_list(get(ref.hash), ref.level)
        for child in before:
            builder.add(child)
    return ref


def _cut_rest(parts: Iterable[bytes]) -> Iterator[bytes]:
    """As ``cut``, for the rest of a file that is longer than one chunk, even where the rest is short."""
    buffer = bytearray()
    cutter = new_cutter()
    for part in parts:
        buffer += part
        if len(buffer) > _BUFFER_BYTES:
            yield from _cut_buffer(cutter, buffer, keep=CUT_MAX_BYTES)
    yield from _cut_buffer(cutter, buffer, keep=0)
