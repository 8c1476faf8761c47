"""A database of an older trunkline is brought up to date; one of a newer is refused."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa

from trunkline.errors import UnavailableError
from trunkline.storage.db import schema
from trunkline.storage.db.engine import Database

FIXTURES = Path(__file__).with_name("fixtures")


def _columns(path: Path) -> dict[str, set[str]]:
    """Of each table, and its indexes."""
    engine = sa.create_engine(f"sqlite:///{path}")
    inspector = sa.inspect(engine)
    found = {name: {c["name"] for c in inspector.get_columns(name)} for name in inspector.get_table_names()}
    for name in list(found):
        found[f"indexes of {name}"] = {str(index["name"]) for index in inspector.get_indexes(name)}
    engine.dispose()
    return found


@pytest.mark.parametrize("version", range(1, schema.SCHEMA_VERSION))
def test_an_older_database_gets_the_present_tables(version: int, tmp_path: Path) -> None:
    old, new = tmp_path / "old.db", tmp_path / "new.db"
    connection = sqlite3.connect(old)
    connection.executescript((FIXTURES / f"schema-v{version}.sql").read_text())
    connection.close()
    for path in (old, new):
        Database(f"sqlite:///{path}").close()
    assert _columns(old) == _columns(new)
    with sqlite3.connect(old) as connection:
        found = connection.execute("SELECT value FROM meta WHERE key = 'schema_version'").fetchall()
    connection.close()
    assert found == [(str(schema.SCHEMA_VERSION),)]


def test_a_newer_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "new.db"
    Database(f"sqlite:///{path}").close()
    connection = sqlite3.connect(path)
    connection.execute("UPDATE meta SET value = '999' WHERE key = 'schema_version'")
    connection.commit()
    connection.close()
    with pytest.raises(UnavailableError, match="upgrade trunkline"):
        Database(f"sqlite:///{path}")
