"""The SQL on ``packs`` and ``chunks``: which chunk lies where. Everything else about refs is in ``store.py``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from trunkline.storage.db.prepared import Prepared, rows_of
from trunkline.storage.db.schema import chunks, packs
from trunkline.storage.db.upsert import upsert
from trunkline.versioning.packs import PackRecord

HASHES_PER_QUERY = 500
HASHES_PER_STATEMENT = 4096
"""Of plain SQL. SQLite takes 32,766 variables at most."""
ROWS_PER_STATEMENT = 1024

# Built once: building them costs more than running them.
_WANTED = chunks.c.hash.in_(sa.bindparam("hashes", expanding=True))
_KNOWN = sa.select(chunks.c.hash).where(_WANTED)
_LOCATE = (
    sa.select(
        chunks.c.hash, packs.c.name, chunks.c.offset, chunks.c.length, chunks.c.raw_length, chunks.c.codec
    )
    .join_from(chunks, packs)
    .where(_WANTED)
)
_PACKS_OF = sa.select(chunks.c.hash, chunks.c.pack_id).where(_WANTED)
_PACKS_OF_SQL = "SELECT hash, pack_id FROM chunks WHERE hash IN "
_KNOWN_SQL = "SELECT hash FROM chunks WHERE hash IN "
_LOCATE_SQL = (
    "SELECT c.hash, p.name, c.offset, c.length, c.raw_length, c.codec"
    " FROM chunks c JOIN packs p ON p.id = c.pack_id WHERE c.hash IN "
)


class Location(NamedTuple):
    """Where to read a chunk."""

    pack: str
    offset: int
    length: int
    raw_length: int
    codec: int


def locate(connection: Connection, hashes: Sequence[bytes]) -> dict[bytes, Location]:
    """The places of those chunks that are known."""
    found: dict[bytes, Location] = {}
    if connection.dialect.name == "sqlite":
        for row in _ask(connection, _LOCATE_SQL, hashes):
            found[row[0]] = Location._make(row[1:])
        return found
    for start in range(0, len(hashes), HASHES_PER_QUERY):
        part = hashes[start : start + HASHES_PER_QUERY]
        for name, *place in connection.execute(_LOCATE, {"hashes": part}):
            found[name] = Location(*place)
    return found


def known(connection: Connection, hashes: Sequence[bytes]) -> set[bytes]:
    """Those of the hashes that are stored."""
    if connection.dialect.name == "sqlite":
        return {row[0] for row in _ask(connection, _KNOWN_SQL, hashes)}
    found: set[bytes] = set()
    for start in range(0, len(hashes), HASHES_PER_QUERY):
        part = hashes[start : start + HASHES_PER_QUERY]
        found.update(connection.execute(_KNOWN, {"hashes": part}).scalars())
    return found


def packs_of(connection: Connection, hashes: Sequence[bytes]) -> dict[bytes, int]:
    """The keys of the packs that hold those of the hashes that are stored."""
    if connection.dialect.name == "sqlite":
        return {row[0]: row[1] for row in _ask(connection, _PACKS_OF_SQL, hashes)}
    found: dict[bytes, int] = {}
    for start in range(0, len(hashes), HASHES_PER_QUERY):
        part = hashes[start : start + HASHES_PER_QUERY]
        found.update((name, pack) for name, pack in connection.execute(_PACKS_OF, {"hashes": part}))
    return found


def _ask(connection: Connection, question: str, hashes: Sequence[bytes]) -> Iterator[tuple[Any, ...]]:
    """Plain SQL: for a million chunks, composing the statements would cost more than running them. Long lists in few
    statements, whose lengths are powers of two, so that SQLite need not parse many of them."""
    for start in range(0, len(hashes), HASHES_PER_STATEMENT):
        part = hashes[start : start + HASHES_PER_STATEMENT]
        count = 1 << (len(part) - 1).bit_length()
        if len(part) < count:
            part = [*part, *[part[-1]] * (count - len(part))]
        yield from rows_of(connection, question + _marks("?", count), tuple(part))


@lru_cache(maxsize=64)
def _marks(one: str, count: int) -> str:
    return "(" + ",".join([one] * count) + ")"


_ADD_PACK = Prepared(
    upsert(packs)
    .values({name: sa.bindparam(name) for name in ("name", "size", "created_at")})
    .on_conflict_do_nothing()
)
_PACK_KEY = Prepared(sa.select(packs.c.id).where(packs.c.name == sa.bindparam("name")))
_CHUNKS_IN = Prepared(
    sa.select(sa.func.count().label("number"))
    .select_from(chunks)
    .where(chunks.c.pack_id == sa.bindparam("pack"))
)


def add_pack(connection: Connection, name: str, size: int, records: Iterable[PackRecord], now: float) -> int:
    """Record a pack that is durable; returns its key. A chunk that is known already keeps its place."""
    is_sqlite = connection.dialect.name == "sqlite"
    _ADD_PACK.run(connection, name=name, size=size, created_at=now)
    pack_id = _PACK_KEY.scalar(connection, name=name)
    if is_sqlite:
        _add_chunks(connection, pack_id, records)
        return int(pack_id)
    rows = [
        {
            "hash": r.hash, "pack_id": pack_id, "offset": r.offset, "length": r.length,
            "raw_length": r.raw_length, "codec": r.codec,
        }
        for r in records
    ]  # fmt: skip
    if rows:
        connection.execute(upsert(chunks).on_conflict_do_nothing(), rows)
    return int(pack_id)


def _add_chunks(connection: Connection, pack_id: int, records: Iterable[PackRecord]) -> None:
    """In the order of the hashes, as the table's tree has them, and many in one statement: between statements a thread
    gives other threads the interpreter, and may wait long for its next turn."""
    ordered = sorted(records)
    for start in range(0, len(ordered), ROWS_PER_STATEMENT):
        part = ordered[start : start + ROWS_PER_STATEMENT]
        values: list[Any] = []
        for name, offset, length, raw_length, codec in part:
            values += (name, pack_id, offset, length, raw_length, codec)
        connection.exec_driver_sql(_insert_chunks(len(part)), tuple(values))


@lru_cache(maxsize=8)
def _insert_chunks(count: int) -> str:
    columns = "hash, pack_id, offset, length, raw_length, codec"
    rows = ",".join(["(?,?,?,?,?,?)"] * count)
    return f"INSERT INTO chunks ({columns}) VALUES {rows} ON CONFLICT DO NOTHING"


def chunks_in(connection: Connection, pack_id: int) -> int:
    """How many chunks are read from a pack."""
    return int(_CHUNKS_IN.scalar(connection, pack=pack_id))


def has_pack(connection: Connection, name: str) -> bool:
    return connection.execute(sa.select(packs.c.id).where(packs.c.name == name)).first() is not None


def move_chunks(connection: Connection, old_pack: int, new_pack: int, records: Sequence[PackRecord]) -> None:
    """Chunks are read from another pack from now on, where they are still read from the old one."""
    statement = (
        sa.update(chunks)
        .where(chunks.c.hash == sa.bindparam("name"), chunks.c.pack_id == old_pack)
        .values(
            pack_id=new_pack,
            offset=sa.bindparam("at"),
            length=sa.bindparam("stored"),
            codec=sa.bindparam("how"),
        )
    )
    rows = [{"name": r.hash, "at": r.offset, "stored": r.length, "how": r.codec} for r in records]
    if rows:
        connection.execute(statement, rows)


def key_of(connection: Connection, name: str) -> int | None:
    return connection.execute(sa.select(packs.c.id).where(packs.c.name == name)).scalar_one_or_none()


def all_packs(connection: Connection) -> list[tuple[int, str, int]]:
    """Key, name and size of every pack."""
    query = sa.select(packs.c.id, packs.c.name, packs.c.size).order_by(packs.c.id)
    return [(key, name, size) for key, name, size in connection.execute(query)]


def list_packs(connection: Connection) -> list[tuple[str, int]]:
    """Name and size of every pack."""
    return [
        (name, size)
        for name, size in connection.execute(sa.select(packs.c.name, packs.c.size).order_by(packs.c.id))
    ]
