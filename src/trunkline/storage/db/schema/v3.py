"""Version 3: a job's datum rows are what differs from an earlier job, no more.

The jobs of before have rows for all their datums, and no base; that is right as it is. Jobs that were at work are planned again:
what they have computed is known.
"""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from trunkline.storage.db.schema.base import add_indexes
from trunkline.storage.db.schema.work import datum_results, datums, jobs

ROWS = 1000
NEW_COLUMNS = ("code", "base_pk", "base_root", "quarantined", "sets", "sets_queued", "sets_lost", "egress")


def delta_rows(connection: Connection) -> None:
    present = {column["name"] for column in sa.inspect(connection).get_columns("jobs")}
    for name in NEW_COLUMNS:
        if name not in present:
            column = sa.schema.CreateColumn(jobs.c[name]).compile(dialect=connection.dialect)
            connection.exec_driver_sql(f"ALTER TABLE jobs ADD COLUMN {column}")
    if "files" not in {column["name"] for column in sa.inspect(connection).get_columns("datums")}:
        _plan_again(connection)
        for table in (datums, datum_results):
            _rename(connection, table.name)
            table.create(connection)
        _carry_datums(connection)
        connection.exec_driver_sql(
            "INSERT INTO datum_results (identity, output_root, output_prefix, size, file_count, job_id, created_at) "
            "SELECT identity, output_root, '', 0, 0, job_id, created_at FROM datum_results_v2"
        )
        for table in (datums, datum_results):
            connection.exec_driver_sql(f"DROP TABLE {table.name}_v2")
    add_indexes(connection)


def _plan_again(connection: Connection) -> None:
    """Jobs that have not ended wait to be planned, and their tasks go."""
    unfinished = "(SELECT pk FROM jobs WHERE status IN ('queued', 'running'))"
    connection.exec_driver_sql(f"DELETE FROM datums WHERE job_pk IN {unfinished}")
    connection.exec_driver_sql(
        "UPDATE jobs SET status = 'queued', phase = 'waiting', total = 0, processed = 0, skipped = 0, failed = 0, "
        "recovered = 0, stats = '{}' WHERE status IN ('queued', 'running')"
    )
    connection.exec_driver_sql("DELETE FROM tasks WHERE kind IN ('datum', 'plan-job', 'finish-job')")
    rows = connection.exec_driver_sql(
        "SELECT DISTINCT project, name FROM pipelines JOIN jobs ON jobs.pipeline_id = pipelines.id "
        "WHERE jobs.status = 'queued'"
    ).all()
    for project, name in rows:
        connection.execute(
            sa.text(
                "INSERT INTO tasks (kind, key, queue, payload, status, attempts, run_after, again, cancel, created_at, "
                "updated_at) VALUES ('plan-job', :key, 'control', :payload, 'queued', 0, 0, :no, :no, 0, 0)"
            ).bindparams(sa.bindparam("no", type_=sa.Boolean)),
            {
                "key": f"{project}/{name}",
                "payload": json.dumps({"project": project, "pipeline": name}),
                "no": False,
            },
        )


def _rename(connection: Connection, table: str) -> None:
    for index in sa.inspect(connection).get_indexes(table):
        connection.exec_driver_sql(f"DROP INDEX {index['name']}")
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"ALTER INDEX {table}_pkey RENAME TO {table}_v2_pkey")
    connection.exec_driver_sql(f"ALTER TABLE {table} RENAME TO {table}_v2")


def _carry_datums(connection: Connection) -> None:
    old = sa.table(
        "datums_v2",
        *(
            sa.column(name)
            for name in ("job_pk", "id", "identity", "status", "inputs", "output_root", "attempts")
        ),
        *(sa.column(name) for name in ("reason", "stats", "started_at", "finished_at")),
    )
    roots: dict[int, dict[str, str]] = {}
    rows = connection.execute(sa.select(old).order_by(old.c.job_pk, old.c.id)).mappings()
    while part := rows.fetchmany(ROWS):
        connection.execute(sa.insert(datums), [_carried(dict(row), roots) for row in part])
    for job_pk, of_job in roots.items():
        text = connection.execute(sa.select(jobs.c.inputs).where(jobs.c.pk == job_pk)).scalar_one()
        inputs = [{**one, "root": of_job.get(one["name"], "")} for one in text]
        connection.execute(sa.update(jobs).where(jobs.c.pk == job_pk).values(inputs=inputs))


def _carried(row: dict[str, Any], roots: dict[int, dict[str, str]]) -> dict[str, Any]:
    inputs, stats = json.loads(row["inputs"]), json.loads(row["stats"])
    of_job = roots.setdefault(row["job_pk"], {})
    for one in inputs:
        of_job.setdefault(one["name"], one["root"])
    recovered = stats.pop("recovered", False)
    return {
        "job_pk": row["job_pk"], "id": row["id"], "identity": row["identity"],
        "status": "recovered" if recovered else row["status"], "waits": False,
        "files": [[0, path, one["hash"], one["size"]] for one in inputs for path in one["paths"]],
        "env": {}, "output_root": row["output_root"], "attempts": row["attempts"], "reason": row["reason"],
        "why": {}, "stats": stats, "started_at": row["started_at"], "finished_at": row["finished_at"],
    }  # fmt: skip
