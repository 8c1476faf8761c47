"""Garbage collection: mark what roots reach, then delete packs that hold nothing of it and rewrite those that hold little.

Everything is deleted in the reverse order of writing: rows first, with a note of the pack's name (``condemned_packs``), then the
object, then the note. A crash leaves notes and orphans, and the next run finishes them. How it stays out of the way of writers is
in ``writers.py``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol, cast

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from trunkline.core.clock import Clock
from trunkline.core.hashing import digest
from trunkline.errors import CorruptionError, NotFoundError
from trunkline.storage.db.engine import Database
from trunkline.storage.db.schema import chunks, packs, tree_holds
from trunkline.storage.objects.base import ObjectStore
from trunkline.versioning import chunkindex, links, writers
from trunkline.versioning.chunks import ChunkStore
from trunkline.versioning.maintenance import Progress
from trunkline.versioning.marking import Marks, mark_tree
from trunkline.versioning.packs import (
    PACK_BYTES,
    PackBuilder,
    PackRecord,
    decompress,
    object_key,
    packed_bytes,
)
from trunkline.versioning.roots import RootSource, all_roots

log = logging.getLogger(__name__)

GRACE_SECONDS = 24 * 3600.0
SPARSE = 0.5
"""A pack of which less than this is live is rewritten."""
BATCH_PACKS = 64
TEMPORARY_SECONDS_MIN = 3600.0
"""A temporary file may belong to a write that is going on; none takes longer than this for one pack."""

LINK_SECONDS_MIN = 3600.0
"""A link may be recorded a while before the commit that names it."""
LINKS_PER_LOOK = 500

Hook = Callable[[str], None]
"""Called between the steps, by their names; tests let writers in there, or crash."""


@dataclass(frozen=True, kw_only=True)
class GcReport:
    """What a collection found, and what it did. Bytes are as stored."""

    dry_run: bool
    packs: int
    pack_bytes: int
    live_bytes: int
    dead_bytes: int
    """What nothing refers to, of all packs."""
    young_bytes: int
    """Of the dead ones: too young, or in use by a writer."""
    reclaimable_bytes: int
    """What deleting and rewriting frees; the rest of the dead bytes lies in packs that are mostly live."""
    orphans: int
    orphan_bytes: int
    """Pack objects that the database does not know: of writes that failed."""
    temporary_files: int
    temporary_bytes: int
    packs_deleted: int = 0
    packs_rewritten: int = 0
    freed_bytes: int = 0


class Pack(NamedTuple):
    """A pack as the plan sees it."""

    id: int
    name: str
    size: int
    live_bytes: int

    @property
    def dead_bytes(self) -> int:
        return self.size - self.live_bytes


class Row(NamedTuple):
    """A chunk's row."""

    hash: bytes
    offset: int
    length: int
    raw_length: int
    codec: int


def rows_of(connection: Connection, pack_id: int) -> list[Row]:
    """The chunks that are read from a pack, in its order."""
    columns = (chunks.c.hash, chunks.c.offset, chunks.c.length, chunks.c.raw_length, chunks.c.codec)
    query = sa.select(*columns).where(chunks.c.pack_id == pack_id).order_by(chunks.c.offset)
    return [Row(*row) for row in connection.execute(query)]


def verified(stored: bytes, row: Row | PackRecord) -> bool:
    """Whether these are the bytes of that chunk."""
    try:
        return digest(decompress(row.codec, stored, row.raw_length)) == row.hash
    except CorruptionError:
        return False


class LiveSet(Protocol):
    """What the collector asks of marks once they are made."""

    def among(self, names: Sequence[bytes]) -> set[bytes]: ...

    def visit(self, name: bytes, kind: int) -> bool: ...

    def add_contents(self, names: Iterable[bytes]) -> None: ...


class Collector:
    """One collection. The caller holds the store (``maintenance.exclusive``)."""

    def __init__(
        self,
        *,
        db: Database,
        objects: ObjectStore,
        chunk_store: ChunkStore,
        clock: Clock,
        sources: Sequence[RootSource],
        grace_seconds: float,
        progress: Progress | None = None,
        at: Hook = lambda step: None,
    ) -> None:
        self._db = db
        self._objects = objects
        self._chunks = chunk_store
        self._writers = chunk_store.writers
        self._clock = clock
        self._sources = sources
        self._grace = grace_seconds
        self._progress = progress or Progress()
        self._at = at

    def run(self, *, dry_run: bool) -> GcReport:
        """:raises CorruptionError: where something that is referred to is lost: then nothing is deleted."""
        self._writers.begin_collecting()
        try:
            with Marks() as marks:
                if not dry_run:
                    self.finish_condemned()
                now = self._clock.now()
                mark_all(self._db, self._chunks.get, self._sources, marks, self._progress)
                self._at("marked")
                dead, sparse, report = self._plan(marks, now)
                report = replace(report, dry_run=dry_run)
                self._at("planned")
                if dry_run:
                    return self._leftovers(report, now)
                done = self._sweep(marks, dead, sparse, report)
                self._forget_links(marks, now)
                return self._leftovers(done, now)
        finally:
            self._writers.end_collecting()

    # --- plan ---

    def _plan(self, marks: Marks, now: float) -> tuple[list[Pack], list[Pack], GcReport]:
        with self._db.read() as connection:
            query = sa.select(packs.c.id, packs.c.name, packs.c.size, packs.c.created_at)
            found = list(connection.execute(query.order_by(packs.c.id)))
        self._progress.begin("looking at packs", len(found))
        dead: list[Pack] = []
        sparse: list[Pack] = []
        live = young = reclaimable = total = 0
        with self._writers.sweep_lock:
            relied, _ = self._writers.relied_on()
        for key, name, size, created_at in found:
            self._progress.more()
            pack = Pack(key, name, size, packed_bytes(row.length for row in self._live(marks, key)))
            total += size
            live += pack.live_bytes
            is_empty, is_sparse = pack.live_bytes == 0, pack.live_bytes < SPARSE * size
            if created_at > now - self._grace or key in relied:
                young += pack.dead_bytes
            elif is_empty or is_sparse:
                reclaimable += pack.dead_bytes
                (dead if is_empty else sparse).append(pack)
        report = GcReport(
            dry_run=True, packs=len(found), pack_bytes=total, live_bytes=live, dead_bytes=total - live,
            young_bytes=young, reclaimable_bytes=reclaimable, orphans=0, orphan_bytes=0, temporary_files=0,
            temporary_bytes=0,
        )  # fmt: skip
        return dead, sparse, report

    def _live(self, marks: LiveSet, pack_id: int) -> list[Row]:
        with self._db.read() as connection:
            rows = rows_of(connection, pack_id)
        alive = marks.among([row.hash for row in rows])
        return [row for row in rows if row.hash in alive]

    # --- sweep ---

    def _sweep(
        self, marks: Marks, dead: Sequence[Pack], sparse: Sequence[Pack], report: GcReport
    ) -> GcReport:
        self._progress.begin("deleting", len(dead) + len(sparse))
        deleted = rewritten = freed = 0
        for start in range(0, len(dead), BATCH_PACKS):
            gone = self._drop(marks, dead[start : start + BATCH_PACKS])
            deleted += len(gone)
            freed += sum(pack.size for pack in gone)
            self._progress.more(BATCH_PACKS)
        for group in _groups(sparse):
            old, new_size = self._rewrite(marks, group)
            rewritten += len(old)
            freed += sum(pack.size for pack in old) - new_size
            self._progress.more(len(group))
        return replace(report, packs_deleted=deleted, packs_rewritten=rewritten, freed_bytes=freed)

    def _drop(self, marks: LiveSet, candidates: Sequence[Pack]) -> list[Pack]:
        """Delete packs in which nothing is live."""
        going = list(candidates)
        while True:
            with self._writers.sweep_lock:
                late = self._writers.take_late_roots()
                if not late:
                    going = self._not_relied_on(going)
                    with self._db.write() as connection:
                        _delete_rows(connection, going)
                        writers.condemn(connection, [pack.name for pack in going], self._clock.now())
                    self._writers.swept(self._clock.now())
                    break
            self._mark_late(marks, late)
            going = [pack for pack in going if not self._live(marks, pack.id)]
        self._at("rows deleted")
        self.finish_condemned()
        return going

    def _rewrite(self, marks: LiveSet, group: Sequence[Pack]) -> tuple[list[Pack], int]:
        """Move what is live in the packs of a group into a new pack; returns the packs that went, and the new one's size."""
        builder, moves = PackBuilder(), dict[int, list[PackRecord]]()
        for pack in group:
            records = self._copy(builder, pack, self._live(marks, pack.id))
            if records is not None:
                moves[pack.id] = records
        if not builder.records:
            return [], 0
        name = builder.seal()
        self._objects.put(object_key(name), cast("list[bytes]", builder.parts))
        self._at("rewritten pack stored")
        going = [pack for pack in group if pack.id in moves]
        while True:
            with self._writers.sweep_lock:
                late = self._writers.take_late_roots()
                if not late:
                    going = self._not_relied_on(going)
                    with self._db.write() as connection:
                        self._move(connection, name, builder, going, moves)
                    self._writers.swept(self._clock.now())
                    break
            self._mark_late(marks, late)
            going = [p for p in going if len(self._live(marks, p.id)) == len(moves[p.id])]
        self._chunks.forget([record.hash for record in builder.records])
        self._at("rows moved")
        self.finish_condemned()
        return going, builder.size if going else 0

    def _copy(self, builder: PackBuilder, pack: Pack, rows: Sequence[Row]) -> list[PackRecord] | None:
        """The live chunks of a pack, verified; None (and nothing) where the pack is damaged: fsck's business."""
        try:
            data = self._objects.get(object_key(pack.name))
        except NotFoundError:
            data = b""
        found = [(row, data[row.offset : row.offset + row.length]) for row in rows]
        if not all(verified(stored, row) for row, stored in found):
            log.warning("pack %s is damaged and was left alone: run 'trunkline fsck'", pack.name)
            return None
        for row, stored in found:
            builder.add(row.hash, row.codec, stored, row.raw_length)
        return builder.records[len(builder.records) - len(found) :]

    def _move(
        self,
        connection: Connection,
        name: str,
        builder: PackBuilder,
        going: Sequence[Pack],
        moves: dict[int, list[PackRecord]],
    ) -> None:
        now = self._clock.now()
        if going:
            key = chunkindex.add_pack(connection, name, builder.size, [], now)
            for pack in going:
                chunkindex.move_chunks(connection, pack.id, key, moves[pack.id])
            _delete_rows(connection, going)
            writers.condemn(connection, [pack.name for pack in going if pack.name != name], now)
        elif not chunkindex.has_pack(connection, name):
            writers.condemn(connection, [name], now)

    def _not_relied_on(self, candidates: Iterable[Pack]) -> list[Pack]:
        keys, names = self._writers.relied_on()
        return [pack for pack in candidates if pack.id not in keys and pack.name not in names]

    def _mark_late(self, marks: LiveSet, roots: Iterable[bytes]) -> None:
        for root in roots:
            mark_tree(marks, self._chunks.get, root)

    def _forget_links(self, marks: Marks, now: float) -> None:
        """Links to contents that nothing refers to any more; young ones may be about to be."""
        last: int | None = None
        before = now - max(self._grace, LINK_SECONDS_MIN)
        while True:
            with self._db.read() as connection:
                found = links.older_than(connection, before, last, LINKS_PER_LOOK)
                gone = [key for key in found if not marks.among(links.chunks_of(connection, key))]
            if not found:
                return
            last = found[-1]
            with self._db.write() as connection:
                links.remove(connection, gone)

    # --- for purges ---

    def rewrite_without(self, keep: LiveSet, pack: Pack) -> bool:
        """Rewrite one pack now, with only the chunks that ``keep`` keeps. False if a writer is using it."""
        if self._live(keep, pack.id):
            return bool(self._rewrite(keep, [pack])[0])
        return bool(self._drop(keep, [pack]))

    def delete_orphan(self, name: str) -> bool:
        """Delete a pack that no row knows. False if a writer is about to add its rows."""
        return self._delete_orphans({name: 1}) == 1

    # --- what crashes and failed writes have left ---

    def finish_condemned(self) -> None:
        """Delete the objects of packs whose rows are gone, then the notes about them."""
        with self._db.read() as connection:
            names = writers.list_condemned(connection)
        for name in names:
            self._objects.delete(object_key(name))
            self._at("object deleted")
        if names:
            with self._db.write() as connection:
                writers.pardon(connection, names)

    def _leftovers(self, report: GcReport, now: float) -> GcReport:
        """Orphan packs, temporary files and holds that have expired."""
        before = now - self._grace
        orphans = {
            name: size for name, size, modified_at in self._orphans() if modified_at <= before
        }  # objects are dated by the file system's clock
        temporary, temporary_bytes = self._objects.sweep_temporary(
            min(before, now - TEMPORARY_SECONDS_MIN), dry_run=report.dry_run
        )
        freed = report.freed_bytes
        if not report.dry_run:
            freed += temporary_bytes + self._delete_orphans(orphans)
            with self._db.write() as connection:
                connection.execute(sa.delete(tree_holds).where(tree_holds.c.expires_at <= now))
        return replace(
            report, orphans=len(orphans), orphan_bytes=sum(orphans.values()), temporary_files=temporary,
            temporary_bytes=temporary_bytes, freed_bytes=freed,
        )  # fmt: skip

    def _orphans(self) -> Iterator[tuple[str, int, float]]:
        with self._db.read() as connection:
            known = {name for name, _ in chunkindex.list_packs(connection)}
        for info in self._objects.list("packs/"):
            name = info.key.rpartition("/")[2]
            if name not in known:
                yield name, info.size, info.modified_at

    def _delete_orphans(self, orphans: dict[str, int]) -> int:
        names = list(orphans)
        freed = 0
        for start in range(0, len(names), BATCH_PACKS):
            with self._writers.sweep_lock:
                _, in_use = self._writers.relied_on()
                going = [name for name in names[start : start + BATCH_PACKS] if name not in in_use]
                with self._db.write() as connection:
                    going = [name for name in going if not chunkindex.has_pack(connection, name)]
                    writers.condemn(connection, going, self._clock.now())
            self._at("orphans condemned")
            self.finish_condemned()
            freed += sum(orphans[name] for name in going)
        return freed


def mark_all(
    db: Database,
    get: Callable[[bytes], bytes],
    sources: Sequence[RootSource],
    marks: Marks,
    progress: Progress,
) -> None:
    """Mark all that the roots of the present state reach. The transaction ends before the walk begins."""
    with db.read() as connection:
        roots = (
            (bytes.fromhex(root.root), root.label) for root in all_roots(connection, sources) if root.root
        )
        marks.keep_roots(roots)
    progress.begin("marking", marks.count_roots())
    for root, label in marks.roots():
        progress.more()
        try:
            mark_tree(marks, get, root)
        except CorruptionError as error:
            raise CorruptionError(
                f"nothing was deleted, because {label} is damaged: {error.message}",
                kind=error.kind, details=error.details,
            ) from error  # fmt: skip


def _delete_rows(connection: Connection, going: Iterable[Pack]) -> None:
    for pack in going:
        connection.execute(sa.delete(chunks).where(chunks.c.pack_id == pack.id))
        connection.execute(sa.delete(packs).where(packs.c.id == pack.id))


def _groups(sparse: Iterable[Pack]) -> Iterator[list[Pack]]:
    """Packs whose live parts fill one new pack."""
    group: list[Pack] = []
    size = 0
    for pack in sparse:
        if group and size + pack.live_bytes > PACK_BYTES:
            yield group
            group, size = [], 0
        group.append(pack)
        size += pack.live_bytes
    if group:
        yield group
