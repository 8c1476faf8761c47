"""Our own streams of many files in and out, as changes and from trees. What comes in is hostile: each path is checked by who
stores it, each size is bounded by what really comes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

from trunkline.api.direct import Piece
from trunkline.core import filestream
from trunkline.core.filestream import EXECUTABLE, FILE, TIMED
from trunkline.core.ids import TreeHash
from trunkline.errors import CorruptionError
from trunkline.versioning.service import VersioningService


def stream_of(versioning: VersioningService, root: TreeHash, tops: Iterable[str]) -> Iterator[list[Piece]]:
    """A stream of the files of one tree at or below ``tops``, under their whole paths (without the leading slash), in batches
    that are good until the next one is asked for. Where a file turns out to be lost or damaged, the stream says so and
    ends; in the middle of a large one it can only break off."""
    pack, count = filestream.HEAD.pack, 0
    pieces: list[Piece] = [filestream.MAGIC]
    for batch in versioning.read_batches(root, tops):
        for file, data in batch:
            if isinstance(data, CorruptionError):
                yield [*pieces, filestream.failure(type(data).__name__, data.kind, data.message)]
                return
            if file is not None:
                key, size, _, _, time, executable = file
                flags = (EXECUTABLE if executable else 0) | (TIMED if time is not None else 0)
                pieces.append(pack(FILE, flags, len(key), time or 0, size) + key)
                count += 1
            pieces.append(data)
        yield pieces
        pieces = []
    pieces.append(filestream.end(count))
    yield pieces


def heads_of(versioning: VersioningService, root: TreeHash, tops: Iterable[str]) -> Iterator[bytes]:
    """The same without any content: what is there, for whoever compares."""
    yield filestream.MAGIC
    count = 0
    for file in chain.from_iterable([versioning.entries(root, path) for path in tops]):
        yield filestream.file_head(file.key, file.size, file.mtime, file.executable)
        count += 1
    yield filestream.end(count)
