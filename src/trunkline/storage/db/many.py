"""One statement for many rows, at the speed of the driver.

``Connection.execute(statement, rows)`` works through each row in Python (names to positions, types, defaults), which takes
several times as long as SQLite takes to write it. Here that is worked out once for a statement, and values go column by column.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Dialect

from trunkline.storage.db.binds import Binds

ROWS_PER_STATEMENT = 64
"""Of an INSERT on SQLite: after each statement its thread gives others the interpreter, and may wait long for its next turn."""
_VALUES = re.compile(r" VALUES (\([^()]*\))")


class Many:
    """Runs an INSERT or UPDATE for each of many rows, in one call of the driver.

    ``names``: the columns that each row of an INSERT gives; all others get the table's own defaults (those of the database, not
    those of Python). An UPDATE's rows give its bound parameters.
    """

    def __init__(self, statement: sa.Insert | sa.Update, names: Sequence[str] | None = None) -> None:
        self._statement = statement
        self._names = names
        self._made: dict[str, _Made] = {}

    def __call__(self, connection: Connection, rows: Iterable[Mapping[str, Any]]) -> None:
        """:raises KeyError: for a row that lacks a value. Nothing is done if there are no rows."""
        names = self._for(connection.dialect).binds.given
        take = itemgetter(*names) if len(names) > 1 else lambda row: (row[names[0]],)
        columns = zip(*map(take, rows), strict=True)
        self.columns(connection, dict(zip(names, columns, strict=False)))

    def columns(self, connection: Connection, columns: Mapping[str, Sequence[Any]]) -> None:
        """The same for rows that are given by their columns. Where one object is in a column several times on end, it is written
        once.

        :raises KeyError: for a column that is not there. Nothing is done if there are no columns.
        """
        if not columns:
            return
        made = self._for(connection.dialect)
        values = made.binds.rows(columns)
        rest = 0
        if made.sql_of_some:
            for rest in range(ROWS_PER_STATEMENT, len(values) + 1, ROWS_PER_STATEMENT):
                some = values[rest - ROWS_PER_STATEMENT : rest]
                connection.exec_driver_sql(made.sql_of_some, tuple(chain.from_iterable(some)))
        if values[rest:]:
            connection.exec_driver_sql(made.sql, made.for_driver(values[rest:]))

    def _for(self, dialect: Dialect) -> _Made:
        if dialect.name not in self._made:
            self._made[dialect.name] = self._make(dialect)
        return self._made[dialect.name]

    def _make(self, dialect: Dialect) -> _Made:
        keys = None if self._names is None else list(self._names)
        compiled = self._statement.compile(dialect=dialect, column_keys=keys)
        binds = Binds(compiled, dialect)
        sql, sql_of_some = str(compiled), ""
        if compiled.positional:
            some = _VALUES.sub(
                lambda found: " VALUES " + ",".join([found[1]] * ROWS_PER_STATEMENT), sql, count=1
            )
            sql_of_some = some if some.count("?") == ROWS_PER_STATEMENT * len(binds.order) else ""
        return _Made(sql, sql_of_some, binds, compiled.positional)


class _Made(NamedTuple):
    """A statement, as one kind of database is given it."""

    sql: str
    sql_of_some: str
    """For ``ROWS_PER_STATEMENT`` at once; empty if it cannot be said for several."""
    binds: Binds
    is_positional: bool

    def for_driver(self, rows: list[tuple[Any, ...]]) -> Any:
        return rows if self.is_positional else [dict(zip(self.binds.order, row, strict=True)) for row in rows]
