"""The numbered steps that lead an older database to the present tables."""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from trunkline.errors import UnavailableError
from trunkline.storage.db.schema.base import add_indexes, meta, metadata
from trunkline.storage.db.schema.data import branch_provenance
from trunkline.storage.db.schema.v3 import delta_rows

SCHEMA_VERSION = 5


def _v2(connection: Connection) -> None:
    """Tables that version 1 did not have are made by ``create_all``; indexes that older tables lack, here."""
    add_indexes(connection)


def _v3(connection: Connection) -> None:
    """Links that do not spread, and datum rows that say what differs."""
    if "quiet" not in {column["name"] for column in sa.inspect(connection).get_columns("branch_provenance")}:
        column = sa.schema.CreateColumn(branch_provenance.c.quiet).compile(dialect=connection.dialect)
        connection.exec_driver_sql(f"ALTER TABLE branch_provenance ADD COLUMN {column}")
    delta_rows(connection)


def _v4(connection: Connection) -> None:
    """An index for the last job of a pipeline."""
    add_indexes(connection)


def _v5(connection: Connection) -> None:
    """Smaller indexes of datums, which are filed when they have ended."""
    for name in ("datums_id", "datums_identity"):
        connection.exec_driver_sql(f"DROP INDEX IF EXISTS {name}")
    if "filed_at" not in {column["name"] for column in sa.inspect(connection).get_columns("datums")}:
        connection.exec_driver_sql("ALTER TABLE datums ADD COLUMN filed_at FLOAT")
    connection.exec_driver_sql("UPDATE datums SET filed_at = finished_at")
    connection.exec_driver_sql(
        "CREATE INDEX IF NOT EXISTS datums_unfiled ON datums (identity) WHERE filed_at IS NULL"
    )
    connection.exec_driver_sql("CREATE INDEX IF NOT EXISTS datums_short_id ON datums (substr(id, 1, 12))")
    if (
        connection.dialect.name == "postgresql"
    ):  # which knows nothing of a new expression, and would not use its index
        connection.exec_driver_sql("ANALYZE datums")


MIGRATIONS: dict[int, Callable[[Connection], None]] = {2: _v2, 3: _v3, 4: _v4, 5: _v5}
"""Version -> the step that leads to it from the one before. Steps are never edited once released."""


def migrate(connection: Connection) -> None:
    """Bring the database to ``SCHEMA_VERSION`` inside the caller's transaction.

    :raises UnavailableError: if a newer trunkline has already migrated it.
    """
    found = version_of(connection)
    if found is not None and found > SCHEMA_VERSION:
        raise UnavailableError(
            f"this data directory is of schema version {found}, this trunkline knows up to {SCHEMA_VERSION}: "
            "upgrade trunkline",
            kind="schema_too_new",
        )
    if found == SCHEMA_VERSION:
        return
    metadata.create_all(connection)
    for version in range((found or SCHEMA_VERSION) + 1, SCHEMA_VERSION + 1):
        MIGRATIONS[version](connection)
    connection.execute(sa.delete(meta).where(meta.c.key == "schema_version"))
    connection.execute(sa.insert(meta).values(key="schema_version", value=str(SCHEMA_VERSION)))


def version_of(connection: Connection) -> int | None:
    """The version of the tables that are there; None for an empty database."""
    if not sa.inspect(connection).has_table("meta"):
        return None
    version = connection.execute(
        sa.select(meta.c.value).where(meta.c.key == "schema_version")
    ).scalar_one_or_none()
    return None if version is None else int(version)
