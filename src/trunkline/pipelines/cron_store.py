"""All SQL on ``pipeline_crons``: when the cron inputs of pipelines tick."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from trunkline.storage.db.schema import pipeline_crons, pipelines
from trunkline.storage.db.upsert import upsert


@dataclass(frozen=True, kw_only=True)
class CronRow:
    """A cron input of a pipeline as it is now."""

    pipeline_id: int
    project: str
    pipeline: str
    name: str
    repo: str
    spec: dict[str, Any]
    """The input as the pipeline's spec has it."""
    next_at: float | None


def put(
    connection: Connection, pipeline_id: int, name: str, spec: dict[str, Any], next_at: float | None
) -> None:
    """A new one, or a change of one."""
    values = {"pipeline_id": pipeline_id, "name": name, "spec": spec, "next_at": next_at}
    connection.execute(
        upsert(pipeline_crons)
        .values(values)
        .on_conflict_do_update(
            index_elements=["pipeline_id", "name"], set_={"spec": spec, "next_at": next_at}
        )
    )


def of_pipeline(connection: Connection, pipeline_id: int) -> list[CronRow]:
    query = _query().where(pipeline_crons.c.pipeline_id == pipeline_id).order_by(pipeline_crons.c.name)
    return list(map(_row, connection.execute(query)))


def drop(connection: Connection, pipeline_id: int, name: str) -> None:
    connection.execute(
        sa.delete(pipeline_crons).where(
            pipeline_crons.c.pipeline_id == pipeline_id, pipeline_crons.c.name == name
        )
    )


def due(connection: Connection, now: float, limit: int) -> list[CronRow]:
    """Those whose time has come, of pipelines that are not stopped."""
    query = _running().where(pipeline_crons.c.next_at <= now).order_by(pipeline_crons.c.next_at).limit(limit)
    return list(map(_row, connection.execute(query)))


def next_time(connection: Connection) -> float | None:
    """When the next one of them all ticks."""
    found: float | None = connection.execute(
        _running().with_only_columns(sa.func.min(pipeline_crons.c.next_at))
    ).scalar_one()
    return found


def schedule(connection: Connection, row: CronRow, next_at: float | None) -> bool:
    """Set the next time; False if it is not what ``row`` says any more, and then nothing was written."""
    changed = connection.execute(
        sa.update(pipeline_crons)
        .where(
            pipeline_crons.c.pipeline_id == row.pipeline_id, pipeline_crons.c.name == row.name,
            pipeline_crons.c.next_at == row.next_at,
        )
        .values(next_at=next_at)
    )  # fmt: skip
    return changed.rowcount == 1


def _query() -> sa.Select[Any]:
    return sa.select(pipeline_crons, pipelines.c.project, pipelines.c.name.label("pipeline")).join(
        pipelines, pipelines.c.id == pipeline_crons.c.pipeline_id
    )


def _running() -> sa.Select[Any]:
    return _query().where(pipelines.c.state == "running")


def _row(row: Row[Any]) -> CronRow:
    return CronRow(
        pipeline_id=row.pipeline_id, project=row.project, pipeline=row.pipeline, name=row.name,
        repo=row.spec["repo"], spec=row.spec, next_at=row.next_at,
    )  # fmt: skip
