"""Two doors to the database: ``db.read()`` and ``db.write()``.

SQLite needs care: Python's own transaction handling starts nothing on SELECT, so a read-then-write in one block could lose
an update. Connections therefore run in autocommit mode, and ``write()`` itself says ``BEGIN IMMEDIATE``: writers queue at the
door and never deadlock. PostgreSQL's writers queue at an advisory lock instead (``postgres``). No network, object-store or
subprocess call belongs inside either block.

A block inside a ``write()`` block of the same thread joins it: it sees what was written so far, and is undone with it. So use
cases can be put together into one transaction as they are.
"""

from __future__ import annotations

import secrets
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import QueuePool

from trunkline.errors import (
    CorruptionError,
    InvalidInputError,
    LimitError,
    StateError,
    TrunklineError,
    UnavailableError,
)
from trunkline.storage.db import jsontext, postgres, schema, transfer
from trunkline.storage.db.prepared import driver_of

BUSY_TIMEOUT_MS = 30_000
CHECKPOINT_PAGES = 8000
"""Pages of the log, 32 MiB, before they go into the database. Many rows have random keys: the same page is changed by one
transaction after the other, and written to its place once for all of them."""
STATEMENTS_KEPT = 256
"""Of each connection: about as many as there are that are asked often."""
POOL_CONNECTIONS_MAX = 64
POOL: dict[str, Any] = {"poolclass": QueuePool, "pool_size": 8, "max_overflow": POOL_CONNECTIONS_MAX - 8}
ONE_CONNECTION: dict[str, Any] = {"poolclass": QueuePool, "pool_size": 1, "max_overflow": 0}
READER_CACHE_KIB = 8_000
WRITER_CACHE_KIB = 32_000
"""SQLite's one writer has a connection of its own, since a connection forgets its pages when another one has written. It has room
for all that a large transaction changes: what has none is written to the log twice."""
NO_ROOM = frozenset({"SQLITE_FULL", "SQLITE_IOERR_SHMSIZE"})
"""SQLite's names for a full disk; the second, where not even the index of its write-ahead log has room."""


class Changes:
    """A counter that moves at commits, so that background work wakes at once instead of polling fast."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._count = 0
        self._listeners: set[Callable[[], object]] = set()

    def bump(self) -> None:
        with self._condition:
            self._count += 1
            self._condition.notify_all()
            for listener in self._listeners:
                listener()

    @contextmanager
    def told_to(self, listener: Callable[[], object]) -> Iterator[None]:
        """Call ``listener`` when it moves, in the thread that has made the commit: it must not wait."""
        with self._condition:
            self._listeners.add(listener)
        try:
            yield
        finally:
            with self._condition:
                self._listeners.discard(listener)

    def wait(self, seen: int, timeout_seconds: float) -> int:
        """Block until the count differs from ``seen`` or the time is over; return the count."""
        with self._condition:
            self._condition.wait_for(lambda: self._count != seen, timeout_seconds)
            return self._count

    @property
    def count(self) -> int:
        return self._count


class Database:
    """A handle on the database; one per process.

    :raises CorruptionError: if the file is not a database; ``UnavailableError`` if it is of a newer version.
    """

    def __init__(self, url: str, before_new: Callable[[], object] = lambda: None) -> None:
        """``before_new`` is called before the first tables are made: where it raises, none are."""
        self.changes = Changes()
        """Moves at every commit."""
        self._named: WeakValueDictionary[str, Changes] = WeakValueDictionary()
        self._naming = threading.Lock()
        self._server_token: str | None = None
        self._outer = threading.local()
        self._turn = threading.Lock()
        place = _parse(url)
        self.is_sqlite = place.get_backend_name() == "sqlite"
        if self.is_sqlite:
            self._engine = self._readers = _sqlite_engine(place, POOL, READER_CACHE_KIB)
            self._writers = _sqlite_engine(place, ONE_CONNECTION, WRITER_CACHE_KIB)
        else:
            self._engine = self._writers = _postgres_engine(place)
            self._readers = self._engine.execution_options(**postgres.READER_OPTIONS)
        try:
            with _translated():
                self._migrate(before_new)
        except BaseException:
            self.close()
            raise

    def _migrate(self, before_new: Callable[[], object]) -> None:
        with self._engine.connect() as connection:
            if not self.is_sqlite:
                postgres.check_encoding(connection)
            if schema.version_of(connection) is None:
                before_new()  # before the transaction: it may look into a bucket
            self._begin_write(connection)
            schema.migrate(connection)
            connection.commit()

    def _begin_write(self, connection: Connection) -> None:
        if self.is_sqlite:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            postgres.wait_for_turn(connection)
            if self._server_token is not None:
                postgres.check_not_replaced(connection, self._server_token)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A consistent snapshot: all statements in the block see the same state."""
        outer = self._joined()
        if outer is not None:
            yield outer
            return
        with _translated(), self._readers.connect() as connection:
            if not self.is_sqlite:
                try:
                    yield connection
                finally:
                    connection.rollback()
                return
            driver = driver_of(connection)
            driver.execute("BEGIN")
            try:
                yield connection
            finally:
                driver.rollback()

    @contextmanager
    def write(self, *, wakes: bool = True, syncs: bool = True, spills: bool = True) -> Iterator[Connection]:
        """One transaction: all of the block or nothing, one writer at a time. ``wakes``: let background work look whether
        there is something to do. Without ``syncs`` it does not wait for the disk: a power cut may undo it, with all that was
        written after it and not synced either. For steps that are simply taken again; a later write that syncs keeps it.
        Without ``spills`` SQLite keeps in memory, not in a file, what it needs to undo one statement: the pages that this has
        changed. For statements that change a thousand rows at most."""
        outer = self._joined()
        if outer is not None:
            with self._nested(outer):
                yield outer
            return
        with _translated(), self._in_turn(), self._writers.connect() as connection:
            if self.is_sqlite and not syncs:
                driver_of(connection).execute("PRAGMA synchronous=NORMAL")
            if self.is_sqlite and not spills:
                driver_of(connection).execute("PRAGMA temp_store=MEMORY")
            self._begin_write(connection)
            if not self.is_sqlite and not syncs:
                connection.exec_driver_sql("SET LOCAL synchronous_commit = off")
            self._outer.connection = connection
            touched: set[str] = set()
            self._outer.touched = touched
            try:
                yield connection
                connection.commit()  # the driver's commit() ends the transaction that BEGIN opened
            except BaseException:
                connection.rollback()
                raise
            finally:
                self._outer.connection = self._outer.touched = None
                if self.is_sqlite and not syncs:
                    driver_of(connection).execute("PRAGMA synchronous=FULL")
                if self.is_sqlite and not spills:
                    driver_of(connection).execute("PRAGMA temp_store=DEFAULT")
        for name in touched:
            if (changes := self._named.get(name)) is not None:
                changes.bump()
        if wakes:
            self.changes.bump()

    @contextmanager
    def _nested(self, outer: Connection) -> Iterator[None]:
        """A block that fails is undone, even if somebody catches what it raised."""
        if not self.is_sqlite:
            with outer.begin_nested():
                yield
            return
        driver = driver_of(outer)
        driver.execute("SAVEPOINT inner_block")
        try:
            yield
        except BaseException:
            with suppress(sqlite3.OperationalError):  # a full disk, say, has undone all of it already
                driver.execute("ROLLBACK TO inner_block")
                driver.execute("RELEASE inner_block")
            raise
        driver.execute("RELEASE inner_block")

    @contextmanager
    def _in_turn(self) -> Iterator[None]:
        """One writer of this process at a time. SQLite's own way to wait is to look again, after pauses that grow."""
        if not self.is_sqlite:
            yield
            return
        if not self._turn.acquire(timeout=BUSY_TIMEOUT_MS / 1000):
            raise UnavailableError(
                "the database does not answer: another writer has it", kind="database_unavailable"
            )
        try:
            yield
        finally:
            self._turn.release()

    def changes_of(self, name: str) -> Changes:
        """Moves at the commits of writes that ``touch`` this name only, for those who would look into the database in vain
        after most of the others. Ask for it before you look."""
        with self._naming:
            return self._named.setdefault(name, Changes())

    def touch(self, name: str) -> None:
        """Within ``write()``: its commit moves the ``changes_of`` this name."""
        self._outer.touched.add(name)

    def wake_all(self) -> None:
        """Let everybody who waits for a change look."""
        with self._naming:
            found = list(self._named.values())
        for changes in (*found, self.changes):
            changes.bump()

    def _joined(self) -> Connection | None:
        """The connection of this thread's ``write()`` block, inside of one."""
        found: Connection | None = getattr(self._outer, "connection", None)
        return found

    def run(self, work: Callable[[Connection], Any]) -> Any:
        """``work`` in one write transaction; returns what it returns."""
        with self.write() as connection:
            return work(connection)

    def damage(self) -> list[str]:
        """What the database itself finds wrong with its file; empty if all is well, or if it has no such check."""
        if not self.is_sqlite:
            return []
        with self.read() as connection:
            said = [str(row[0]) for row in connection.exec_driver_sql("PRAGMA integrity_check(20)")]
            lost = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
        found = [line for line in said if line != "ok"]
        return found + [
            f"row {row[1]} of table {row[0]} refers to a missing row of {row[2]}" for row in lost[:20]
        ]

    def snapshot(self, path: Path) -> None:
        """A consistent copy of the whole database in a new file of SQLite, made while others write."""
        if not self.is_sqlite:
            copy = Database(f"sqlite:///{path}")
            try:
                with self.read() as source, copy.write() as target:
                    transfer.copy_rows(source, target)
            finally:
                copy.close()
            return
        with _translated(), self._engine.connect() as connection:
            connection.exec_driver_sql("VACUUM INTO ?", (str(path),))

    def check_unused(self) -> None:
        """:raises StateError: ``database_not_empty``, if anything was ever written to it."""
        with self.read() as connection:
            self._check_unused(connection)

    def _check_unused(self, connection: Connection) -> None:
        used = transfer.used_table(connection)
        if used is not None:
            raise StateError(
                f"the database {self.shown_url} is not empty (table {used} has rows): name a new one",
                kind="database_not_empty",
            )

    def fill_from(self, snapshot: Path) -> None:
        """Take over all that a copy made by ``snapshot`` holds, in one transaction, and compare it when it is there.

        :raises StateError: ``database_not_empty``. :raises InvalidInputError: ``nul_character``.
        """
        copy = Database(f"sqlite:///{snapshot}")
        try:
            with copy.read() as source, self.write() as target:
                self._check_unused(target)
                transfer.copy_rows(source, target)
        finally:
            copy.close()

    @contextmanager
    def only_server(self) -> Iterator[None]:
        """Be the only control server of the database. SQLite's is the only one of its data directory anyway.

        :raises StateError: ``already_running``.
        """
        if self.is_sqlite:
            yield
            return
        with _translated():
            connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        try:
            with _translated():
                is_ours = postgres.try_server_lock(connection)
            if not is_ours:
                raise StateError(
                    f"another server runs on the database {self.shown_url} already: end it first, or name another database",
                    kind="already_running",
                )
            token = secrets.token_hex(16)
            with self.write() as writer:
                postgres.take_over(writer, token)
            self._server_token = token
            yield
        finally:
            self._server_token = None
            connection.invalidate()  # closes the session, and with it the lock
            connection.close()

    @property
    def shown_url(self) -> str:
        """Where it is, without a password."""
        url = self._engine.url
        return url.set(drivername=url.get_backend_name()).render_as_string(hide_password=True)

    def close(self) -> None:
        self._writers.dispose()
        self._engine.dispose()

    @property
    def file(self) -> Path | None:
        name = self._engine.url.database
        return Path(name) if self.is_sqlite and name else None


def _parse(url: str) -> URL:
    try:
        place = make_url(url)
        backend = place.get_backend_name()
    except ArgumentError as error:
        raise InvalidInputError(
            "database_url is not understood: write postgresql://USER@HOST:PORT/DATABASE",
            kind="bad_database_url",
        ) from error
    if backend not in ("sqlite", "postgresql"):
        raise InvalidInputError(
            f"database_url names {backend!r}: only sqlite and postgresql are supported",
            kind="bad_database_url",
        )
    return place


def _sqlite_engine(place: URL, pool: Mapping[str, Any], cache_kib: int) -> Engine:
    engine = sa.create_engine(
        place, **pool,
        connect_args={"check_same_thread": False, "isolation_level": None, "cached_statements": STATEMENTS_KEPT},
        json_serializer=jsontext.written, json_deserializer=jsontext.read,
    )  # fmt: skip
    sa.event.listen(engine, "connect", partial(_set_up_sqlite, cache_kib))
    return engine


def _postgres_engine(place: URL) -> Engine:
    try:
        engine = sa.create_engine(postgres.engine_url(place), **POOL, **postgres.engine_options())
    except ImportError as error:
        raise UnavailableError(
            "PostgreSQL needs a driver that is not installed: pip install 'trunkline[postgres]'",
            kind="missing_extra",
        ) from error
    sa.event.listen(engine, "connect", postgres.set_up)
    return engine


def _set_up_sqlite(cache_kib: int, connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")  # an acknowledged commit survives a power cut
    cursor.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute(f"PRAGMA cache_size=-{cache_kib}")
    cursor.close()


def _is_damage(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _damaged(why: str) -> CorruptionError:
    return CorruptionError(
        f"the database is damaged: {why}; restore a backup into a new place: 'trunkline restore BACKUP --home DIR'",
        kind="database_damaged",
    )


@contextmanager
def _translated() -> Iterator[None]:
    """The driver's errors in our own tree."""
    try:
        yield
    except OverflowError as error:  # sqlite3's own, not wrapped by SQLAlchemy
        raise InvalidInputError(
            "a number is larger than can be stored: 64 bits", kind="number_too_large"
        ) from error
    except UnicodeEncodeError as error:
        raise InvalidInputError(
            "a text has half a surrogate pair, which cannot be stored: remove it", kind="bad_text"
        ) from error
    except PoolTimeoutError as error:
        raise UnavailableError(
            "all connections to the database are busy: try again", kind="database_busy"
        ) from error
    except sqlite3.Error as error:
        translated = _meaning_of(error)
        if translated is None:
            raise
        raise translated from error
    except DBAPIError as error:
        cause = error.orig
        translated = _meaning_of(cause) if isinstance(cause, sqlite3.Error) else postgres.translate(error)
        if translated is None:
            raise
        raise translated from error


def _meaning_of(error: sqlite3.Error) -> TrunklineError | None:
    """None for what is nobody's fault but ours."""
    text = str(error)
    if _is_damage(error):
        return _damaged(text)
    if not isinstance(error, sqlite3.OperationalError):
        return None
    if "full" in text or getattr(error, "sqlite_errorname", "") in NO_ROOM:
        return LimitError(
            "the disk is full: nothing was written; free some space in the data directory and repeat",
            kind="disk_full",
        )
    return UnavailableError(f"the database does not answer: {text}", kind="database_unavailable")
