"""Chunks: written through a ``ChunkWriter`` into packs, read back by hash, verified every time.

Order of writing: a pack is durable in the object store before its rows are in the database, and both before ``finish``
returns. A crash leaves at most a pack that nothing refers to.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from types import TracebackType
from typing import Self

from trunkline.core.clock import Clock
from trunkline.core.hashing import digest
from trunkline.errors import CorruptionError, NotFoundError
from trunkline.storage.db.engine import Database
from trunkline.storage.objects.base import ObjectStore
from trunkline.versioning import chunkindex
from trunkline.versioning.chunkindex import Location
from trunkline.versioning.links import Links
from trunkline.versioning.nodes import EMPTY_LEAF, EMPTY_ROOT
from trunkline.versioning.packs import Compressor, PackBuilder, decompress, object_key

QUEUE_CHUNKS_MAX = 500
QUEUE_BYTES_MAX = 4 * 2**20
PACKS_IN_FLIGHT_MAX = 2
LOCATIONS_CACHED_MAX = 20_000
RUN_BYTES_MAX = 4 * 2**20
RUN_GAP_BYTES = 32 * 2**10
"""So many bytes are rather read and thrown away than left out."""


class ChunkStore:
    """All chunks of a data directory. Safe between threads."""

    def __init__(self, db: Database, objects: ObjectStore, clock: Clock, links: Links | None = None) -> None:
        self._db = db
        self._objects = objects
        self._clock = clock
        self._links = links or Links(db)
        self._lock = threading.Lock()
        self._locations: OrderedDict[bytes, Location] = OrderedDict()

    def get(self, name: bytes) -> bytes:
        """The bytes of one chunk.

        :raises CorruptionError: if they are lost or damaged, naming the chunk and the pack.
        """
        if name == EMPTY_ROOT:
            return EMPTY_LEAF
        place = self._locate([name]).get(name)
        if place is None:
            linked = self._links.read(name)
            if linked is None:
                raise _lost(name)
            return linked
        return self._unpack(name, place, self._read(place.pack, place.offset, place.length, name))

    def get_many(self, names: Sequence[bytes]) -> dict[bytes, bytes]:
        """The bytes of those chunks that can be read, verified; of the others ``get`` says what is wrong with them.

        Chunks that lie near each other are read together.
        """
        with self._db.read() as connection:
            places = chunkindex.locate(connection, names)
        found = {EMPTY_ROOT: EMPTY_LEAF}
        for run in _runs(places):
            start = run[0][1].offset
            end = run[-1][1].offset + run[-1][1].length
            try:
                stored = self._objects.get(object_key(run[0][1].pack), offset=start, length=end - start)
            except NotFoundError:
                continue
            view = memoryview(stored)
            for name, place in run:
                at = place.offset - start
                with suppress(CorruptionError):
                    found[name] = self._unpack(name, place, view[at : at + place.length])
        return found

    def expect(self, name: bytes, neighbours: Iterable[bytes]) -> None:
        """``name`` will be read, and its neighbours probably after it: find their places with one query."""
        with self._lock:
            is_known = name in self._locations
        if not is_known:
            self._locate([name, *neighbours])

    def writer(self) -> ChunkWriter:
        return ChunkWriter(self._db, self._objects, self._clock, self)

    def _locate(self, names: Sequence[bytes]) -> dict[bytes, Location]:
        with self._lock:
            found = {name: place for name in names if (place := self._locations.get(name)) is not None}
        missing = [name for name in names if name not in found]
        if missing:
            with self._db.read() as connection:
                fresh = chunkindex.locate(connection, missing)
            found.update(fresh)
            with self._lock:
                self._locations.update(fresh)
                while len(self._locations) > LOCATIONS_CACHED_MAX:
                    self._locations.popitem(last=False)
        return found

    def _read(self, pack: str, offset: int, length: int, name: bytes) -> bytes:
        try:
            return self._objects.get(object_key(pack), offset=offset, length=length)
        except NotFoundError as error:
            raise CorruptionError(
                f"chunk {name.hex()} is lost: pack {pack} does not exist any more; "
                "run 'trunkline fsck' to see what needs it",
                kind="lost_pack",
                details={"chunk": name.hex(), "pack": pack},
            ) from error

    def _unpack(self, name: bytes, place: Location, stored: bytes | memoryview) -> bytes:
        try:
            raw = decompress(place.codec, stored, place.raw_length)
            if digest(raw) == name:
                return raw
            why = "its bytes have another hash"
        except CorruptionError as error:
            why = error.message
        raise CorruptionError(
            f"chunk {name.hex()} in pack {place.pack} at byte {place.offset} is damaged ({why}); "
            "run 'trunkline fsck' to see what needs it",
            kind="damaged_chunk",
            details={"chunk": name.hex(), "pack": place.pack, "offset": place.offset},
        )


def _runs(places: Mapping[bytes, Location]) -> Iterator[list[tuple[bytes, Location]]]:
    """Neighbours in one pack, which one read brings."""
    run: list[tuple[bytes, Location]] = []
    pack, start, end = "", 0, 0
    for item in sorted(places.items(), key=_by_place):
        place = item[1]
        after = place.offset + place.length
        if run and (
            place.pack != pack or place.offset > end + RUN_GAP_BYTES or after > start + RUN_BYTES_MAX
        ):
            yield run
            run = []
        if not run:
            pack, start = place.pack, place.offset
        run.append(item)
        end = after
    if run:
        yield run


def _by_place(item: tuple[bytes, Location]) -> tuple[str, int]:
    return item[1][:2]


def _lost(name: bytes) -> CorruptionError:
    return CorruptionError(
        f"chunk {name.hex()} is lost: no pack holds it; run 'trunkline fsck' to see what needs it",
        kind="lost_chunk",
        details={"chunk": name.hex()},
    )


class ChunkWriter:
    """Gathers new chunks into packs. For one thread; ``with`` ends its helper thread.

    What was added can be read back through ``get`` at once. Nothing is promised until ``finish`` has returned.
    """

    def __init__(self, db: Database, objects: ObjectStore, clock: Clock, store: ChunkStore) -> None:
        self._db = db
        self._objects = objects
        self._clock = clock
        self._store = store
        self._compress = Compressor()
        self._queue: dict[bytes, bytes] = {}
        self._queue_bytes = 0
        self._pack = PackBuilder()
        self._fresh: dict[bytes, tuple[int, bytes, int]] = {}
        self._in_flight: list[tuple[Future[None], PackBuilder]] = []
        self._pool: ThreadPoolExecutor | None = None
        self.chunks_written = 0
        self.bytes_written = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True)

    def add(self, raw: bytes) -> bytes:
        """Keep a chunk; returns its hash."""
        name = digest(raw)
        if name not in self._queue and name not in self._fresh and name != EMPTY_ROOT:
            self._queue[name] = raw
            self._queue_bytes += len(raw)
            if len(self._queue) >= QUEUE_CHUNKS_MAX or self._queue_bytes >= QUEUE_BYTES_MAX:
                self._drain()
        return name

    def get(self, name: bytes) -> bytes:
        """A chunk that was added here, or one from the store."""
        raw = self._queue.get(name)
        if raw is not None:
            return raw
        fresh = self._fresh.get(name)
        if fresh is not None:
            codec, stored, raw_length = fresh
            return decompress(codec, stored, raw_length)
        return self._store.get(name)

    def finish(self) -> None:
        """Make all that was added durable. The writer can be used further."""
        self._drain()
        self._send()
        while self._in_flight:
            self._settle()

    def _drain(self) -> None:
        if not self._queue:
            return
        with self._db.read() as connection:
            stored_already = chunkindex.known(connection, list(self._queue))
        for name, raw in self._queue.items():
            if name in stored_already:
                continue
            codec, stored = self._compress(raw)
            self._pack.add(name, codec, stored, len(raw))
            self._fresh[name] = (codec, stored, len(raw))
            self.chunks_written += 1
            self.bytes_written += len(stored)
            if self._pack.is_full:
                self._send()
        self._queue.clear()
        self._queue_bytes = 0

    def _send(self) -> None:
        """Write the pack in a helper thread, while the next one is being filled."""
        if not self._pack.records:
            return
        while len(self._in_flight) >= PACKS_IN_FLIGHT_MAX:
            self._settle()
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="packs")
        pack, self._pack = self._pack, PackBuilder()
        self._in_flight.append((self._pool.submit(self._store_pack, pack), pack))

    def _store_pack(self, pack: PackBuilder) -> None:
        name = pack.seal()
        self._objects.put(object_key(name), pack.parts)
        with self._db.write() as connection:
            chunkindex.add_pack(connection, name, pack.size, pack.records, self._clock.now())

    def _settle(self) -> None:
        future, pack = self._in_flight.pop(0)
        future.result()
        for record in pack.records:
            self._fresh.pop(record.hash, None)
