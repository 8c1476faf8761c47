"""Our own streams of many files in and out, as changes and from trees. What comes in is hostile: each path is checked by who
stores it, each size is bounded by what really comes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from trunkline.api.direct import Piece
from trunkline.core import filestream
from trunkline.core.ids import TreeHash
from trunkline.errors import TrunklineError
from trunkline.versioning.model import FileInfo
from trunkline.versioning.service import VersioningService


def stream_of(versioning: VersioningService, root: TreeHash, files: Iterable[FileInfo]) -> Iterator[Piece]:
    """A stream of files of one tree, under their whole paths (without the leading slash). Where a file turns out to be
    lost or damaged, the stream says so and ends; in the middle of a large one it can only break off."""
    yield filestream.MAGIC
    count = 0
    for info, parts in versioning.read_files(root, files):
        if info.is_dir:
            continue
        try:
            first = next(parts, b"")
        except TrunklineError as error:
            yield filestream.failure(type(error).__name__, error.kind, error.message)
            return
        name = info.path.lstrip("/").encode()
        yield filestream.file_head(name, info.size, info.modified_ns, info.executable)
        yield first
        yield from parts
        count += 1
    yield filestream.end(count)
