"""Trees with or without a commit: staging, merging, looking and reading. Knows no repo, branch or commit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from trunkline.core.clock import Clock
from trunkline.core.hashing import from_hex
from trunkline.core.ids import TreeHash
from trunkline.core.paths import clean_path
from trunkline.errors import InvalidInputError, NotFoundError
from trunkline.storage.buckets import Buckets
from trunkline.storage.db.engine import Database
from trunkline.storage.objects.base import ObjectStore
from trunkline.versioning import bulk, chunkindex, staging, trees, views
from trunkline.versioning.chunks import ChunkStore
from trunkline.versioning.files import Content
from trunkline.versioning.links import Links
from trunkline.versioning.model import Change, DiffEntry, FileInfo, TreeInfo
from trunkline.versioning.nodes import EMPTY_ROOT, Ref


class TreeService:
    """The part of ``VersioningService`` that works on tree hashes alone."""

    def __init__(
        self,
        *,
        db: Database,
        objects: ObjectStore,
        clock: Clock,
        allow_lookalikes: bool = False,
        buckets: Buckets | None = None,
    ) -> None:
        self._lookalikes = allow_lookalikes
        self._db = db
        self._objects = objects
        self._clock = clock
        self._links = Links(db, buckets)
        self._chunks = ChunkStore(db, objects, clock, self._links)
        self._nodes = trees.NodeCache()
        self._load = self._nodes.loader(self._chunks.get, self._chunks.get_many)

    def stage(self, changes: Iterable[Change], base: TreeHash | None = None) -> TreeInfo:
        """A stored tree without a commit: ``base`` with the changes applied."""
        with self._chunks.writer() as writer:
            load = self._nodes.loader(writer.get, writer.get_many)
            steps = staging.ingest(changes, writer, load)
            root = EMPTY_ROOT if base is None else from_hex(base, "tree hash")
            ref = staging.apply(steps, root, writer, load, lookalikes=self._lookalikes)
            writer.finish()
        return tree_info(ref)

    def merge(self, roots: Mapping[str, TreeHash]) -> TreeInfo:
        """The union of trees, by label.

        :raises ConflictError: ``duplicate_path`` or ``path_collision``, naming the path and both labels.
        """
        names = [from_hex(root, "tree hash") for root in roots.values()]
        if names:
            self._chunks.expect(names[-1], names)
        with self._chunks.writer() as writer:
            load = self._nodes.loader(writer.get, writer.get_many)
            ref = staging.merge(roots, writer, load, lookalikes=self._lookalikes)
            writer.finish()
        return tree_info(ref)

    def check_tree(self, root: TreeHash) -> FileInfo:
        """The root of a tree that somebody outside named.

        :raises NotFoundError: ``no_tree``, where nothing of that name was ever stored; what was, and is lost, is a
            ``CorruptionError`` as everywhere.
        """
        name = from_hex(root, "tree hash")
        with self._db.read() as connection:
            if name != EMPTY_ROOT and not chunkindex.known(connection, [name]):
                raise NotFoundError(f"there is no tree {root}: upload its files first", kind="no_tree")
        return views.stat(self._load, name, "/")

    def stat(self, root: TreeHash, path: str = "/") -> FileInfo:
        """:raises NotFoundError: ``no_file``; the root always exists."""
        return views.stat(self._load, from_hex(root, "tree hash"), path)

    # A listing goes on where an earlier one ended: ``after`` is the path that it showed last, a directory's with its slash.

    def list_dir(self, root: TreeHash, path: str = "/", *, after: str | None = None) -> Iterator[FileInfo]:
        """The direct children; of a file: the file itself. :raises NotFoundError: ``no_file``, at once."""
        return views.list_dir(self._load, from_hex(root, "tree hash"), path, after=after)

    def walk(
        self, root: TreeHash, path: str = "/", *, dirs: bool = False, after: str | None = None
    ) -> Iterator[FileInfo]:
        """All files at or below a path; with ``dirs`` the directories too. :raises NotFoundError: ``no_file``, at once."""
        return views.walk(self._load, from_hex(root, "tree hash"), path, dirs=dirs, after=after)

    def scan(
        self, root: TreeHash, prefix: str = "", *, delimiter: str = "", after: str = ""
    ) -> Iterator[tuple[str, FileInfo | None]]:
        """Keys (paths without the leading slash) by how they begin, behind the key ``after``; those with the ``delimiter``
        behind the prefix are one item together: their common beginning, and None."""
        name = from_hex(root, "tree hash")
        return views.scan(self._load, name, prefix.encode(), delimiter.encode(), after.encode())

    def glob(self, root: TreeHash, pattern: str, *, after: str | None = None) -> Iterator[FileInfo]:
        """The files and directories that match. :raises InvalidInputError: ``bad_glob``, at once."""
        return views.glob(self._load, from_hex(root, "tree hash"), pattern, after=after)

    def read(
        self, root: TreeHash, path: str, *, offset: int = 0, length: int | None = None
    ) -> Iterator[bytes]:
        """A file's bytes, in pieces of at most 1 MiB; every piece is verified.

        :raises NotFoundError: ``no_file``, at once; ``InvalidInputError`` for a directory.
        :raises CorruptionError: while reading, naming the file, the chunk and the pack.
        """
        path = clean_path(path)
        if offset < 0 or (length is not None and length < 0):
            raise InvalidInputError("offset and length cannot be negative", kind="bad_range")
        name = from_hex(root, "tree hash")
        entry, neighbours = trees.find_with_neighbours(self._load, name, path[1:].encode())
        if entry is None:
            if views.stat(self._load, name, path).is_dir:
                raise InvalidInputError(f"{path} is a directory: name a file in it", kind="is_directory")
            raise views.no_such_path(path)
        self._chunks.expect(entry.hash, [other.hash for other in neighbours])
        content = Content(entry.size, entry.hash, entry.level)
        return bulk.read_content(self._chunks, content, path, offset, length)

    def read_files(
        self, root: TreeHash, files: Iterable[FileInfo]
    ) -> Iterator[tuple[FileInfo, Iterator[bytes]]]:
        """Many files of one tree, as ``walk``, ``glob`` or ``list_dir`` named them, in that order, each with its bytes. Reads
        ahead, so thousands of small files cost little more than one large one. The bytes of a file that were not taken
        are passed over when the next file is asked for. Directories come without bytes.

        :raises CorruptionError: from a file's bytes, as ``read``; the others can still be read.
        """
        return bulk.read_files(self._chunks, self._load, from_hex(root, "tree hash"), files)

    def diff(
        self,
        old: TreeHash,
        new: TreeHash,
        path: str = "/",
        *,
        after: str | None = None,
        shallow: bool = False,
    ) -> Iterator[DiffEntry]:
        """The files that were added, deleted or changed, in the order of their paths. Costs what differs. ``shallow``: the
        direct children that differ, directories as a whole."""
        compare = views.diff_children if shallow else views.diff
        return compare(self._load, from_hex(old, "tree hash"), from_hex(new, "tree hash"), path, after=after)


def tree_info(ref: Ref) -> TreeInfo:
    return TreeInfo(root=TreeHash(ref.hash.hex()), size=ref.size, file_count=ref.files)
