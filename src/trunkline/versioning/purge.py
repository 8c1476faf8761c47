"""Purging: content leaves all history, and its bytes leave the disk; what it was and what was built from it stays on record.

In two steps, each of which may be repeated: first every tree that holds the content is rewritten without it, and all rows
change to the new trees in the transaction that records the purge (state ``erasing``, with the chunks that must go); then the
packs that hold those chunks are rewritten at once, and the purge is ``done``. ``gc`` and the next purge finish one that was
interrupted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.engine import Connection

from trunkline.core.clock import Clock
from trunkline.core.hashing import from_hex
from trunkline.errors import CorruptionError, UnavailableError
from trunkline.storage.db.engine import Database
from trunkline.storage.objects.base import ObjectStore
from trunkline.versioning import chunkindex, keepstore, links, trees
from trunkline.versioning.chunks import ChunkStore
from trunkline.versioning.fsck import index_of
from trunkline.versioning.gc import Collector, Pack, mark_all
from trunkline.versioning.maintenance import Progress
from trunkline.versioning.marking import TREE, Marks
from trunkline.versioning.nodes import (
    EMPTY_ROOT,
    Entry,
    Ref,
    TreeNode,
    content_identity,
    decode_list,
    decode_tree,
)
from trunkline.versioning.roots import Root, RootSource, all_roots

SCANS_MAX = 10
WAIT_SECONDS = 60.0
WAIT_POLL_SECONDS = 0.05

Content = tuple[int, bytes]
"""Level and hash, as a tree's entry names it."""


@dataclass(frozen=True, kw_only=True)
class Holder:
    """A tree that holds the content."""

    root: str
    keys: tuple[bytes, ...]
    """Of the files that are it."""
    referred_by: tuple[Root, ...]


@dataclass(frozen=True, kw_only=True)
class Purge:
    """A purge, before, while or after it is done."""

    id: int | None
    """None: only looked at."""
    project: str
    repo: str
    path: str
    everywhere: bool
    who: str
    why: str
    state: str
    """``dry-run``, ``erasing`` or ``done``."""
    contents: tuple[dict[str, Any], ...]
    """``{path, hash, size}`` of each version of it."""
    report: dict[str, Any] = field(default_factory=dict)
    """Where it was (``found_in``), what was built from it, and what shares parts of it."""
    created_at: float


class Scanner:
    """Finds the trees that hold given contents."""

    def __init__(self, db: Database, chunk_store: ChunkStore, sources: Sequence[RootSource]) -> None:
        self._db = db
        self._get = chunk_store.get
        self._sources = sources

    def contents_at(self, roots: Iterable[str], path: str) -> dict[Content, Entry]:
        """Every content that any of the trees has at or below a path."""
        found: dict[Content, Entry] = {}
        low, high = trees.directory_range(path)
        for root in set(roots):
            name = bytes.fromhex(root)
            file = trees.find(self._load, name, path[1:].encode()) if path != "/" else None
            entries = [file] if file is not None else trees.entries(self._load, name, low, high)
            for entry in entries:
                if entry.hash != EMPTY_ROOT and entry.size:
                    found.setdefault((entry.level, entry.hash), entry)
        return found

    def holders(self, contents: Iterable[Content]) -> list[Holder]:
        """All trees, of all domains, in which any of the contents is a file."""
        wanted = set(contents)
        referred: dict[str, list[Root]] = {}
        with Marks() as clean:
            with self._db.read() as connection:
                for root in all_roots(connection, self._sources):
                    referred.setdefault(root.root, []).append(root)
            found = []
            for tree, rows in referred.items():
                keys = self._keys(bytes.fromhex(tree), wanted, clean)
                if keys:
                    found.append(Holder(root=tree, keys=tuple(keys), referred_by=tuple(rows)))
        return found

    def _keys(self, name: bytes, wanted: set[Content], clean: Marks) -> list[bytes]:
        if name == EMPTY_ROOT or clean.has(name, TREE):
            return []
        keys: list[bytes] = []
        for item in self._load(name).items:
            if isinstance(item, Ref):
                keys += self._keys(item.hash, wanted, clean)
            elif (item.level, item.hash) in wanted:
                keys.append(item.key)
        if not keys:
            clean.visit(name, TREE)
        return keys

    def _load(self, name: bytes, _ahead: Sequence[bytes] = (), /) -> TreeNode:
        return decode_tree(self._get(name))

    def chunks_of(self, contents: Iterable[Content]) -> set[bytes]:
        """All chunks that the contents are made of, lists included."""
        stack = list(contents)
        found: set[bytes] = set()
        while stack:
            level, name = stack.pop()
            found.add(name)
            if level:
                try:
                    stack.extend((ref.level, ref.hash) for ref in decode_list(self._get(name), level))
                except CorruptionError:
                    continue  # what is lost is gone already
        return found - {EMPTY_ROOT}


def described(contents: dict[Content, Entry]) -> list[dict[str, Any]]:
    """What the record keeps of each content."""
    return [
        {"path": "/" + entry.key.decode(), "hash": content_identity(entry).hex(), "size": entry.size}
        for entry in contents.values()
    ]


def rewrite(connection: Connection, sources: Sequence[RootSource], old: str, new: Ref, purge_id: int) -> None:
    """Let every row refer to the new tree; cached results that held the content are dropped."""
    for source in sources:
        if source.is_cache:
            keepstore.drop_cached(connection, source, old)
        else:
            source.replace(connection, old, new.hash.hex(), new.size, new.files)
    keepstore.add_purged_root(connection, purge_id, old, new.hash.hex())


class _AllBut:
    """Marks that leave out just the chunks that must go."""

    def __init__(self, gone: set[bytes]) -> None:
        self._gone = gone

    def among(self, names: Sequence[bytes]) -> set[bytes]:
        return set(names) - self._gone

    def visit(self, name: bytes, kind: int) -> bool:
        """Nothing is marked here: trees that could make them live again are rewritten before."""
        return False

    def add_contents(self, names: Iterable[bytes]) -> None:
        return


class Eraser:
    """Takes chunks off the disk, whatever else is in their packs."""

    def __init__(
        self,
        *,
        db: Database,
        objects: ObjectStore,
        chunk_store: ChunkStore,
        clock: Clock,
        sources: Sequence[RootSource],
        progress: Progress,
        at: Callable[[str], None] = lambda step: None,
    ) -> None:
        self._db = db
        self._objects = objects
        self._chunks = chunk_store
        self._sources = sources
        self._progress = progress
        self._collector = Collector(
            db=db,
            objects=objects,
            chunk_store=chunk_store,
            clock=clock,
            sources=sources,
            grace_seconds=0,
            at=at,
        )

    def run(self, names: Iterable[str]) -> int:
        """Returns how many of the chunks stay, because other files are partly made of them.

        :raises UnavailableError: ``in_use``, if somebody is writing the same content again right now.
        """
        wanted = {from_hex(name) for name in names}
        with Marks() as marks:
            mark_all(self._db, self._chunks.get, self._sources, marks, self._progress)
            shared = marks.among(list(wanted))
        gone = wanted - shared
        with self._db.write() as connection:
            links.drop_chunks(connection, list(gone))
        deadline = time.monotonic() + WAIT_SECONDS
        while (left := self._pass(gone)) and time.monotonic() < deadline:
            time.sleep(WAIT_POLL_SECONDS)
        self._chunks.forget(gone)
        if left:
            raise UnavailableError(
                f"{left} packs with purged content are in use by a writer: run 'trunkline gc' later to finish the purge",
                kind="in_use",
            )
        return len(shared)

    def _pass(self, gone: set[bytes]) -> int:
        """Rewrite every pack that holds any of them; returns how many are left because a writer is using them."""
        self._collector.finish_condemned()
        with self._db.read() as connection:
            known = {name: (key, size) for key, name, size in chunkindex.all_packs(connection)}
        infos = list(self._objects.list("packs/"))
        self._progress.begin("erasing", len(infos))
        left = 0
        for info in infos:
            self._progress.more()
            name = info.key.rpartition("/")[2]
            try:
                holds_some = any(r.hash in gone for r in index_of(self._objects, info.key, info.size))
            except CorruptionError:
                holds_some = (
                    name not in known
                )  # a half-written or damaged pack that nobody needs might hold it
            if not holds_some:
                continue
            if name in known:
                left += not self._collector.rewrite_without(
                    _AllBut(gone), Pack(known[name][0], name, known[name][1], 0)
                )
            else:
                left += not self._collector.delete_orphan(name)
        return left
