"""One statement for many rows, at the speed of the driver.

``Connection.execute(statement, rows)`` works through each row in Python (names to positions, types, defaults), which takes
several times as long as SQLite takes to write it. Here that is worked out once for a statement; a row costs a tuple.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Dialect

_Build = Callable[[Mapping[str, Any]], Any]
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
        self._made: dict[str, tuple[str, str, _Build]] = {}

    def __call__(self, connection: Connection, rows: Iterable[Mapping[str, Any]]) -> None:
        """:raises KeyError: for a row that lacks a value. Nothing is done if there are no rows."""
        dialect = connection.dialect
        if dialect.name not in self._made:
            self._made[dialect.name] = self._make(dialect)
        sql, sql_of_some, build = self._made[dialect.name]
        values = [build(row) for row in rows]
        rest = 0
        if sql_of_some:
            for rest in range(ROWS_PER_STATEMENT, len(values) + 1, ROWS_PER_STATEMENT):
                some = values[rest - ROWS_PER_STATEMENT : rest]
                connection.exec_driver_sql(sql_of_some, tuple(chain.from_iterable(some)))
        if values[rest:]:
            connection.exec_driver_sql(sql, values[rest:])

    def _make(self, dialect: Dialect) -> tuple[str, str, _Build]:
        keys = None if self._names is None else list(self._names)
        compiled = self._statement.compile(dialect=dialect, column_keys=keys)
        if compiled.prefetch:
            missing = ", ".join(str(column) for column in compiled.prefetch)
            raise TypeError(f"Python's defaults are not for many rows: give a value for {missing}")
        order = (compiled.positiontup if compiled.positional else list(compiled.bind_names.values())) or []
        values = values_of(order, compiled, dialect)
        sql = str(compiled)
        if compiled.positional:
            some = _VALUES.sub(
                lambda found: " VALUES " + ",".join([found[1]] * ROWS_PER_STATEMENT), sql, count=1
            )
            is_all = some.count("?") == ROWS_PER_STATEMENT * len(order)
            return sql, some if is_all else "", values
        return sql, "", lambda row: dict(zip(order, values(row), strict=True))


def values_of(
    order: Sequence[str], compiled: Any, dialect: Dialect
) -> Callable[[Mapping[str, Any]], Sequence[Any]]:
    """What takes the values of a statement from a row, in their order and as the driver wants them."""
    binds = [compiled.binds[name] for name in order]
    processes = [bind.type.dialect_impl(dialect).bind_processor(dialect) for bind in binds]
    constants = [
        (at, bind.effective_value if process is None else process(bind.effective_value))
        for at, (bind, process) in enumerate(zip(binds, processes, strict=True))
        if not bind.required
    ]
    given = [name for name, bind in zip(order, binds, strict=True) if bind.required]
    take = itemgetter(*given) if len(given) > 1 else lambda row: tuple(row[name] for name in given)
    processed = [
        (at, process)
        for at, (bind, process) in enumerate(zip(binds, processes, strict=True))
        if bind.required and process is not None
    ]

    def values(row: Mapping[str, Any]) -> Sequence[Any]:
        found = list(take(row))
        for at, constant in constants:
            found.insert(at, constant)
        for at, process in processed:
            found[at] = process(found[at])
        return tuple(found)

    return values
