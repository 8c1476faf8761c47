"""What all tables share."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import TEXT
from sqlalchemy.engine import Connection, Dialect

from trunkline.storage.db import jsontext

metadata = sa.MetaData()


class JsonText(sa.types.TypeDecorator[Any]):
    """JSON as text, as SQLite keeps it: PostgreSQL's own type refuses NaN, and cannot be compared."""

    impl = TEXT
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str:
        return jsontext.written(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        return None if value is None else jsontext.read(value)


def fit_postgresql(tables: sa.MetaData) -> None:
    """Make PostgreSQL's columns hold what SQLite's do, in the same order.

    Text sorts by its bytes, whatever the database's language; integers have 64 bits.
    """
    for table in tables.tables.values():
        for column in table.columns:
            kind = column.type
            if isinstance(kind, sa.JSON):
                column.type = kind.with_variant(JsonText(), "postgresql")
            elif isinstance(kind, sa.Text):
                column.type = kind.with_variant(TEXT(collation="C"), "postgresql")
            elif type(kind) is sa.Integer:
                column.type = kind.with_variant(sa.BigInteger(), "postgresql")


def time_column(name: str, *, nullable: bool = False) -> sa.Column[float]:
    """Seconds since the Unix epoch."""
    return sa.Column(name, sa.Float, nullable=nullable)


meta = sa.Table(
    "meta", metadata, sa.Column("key", sa.Text, primary_key=True), sa.Column("value", sa.Text, nullable=False)
)


def add_indexes(connection: Connection) -> None:
    """Those over whole columns that tables lack, as far as the columns are there: a later migration may add some."""
    inspector = sa.inspect(connection)
    for table in metadata.sorted_tables:
        present = {column["name"] for column in inspector.get_columns(table.name)}
        for index in sorted(table.indexes, key=lambda one: str(one.name)):
            is_plain = index.columns and index.dialect_options["sqlite"]["where"] is None
            if is_plain and all(column.name in present for column in index.columns):
                connection.execute(sa.schema.CreateIndex(index, if_not_exists=True))
