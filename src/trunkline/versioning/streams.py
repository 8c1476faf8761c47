"""Whole streams of files, in batches: the quick way into the store for folders.

What is done file by file elsewhere is done here for all files of a batch with a few calls: names are checked together where
none is unusual, contents are hashed by another thread where they were received, and go from there into a pack.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from itertools import repeat

from trunkline.core.filebatches import Batch, LargeFile, read_batches
from trunkline.core.filestream import StreamFailureError, bad_stream
from trunkline.core.paths import are_plain, clean_path
from trunkline.errors import InvalidInputError, UnavailableError
from trunkline.versioning.chunks import ChunkWriter
from trunkline.versioning.model import PutStream
from trunkline.versioning.nodes import Entry

BATCHES_HASHED_AHEAD = 1

_new = tuple.__new__
Waiting = tuple[list[bytes], Batch, "Future[list[bytes]]"]


def ingest_stream(change: PutStream, writer: ChunkWriter) -> Iterator[list[Entry]]:
    """Store the contents of all files; their entries come in the order of the files.

    :raises InvalidInputError: ``bad_stream``, or ``bad_path``, naming the first bad one.
    :raises UnavailableError: ``client_gone``, where the client said that it cannot go on.
    """
    into = clean_path(change.into)
    waiting: deque[Waiting] = deque()
    try:
        for item in read_batches(change.source, writer.slabs):
            if isinstance(item, LargeFile):
                [key] = _keys(into, [item.name])
                while waiting:
                    yield _stored(waiting.popleft(), writer)
                content = writer.add_content(item.fill)
                entry = (key, content.size, content.hash, content.level, item.modified_ns, item.executable)
                yield [_new(Entry, entry)]
                continue
            keys = _keys(into, item.names)
            waiting.append((keys, item, writer.hash_ahead(item.whole, item.contents)))
            if len(waiting) > BATCHES_HASHED_AHEAD:
                yield _stored(waiting.popleft(), writer)
        while waiting:
            yield _stored(waiting.popleft(), writer)
    except StreamFailureError as error:
        raise UnavailableError(f"the client gave up: {error}", kind="client_gone") from error


def _stored(waiting: Waiting, writer: ChunkWriter) -> list[Entry]:
    keys, batch, hashing = waiting
    names = hashing.result()
    writer.add_hashed(batch.whole, names, batch.contents)
    sizes = map(len, batch.contents)
    columns = zip(keys, sizes, names, repeat(0), batch.times, batch.executables, strict=False)
    return [_new(Entry, values) for values in columns]


def _keys(into: str, names: Sequence[bytes]) -> list[bytes]:
    """The keys of files, given by their names below a directory."""
    prefix = b"" if into == "/" else into[1:].encode() + b"/"
    if are_plain(names, len(prefix)):
        return [prefix + name for name in names] if prefix else list(names)
    return [_key(into.rstrip("/") + "/", name) for name in names]


def _key(prefix: str, name: bytes) -> bytes:
    try:
        text = name.decode()
    except UnicodeDecodeError as error:
        raise bad_stream("a name is not UTF-8") from error
    if not text or text[0] == "/" or text[-1] == "/":
        raise InvalidInputError(f"the name {text!r} in the stream is not relative", kind="bad_path")
    return clean_path(prefix + text)[1:].encode()
