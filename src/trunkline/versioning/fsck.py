"""Read everything that is stored and everything that refers to it, and name what is not as it should be.

Packs first, each byte of them; then the trees of all roots, of which only the nodes are read again: whether their contents are
whole is known by then. ``repair.py`` mends what can be mended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice

from trunkline.core.clock import Clock
from trunkline.errors import CorruptionError, NotFoundError
from trunkline.storage.db.engine import Database
from trunkline.storage.objects.base import ObjectStore
from trunkline.versioning import chunkindex, keepstore, links
from trunkline.versioning.chunks import ChunkStore
from trunkline.versioning.gc import Row, rows_of, verified
from trunkline.versioning.maintenance import Progress
from trunkline.versioning.marking import TREE, Marks
from trunkline.versioning.nodes import (
    EMPTY_ROOT,
    NODE_ITEMS_MAX,
    Entry,
    ListRef,
    Ref,
    TreeNode,
    closes,
    decode_list,
    decode_tree,
    encode_inner,
    encode_leaf,
    encode_list,
)
from trunkline.versioning.packs import (
    TRAILER_BYTES,
    PackRecord,
    index_bytes,
    is_intact,
    object_key,
    read_index,
)
from trunkline.versioning.roots import RootSource, all_roots
from trunkline.versioning.trees import root_ref

REFERRERS_MAX = 10
PROBLEMS_MAX = 1000
READERS = 4


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Something that is not as it should be."""

    kind: str
    """``lost_pack damaged_pack wrong_index lost_chunk damaged_chunk bad_node wrong_summary wrong_size link_broken
    dangling database``."""
    what: str
    message: str
    referred_by: tuple[str, ...]
    """The commits and files, and what else needs it: the first few."""


@dataclass(frozen=True, kw_only=True)
class FsckReport:
    """What was looked at, and what was found."""

    problems: tuple[Problem, ...]
    """At most 1,000;"""
    problems_more: int
    """so many more were found."""
    packs: int
    pack_bytes: int
    roots: int
    orphans: int
    orphan_bytes: int
    """Pack objects that the database does not know: no damage, ``gc`` deletes them."""
    repaired: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()
    """What to do about what could not be repaired."""


@dataclass(kw_only=True)
class Findings:
    """All that a check has found, as the repair needs it."""

    problems: list[Problem] = field(default_factory=list)
    bad_chunks: dict[bytes, CorruptionError] = field(default_factory=dict)
    """Stored, but lost or damaged."""
    missing: dict[bytes, CorruptionError] = field(default_factory=dict)
    """Needed, and in no pack that the database knows."""
    bad_packs: set[str] = field(default_factory=set)
    """Lost, damaged, or other than the index says."""
    needed_by: dict[bytes, list[str]] = field(default_factory=dict)
    wrong_sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Trees of which commits say something else: bytes and files as they are."""
    packs: int = 0
    pack_bytes: int = 0
    roots: int = 0


class Checker:
    """One check of everything."""

    def __init__(
        self,
        *,
        db: Database,
        objects: ObjectStore,
        chunk_store: ChunkStore,
        sources: Sequence[RootSource],
        progress: Progress | None = None,
    ) -> None:
        self._db = db
        self._objects = objects
        self._chunks = chunk_store
        self._sources = sources
        self._progress = progress or Progress()
        self.found = Findings()

    def run(self) -> Findings:
        self._check_database()
        self._check_packs()
        self._check_trees()
        return self.found

    def orphans(self) -> tuple[int, int]:
        """Packs that no row knows, and their bytes."""
        with self._db.read() as connection:
            known = {object_key(name) for name, _ in chunkindex.list_packs(connection)}
        sizes = [info.size for info in self._objects.list("packs/") if info.key not in known]
        return len(sizes), sum(sizes)

    # --- rows ---

    def _check_database(self) -> None:
        for message in self._db.damage():
            self._problem("database", "database", f"the database is damaged: {message}")
        with self._db.read() as connection:
            for what, message in keepstore.dangling(connection):
                self._problem("dangling", what, message)

    def _problem(self, kind: str, what: str, message: str, needed_by: Iterable[str] = ()) -> None:
        problem = Problem(kind=kind, what=what, message=message, referred_by=tuple(needed_by))
        self.found.problems.append(problem)

    # --- packs ---

    def _check_packs(self) -> None:
        with self._db.read() as connection:
            packs = chunkindex.all_packs(connection)
        self._progress.begin("reading packs", len(packs))
        self.found.packs, self.found.pack_bytes = len(packs), sum(size for _, _, size in packs)
        with ThreadPoolExecutor(READERS, thread_name_prefix="fsck") as pool:
            todo = iter(packs)
            running = [pool.submit(self._read_pack, *pack) for pack in islice(todo, 2 * READERS)]
            while running:
                problem, bad = running.pop(0).result()
                running.extend(pool.submit(self._read_pack, *pack) for pack in islice(todo, 1))
                self._progress.more()
                self.found.bad_chunks.update(bad)
                if problem is not None:
                    self.found.bad_packs.add(problem.what)
                    self.found.problems.append(problem)

    def _read_pack(
        self, key: int, name: str, size: int
    ) -> tuple[Problem | None, dict[bytes, CorruptionError]]:
        with self._db.read() as connection:
            rows = rows_of(connection, key)
        try:
            data = self._objects.get(object_key(name))
        except NotFoundError:
            error = _chunk_error("lost_pack", f"is lost: pack {name} does not exist any more")
            problem = Problem(kind="lost_pack", what=name, message=f"pack {name} is lost", referred_by=())
            return problem, {row.hash: error(row.hash) for row in rows}
        error = _chunk_error("damaged_chunk", f"in pack {name} is damaged")
        kind, message = _compare(name, size, data, rows)
        if kind is None:
            return None, {}
        bad = {
            row.hash: error(row.hash)
            for row in rows
            if not verified(data[row.offset : row.offset + row.length], row)
        }
        return Problem(kind=kind, what=name, message=message, referred_by=()), bad

    # --- trees ---

    def _check_trees(self) -> None:
        with Marks() as good:
            with self._db.read() as connection:
                roots = (
                    (bytes.fromhex(r.root), r.label) for r in all_roots(connection, self._sources) if r.root
                )
                good.keep_roots(roots)
            self.found.roots = good.count_roots()
            self._progress.begin("walking trees", self.found.roots)
            walker = _Walker(self._db, self._chunks, self.found, good)
            for root, label in good.roots():
                walker.visit_tree(root, label, None)
                self._progress.more()
        with self._db.read() as connection:
            for label, tree, size, count in keepstore.sizes_of_commits(connection):
                self._check_sizes(label, bytes.fromhex(tree), size, count)
        for chunk, error in (self.found.bad_chunks | self.found.missing).items():
            if chunk in self.found.needed_by:
                self._problem(error.kind, chunk.hex(), error.message, self.found.needed_by[chunk])

    def _check_sizes(self, label: str, root: bytes, size: int, count: int) -> None:
        try:
            ref = root_ref(lambda name, _=(): decode_tree(self._chunks.get(name)), root)
        except (CorruptionError, IndexError):
            return  # said already
        if (ref.size, ref.files) != (size, count):
            self.found.wrong_sizes[root.hex()] = (ref.size, ref.files)
            message = f"{label} says {count} files of {size} bytes, its tree has {ref.files} of {ref.size}"
            self._problem("wrong_size", label, message)


def _chunk_error(kind: str, what: str) -> Callable[[bytes], CorruptionError]:
    return lambda name: CorruptionError(f"chunk {name.hex()} {what}", kind=kind)


def _compare(name: str, size: int, data: bytes, rows: Sequence[Row]) -> tuple[str | None, str]:
    """What is wrong with a pack as a whole. Nothing: then each of its chunks has been verified, and is what its row says."""
    if len(data) != size or not is_intact(name, data):
        what = (
            f"{len(data)} bytes where {size} belong"
            if len(data) != size
            else "its bytes are not what was written"
        )
        return "damaged_pack", f"pack {name} is damaged: {what}"
    try:
        records = {record.hash: record for record in read_index(data)}
    except CorruptionError as error:
        return "damaged_pack", f"pack {name}: {error.message}"
    for row in rows:
        record = records.get(row.hash)
        if record is None or tuple(record) != tuple(row):
            return "wrong_index", f"pack {name} holds other chunks than the database says"
    return None, ""


class _Walker:
    """Visits every tree node and chunk once, however many roots share it; what is bad is reported with each that needs it."""

    def __init__(self, db: Database, chunks: ChunkStore, found: Findings, good: Marks) -> None:
        self._db = db
        self._chunks = chunks
        self._found = found
        self._good = good

    def visit_tree(self, name: bytes, label: str, ref: Ref | None) -> bool:
        """Whether all below is good; only then it need not be visited again for another root."""
        if name == EMPTY_ROOT or self._good.has(name, TREE):
            return True
        data = self._fetch(name, label)
        if data is None:
            return False
        try:
            node = decode_tree(data)
            _check_node(node, data, ref)
        except CorruptionError as error:
            self._fail(name, label, error)
            return False
        results = [self._visit_files([item for item in node.items if isinstance(item, Entry)], label)]
        results += [self.visit_tree(item.hash, label, item) for item in node.items if isinstance(item, Ref)]
        if all(results):
            self._good.visit(name, TREE)
        return all(results)

    def _visit_files(self, entries: Sequence[Entry], label: str) -> bool:
        plain = [entry for entry in entries if entry.level == 0]
        good = self._have([(entry.hash, entry.size) for entry in plain])
        bad = [entry for entry in plain if (entry.hash, entry.size) not in good]
        for entry in bad:
            self._blame_content(entry.hash, f"{label}:/{entry.key.decode(errors='replace')}", entry.size)
        results = [not bad]
        for entry in entries:
            if entry.level:
                where = f"{label}:/{entry.key.decode(errors='replace')}"
                results.append(self._visit_list(ListRef(entry.level, entry.hash, entry.size), where))
        return all(results)

    def _visit_list(self, ref: ListRef, label: str) -> bool:
        if self._good.has(ref.hash, ref.level):
            return True
        data = self._fetch(ref.hash, label)
        if data is None:
            return False
        try:
            children = decode_list(data, ref.level)
            if encode_list(ref.level, children) != data or sum(child.size for child in children) != ref.size:
                raise CorruptionError(
                    f"chunk list {ref.hash.hex()} does not hold what it says", kind="wrong_summary"
                )
        except CorruptionError as error:
            self._fail(ref.hash, label, error)
            return False
        if ref.level > 1:
            results = [self._visit_list(child, label) for child in children]
        else:
            good = self._have([(child.hash, child.size) for child in children])
            bad = [child for child in children if (child.hash, child.size) not in good]
            for child in bad:
                self._blame_content(child.hash, label, child.size)
            results = [not bad]
        if all(results):
            self._good.visit(ref.hash, ref.level)
        return all(results)

    def _have(self, wanted: Sequence[tuple[bytes, int]]) -> set[tuple[bytes, int]]:
        """Those chunks that are whole and of that length."""
        names = [name for name, _ in wanted if name not in self._found.bad_chunks]
        with self._db.read() as connection:
            lengths = {name: place.raw_length for name, place in chunkindex.locate(connection, names).items()}
            elsewhere = links.lengths(connection, [name for name in names if name not in lengths])
        for name in elsewhere:
            try:
                lengths[name] = len(self._chunks.get(name))
            except CorruptionError as error:
                self._found.bad_chunks[name] = error
        empty = {(EMPTY_ROOT, 4)} if (EMPTY_ROOT, 4) in wanted else set()
        return {(name, size) for name, size in wanted if lengths.get(name) == size} | empty

    def _blame_content(self, name: bytes, label: str, size: int) -> None:
        with self._db.read() as connection:
            place = chunkindex.locate(connection, [name]).get(name)
        if name not in self._found.bad_chunks and place is not None:
            message = f"chunk {name.hex()} has {place.raw_length} bytes where {size} belong"
            self._found.bad_chunks[name] = CorruptionError(message, kind="wrong_size")
        elif place is None and name not in self._found.bad_chunks:
            self._miss(name)
        self._blame(name, label)

    def _fetch(self, name: bytes, label: str) -> bytes | None:
        if name not in self._found.bad_chunks and name not in self._found.missing:
            try:
                return self._chunks.get(name)
            except CorruptionError as error:
                (self._found.missing if error.kind == "lost_chunk" else self._found.bad_chunks)[name] = error
        self._blame(name, label)
        return None

    def _miss(self, name: bytes) -> None:
        message = f"chunk {name.hex()} is lost: no pack holds it"
        self._found.missing.setdefault(name, CorruptionError(message, kind="lost_chunk"))

    def _blame(self, name: bytes, label: str) -> None:
        needed_by = self._found.needed_by.setdefault(name, [])
        if len(needed_by) < REFERRERS_MAX and label not in needed_by:
            needed_by.append(label)

    def _fail(self, name: bytes, label: str, error: CorruptionError) -> None:
        message = f"chunk {name.hex()}: {error.message}"
        self._found.bad_chunks[name] = CorruptionError(message, kind=error.kind)
        self._blame(name, label)


def _check_node(node: TreeNode, data: bytes, ref: Ref | None) -> None:
    """That a node is the one way to write what it says, and says what the node above it says of it.

    :raises CorruptionError: ``bad_node`` or ``wrong_summary``.
    """
    entries = [item for item in node.items if isinstance(item, Entry)]
    refs = [item for item in node.items if isinstance(item, Ref)]
    encoded = encode_inner(node.level, refs) if node.level else encode_leaf(entries)
    if encoded != data or not node.items or len(node.items) > NODE_ITEMS_MAX:
        raise CorruptionError("this tree node is not written in the one way that is allowed", kind="bad_node")
    if any(closes(key, node.level) for key in node.keys[:-1]):
        raise CorruptionError("this tree node goes on where it should have ended", kind="bad_node")
    if ref is None:
        return
    own = root_ref(lambda _, __=(): node, ref.hash)
    if (own.level, own.last_key, own.identity, own.size, own.files) != (
        ref.level, ref.last_key, ref.identity, ref.size, ref.files,
    ):  # fmt: skip
        raise CorruptionError("this tree node is not what the node above it says", kind="wrong_summary")


def bounded(problems: Sequence[Problem]) -> tuple[tuple[Problem, ...], int]:
    """The first ones, and how many there are more."""
    return tuple(problems[:PROBLEMS_MAX]), max(0, len(problems) - PROBLEMS_MAX)


def advice(found: Findings, *, after_repair: bool = False) -> tuple[str, ...]:
    """What a person can do about what is left."""
    if not found.problems:
        return ()
    lines = []
    if not after_repair:
        lines.append(
            "run 'trunkline fsck --repair': it uses every good copy that is left, and cuts what leads nowhere"
        )
    if found.missing or found.bad_chunks:
        lines.append(
            "content that is lost for good: put the same files again (anywhere), or restore a backup; "
            "output of a pipeline: 'trunkline update pipeline -f SPEC --reprocess'"
        )
    return tuple(lines)


# --- indexes of packs ---


def index_of(objects: ObjectStore, key: str, size: int) -> list[PackRecord]:
    """What a pack says of itself at its end.

    :raises CorruptionError: ``bad_pack``.
    """
    length = index_bytes(objects.get(key, offset=max(0, size - TRAILER_BYTES))) + TRAILER_BYTES
    return read_index(objects.get(key, offset=max(0, size - length)))


def unknown_packs(db: Database, objects: ObjectStore) -> Iterator[tuple[str, str, int]]:
    """Key, name and size of the pack objects that the database does not know."""
    with db.read() as connection:
        known = {object_key(name) for name, _ in chunkindex.list_packs(connection)}
    for info in objects.list("packs/"):
        if info.key not in known:
            yield info.key, info.key.rpartition("/")[2], info.size


def reindex(db: Database, objects: ObjectStore, clock: Clock) -> int:
    """Add the chunks of packs that the database does not know, from the packs themselves; returns how many packs.

    :raises CorruptionError: naming a pack whose index is damaged.
    """
    added = 0
    for key, name, size in unknown_packs(db, objects):
        try:
            records = index_of(objects, key, size)
        except CorruptionError as error:
            raise CorruptionError(f"pack {name}: {error.message}", kind=error.kind) from error
        with db.write() as connection:
            chunkindex.add_pack(connection, name, size, records, clock.now())
        added += 1
    return added
