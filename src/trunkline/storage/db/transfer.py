"""All rows of one database in another, of whatever kind: how PostgreSQL is backed up, and how a store moves between databases.

What is the same in both: the tables, their values and the highest number that each key has had. JSON goes as the text that it
is, so that SQL's NULL and JSON's stay apart.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from blake3 import blake3
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from trunkline.errors import CorruptionError, InvalidInputError
from trunkline.storage.db.schema import maintenance, meta, metadata, processes, tokens

ROWS = 2000
STREAMED = {"stream_results": True, "yield_per": ROWS}
OF_THIS_MACHINE = (processes, maintenance, tokens)
"""What means nothing elsewhere: processes do not run there, and tokens that were given out here open nothing."""
TABLES = tuple(table for table in metadata.sorted_tables if table not in (meta, *OF_THIS_MACHINE))
"""What is copied, each after those that it refers to."""


def used_table(connection: Connection) -> str | None:
    """The name of a table that has rows; None for a database that was never used."""
    for table in (*TABLES, *OF_THIS_MACHINE):
        if connection.execute(sa.select(sa.literal(1)).select_from(table).limit(1)).first() is not None:
            return table.name
    return None


def copy_rows(source: Connection, target: Connection) -> None:
    """Everything from one snapshot into an empty database, inside the caller's transactions; compared when it is there.

    :raises InvalidInputError: ``nul_character``, for a text that the other kind of database cannot hold.
    :raises CorruptionError: ``bad_copy``, if the other database gives back anything else.
    """
    for table in TABLES:
        try:
            _copy_table(table, source, target)
        except DBAPIError as error:
            if "NUL (0x00)" not in str(error.orig):
                raise
            raise InvalidInputError(
                f"a text in table {table.name} has a NUL character (U+0000), which PostgreSQL cannot store: remove it",
                kind="nul_character",
            ) from error
        if _fingerprint(table, source) != _fingerprint(table, target):
            raise CorruptionError(
                f"table {table.name} is not the same in the other database", kind="bad_copy"
            )
    _copy_counters(source, target)


def _copy_table(table: sa.Table, source: Connection, target: Connection) -> None:
    into = sa.insert(_as_stored(table))
    with source.execute(_rows_of(table), execution_options=STREAMED) as rows:
        for part in rows.mappings().partitions():
            target.execute(into, [dict(row) for row in part])


def _fingerprint(table: sa.Table, connection: Connection) -> tuple[int, bytes]:
    """The number of rows, and a hash over them in the order of their keys, which is the same everywhere."""
    hasher, count = blake3(), 0
    statement = _rows_of(table).order_by(*table.primary_key.columns)
    with connection.execute(statement, execution_options=STREAMED) as rows:
        for part in rows.partitions():
            count += len(part)
            hasher.update(repr([tuple(row) for row in part]).encode())
    return count, hasher.digest()


def _rows_of(table: sa.Table) -> sa.Select[Any]:
    columns = [
        sa.cast(column, sa.Text).label(column.name) if _is_json(column) else column
        for column in table.columns
    ]
    return sa.select(*columns)


def _as_stored(table: sa.Table) -> sa.TableClause:
    """The table without our own ideas of its values."""
    columns = [
        sa.column(column.name, sa.Text() if _is_json(column) else column.type) for column in table.columns
    ]
    return sa.table(table.name, *columns)


def _is_json(column: sa.Column[Any]) -> bool:
    return isinstance(column.type, sa.JSON)


def _copy_counters(source: Connection, target: Connection) -> None:
    """A key that was ever used is not used again, whether its row is there or not."""
    for table in TABLES:
        column = table.autoincrement_column
        if column is None or column.autoincrement is False:
            continue
        highest = target.execute(sa.select(sa.func.max(column))).scalar_one() or 0
        highest = max(highest, _counter(table, column, source))
        if highest:
            _set_counter(table, column, target, highest)


def _counter(table: sa.Table, column: sa.Column[Any], connection: Connection) -> int:
    """The highest number that was given out, as far as the database remembers it."""
    if connection.dialect.name != "sqlite":
        sequence = _sequence(table, column, connection)
        query = f"SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM {sequence}"
        return int(connection.exec_driver_sql(query).scalar_one())
    if not sa.inspect(connection).has_table("sqlite_sequence"):
        return 0
    query = "SELECT seq FROM sqlite_sequence WHERE name = ?"
    return int(connection.exec_driver_sql(query, (table.name,)).scalar() or 0)


def _set_counter(table: sa.Table, column: sa.Column[Any], connection: Connection, highest: int) -> None:
    if connection.dialect.name != "sqlite":
        connection.execute(
            sa.select(sa.func.setval(_sequence(table, column, connection), highest, sa.true()))
        )
    elif table.dialect_options["sqlite"]["autoincrement"]:
        connection.exec_driver_sql("DELETE FROM sqlite_sequence WHERE name = ?", (table.name,))
        connection.exec_driver_sql("INSERT INTO sqlite_sequence VALUES (?, ?)", (table.name, highest))


def _sequence(table: sa.Table, column: sa.Column[Any], connection: Connection) -> str:
    found = connection.execute(sa.select(sa.func.pg_get_serial_sequence(table.name, column.name)))
    return str(found.scalar_one())
