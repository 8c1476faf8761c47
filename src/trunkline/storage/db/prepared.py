"""One statement that is run often, at the speed of the driver.

``Connection.execute`` looks at a statement anew each time, which takes SQLAlchemy much longer than SQLite takes to answer, and
to build the statement takes longer still. Here it is built, compiled and looked through once. See decision 0017.
"""

from __future__ import annotations

import sqlite3
from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from trunkline.storage.db.binds import Binds

Statement = sa.Select[Any] | sa.Insert | sa.Update | sa.Delete
_Processors = Sequence[tuple[int, Callable[[Any], Any]]]


def driver_of(connection: Connection) -> Any:
    """The driver's own connection."""
    return connection.connection.driver_connection


def rows_of(connection: Connection, sql: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
    """The rows of a question in SQLite's own words, as its driver makes them."""
    if connection.dispatch.before_cursor_execute:  # somebody listens
        return [tuple(row) for row in connection.exec_driver_sql(sql, tuple(values))]
    found: list[tuple[Any, ...]] = driver_of(connection).execute(sql, values).fetchall()
    return found


class Prepared:
    """Runs a SELECT, INSERT, UPDATE or DELETE with other values each time; they are given by the names of its bound parameters,
    all of them. A list, for a parameter with ``expanding``, may be as long as the database allows.

    On PostgreSQL, where the way there and back takes most of the time, SQLAlchemy runs it, and looks after lost connections; and
    where somebody listens to what is executed. SQLAlchemy takes a parameter that is named as a column for a value to set: one in
    the WHERE of an UPDATE needs another name.
    """

    def __init__(self, statement: Statement) -> None:
        self._statement = statement
        self._made: _OnSqlite | None = None

    def all(self, connection: Connection, **values: Any) -> list[Any]:
        """The rows, whose columns are attributes.

        :raises sqlalchemy.exc.DBAPIError: as ``Connection.execute`` does.
        """
        if _is_left_to_sqlalchemy(connection):
            return list(connection.execute(self._statement, values))
        return self._on_sqlite(connection).rows(connection, values)

    def first(self, connection: Connection, **values: Any) -> Any:
        """The first row, of a statement that has one at most or does not care; None if there is none."""
        rows = self.all(connection, **values)
        return rows[0] if rows else None

    def scalars(self, connection: Connection, **values: Any) -> list[Any]:
        """The first column of all rows."""
        return [row[0] for row in self.all(connection, **values)]

    def scalar(self, connection: Connection, **values: Any) -> Any:
        """The first column of the first row; None if there is none."""
        rows = self.all(connection, **values)
        return rows[0][0] if rows else None

    def run(self, connection: Connection, **values: Any) -> int:
        """How many rows a statement that returns none has changed."""
        if _is_left_to_sqlalchemy(connection):
            return connection.execute(self._statement, values).rowcount
        return self._on_sqlite(connection).run(connection, values)

    def _on_sqlite(self, connection: Connection) -> _OnSqlite:
        if self._made is None:
            self._made = _OnSqlite(self._statement, connection)
        return self._made


class PreparedUpdate:
    """An UPDATE of one table that sets some columns now, and others the next time: prepared once for each choice of them."""

    def __init__(self, statement: sa.Update) -> None:
        """``statement`` says which rows, and sets nothing yet."""
        self._statement = statement
        self._made: dict[tuple[tuple[str, ...], tuple[str, ...]], Prepared] = {}

    def run(
        self, connection: Connection, new: Mapping[str, Any], added: Mapping[str, int] | None = None, **where: Any
    ) -> int:  # fmt: skip
        """Set columns to ``new`` values, and count others up by what is ``added``; returns how many rows that were."""
        more = added or {}
        key = (tuple(new), tuple(more))
        if key not in self._made:
            self._made[key] = self._make(*key)
        values = {f"new_{name}": value for name, value in new.items()}
        values |= {f"added_{name}": value for name, value in more.items()}
        return self._made[key].run(connection, **where, **values)

    def _make(self, new: Sequence[str], added: Sequence[str]) -> Prepared:
        columns: Any = self._statement.table.c
        values = {name: sa.bindparam(f"new_{name}", type_=columns[name].type) for name in new}
        counts = {name: columns[name] + sa.bindparam(f"added_{name}", type_=sa.Integer) for name in added}
        return Prepared(self._statement.values({**values, **counts}))


def _is_left_to_sqlalchemy(connection: Connection) -> bool:
    return connection.dialect.name != "sqlite" or bool(connection.dispatch.before_cursor_execute)


def _row_of(names: Sequence[str]) -> Any:
    return namedtuple("Row", names, rename=True)


class _OnSqlite:
    """What there is to know of a statement."""

    def __init__(self, statement: Statement, connection: Connection) -> None:
        dialect = connection.dialect
        compiled: Any = statement.compile(dialect=dialect)
        self._sql = str(compiled)
        self._binds = Binds(compiled, dialect)
        lists = {compiled.bind_names[bind] for bind in compiled.post_compile_params}
        self._lists = [
            (at, f"__[POSTCOMPILE_{name}]") for at, name in enumerate(self._binds.order) if name in lists
        ]
        self._sql_of_lists: dict[tuple[int, ...], str] = {}
        columns = [] if compiled._result_columns is None else list(compiled._result_columns)
        self._to_row: Callable[[Sequence[Any]], Any] = _row_of([column.keyname for column in columns])._make
        found = [column.type.dialect_impl(dialect).result_processor(dialect, None) for column in columns]
        self._processors: _Processors = [(at, one) for at, one in enumerate(found) if one is not None]

    def rows(self, connection: Connection, values: dict[str, Any]) -> list[Any]:
        found = self._execute(connection, values).fetchall()
        if not self._processors:
            return list(map(self._to_row, found))
        return [self._to_row(self._processed(row)) for row in found]

    def _processed(self, row: Sequence[Any]) -> list[Any]:
        values = list(row)
        for at, process in self._processors:
            values[at] = process(values[at])
        return values

    def run(self, connection: Connection, values: dict[str, Any]) -> int:
        return int(self._execute(connection, values).rowcount)

    def _execute(self, connection: Connection, values: dict[str, Any]) -> Any:
        sql, given = self._sql, self._binds.row(values)
        if self._lists:
            sql = self._with_lists(given)
        try:
            return driver_of(connection).execute(sql, given)
        except sqlite3.Error as error:  # in SQLAlchemy's words, as from its own way
            raise DBAPIError.instance(
                sql, None, error, sqlite3.Error, dialect=connection.dialect, hide_parameters=True
            ) from error

    def _with_lists(self, given: list[Any]) -> str:
        """The statement with as many marks as the lists have elements, which take their places in ``given``. To have few
        different statements, lists are filled up to powers of two with what is in them anyway."""
        for at, _ in self._lists:
            wanted = list(given[at])
            given[at] = wanted + wanted[-1:] * ((1 << (len(wanted) - 1).bit_length()) - len(wanted))
        lengths = tuple(len(given[at]) for at, _ in self._lists)
        if lengths not in self._sql_of_lists:
            sql = self._sql
            for (_, mark), length in zip(self._lists, lengths, strict=True):
                sql = sql.replace(mark, ", ".join("?" * length), 1)
            self._sql_of_lists[lengths] = sql
        for at, _ in reversed(self._lists):
            given[at : at + 1] = given[at]
        return self._sql_of_lists[lengths]
