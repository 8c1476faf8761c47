"""Walk everything that commits refer to, verify every byte of it, and name what is lost or damaged and what needs it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from trunkline.core.clock import Clock
from trunkline.core.hashing import digest
from trunkline.errors import CorruptionError, NotFoundError
from trunkline.storage.db.engine import Database
from trunkline.storage.objects.base import ObjectStore
from trunkline.versioning import chunkindex, store, uploads
from trunkline.versioning.chunks import ChunkStore
from trunkline.versioning.nodes import Entry, ListRef, decode_list, decode_tree
from trunkline.versioning.packs import TRAILER_BYTES, index_bytes, object_key, read_index

REFERRERS_MAX = 10


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Something that is not as it should be."""

    kind: str
    """``lost_pack``, ``damaged_pack``, ``lost_chunk``, ``damaged_chunk`` or ``bad_node``."""
    what: str
    message: str
    referred_by: tuple[str, ...]
    """The commits and files that need it, the first few."""


def check(db: Database, objects: ObjectStore, chunks: ChunkStore) -> list[Problem]:
    """All problems, packs first."""
    return [*_check_packs(db, objects), *_Walker(db, chunks).problems()]


def _check_packs(db: Database, objects: ObjectStore) -> Iterator[Problem]:
    with db.read() as connection:
        packs = chunkindex.list_packs(connection)
    for name, size in packs:
        try:
            data = objects.get(object_key(name))
        except NotFoundError:
            yield Problem(kind="lost_pack", what=name, message=f"pack {name} is lost", referred_by=())
            continue
        if len(data) != size or digest(data).hex() != name:
            message = f"pack {name} is damaged: {len(data)} bytes where {size} belong, or other ones"
            yield Problem(kind="damaged_pack", what=name, message=message, referred_by=())


def reindex(db: Database, objects: ObjectStore, clock: Clock) -> int:
    """Add the chunks of packs that the database does not know, from the packs themselves; returns how many packs.

    :raises CorruptionError: naming a pack whose index is damaged.
    """
    with db.read() as connection:
        known = {object_key(name) for name, _ in chunkindex.list_packs(connection)}
    added = 0
    for info in objects.list("packs/"):
        if info.key not in known:
            name = info.key.rpartition("/")[2]
            try:
                length = (
                    index_bytes(objects.get(info.key, offset=max(0, info.size - TRAILER_BYTES)))
                    + TRAILER_BYTES
                )
                records = read_index(objects.get(info.key, offset=max(0, info.size - length)))
            except CorruptionError as error:
                raise CorruptionError(f"pack {name}: {error.message}", kind=error.kind) from error
            with db.write() as connection:
                chunkindex.add_pack(connection, name, info.size, records, clock.now())
            added += 1
    return added


class _Walker:
    """Visits every tree node and chunk once, however many commits share it."""

    def __init__(self, db: Database, chunks: ChunkStore) -> None:
        self._db = db
        self._chunks = chunks
        self._good: set[bytes] = set()
        self._bad: dict[bytes, CorruptionError] = {}
        self._needed_by: dict[bytes, list[str]] = {}

    def problems(self) -> list[Problem]:
        with self._db.read() as connection:
            roots = [*store.all_roots(connection), *uploads.all_roots(connection)]
        for label, root in roots:
            self._visit_tree(bytes.fromhex(root), label)
        return [
            Problem(
                kind=error.kind,
                what=name.hex(),
                message=error.message,
                referred_by=tuple(self._needed_by[name]),
            )
            for name, error in self._bad.items()
        ]

    def _fetch(self, name: bytes, label: str) -> bytes | None:
        """A chunk that has not been visited before; None if it has been, or is bad."""
        if name in self._good:
            return None
        if name not in self._bad:
            try:
                return self._chunks.get(name)
            except CorruptionError as error:
                self._bad[name] = error
        self._blame(name, label)
        return None

    def _blame(self, name: bytes, label: str) -> None:
        needed_by = self._needed_by.setdefault(name, [])
        if len(needed_by) < REFERRERS_MAX:
            needed_by.append(label)

    def _fail(self, name: bytes, label: str, error: CorruptionError) -> None:
        self._bad[name] = error
        self._blame(name, label)

    def _visit_tree(self, name: bytes, label: str) -> bool:
        """Whether all below is good. Only then it need not be visited again for another commit: what is bad is reported
        with every commit that needs it."""
        if name in self._good:
            return True
        data = self._fetch(name, label)
        if data is None:
            return False
        try:
            node = decode_tree(data)
        except CorruptionError as error:
            self._fail(name, label, error)
            return False
        results = []
        for item in node.items:
            if isinstance(item, Entry):
                ref = ListRef(item.level, item.hash, item.size)
                results.append(self._visit_content(ref, f"{label}:/{item.key.decode(errors='replace')}"))
            else:
                results.append(self._visit_tree(item.hash, label))
        if all(results):
            self._good.add(name)
        return all(results)

    def _visit_content(self, ref: ListRef, label: str) -> bool:
        if ref.hash in self._good:
            return True
        data = self._fetch(ref.hash, label)
        if data is None:
            return False
        good = True
        if ref.level:
            try:
                children = decode_list(data, ref.level)
            except CorruptionError as error:
                self._fail(ref.hash, label, error)
                return False
            results = [self._visit_content(child, label) for child in children]
            good = all(results)
        if good:
            self._good.add(ref.hash)
        return good
