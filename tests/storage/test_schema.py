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
    engine.dispose()
    with sqlite3.connect(path) as connection:  # (the inspector does not show those over expressions)
        for name, table in connection.execute(
            "SELECT name, tbl_name FROM sqlite_master WHERE type = 'index'"
        ):
            found.setdefault(f"indexes of {table}", set()).add(name)
    connection.close()
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


def test_datums_of_version_4_that_have_ended_count_as_filed(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    connection = sqlite3.connect(path)
    connection.executescript((FIXTURES / "schema-v4.sql").read_text())
    connection.executescript(
        "INSERT INTO pipelines (id, project, name, version, state, created_at) VALUES (1, 'default', 'p', 1, 'running', 0);"
        "INSERT INTO jobs (pk, id, pipeline_id, version, status, phase, reason, inputs, total, processed, skipped, failed, "
        "recovered, stats, created_at) "
        "VALUES (1, 'one', 1, 1, 'running', 'processing', '', '[]', 2, 1, 0, 0, 0, '{}', 0);"
        "INSERT INTO datums (job_pk, id, identity, waits, status, attempts, reason, stats, finished_at) VALUES "
        "(1, 'd1', 'i1', 0, 'succeeded', 1, '', '{}', 5), (1, 'd2', 'i2', 0, 'queued', 0, '', '{}', NULL);"
    )
    connection.close()
    Database(f"sqlite:///{path}").close()
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT id, filed_at FROM datums ORDER BY id").fetchall() == [
        ("d1", 5),
        ("d2", None),
    ]
    connection.close()


def test_a_newer_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "new.db"
    Database(f"sqlite:///{path}").close()
    connection = sqlite3.connect(path)
    connection.execute("UPDATE meta SET value = '999' WHERE key = 'schema_version'")
    connection.commit()
    connection.close()
    with pytest.raises(UnavailableError, match="upgrade trunkline"):
        Database(f"sqlite:///{path}")


def test_jobs_of_version_2_keep_their_datums_and_those_at_work_are_planned_again(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    connection = sqlite3.connect(path)
    connection.executescript((FIXTURES / "schema-v2.sql").read_text())
    inputs = '[{"name": "in", "project": "default", "repo": "in", "branch": "master", "commit": "c"}]'
    seen = (
        '[{"name": "in", "project": "default", "repo": "in", "branch": "master", "commit": "c", "root": "r", '
    )
    seen += '"paths": ["/a"], "hash": "h", "size": 3}]'
    connection.executescript(
        "INSERT INTO pipelines VALUES (1, 'default', 'p', 1, 'running', 0);"
        "INSERT INTO jobs VALUES "
        f"(1, 'one', 1, 1, 'succeeded', '', '', '{inputs}', 2, 1, 0, 0, 1, '{{}}', 0, 0, 0),"
        f"(2, 'two', 1, 1, 'running', 'processing', '', '{inputs}', 1, 0, 0, 0, 0, '{{}}', 0, 0, NULL);"
        "INSERT INTO datums VALUES "
        f"(1, 'd1', 'i1', 'succeeded', '{seen}', 'out', 1, '', '{{}}', 0, 0),"
        f"(1, 'd2', 'i2', 'succeeded', '{seen}', NULL, 1, 'exit', '{{\"recovered\": true}}', 0, 0),"
        f"(2, 'd1', 'i3', 'queued', '{seen}', NULL, 0, '', '{{}}', NULL, NULL);"
        "INSERT INTO datum_results VALUES ('i1', 'out', 'one', 0);"
        "INSERT INTO tasks VALUES "
        "(1, 'datum', 'default/p@two/d1', 'pipeline:default/p', '{}', 'queued', 0, 0, 0, 0, NULL, NULL, NULL, 0, 0);"
    )
    connection.close()
    Database(f"sqlite:///{path}").close()
    connection = sqlite3.connect(path)
    rows = connection.execute(
        "SELECT id, status, files, output_root, stats FROM datums ORDER BY id"
    ).fetchall()
    assert rows == [
        ("d1", "succeeded", '[[0,"/a","h",3]]', "out", "{}"), ("d2", "recovered", '[[0,"/a","h",3]]', None, "{}"),
    ]  # fmt: skip
    found = connection.execute("SELECT status, phase, total, inputs FROM jobs ORDER BY pk").fetchall()
    assert [row[:3] for row in found] == [("succeeded", "", 2), ("queued", "waiting", 0)]
    assert '"root":"r"' in found[0][3]
    assert connection.execute("SELECT kind, key, status FROM tasks").fetchall() == [
        ("plan-job", "default/p", "queued")
    ]
    assert connection.execute(
        "SELECT identity, output_root, output_prefix FROM datum_results"
    ).fetchall() == [("i1", "out", "")]
    connection.close()
