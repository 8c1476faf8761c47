"""Trees with or without a commit: staging, merging, looking and reading. Knows no repo, branch or commit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from trunkline.core.clock import Clock
from trunkline.core.hashing import from_hex
from trunkline.core.ids import TreeHash
from trunkline.core.paths import clean_path
from trunkline.errors import InvalidInputError, NotFoundError
from trunkline.storage.buckets import Buckets
from trunkline.storage.db.engine import Database
from trunkline.storage.objects.base import ObjectStore
from trunkline.versioning import (
    assembling,
    bulk,
    chunkindex,
    links,
    staging,
    streaming,
    trees,
    views,
    writers,
)
from trunkline.versioning.chunks import ChunkStore, ChunkWriter
from trunkline.versioning.files import Content
from trunkline.versioning.links import Links
from trunkline.versioning.model import (
    Change,
    CopyTree,
    DiffEntry,
    FileInfo,
    JoinFiles,
    PutContent,
    TreeInfo,
    TreePart,
)
from trunkline.versioning.nodes import EMPTY_ROOT, Entry, Ref, decode_list
from trunkline.versioning.writers import Writers

RESOLVED_SECONDS_MAX = 3600.0
"""A tree that was looked up longer ago than this is checked again before it is built on."""


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
        registry: Writers | None = None,
    ) -> None:
        self._lookalikes = allow_lookalikes
        self._db = db
        self._objects = objects
        self._clock = clock
        self._links = Links(db, buckets)
        self._chunks = ChunkStore(db, objects, clock, links=self._links, registry=registry)
        self._nodes = trees.NodeCache()
        self._load = self._nodes.loader(self._chunks.get, self._chunks.get_many)

    def stage(self, changes: Iterable[Change], base: TreeHash | None = None) -> TreeInfo:
        """A stored tree without a commit: ``base`` with the changes applied. It is kept for a day, in which something is to
        refer to it."""
        with self._chunks.writer() as writer:
            load = self._nodes.loader(writer.get, writer.get_many)
            root = EMPTY_ROOT if base is None else self._build_on(writer, from_hex(base, "tree hash"))
            steps = staging.ingest(self._built_on(changes, writer), writer, load)
            ref = staging.apply(steps, root, writer, load, lookalikes=self._lookalikes)
            writer.finish()
            self._hold(ref)
        return tree_info(ref)

    def _hold(self, ref: Ref) -> None:
        if ref.hash != EMPTY_ROOT:
            with self._db.write() as connection:
                writers.hold(connection, ref.hash.hex(), self._clock.now())

    def _built_on(self, changes: Iterable[Change], writer: ChunkWriter) -> Iterator[Change]:
        """The same changes; the trees that they copy from stay while the writer lives."""
        for change in changes:
            if isinstance(change, CopyTree):
                self._build_on(writer, from_hex(change.root, "tree hash"))
            elif isinstance(change, JoinFiles):
                for root, _ in change.sources:
                    self._build_on(writer, from_hex(root, "tree hash"))
            elif isinstance(change, PutContent) and change.level:
                self._build_on_list(writer, change)
            yield change

    def _build_on_list(self, writer: ChunkWriter, change: PutContent) -> None:
        """Rely on the chunk lists of a linked file."""
        names = {change.hash}
        for level in range(change.level, 0, -1):
            if not names <= writer.lease.known(self._db, list(names)):
                raise NotFoundError(
                    f"the content of {change.path} is not known: link it again", kind="no_content"
                )
            if level > 1:
                names = {ref.hash for name in names for ref in decode_list(self._chunks.get(name), level)}

    def _build_on(self, writer: ChunkWriter, root: bytes) -> bytes:
        """Rely on all of a tree. Whoever named it looked it up a moment ago; if something was collected since, look again.

        :raises NotFoundError: ``no_tree``, if it is not whole any more.
        """
        if root == EMPTY_ROOT:
            return root
        writer.lease.build_on(root)
        if self._clock.now() - self._chunks.writers.swept_at < RESOLVED_SECONDS_MAX:
            self._check_whole(root)
        return root

    def _check_whole(self, root: bytes) -> None:
        """That the index knows every chunk of a tree. What nothing refers to may be there in part: its newer chunks stay
        longer than its older ones."""
        stack = [root]
        while stack:
            name = stack.pop()
            node = self._load(name) if self._all_known([name]) else None
            if node is None:
                raise _no_tree(root.hex())
            plain: list[bytes] = []
            for item in node.items:
                if isinstance(item, Ref):
                    stack.append(item.hash)
                else:
                    plain.append(item.hash)
                    self._check_list(root, item)
            if not self._all_known(plain):
                raise _no_tree(root.hex())

    def _check_list(self, root: bytes, entry: Entry) -> None:
        stack = [(entry.hash, entry.level)] if entry.level else []
        while stack:
            name, level = stack.pop()
            below = decode_list(self._chunks.get(name), level) if self._all_known([name]) else []
            if not below or not self._all_known([ref.hash for ref in below]):
                raise _no_tree(root.hex())
            stack.extend((ref.hash, ref.level) for ref in below if ref.level)

    def _all_known(self, names: Sequence[bytes]) -> bool:
        wanted = set(names) - {EMPTY_ROOT}
        with self._db.read() as connection:
            missing = wanted - chunkindex.known(connection, list(wanted))
            return not missing or missing <= links.lengths(connection, list(missing)).keys()

    def assemble(
        self,
        base: TreeHash | None,
        remove: Sequence[TreePart],
        add: Sequence[TreePart],
        *,
        owner: Callable[[str], str | None] = lambda _path: None,
    ) -> TreeInfo:
        """``base`` (None: nothing) without the parts to remove, and with those to add. Costs what the parts hold. ``owner``
        names the part of the base that a path belongs to, for the message of a conflict.

        :raises ConflictError: ``duplicate_path`` or ``path_collision``, naming the path and both labels.
        """
        start = EMPTY_ROOT if base is None else from_hex(base, "tree hash")
        with self._chunks.writer() as writer:
            for root in dict.fromkeys(part.root for part in (*remove, *add)):
                self._build_on(writer, from_hex(root, "tree hash"))
            self._build_on(writer, start)
            load = self._nodes.loader(writer.get, writer.get_many)
            ref = assembling.assemble(
                start, remove, add, writer, load, owner=owner, lookalikes=self._lookalikes
            )
            writer.finish()
            self._hold(ref)
        return tree_info(ref)

    def has_part_at(self, part: TreePart, path: str) -> bool:
        """Whether a part has a file at or below a path of the whole."""
        return assembling.holds(self._load, part, clean_path(path)[1:].encode())

    def check_tree(self, root: TreeHash, *, to_keep: bool = True) -> FileInfo:
        """The root of a tree that somebody outside named. ``to_keep``: a row will refer to it, so all of it must be there;
        that is known of what was staged within a day, and looked up of everything else.

        :raises NotFoundError: ``no_tree``, where nothing of that name was ever stored; what was, and is lost, is a
            ``CorruptionError`` as everywhere.
        """
        name = from_hex(root, "tree hash")
        with self._db.read() as connection:
            if name != EMPTY_ROOT and not chunkindex.known(connection, [name]):
                raise _no_tree(root)
            is_held = name == EMPTY_ROOT or writers.is_held(connection, root, self._clock.now())
        if to_keep and not is_held:
            with self._chunks.writers.begin() as lease:
                lease.build_on(name)
                self._check_whole(name)
                self._hold(trees.root_ref(self._load, name))
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
        content = self._content(root, path, offset, length)
        return bulk.read_content(self._chunks, content, clean_path(path), offset, length)

    def read_range(
        self, root: TreeHash, path: str, *, offset: int = 0, length: int | None = None
    ) -> Iterator[list[streaming.Bytes]]:
        """As ``read``, quicker for whoever sends it on as it comes: in batches that are good until the next one is asked for."""
        content = self._content(root, path, offset, length)
        return streaming.read_range(self._chunks, content, clean_path(path), offset, length)

    def _content(self, root: TreeHash, path: str, offset: int, length: int | None) -> Content:
        """Of a file, a range of which will be read."""
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
        return Content(entry.size, entry.hash, entry.level)

    def read_files(
        self, root: TreeHash, files: Iterable[FileInfo]
    ) -> Iterator[tuple[FileInfo, Iterator[bytes]]]:
        """Many files of one tree, as ``walk``, ``glob`` or ``list_dir`` named them, in that order, each with its bytes. Reads
        ahead, so thousands of small files cost little more than one large one. The bytes of a file that were not taken
        are passed over when the next file is asked for. Directories come without bytes.

        :raises CorruptionError: from a file's bytes, as ``read``; the others can still be read.
        """
        return bulk.read_files(self._chunks, self._load, from_hex(root, "tree hash"), files)

    def read_batches(self, root: TreeHash, tops: Iterable[str]) -> Iterator[list[streaming.Part]]:
        """The files at or below each of ``tops``, in order, as ``versioning.streaming`` makes them: quicker than ``read_files``
        for whoever sends them on as they come.

        :raises NotFoundError: ``no_file``. :raises CorruptionError: for damage behind the first bytes of a large file.
        """
        return streaming.read_batches(self._chunks, self._load, from_hex(root, "tree hash"), tops)

    def entries(self, root: TreeHash, path: str = "/") -> Iterator[Entry]:
        """The files at or below a path as the tree has them, for those who want many. :raises NotFoundError: ``no_file``."""
        return views.entries_below(self._load, from_hex(root, "tree hash"), path)

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


def _no_tree(root: str) -> NotFoundError:
    return NotFoundError(f"there is no tree {root}: upload its files first", kind="no_tree")


def tree_info(ref: Ref) -> TreeInfo:
    return TreeInfo(root=TreeHash(ref.hash.hex()), size=ref.size, file_count=ref.files)
