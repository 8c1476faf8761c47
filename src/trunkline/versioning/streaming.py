"""Trees as batches of files with their bytes, and large files as batches of bytes, for whoever sends them on: nothing is made per
file but what is sent, and the bytes lie in a few buffers that are used again and again, since fresh memory costs as much as
reading into it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from trunkline.errors import CorruptionError
from trunkline.storage.objects.aligned import Buffers
from trunkline.storage.objects.base import GET_SLACK_BYTES
from trunkline.versioning import views
from trunkline.versioning.bulk import (
    BATCH_BYTES_MAX,
    BATCH_BYTES_MIN,
    BATCH_CHUNKS_MAX,
    naming,
)
from trunkline.versioning.chunks import ChunkStore
from trunkline.versioning.files import ONE_CHUNK_BYTES_MAX, Content, chunks_of
from trunkline.versioning.nodes import Entry
from trunkline.versioning.trees import Load

BUFFERS_KEPT_MAX = 3
RUNS_MAX = 32
"""A batch that lies in more places has its last bytes as copies."""

Bytes = bytes | memoryview
Part = tuple[Entry | None, Bytes | CorruptionError]
"""A file with its first bytes (all, if it is not large); with None, the next bytes of the file before. An error in the place of
a file's first bytes: why there are none."""


_memory = Buffers(
    BATCH_BYTES_MAX + ONE_CHUNK_BYTES_MAX + RUNS_MAX * GET_SLACK_BYTES, kept_max=BUFFERS_KEPT_MAX
)
"""Each has room for a batch that is one chunk too long."""


class _Wanted(NamedTuple):
    entry: Entry | None
    """Of a file's first chunk."""
    name: bytes | CorruptionError | None
    """The chunk; None: the file is empty."""
    size: int


def read_batches(chunks: ChunkStore, load: Load, root: bytes, tops: Iterable[str]) -> Iterator[list[Part]]:
    """The files at or below each of ``tops``, in order. What a batch holds is good until the next one is asked for.

    :raises NotFoundError: ``no_file``. :raises CorruptionError: for what is lost or damaged behind a file's first bytes.
    """
    entries = views.entries_below_each(load, root, tops)
    path = ""
    for batch, found in _fetched(chunks, _batches(_plan(chunks, entries))):
        yield _joined(chunks, batch, found, path)
        path = next((one.entry.key.decode() for one in reversed(batch) if one.entry), path)


def read_range(
    chunks: ChunkStore, content: Content, path: str, offset: int, length: int | None
) -> Iterator[list[Bytes]]:
    """The bytes of a range of a file, in batches that are good until the next one is asked for.

    :raises CorruptionError: naming the file, the chunk and the pack.
    """
    skip = 0
    left = max(0, content.size - offset if length is None else min(length, content.size - offset))

    def plan() -> Iterator[_Wanted]:
        nonlocal skip
        for number, (ref, low, _) in enumerate(chunks_of(content, chunks.get, offset, length)):
            skip = skip if number else low
            yield _Wanted(None, ref.hash, ref.size)

    with naming(path):
        for batch, found in _fetched(chunks, _batches(plan())):
            pieces: list[Bytes] = []
            for one in batch:
                assert type(one.name) is bytes, "only chunks are wanted"
                data = found.get(one.name)
                piece = memoryview(chunks.get(one.name) if data is None else data)[skip : skip + left]
                pieces.append(piece)
                skip, left = 0, left - len(piece)
            yield pieces


def _fetched(
    chunks: ChunkStore, batches: Iterator[list[_Wanted]]
) -> Iterator[tuple[list[_Wanted], Mapping[bytes, Bytes]]]:
    """Each batch with those of its chunks that can be read, the next ones on their way."""
    first, second = next(batches, None), next(batches, None)
    if first is None:
        return
    if second is None:  # not worth a thread
        yield first, chunks.get_many(_names(first))
        return
    buffers: list[memoryview] = []
    pool = ThreadPoolExecutor(chunks.readers, thread_name_prefix="read-ahead")
    waiting: deque[tuple[list[_Wanted], memoryview, Future[dict[bytes, Bytes]]]] = deque()

    def ask(batch: list[_Wanted]) -> None:
        buffer = buffers.pop() if buffers else _memory.take()
        waiting.append((batch, buffer, pool.submit(chunks.get_into, _names(batch), buffer)))

    try:
        ask(first)
        ask(second)
        while waiting:
            if len(waiting) <= chunks.readers and (more := next(batches, None)) is not None:
                ask(more)
            batch, buffer, future = waiting.popleft()
            yield batch, future.result()
            buffers.append(buffer)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        for buffer in (*buffers, *(buffer for _, buffer, _ in waiting)):
            _memory.give_back(buffer)


def _names(batch: list[_Wanted]) -> list[bytes]:
    return [one.name for one in batch if type(one.name) is bytes]


def _plan(chunks: ChunkStore, entries: Iterable[Entry]) -> Iterator[_Wanted]:
    new = tuple.__new__
    for entry in entries:
        size = entry.size
        if not entry.level:  # one chunk, whose hash is the file's
            yield new(_Wanted, (entry, entry.hash if size else None, size))
            continue
        first: Entry | None = entry
        try:
            for ref, _, _ in chunks_of(Content(size, entry.hash, entry.level), chunks.get):
                yield _Wanted(first, ref.hash, ref.size)
                first = None
        except CorruptionError as error:
            yield _Wanted(first, error, 0)


def _batches(wanted: Iterable[_Wanted]) -> Iterator[list[_Wanted]]:
    batch: list[_Wanted] = []
    size, limit = 0, BATCH_BYTES_MIN
    for item in wanted:
        batch.append(item)
        size += item[2]
        if size >= limit or len(batch) >= BATCH_CHUNKS_MAX:
            yield batch
            batch, size, limit = [], 0, min(2 * limit, BATCH_BYTES_MAX)
    if batch:
        yield batch


def _joined(chunks: ChunkStore, batch: list[_Wanted], found: Mapping[bytes, Bytes], path: str) -> list[Part]:
    """Each chunk with its bytes. ``path``: the file that the batch before ended with."""
    parts: list[Part] = []
    for entry, name, _ in batch:
        if name is None:
            parts.append((entry, b""))
            continue
        data = found.get(name) if type(name) is bytes else None
        if data is None:
            path = next((one.key.decode() for one, _ in reversed(parts) if one), path)
            try:
                data = _anew(chunks, name, path if entry is None else entry.key.decode())
            except CorruptionError as error:
                if entry is None:
                    raise
                parts.append((entry, error))
                continue
        parts.append((entry, data))
    return parts


def _anew(chunks: ChunkStore, name: bytes | CorruptionError, path: str) -> bytes:
    """A chunk that did not come with the others: it may lie elsewhere; else the error says what is wrong with it."""
    with naming("/" + path):
        if isinstance(name, CorruptionError):
            raise name
        return chunks.get(name)
