"""Two doors to the database: ``db.read()`` and ``db.write()``.

SQLite needs care: Python's own transaction handling starts nothing on SELECT, so a read-then-write in one block could lose
an update. Connections therefore run in autocommit mode, and ``write()`` itself says ``BEGIN IMMEDIATE``: writers queue at the
door and never deadlock. No network, object-store or subprocess call belongs inside either block.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, make_url
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import QueuePool

from trunkline.errors import CorruptionError, InvalidInputError, LimitError, StateError, UnavailableError
from trunkline.storage.db import schema

BUSY_TIMEOUT_MS = 30_000
POOL_CONNECTIONS_MAX = 64
NO_ROOM = frozenset({"SQLITE_FULL", "SQLITE_IOERR_SHMSIZE"})
"""SQLite's names for a full disk; the second, where not even the index of its write-ahead log has room."""


class Changes:
    """A counter that moves at every commit, so that background work wakes at once instead of polling fast."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._count = 0

    def bump(self) -> None:
        with self._condition:
            self._count += 1
            self._condition.notify_all()

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

    def __init__(self, url: str) -> None:
        self.changes = Changes()
        self.is_sqlite = make_url(url).get_backend_name() == "sqlite"
        options: dict[str, Any] = {
            "poolclass": QueuePool,
            "pool_size": 8,
            "max_overflow": POOL_CONNECTIONS_MAX - 8,
        }
        if self.is_sqlite:
            options["connect_args"] = {"check_same_thread": False, "isolation_level": None}
        else:
            options["isolation_level"] = "SERIALIZABLE"
        self._engine = sa.create_engine(url, **options)
        if self.is_sqlite:
            sa.event.listen(self._engine, "connect", _set_up_sqlite)
        with _translated():
            self._migrate()

    def _migrate(self) -> None:
        with self._engine.connect() as connection:
            if self.is_sqlite:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            schema.migrate(connection)
            connection.commit()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A consistent snapshot: all statements in the block see the same state."""
        with _translated(), self._engine.connect() as connection:
            if self.is_sqlite:
                connection.exec_driver_sql("BEGIN")
            try:
                yield connection
            finally:
                connection.rollback()

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction: all of the block or nothing, one writer at a time."""
        with _translated(), self._engine.connect() as connection:
            if self.is_sqlite:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.commit()  # the driver's commit() ends the transaction that BEGIN opened
            except BaseException:
                connection.rollback()
                raise
        self.changes.bump()

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
        """A consistent copy of the whole database in a new file, made while others write.

        :raises StateError: ``not_sqlite``: other databases have tools of their own.
        """
        if not self.is_sqlite:
            raise StateError(
                "only the built-in database is backed up here: use pg_dump for PostgreSQL", kind="not_sqlite"
            )
        with _translated(), self._engine.connect() as connection:
            connection.exec_driver_sql("VACUUM INTO ?", (str(path),))

    def close(self) -> None:
        self._engine.dispose()

    @property
    def file(self) -> Path | None:
        name = self._engine.url.database
        return Path(name) if self.is_sqlite and name else None


def _set_up_sqlite(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")  # an acknowledged commit survives a power cut
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute("PRAGMA cache_size=-16000")
    cursor.close()


@contextmanager
def _translated() -> Iterator[None]:
    """The driver's errors in our own tree."""
    try:
        yield
    except OverflowError as error:  # sqlite3's own, not wrapped by SQLAlchemy
        raise InvalidInputError(
            "a number is larger than can be stored: 64 bits", kind="number_too_large"
        ) from error
    except OperationalError as error:
        text = str(error.orig)
        if "full" in text or getattr(error.orig, "sqlite_errorname", "") in NO_ROOM:
            raise LimitError(
                "the disk is full: nothing was written; free some space in the data directory and repeat",
                kind="disk_full",
            ) from error
        if "malformed" in text or "not a database" in text:
            raise CorruptionError(f"the database is damaged: {text}", kind="database_damaged") from error
        raise UnavailableError(
            f"the database does not answer: {text}", kind="database_unavailable"
        ) from error
