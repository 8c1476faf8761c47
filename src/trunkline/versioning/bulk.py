"""Reading many chunks in order, with the next ones already on their way: a large file, or files by the thousand."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Generic, NamedTuple, TypeVar

from trunkline.errors import CorruptionError
from trunkline.versioning import trees
from trunkline.versioning.chunks import ChunkStore
from trunkline.versioning.files import ONE_CHUNK_BYTES_MAX, Content, chunks_of
from trunkline.versioning.model import FileInfo
from trunkline.versioning.nodes import ListRef
from trunkline.versioning.trees import Load

BATCH_BYTES_MIN = 512 * 2**10
"""The first batch is small, so that the first bytes come soon; each one after it is twice as large as the one before,"""
BATCH_BYTES_MAX = 4 * 2**20
"""up to this."""
BATCH_CHUNKS_MAX = 4096

Tag = TypeVar("Tag")


class Wanted(NamedTuple, Generic[Tag]):
    """A chunk to read, and what the caller has to remember of it; a chunk of None is only passed on."""

    tag: Tag
    ref: ListRef | None


class Got(NamedTuple, Generic[Tag]):
    """``data`` is None where there is no chunk, or where it could not be read: ``ChunkStore.get`` says why."""

    tag: Tag
    ref: ListRef | None
    data: bytes | None


def read_ahead(store: ChunkStore, wanted: Iterable[Wanted[Tag]]) -> Iterator[Got[Tag]]:
    """What was wanted, in order. ``wanted`` is asked in the caller's thread, a few MiB ahead of what was taken."""
    batches = _batches(wanted)
    first, second = next(batches, None), next(batches, None)
    if first is None:
        return
    if second is None:  # not worth a thread
        yield from _joined(first, _fetch(store, first))
        return
    pool = ThreadPoolExecutor(store.readers, thread_name_prefix="read-ahead")
    try:
        waiting: deque[tuple[list[Wanted[Tag]], Future[dict[bytes, bytes]]]] = deque()
        for batch in (first, second):
            waiting.append((batch, pool.submit(_fetch, store, batch)))
        while waiting:
            if len(waiting) <= store.readers and (more := next(batches, None)) is not None:
                waiting.append((more, pool.submit(_fetch, store, more)))
            batch, future = waiting.popleft()
            yield from _joined(batch, future.result())
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _batches(wanted: Iterable[Wanted[Tag]]) -> Iterator[list[Wanted[Tag]]]:
    batch: list[Wanted[Tag]] = []
    size, limit = 0, BATCH_BYTES_MIN
    for item in wanted:
        batch.append(item)
        if item.ref is not None:
            size += item.ref.size
        if size >= limit or len(batch) >= BATCH_CHUNKS_MAX:
            yield batch
            batch, size, limit = [], 0, min(2 * limit, BATCH_BYTES_MAX)
    if batch:
        yield batch


def _fetch(store: ChunkStore, batch: list[Wanted[Tag]]) -> dict[bytes, bytes]:
    return store.get_many([item.ref.hash for item in batch if item.ref is not None])


def _joined(batch: list[Wanted[Tag]], found: dict[bytes, bytes]) -> Iterator[Got[Tag]]:
    for tag, ref in batch:
        yield Got(tag, ref, None if ref is None else found.get(ref.hash))


# --- files --------------------------------------------------------------------------------------------------------


def read_content(
    chunks: ChunkStore, content: Content, path: str, offset: int = 0, length: int | None = None
) -> Iterator[bytes]:
    """The bytes of a range of a file, in pieces of at most 1 MiB."""
    get = chunks.get
    with naming(path):
        wanted = (Wanted((low, high), ref) for ref, low, high in chunks_of(content, get, offset, length))
        for (low, high), ref, data in read_ahead(chunks, wanted):
            assert ref is not None  # only chunks are wanted
            whole = get(ref.hash) if data is None else data
            yield whole if high - low == ref.size else whole[low:high]


Mark = FileInfo | CorruptionError
"""In a stream of chunks: a file begins, or its list of chunks could not be read. Chunks carry their file's."""


def read_files(
    chunks: ChunkStore, load: Load, root: bytes, files: Iterable[FileInfo]
) -> Iterator[tuple[FileInfo, Iterator[bytes]]]:
    """Files of one tree in the order given, each with its bytes."""
    stream = read_ahead(chunks, _plan(chunks, load, root, files))
    item = next(stream, None)
    while item is not None:
        assert isinstance(item.tag, FileInfo)  # every file begins with its mark
        parts = _Parts(chunks, item.tag.path, stream)
        yield item.tag, parts
        item = parts.skip()


def _plan(chunks: ChunkStore, load: Load, root: bytes, files: Iterable[FileInfo]) -> Iterator[Wanted[Mark]]:
    for info in files:
        yield Wanted(info, None)
        if info.is_dir or info.size == 0:
            continue
        if info.size <= ONE_CHUNK_BYTES_MAX:  # one chunk, whose hash is the file's
            yield Wanted(info, ListRef(0, bytes.fromhex(info.hash), info.size))
            continue
        try:
            entry = trees.find(load, root, info.path[1:].encode())
            if entry is not None:
                content = Content(entry.size, entry.hash, entry.level)
                for ref, _, _ in chunks_of(content, chunks.get):
                    yield Wanted(info, ref)
        except CorruptionError as error:
            yield Wanted(error, None)


class _Parts(Iterator[bytes]):
    """The bytes of one file in the stream of all."""

    def __init__(self, chunks: ChunkStore, path: str, stream: Iterator[Got[Mark]]) -> None:
        self._chunks = chunks
        self._path = path
        self._stream = stream
        self._has_ended = False
        self._following: Got[Mark] | None = None

    def __next__(self) -> bytes:
        item = self._take()
        if item is None:
            raise StopIteration
        if item.data is not None:
            return item.data
        with naming(self._path):
            if isinstance(item.tag, CorruptionError):
                raise item.tag
            assert item.ref is not None  # what is no mark is a chunk
            return self._chunks.get(item.ref.hash)

    def skip(self) -> Got[Mark] | None:
        """Pass over what is left; where the next file begins."""
        while self._take() is not None:
            pass
        return self._following

    def _take(self) -> Got[Mark] | None:
        if not self._has_ended:
            item = next(self._stream, None)
            if item is not None and (item.ref is not None or isinstance(item.tag, CorruptionError)):
                return item
            self._has_ended, self._following = True, item
        return None


@contextmanager
def naming(path: str) -> Iterator[None]:
    """Say which file it was that is lost or damaged."""
    try:
        yield
    except CorruptionError as error:
        raise CorruptionError(
            f"{path}: {error.message}", kind=error.kind, details={**error.details, "path": path}
        ) from error
