"""Mend what a check has found, as far as the store itself holds what is needed.

Nothing is thrown away that could be read: a damaged pack's object stays where it is (``gc`` deletes it once it is old), only the
rows that pointed into it go. A lost chunk without a row is stored again by the next put that brings it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from trunkline.core.clock import Clock
from trunkline.errors import CorruptionError, NotFoundError
from trunkline.storage.db.engine import Database
from trunkline.storage.db.schema import chunks, packs
from trunkline.storage.objects.base import ObjectStore
from trunkline.versioning import chunkindex, keepstore
from trunkline.versioning.chunks import ChunkStore
from trunkline.versioning.fsck import Findings, index_of
from trunkline.versioning.gc import rows_of, verified
from trunkline.versioning.packs import PackBuilder, PackRecord, is_intact, object_key
from trunkline.versioning.roots import RootSource


class Repairer:
    """One repair. The caller holds the store."""

    def __init__(
        self,
        *,
        db: Database,
        objects: ObjectStore,
        chunk_store: ChunkStore,
        clock: Clock,
        sources: Sequence[RootSource],
        found: Findings,
    ) -> None:
        self._db = db
        self._objects = objects
        self._chunks = chunk_store
        self._clock = clock
        self._sources = sources
        self._found = found
        self.done: list[str] = []

    def run(self) -> list[str]:
        """Returns what was done, a line each."""
        wanted = set(self._found.bad_chunks) | set(self._found.missing)
        copies = self._find_copies(wanted)
        if copies:
            self.done.append(f"{len(copies)} chunks are read from good copies in other places now")
        for name in sorted(self._found.bad_packs):
            self._retire(name)
        lost = wanted - set(copies)
        self._drop_rows(lost)
        self._chunks.forget(wanted)
        with self._db.write() as connection:
            self.done += keepstore.mend_dangling(connection)
            self.done += self._drop_caches(connection, lost)
            for root, (size, count) in self._found.wrong_sizes.items():
                changed = keepstore.set_sizes(connection, root, size, count)
                self.done.append(f"{changed} commits say the right size of tree {root} now")
        return self.done

    def _find_copies(self, wanted: set[bytes]) -> set[bytes]:
        """Look into the index of every pack for good copies, and read the chunks from there."""
        found: set[bytes] = set()
        for info in self._objects.list("packs/") if wanted else ():
            name = info.key.rpartition("/")[2]
            try:
                records = index_of(self._objects, info.key, info.size)
            except (CorruptionError, NotFoundError):
                continue
            useful = wanted - found | self._unknown(records)
            good = [
                record
                for record in records
                if record.hash in useful
                and verified(self._objects.get(info.key, offset=record.offset, length=record.length), record)
            ]
            if good:
                with self._db.write() as connection:
                    _point_to(connection, name, info.size, good, self._clock.now())
                found.update(record.hash for record in good)
        return found

    def _unknown(self, records: Sequence[PackRecord]) -> set[bytes]:
        """Where a node is lost, nobody knows what was below it: so all that no row knows is learned, too."""
        names = [record.hash for record in records]
        with self._db.read() as connection:
            return set(names) - chunkindex.known(connection, names)

    def _retire(self, name: str) -> None:
        """Copy what is good in a damaged pack into a new one, and forget the old one."""
        with self._db.read() as connection:
            key = chunkindex.key_of(connection, name)
            rows = rows_of(connection, key) if key is not None else []
        if key is None:
            return
        try:
            data = self._objects.get(object_key(name))
        except NotFoundError:
            data = b""
        builder = PackBuilder()
        for row in rows:
            stored = data[row.offset : row.offset + row.length]
            if verified(stored, row):
                builder.add(row.hash, row.codec, stored, row.raw_length)
        new_name = builder.seal() if builder.records else ""
        if new_name == name and is_intact(name, data):
            return  # only rows were wrong, and they have been corrected
        if new_name:
            self._objects.put(object_key(new_name), cast("list[bytes]", builder.parts))
        if new_name == name:  # its index alone was damaged
            self.done.append(f"pack {name}: its index was written again")
            return
        with self._db.write() as connection:
            if new_name:
                new = chunkindex.add_pack(connection, new_name, builder.size, [], self._clock.now())
                chunkindex.move_chunks(connection, key, new, builder.records)
            connection.execute(sa.delete(chunks).where(chunks.c.pack_id == key))
            connection.execute(sa.delete(packs).where(packs.c.id == key))
        self._chunks.forget([row.hash for row in rows])
        self.done.append(
            f"pack {name}: {len(builder.records)} good chunks were copied into a new pack, "
            f"{len(rows) - len(builder.records)} are not in it"
        )

    def _drop_rows(self, lost: set[bytes]) -> None:
        names = sorted(lost)
        with self._db.write() as connection:
            for start in range(0, len(names), 500):
                part = names[start : start + 500]
                connection.execute(sa.delete(chunks).where(chunks.c.hash.in_(part)))
        if lost:
            self.done.append(
                f"{len(lost)} lost chunks were forgotten: the next put of the same content stores them"
            )

    def _drop_caches(self, connection: Connection, lost: set[bytes]) -> list[str]:
        """Cached results that are lost are computed again when they are asked for."""
        damaged = {label for name in lost for label in self._found.needed_by.get(name, ())}
        count = 0
        for source in self._sources:
            if (source.is_cache or source.when_changed) and damaged:
                roots = {
                    root.root
                    for root in list(source.roots(connection))
                    if any(label == root.label or label.startswith(root.label + ":/") for label in damaged)
                }
                for root in roots:
                    count += keepstore.drop_cached(connection, source, root)
        return [f"{count} cached results were dropped: they are computed again"] if count else []


def _point_to(
    connection: Connection, name: str, size: int, records: Sequence[PackRecord], now: float
) -> None:
    """Read these chunks from that pack from now on."""
    for record in records:
        connection.execute(sa.delete(chunks).where(chunks.c.hash == record.hash))
    chunkindex.add_pack(connection, name, size, records, now)
