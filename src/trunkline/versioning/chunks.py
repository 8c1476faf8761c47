"""Chunks: written through a ``ChunkWriter`` into packs, read back by hash, verified every time.

Order of writing: a pack is durable in the object store before its rows are in the database, and both before ``finish``
returns. A crash leaves at most a pack that nothing refers to.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import chain
from types import TracebackType
from typing import Self, TypeVar, cast

from blake3 import blake3

from trunkline.core.clock import Clock
from trunkline.core.hashing import digest
from trunkline.errors import CorruptionError, NotFoundError, UnavailableError
from trunkline.storage.db.engine import Database
from trunkline.storage.objects.base import GET_SLACK_BYTES, ObjectStore
from trunkline.versioning import chunkindex, maintenance, slabs, writers
from trunkline.versioning.chunkindex import Location
from trunkline.versioning.files import Content, ListBuilder
from trunkline.versioning.links import Links
from trunkline.versioning.nodes import EMPTY_LEAF, EMPTY_ROOT, ListRef
from trunkline.versioning.packs import (
    COMPRESS_MIN_BYTES,
    STORED,
    Compressor,
    PackBuilder,
    decompress,
    object_key,
)
from trunkline.versioning.slabs import Slabs
from trunkline.versioning.writers import Writers

QUEUE_CHUNKS_MAX = 8192
QUEUE_BYTES_MAX = 8 * 2**20
SLABS_HASHED_AHEAD = 1
BATCHES_COMPRESSED_AHEAD = 1
HELP_FROM_BYTES = 2**20
HELP_FROM_MEAN = 4096
"""Batches of so many bytes in all and per chunk are compressed by another thread: with less, handing over costs more."""
KEPT_SHARE = 0.5
"""Where less of what lies in buffers goes into a pack as it is, that is copied out of them."""
PACKS_IN_FLIGHT_MAX = 2
LOCATIONS_CACHED_MAX = 20_000
STORE_ATTEMPTS_MAX = 200
COLLECTOR_POLL_SECONDS = 0.05
RUN_BYTES_MAX = 4 * 2**20
RUN_GAP_BYTES = 32 * 2**10
"""So many bytes are rather read and thrown away than left out."""


T = TypeVar("T")
R = TypeVar("R")


Stored = tuple[int, bytes | memoryview, int]
"""A chunk as it will be in its pack: codec, bytes, length before compression."""


class ChunkStore:
    """All chunks of a data directory. Safe between threads."""

    def __init__(
        self,
        db: Database,
        objects: ObjectStore,
        clock: Clock,
        *,
        links: Links | None = None,
        registry: Writers | None = None,
    ) -> None:
        self._db = db
        self._objects = objects
        self._clock = clock
        self._links = links or Links(db)
        self.writers = registry or Writers()
        self.readers = objects.readers
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
        try:
            stored = self._read(place.pack, place.offset, place.length, name)
        except CorruptionError:
            moved = self._moved(name, place)  # the collector may have put it into another pack since
            if moved is None:
                raise
            place, stored = moved, self._read(moved.pack, moved.offset, moved.length, name)
        return self._unpack(name, place, stored)

    def _moved(self, name: bytes, old: Location) -> Location | None:
        """Where a chunk lies now, if that is not where it was."""
        self.forget([name])
        place = self._locate([name]).get(name)
        return place if place is not None and place.pack != old.pack else None

    def forget(self, names: Iterable[bytes]) -> None:
        """Look their places up again when they are asked for next."""
        with self._lock:
            for name in names:
                self._locations.pop(name, None)

    def get_many(self, names: Sequence[bytes]) -> dict[bytes, bytes]:
        """The bytes of those chunks that can be read, verified; of the others ``get`` says what is wrong with them.

        Chunks that lie near each other are read together.
        """
        return {name: bytes(data) for name, data in self.get_into(names, memoryview(b"")).items()}

    def get_into(self, names: Sequence[bytes], buffer: memoryview) -> dict[bytes, bytes | memoryview]:
        """As ``get_many``; what is stored uncompressed is no copy, but lies in ``buffer`` as far as that has room."""
        with self._db.read() as connection:
            places = chunkindex.locate(connection, names)
        found: dict[bytes, bytes | memoryview] = {EMPTY_ROOT: EMPTY_LEAF}
        for run in _runs(places):
            start = run[0][1].offset
            length = run[-1][1].offset + run[-1][1].length - start
            key = object_key(run[0][1].pack)
            try:
                if length <= len(buffer):
                    stored = self._objects.get_into(
                        key, buffer[: length + GET_SLACK_BYTES], offset=start, length=length
                    )
                    buffer = buffer[length + GET_SLACK_BYTES :]
                else:
                    stored = memoryview(self._objects.get(key, offset=start, length=length))
            except NotFoundError:
                continue
            for name, place in run:
                at = place.offset - start
                piece = stored[at : at + place.length]
                if place.codec != STORED:
                    with suppress(CorruptionError):
                        found[name] = self._unpack(name, place, piece)
                elif len(piece) == place.raw_length and digest(piece) == name:
                    found[name] = piece
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
    """Gathers new chunks into packs. For one thread; ``with`` ends its helper threads.

    What was added can be read back through ``get`` at once. Nothing is promised until ``finish`` has returned.

    A chunk is first in the queue, until there are enough to ask the database which are stored already; then it may be
    compressed in a helper thread; then it is part of a pack, which two more threads write while the next one fills.
    """

    def __init__(self, db: Database, objects: ObjectStore, clock: Clock, store: ChunkStore) -> None:
        self._db = db
        self._objects = objects
        self._clock = clock
        self._store = store
        self.lease = store.writers.begin()
        self._compress = Compressor()
        self.slabs = Slabs()
        self._queue: dict[bytes, bytes | memoryview] = {}
        self._queue_bytes = 0
        self._pack = PackBuilder()
        self._fresh: dict[bytes, Stored] = {}
        self._compressing: deque[tuple[list[bytes], Future[list[Stored]]]] = deque()
        self._in_flight: deque[tuple[Future[None], PackBuilder]] = deque()
        self._helper: ThreadPoolExecutor | None = None
        self._pool: ThreadPoolExecutor | None = None
        self.chunks_written = 0
        self.bytes_written = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pool in (self._helper, self._pool):
            if pool is not None:
                pool.shutdown(wait=True, cancel_futures=True)
        self.slabs.close()
        self.lease.end()

    def add(self, raw: bytes) -> bytes:
        """Keep a chunk; returns its hash."""
        name = digest(raw)
        if name not in self._queue and name not in self._fresh and name != EMPTY_ROOT:
            self._queue[name] = raw
            self._queue_bytes += len(raw)
            if len(self._queue) >= QUEUE_CHUNKS_MAX or self._queue_bytes >= QUEUE_BYTES_MAX:
                self._drain()
        return name

    def add_stream(self, parts: Iterable[bytes | memoryview]) -> Iterator[ListRef]:
        """Cut a stream that is longer than one chunk, and keep the chunks. Hashes in a helper thread."""
        return self._add_cut(slabs.from_parts(parts))

    def add_content(self, fill: slabs.Fill) -> Content:
        """Keep a whole content, received straight into our buffers."""
        refs = self._add_cut(fill)
        first, second = next(refs), next(refs, None)
        if second is None:
            return Content(first.size, first.hash, 0)
        builder = ListBuilder(self.add)
        for ref in chain((first, second), refs):
            builder.add(ref)
        return builder.finish()

    def _add_cut(self, fill: slabs.Fill) -> Iterator[ListRef]:
        hashing: deque[tuple[slabs.Cut, Future[list[bytes]]]] = deque()
        for cut in slabs.cut(fill, self.slabs):
            hashing.append((cut, self.hash_ahead(cut.whole, cut.chunks)))
            self.slabs.release(cut.whole)
            if len(hashing) > SLABS_HASHED_AHEAD:
                yield from self._add_hashed_cut(*hashing.popleft())
        while hashing:
            yield from self._add_hashed_cut(*hashing.popleft())

    def _add_hashed_cut(self, cut: slabs.Cut, hashing: Future[list[bytes]]) -> list[ListRef]:
        names = hashing.result()
        refs = [ListRef(0, name, len(chunk)) for name, chunk in zip(names, cut.chunks, strict=True)]
        self.add_hashed(cut.whole, names, cut.chunks)
        return refs

    def hash_ahead(self, whole: memoryview, chunks: Sequence[bytes | memoryview]) -> Future[list[bytes]]:
        """The names of chunks that lie in a buffer of ours, which stays as it is until ``add_hashed``. By a helper thread,
        where there is enough to hash."""
        self.slabs.hold(whole)
        if sum(map(len, chunks)) >= HELP_FROM_MEAN * len(chunks):
            return self._help(_digests, chunks)
        done: Future[list[bytes]] = Future()
        done.set_result(_digests(chunks))
        return done

    def add_hashed(self, whole: memoryview, names: list[bytes], chunks: Sequence[bytes | memoryview]) -> None:
        """Keep the chunks that ``hash_ahead`` was given."""
        queue, fresh, hold = self._queue, self._fresh, self.slabs.hold
        size = 0
        for name, chunk in zip(names, chunks, strict=True):
            if name not in queue and name not in fresh and name != EMPTY_ROOT:
                hold(chunk)
                queue[name] = chunk
                size += len(chunk)
        self._queue_bytes += size
        self.slabs.release(whole)
        if len(queue) >= QUEUE_CHUNKS_MAX or self._queue_bytes >= QUEUE_BYTES_MAX:
            self._drain()

    def get(self, name: bytes) -> bytes:
        """A chunk that was added here, or one from the store."""
        raw = self._queue.get(name)
        if raw is not None:
            return bytes(raw)
        fresh = self._fresh.get(name)
        if fresh is not None:
            codec, stored, raw_length = fresh
            return decompress(codec, stored, raw_length)
        return self._store.get(name)

    def get_many(self, names: Sequence[bytes]) -> dict[bytes, bytes]:
        """Those of the chunks that can be read; see ``ChunkStore.get_many``."""
        here = {name: self.get(name) for name in names if name in self._queue or name in self._fresh}
        return here | self._store.get_many([name for name in names if name not in here])

    def finish(self) -> None:
        """Make all that was added durable. The writer can be used further."""
        self._drain()
        self._pack_compressed(0)
        if self._pool is None:  # all of it fits into one pack: no need of a thread
            pack, self._pack = self._pack, PackBuilder()
            self._store_pack(pack)
            self._release(pack)
        else:
            self._send()
        while self._in_flight:
            self._settle()

    def _drain(self) -> None:
        """Chunks that are not stored yet go on into packs."""
        if not self._queue:
            return
        new, asked = self._queue, self._queue_bytes
        stored_already = self.lease.known(self._db, list(new))
        self._queue, self._queue_bytes = {}, 0
        for name in stored_already:
            self.slabs.release(new.pop(name))
        size = sum(map(len, new.values())) if stored_already else asked
        if size < KEPT_SHARE * asked or size < HELP_FROM_MEAN * len(new):
            new = {name: self._copied(raw) for name, raw in new.items()}
        if size >= HELP_FROM_BYTES and size >= HELP_FROM_MEAN * len(new):
            for name, raw in new.items():
                self._fresh[name] = (STORED, raw, len(raw))
            self._compressing.append((list(new), self._help(self._compress_all, list(new.values()))))
            self._pack_compressed(BATCHES_COMPRESSED_AHEAD)
            return
        self._pack_compressed(0)
        for name, raw in new.items():
            length = len(raw)
            codec, data = self._compress(raw) if length >= COMPRESS_MIN_BYTES else (STORED, raw)
            self._fresh[name] = (codec, data, length)
            self._put_into_pack(name, codec, data, length)

    def _pack_compressed(self, left: int) -> None:
        while len(self._compressing) > left:
            names, future = self._compressing.popleft()
            for name, item in zip(names, future.result(), strict=True):
                codec, data, raw_length = item
                raw = self._fresh[name][1]
                if data is not raw:
                    self.slabs.release(raw)
                    self._fresh[name] = item
                self._put_into_pack(name, codec, data, raw_length)

    def _compress_all(self, raws: list[bytes | memoryview]) -> list[Stored]:
        """One batch after the other, never two at once."""
        compress = self._compress
        done: list[Stored] = [(*compress(raw), len(raw)) for raw in raws]
        kept = sum(raw_length for codec, _, raw_length in done if codec == STORED)
        if kept >= KEPT_SHARE * sum(map(len, raws)):
            return done
        return [(codec, bytes(data), raw_length) for codec, data, raw_length in done]

    def _copied(self, raw: bytes | memoryview) -> bytes:
        """Out of its buffer, which is worth keeping only where most of it goes into a pack."""
        copy = bytes(raw)
        self.slabs.release(raw)
        return copy

    def _put_into_pack(self, name: bytes, codec: int, data: bytes | memoryview, raw_length: int) -> None:
        self._pack.add(name, codec, data, raw_length)
        self.chunks_written += 1
        self.bytes_written += len(data)
        if self._pack.is_full:
            self._send()

    def _help(self, work: Callable[[T], R], given: T) -> Future[R]:
        if self._helper is None:
            self._helper = ThreadPoolExecutor(1, thread_name_prefix="chunks")
        return self._helper.submit(work, given)

    def _send(self) -> None:
        """Write the pack in a helper thread, while the next one is being filled."""
        if not self._pack.records:
            return
        while len(self._in_flight) >= PACKS_IN_FLIGHT_MAX:
            self._settle()
        if self._pool is None:
            self._pool = ThreadPoolExecutor(PACKS_IN_FLIGHT_MAX, thread_name_prefix="packs")
        pack, self._pack = self._pack, PackBuilder()
        self._in_flight.append((self._pool.submit(self._store_pack, pack), pack))

    def _store_pack(self, pack: PackBuilder) -> None:
        if not pack.records:
            return
        name = pack.seal()
        self.lease.own(name)
        for _ in range(STORE_ATTEMPTS_MAX):
            self._objects.put(object_key(name), cast("list[bytes]", pack.parts))  # or views of bytes: as good
            if self._record_pack(name, pack):
                return
        raise UnavailableError(
            f"pack {name} is being deleted while it is stored again: repeat that", kind="busy"
        )

    def _record_pack(self, name: str, pack: PackBuilder) -> bool:
        """Write its rows. False if that must be tried again, with the object stored once more: the collector was at it."""
        now = self._clock.now()
        with self._db.write(wakes=False, spills=False) as connection:  # nobody waits for a pack
            is_condemned = writers.is_condemned(connection, name)
            if not is_condemned:
                key = chunkindex.add_pack(connection, name, pack.size, pack.records, now)
                is_alone = chunkindex.chunks_in(connection, key) == len(pack.records)
            elif not maintenance.is_running(connection, now):  # who condemned it is dead
                writers.pardon(connection, [name])
        if is_condemned:
            threading.Event().wait(COLLECTOR_POLL_SECONDS)
            return False
        names = [record.hash for record in pack.records]  # others were faster with some: rely on theirs
        return is_alone or len(self.lease.known(self._db, names)) == len(set(names))

    def _settle(self) -> None:
        future, pack = self._in_flight.popleft()
        future.result()
        self._release(pack)

    def _release(self, pack: PackBuilder) -> None:
        for record in pack.records:
            self._fresh.pop(record.hash, None)
        for view in pack.views:
            self.slabs.release(view)


def _digests(pieces: Sequence[bytes | memoryview]) -> list[bytes]:
    return [blake3(piece).digest() for piece in pieces]
