"""Egress to tables of a database: PostgreSQL and SQLite. A top directory of the output is a table; the rows of each table in
which a file changed are deleted and inserted again, all tables in one transaction."""

from __future__ import annotations

import importlib
import sqlite3
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from trunkline.errors import InvalidInputError, PermissionDeniedError, UnavailableError
from trunkline.pipelines.egress.base import CHECK_FILES, Parcel, Target
from trunkline.pipelines.egress.rows import csv_rows, json_rows, text_of
from trunkline.versioning.model import FileInfo

ROWS_AT_ONCE = 1000
CONNECT_SECONDS = 10
BUSY_SECONDS = 30.0


class SqlTarget(Target):
    """What both kinds of database have in common."""

    def __init__(self, *, format_: str, columns: Sequence[str]) -> None:
        self._format = format_
        self._columns = tuple(columns)

    def send(self, parcel: Parcel) -> None:
        folders = parcel.folders()
        if "" in folders:
            stray = next((info.path for info in parcel.put() if "/" not in info.path[1:]), None)
            if stray is not None:
                raise InvalidInputError(
                    f"{stray} is in no folder, so it belongs to no table: write to /pfs/out/TABLE/",
                    kind="bad_rows",
                )
            del folders[""]
        if folders:
            with self._connected() as connection:
                for table, is_there in sorted(folders.items()):
                    self._fill(connection, parcel, table, is_there=is_there)

    def _fill(self, connection: Any, parcel: Parcel, table: str, *, is_there: bool) -> None:
        known = self._columns_of(connection, table)
        if not known:
            raise InvalidInputError(f"{self.name} has no table {table!r}: create it first", kind="no_table")
        strange = next((name for name in self._columns if name not in known), None)
        if strange is not None:
            raise InvalidInputError(
                f"table {table!r} has no column {strange!r}; it has {', '.join(known)}", kind="bad_rows"
            )
        columns = self._columns or known
        self._empty(connection, table)
        rows = self._rows(parcel, parcel.files_of(table) if is_there else (), columns)
        while some := list(islice(rows, ROWS_AT_ONCE)):
            self._insert(connection, table, columns, some)
            parcel.written.rows_written += len(some)
        parcel.written.tables += 1

    def _rows(
        self, parcel: Parcel, files: Iterable[tuple[FileInfo, Iterator[bytes]]], columns: Sequence[str]
    ) -> Iterator[list[Any]]:
        for number, (info, parts) in enumerate(files):
            if number % CHECK_FILES == 0:
                parcel.check()
            read = json_rows if self._format == "JSON" else csv_rows
            yield from read(text_of(parts, info.path), info.path, columns)
            parcel.written.files_written += 1
            parcel.written.bytes_written += info.size

    @abstractmethod
    def _connected(self) -> Any:
        """A block in which a connection is open, in one transaction: it is committed at its end, or not at all."""

    @abstractmethod
    def _columns_of(self, connection: Any, table: str) -> tuple[str, ...]:
        """The columns of a table that can be written; empty if there is no such table."""

    @abstractmethod
    def _empty(self, connection: Any, table: str) -> None: ...

    @abstractmethod
    def _insert(
        self, connection: Any, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]
    ) -> None: ...


class SqliteTarget(SqlTarget):
    """``sqlite:///PATH``: a file that exists, below folders that the setting ``egress_folders`` names."""

    def __init__(self, path: Path, *, format_: str, columns: Sequence[str]) -> None:
        super().__init__(format_=format_, columns=columns)
        self._path = path

    @property
    def name(self) -> str:
        return f"sqlite://{self._path}"

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        if not self._path.is_file():
            raise InvalidInputError(f"there is no database {self._path}: create it first", kind="no_database")
        try:
            uri = f"{self._path.as_uri()}?mode=rw"
            with closing(
                sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None)
            ) as connection:
                connection.execute("BEGIN IMMEDIATE")
                try:
                    yield connection
                except BaseException:
                    connection.execute("ROLLBACK")
                    raise
                connection.execute("COMMIT")
        except sqlite3.OperationalError as error:
            raise UnavailableError(f"{self.name}: {error}", kind="egress_failed") from error
        except sqlite3.Error as error:
            raise InvalidInputError(
                f"{self.name} does not take the rows: {error}", kind="bad_rows"
            ) from error

    def _columns_of(self, connection: sqlite3.Connection, table: str) -> tuple[str, ...]:
        return tuple(
            row[1] for row in connection.execute(f"PRAGMA table_xinfo({_quoted(table)})") if row[6] == 0
        )

    def _empty(self, connection: sqlite3.Connection, table: str) -> None:
        connection.execute(f"DELETE FROM {_quoted(table)}")

    def _insert(
        self,
        connection: sqlite3.Connection,
        table: str,
        columns: Sequence[str],
        rows: Sequence[Sequence[Any]],
    ) -> None:
        names, marks = ", ".join(map(_quoted, columns)), ", ".join("?" * len(columns))
        connection.executemany(f"INSERT INTO {_quoted(table)} ({names}) VALUES ({marks})", rows)


class PostgresTarget(SqlTarget):
    """``postgresql://USER@HOST:PORT/DATABASE``; the password is in a secret."""

    def __init__(self, url: str, password: str | None, *, format_: str, columns: Sequence[str]) -> None:
        """:raises InvalidInputError: ``bad_egress``."""
        super().__init__(format_=format_, columns=columns)
        self._url = postgres_url(url)
        self._password = password

    @property
    def name(self) -> str:
        return self._url

    @contextmanager
    def _connected(self) -> Iterator[Any]:
        try:
            psycopg: Any = importlib.import_module("psycopg")
        except ImportError as error:
            raise InvalidInputError(
                "egress to PostgreSQL needs the package 'psycopg' on the server: pip install 'trunkline[postgres]'",
                kind="no_psycopg",
            ) from error
        passing = (psycopg.OperationalError, psycopg.InterfaceError)
        try:
            with psycopg.connect(
                self._url, password=self._password, connect_timeout=CONNECT_SECONDS
            ) as connection:
                yield connection
        except passing as error:
            if getattr(error, "sqlstate", None) in ("28P01", "28000") or "password" in str(error):
                raise PermissionDeniedError(
                    f"{self.name} does not let that user in: see sql_database.secret", kind="egress_refused"
                ) from error
            raise UnavailableError(f"{self.name}: {_first_line(error)}", kind="egress_failed") from error
        except psycopg.errors.InsufficientPrivilege as error:
            raise PermissionDeniedError(
                f"{self.name}: {_first_line(error)}", kind="egress_refused"
            ) from error
        except (psycopg.errors.SerializationFailure, psycopg.errors.DeadlockDetected) as error:
            raise UnavailableError(f"{self.name}: {_first_line(error)}", kind="egress_failed") from error
        except psycopg.Error as error:
            raise InvalidInputError(
                f"{self.name} does not take the rows: {_first_line(error)}", kind="bad_rows"
            ) from error

    def _columns_of(self, connection: Any, table: str) -> tuple[str, ...]:
        rows = connection.execute(
            "SELECT a.attname FROM pg_attribute a WHERE a.attrelid = to_regclass(%s) AND a.attnum > 0 AND NOT "
            "a.attisdropped AND a.attgenerated = '' ORDER BY a.attnum",
            (_quoted(table),),
        )
        return tuple(row[0] for row in rows)

    def _empty(self, connection: Any, table: str) -> None:
        connection.execute(f"DELETE FROM {_quoted(table)}")

    def _insert(
        self, connection: Any, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]
    ) -> None:
        names = ", ".join(map(_quoted, columns))
        with (
            connection.cursor() as cursor,
            cursor.copy(f"COPY {_quoted(table)} ({names}) FROM STDIN") as copy,
        ):
            for row in rows:
                copy.write_row([_sent(value) for value in row])


def postgres_url(url: str) -> str:
    """A URL that can be shown.

    :raises InvalidInputError: ``bad_egress``.
    """
    parts = urlsplit(url)
    if parts.password is not None or "password=" in parts.query:
        raise InvalidInputError(
            "egress.sql_database.url must have no password: put it in a secret, and name that in sql_database.secret",
            kind="bad_egress",
        )
    if not parts.hostname or not parts.path.strip("/") or parts.fragment:
        raise InvalidInputError(
            f"egress to {url[:200]!r} is not usable: write postgresql://USER@HOST:PORT/DATABASE",
            kind="bad_egress",
        )
    return urlunsplit(("postgresql", parts.netloc, parts.path, parts.query, ""))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _sent(value: Any) -> Any:
    """As text: PostgreSQL reads it as its column's type."""
    return (
        value
        if value is None or isinstance(value, str)
        else str(value).lower()
        if isinstance(value, bool)
        else str(value)
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
