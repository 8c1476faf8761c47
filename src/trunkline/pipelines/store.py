"""All SQL on ``pipelines``, ``pipeline_versions`` and ``jobs``; that on ``datums`` is in ``datum_store``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from trunkline.core.ids import CommitId, PipelineName, ProjectName, RepoName, TreeHash
from trunkline.core.status import TRANSITIONS, Status
from trunkline.pipelines.model import ALL_JOBS, Job, JobFilter, JobInput, Pipeline
from trunkline.pipelines.spec import input_in_short, notes
from trunkline.storage.db.prepared import Prepared, PreparedUpdate
from trunkline.storage.db.schema import events, jobs, pipeline_versions, pipelines
from trunkline.storage.db.upsert import upsert
from trunkline.versioning.roots import RootSource

WAITING = "waiting"
PLANNING = "planning"
QUEUEING = "queueing"
PROCESSING = "processing"
FINISHING = "finishing"
EGRESSING = "egressing"

ROWS_PER_FETCH = 2000
UNFINISHED = (Status.QUEUED, Status.RUNNING)


@dataclass(frozen=True, kw_only=True)
class JobRow:
    """A job with the keys that only the database needs."""

    pk: int
    pipeline_id: int
    code: str
    base_pk: int | None
    base_root: str | None
    sets: int
    sets_queued: int
    sets_lost: frozenset[int]
    job: Job

    @property
    def is_complete(self) -> bool:
        job = self.job
        return job.processed + job.skipped + job.failed + job.recovered + job.quarantined >= job.total


# --- pipelines ---


def insert_pipeline(connection: Connection, project: str, name: str, now: float) -> int:
    values = {"project": project, "name": name, "version": 0, "state": "running", "created_at": now}
    key = connection.execute(sa.insert(pipelines).values(values)).inserted_primary_key
    assert key is not None, "an insert gives a key"
    return int(key[0])


def add_version(
    connection: Connection,
    pipeline_id: int,
    *,
    spec: Mapping[str, Any],
    code_root: str | None,
    salt: str,
    now: float,
) -> int:
    """Make a new version the present one; returns its number."""
    version = connection.execute(
        sa.update(pipelines)
        .where(pipelines.c.id == pipeline_id)
        .values(version=pipelines.c.version + 1)
        .returning(pipelines.c.version)
    ).scalar_one()
    connection.execute(
        sa.insert(pipeline_versions).values(
            pipeline_id=pipeline_id,
            version=version,
            spec=dict(spec),
            code_root=code_root,
            salt=salt,
            created_at=now,
        )
    )
    return int(version)


def find_pipeline_id(connection: Connection, project: str, name: str) -> int | None:
    found: int | None = _PIPELINE_ID.scalar(connection, project=project, name=name)
    return found


def get_pipeline(
    connection: Connection, project: str, name: str, version: int | None = None
) -> Pipeline | None:
    """A pipeline as of ``version``, or as it is now."""
    if version is None:
        found = _AS_IT_IS.first(connection, project=project, name=name)
    else:
        found = _AS_OF_VERSION.first(connection, project=project, name=name, version=version)
    return _pipeline(found) if found is not None else None


def list_pipelines(connection: Connection, project: str | None) -> list[Pipeline]:
    statement = _pipelines(pipelines.c.version).order_by(pipelines.c.project, pipelines.c.id)
    if project is not None:
        statement = statement.where(pipelines.c.project == project)
    return [_pipeline(row) for row in connection.execute(statement)]


def list_versions(connection: Connection, project: str, name: str, before: int, limit: int) -> list[Pipeline]:
    """A pipeline in its versions older than ``before``, the newest first."""
    number = pipeline_versions.c.version
    statement = _pipelines(number).where(
        pipelines.c.project == project, pipelines.c.name == name, number < before
    )
    return [_pipeline(row) for row in connection.execute(statement.order_by(number.desc()).limit(limit))]


def is_any(connection: Connection) -> bool:
    """Whether there is a pipeline at all."""
    return connection.execute(sa.select(pipelines.c.id).limit(1)).scalar() is not None


def set_state(connection: Connection, pipeline_id: int, state: str) -> None:
    connection.execute(sa.update(pipelines).where(pipelines.c.id == pipeline_id).values(state=state))


def delete_pipeline(connection: Connection, pipeline_id: int) -> None:
    """With its versions, jobs and datums."""
    connection.execute(sa.delete(pipelines).where(pipelines.c.id == pipeline_id))


def _pipelines(version: Any) -> sa.Select[Any]:
    other = jobs.alias()
    last = sa.select(sa.func.max(other.c.pk)).where(other.c.pipeline_id == pipelines.c.id).scalar_subquery()
    return (
        sa.select(
            pipelines.c.project, pipelines.c.name, pipelines.c.state, pipelines.c.created_at,
            pipeline_versions.c.version, pipeline_versions.c.spec, pipeline_versions.c.code_root,
            pipeline_versions.c.salt, pipeline_versions.c.created_at.label("updated_at"),
            jobs.c.id.label("job_id"), jobs.c.status.label("job_status"), jobs.c.reason.label("job_reason"),
        )
        .join(
            pipeline_versions,
            sa.and_(pipeline_versions.c.pipeline_id == pipelines.c.id, pipeline_versions.c.version == version),
        )
        .outerjoin(jobs, jobs.c.pk == last)
    )  # fmt: skip


def _named(statement: sa.Select[Any]) -> sa.Select[Any]:
    return statement.where(
        pipelines.c.project == sa.bindparam("project"), pipelines.c.name == sa.bindparam("name")
    )


_PIPELINE_ID = Prepared(_named(sa.select(pipelines.c.id)))
_AS_IT_IS = Prepared(_named(_pipelines(pipelines.c.version)))
_AS_OF_VERSION = Prepared(_named(_pipelines(sa.bindparam("version"))))


def _pipeline(row: Row[Any]) -> Pipeline:
    return Pipeline(
        project=ProjectName(row.project),
        name=PipelineName(row.name),
        version=row.version,
        state=row.state,
        description=row.spec.get("description", ""),
        spec=row.spec,
        code_root=TreeHash(row.code_root) if row.code_root else None,
        salt=row.salt,
        input=input_in_short(row.spec),
        notes=notes(row.spec),
        last_job_id=CommitId(row.job_id) if row.job_id else None,
        last_job_status=Status(row.job_status) if row.job_status else None,
        last_job_reason=row.job_reason or "",
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


# --- jobs ---


def insert_job(connection: Connection, pipeline_id: int, commit_id: str, now: float) -> None:
    """A job that waits for its inputs. Not an error if it is there already."""
    _INSERT_JOB.run(connection, id=commit_id, pipeline=pipeline_id, created_at=now)


def unfinished_jobs(connection: Connection, pipeline_id: int) -> list[JobRow]:
    """Oldest first: in the order of their output commits."""
    return [_job(row) for row in _UNFINISHED.all(connection, pipeline=pipeline_id)]


def get_job(connection: Connection, project: str, pipeline: str, commit_id: str | None) -> JobRow | None:
    """A job; the latest one where no ID is given."""
    if commit_id is None:
        row = _LATEST_JOB.first(connection, project=project, name=pipeline)
    else:
        row = _JOB.first(connection, project=project, name=pipeline, id=commit_id)
    return _job(row) if row is not None else None


def get_job_by_pk(connection: Connection, pk: int) -> JobRow | None:
    row = _JOB_BY_PK.first(connection, pk=pk)
    return _job(row) if row is not None else None


def list_jobs(
    connection: Connection,
    *,
    project: str | None = None,
    pipeline: str | None = None,
    commit_id: str | None = None,
    before: int | None = None,
    limit: int,
    wanted: JobFilter = ALL_JOBS,
) -> list[Job]:
    """Newest first; only those that are older than the job ``before``."""
    statement = _JOBS.order_by(jobs.c.pk.desc())
    streamed = statement.execution_options(yield_per=ROWS_PER_FETCH)
    statement = streamed if wanted.inputs else statement.limit(limit)
    if wanted.statuses:
        statement = statement.where(jobs.c.status.in_(wanted.statuses))
    if wanted.history is not None:
        statement = statement.where(jobs.c.version >= pipelines.c.version - wanted.history)
    for *_, commit in wanted.inputs:  # a rough look; the exact one is below
        statement = statement.where(sa.cast(jobs.c.inputs, sa.Text).contains(commit, autoescape=True))
    if before is not None:
        statement = statement.where(jobs.c.pk < before)
    for column, value in (
        (pipelines.c.project, project),
        (pipelines.c.name, pipeline),
        (jobs.c.id, commit_id),
    ):
        if value is not None:
            statement = statement.where(column == value)
    with connection.execute(statement) as rows:
        return list(islice(filter(wanted.takes, (_job(row).job for row in rows)), limit))


def list_job_sets(
    connection: Connection, *, project: str | None, before: str | None, limit: int
) -> list[str]:
    """IDs that jobs have (of a project), that of the newest job first; only those older than ``before``."""
    newer = jobs.alias()
    is_newest = ~sa.exists().where(newer.c.id == jobs.c.id, newer.c.pk > jobs.c.pk)
    statement = sa.select(jobs.c.id).where(is_newest).order_by(jobs.c.pk.desc()).limit(limit)
    if before is not None:
        last = sa.select(sa.func.max(newer.c.pk)).where(newer.c.id == before).scalar_subquery()
        statement = statement.where(jobs.c.pk < last)
    if project is not None:
        own, where = jobs.alias(), pipelines.alias()
        has_own = sa.exists().where(
            own.c.id == jobs.c.id, where.c.id == own.c.pipeline_id, where.c.project == project
        )
        statement = statement.where(has_own)
    return list(connection.execute(statement).scalars())


def job_ids(connection: Connection, project: str, pipeline: str) -> set[str]:
    """Of all jobs that a pipeline has."""
    rows = connection.execute(
        sa.select(jobs.c.id)
        .join(pipelines, pipelines.c.id == jobs.c.pipeline_id)
        .where(pipelines.c.project == project, pipelines.c.name == pipeline)
    )
    return set(rows.scalars())


def delete_job(connection: Connection, pk: int) -> None:
    """With its datums; what they have computed stays known."""
    connection.execute(sa.delete(jobs).where(jobs.c.pk == pk))


def pipelines_with_waiting_jobs(connection: Connection) -> list[tuple[str, str]]:
    return [(row.project, row.name) for row in _WITH_WAITING_JOBS.all(connection)]


def last_succeeded(
    connection: Connection, pipeline_id: int, before: int, code: str | None = None
) -> JobRow | None:
    """The nearest job before another one that succeeded; with ``code``: whose code and input tree had that digest.

    An output branch has no forks and its jobs are made in the order of its commits, so the jobs before a job are its ancestors.
    """
    if code is None:
        row = _LAST_SUCCEEDED.first(connection, pipeline=pipeline_id, before=before)
    else:
        row = _LAST_WITH_CODE.first(connection, pipeline=pipeline_id, before=before, code=code)
    return _job(row) if row is not None else None


def update_job(connection: Connection, pk: int, expected: Status, **values: Any) -> bool:
    """Anything but its status; False if that is not as expected, and then nothing was written."""
    return _UPDATE.run(connection, values, this=pk, expected=expected) == 1


def set_phase(connection: Connection, pk: int, phase: str) -> None:
    update_job(connection, pk, Status.RUNNING, phase=phase)


def count(
    connection: Connection, pk: int, counts: Mapping[str, int], stats: Mapping[str, float] | None = None
) -> JobRow | None:
    """So many more datums ``processed``, ``skipped`` …, and what they took. None if the job is not running any more."""
    added = {name: number for name, number in counts.items() if number}
    new = {} if stats is None else {"stats": dict(stats)}
    if added or new:
        updated = _UPDATE.run(connection, new, added, this=pk, expected=Status.RUNNING)
        if not updated:
            return None
    row = get_job_by_pk(connection, pk)
    return row if row is not None and row.job.status == Status.RUNNING else None


def transition(
    connection: Connection,
    row: JobRow,
    old: Sequence[Status],
    new: Status,
    now: float,
    *,
    reason: str = "",
    **values: Any,
) -> bool:
    """The only writer of a job's status. False if it is in none of the ``old`` ones, and then nothing was written."""
    assert all(new in TRANSITIONS[status] for status in old), f"{old} may not become {new}"
    if new.is_final:
        values |= {"finished_at": now, "phase": "", "base_root": None}
    changed = {"status": new, "reason": reason, **values}
    if not any(_UPDATE.run(connection, changed, this=row.pk, expected=status) for status in old):
        return False
    key = f"{row.job.project}/{row.job.pipeline}@{row.job.id}"
    _EVENT.run(connection, key=key, old=row.job.status, new=new, reason=reason, created_at=now)
    return True


_JOBS = sa.select(jobs, pipelines.c.project, pipelines.c.name).join(
    pipelines, pipelines.c.id == jobs.c.pipeline_id
)
_NEWEST_FIRST = jobs.c.pk.desc()
_JOB_BY_PK = Prepared(_JOBS.where(jobs.c.pk == sa.bindparam("pk")))
_LATEST_JOB = Prepared(_named(_JOBS).order_by(_NEWEST_FIRST).limit(1))
_JOB = Prepared(_named(_JOBS).where(jobs.c.id == sa.bindparam("id")))
_OF_PIPELINE = _JOBS.where(jobs.c.pipeline_id == sa.bindparam("pipeline"))
_UNFINISHED = Prepared(
    _OF_PIPELINE.where(sa.or_(*(jobs.c.status == status for status in UNFINISHED))).order_by(jobs.c.pk)
)
_SUCCEEDED_BEFORE = (
    _OF_PIPELINE.where(jobs.c.pk < sa.bindparam("before"), jobs.c.status == Status.SUCCEEDED)
    .order_by(_NEWEST_FIRST)
    .limit(1)
)
_LAST_SUCCEEDED = Prepared(_SUCCEEDED_BEFORE)
_LAST_WITH_CODE = Prepared(_SUCCEEDED_BEFORE.where(jobs.c.code == sa.bindparam("code")))
_WITH_WAITING_JOBS = Prepared(
    sa.select(pipelines.c.project, pipelines.c.name)
    .join(jobs, jobs.c.pipeline_id == pipelines.c.id)
    .where(jobs.c.status == Status.QUEUED)
    .distinct()
)
_PRESENT_VERSION = sa.select(pipelines.c.version).where(pipelines.c.id == sa.bindparam("pipeline"))
_INSERT_JOB = Prepared(
    upsert(jobs)
    .values(
        {
            "id": sa.bindparam("id"), "pipeline_id": sa.bindparam("pipeline"), "version": _PRESENT_VERSION.scalar_subquery(),
            "status": Status.QUEUED, "phase": WAITING, "reason": "", "inputs": [], "total": 0, "processed": 0, "skipped": 0,
            "failed": 0, "recovered": 0, "quarantined": 0, "stats": {}, "created_at": sa.bindparam("created_at"),
        }
    )
    .on_conflict_do_nothing()
)  # fmt: skip
_UPDATE = PreparedUpdate(
    sa.update(jobs).where(jobs.c.pk == sa.bindparam("this"), jobs.c.status == sa.bindparam("expected"))
)
_EVENT = Prepared(
    sa.insert(events).values(
        noun="job", **{name: sa.bindparam(name) for name in ("key", "old", "new", "reason", "created_at")}
    )
)


def _job(row: Row[Any]) -> JobRow:
    job = Job(
        project=ProjectName(row.project), pipeline=PipelineName(row.name), id=CommitId(row.id), version=row.version,
        status=Status(row.status), phase=row.phase, reason=row.reason, inputs=tuple(map(_job_input, row.inputs)),
        total=row.total, processed=row.processed, skipped=row.skipped, failed=row.failed, recovered=row.recovered,
        quarantined=row.quarantined, stats=row.stats, egress=row.egress, created_at=row.created_at,
        started_at=row.started_at, finished_at=row.finished_at, restarts=len(row.sets_lost),
    )  # fmt: skip
    return JobRow(
        pk=row.pk, pipeline_id=row.pipeline_id, code=row.code, base_pk=row.base_pk, base_root=row.base_root,
        sets=row.sets, sets_queued=row.sets_queued, sets_lost=frozenset(row.sets_lost), job=job,
    )  # fmt: skip


def _job_input(value: Mapping[str, str]) -> JobInput:
    return JobInput(
        name=value["name"], project=ProjectName(value["project"]), repo=RepoName(value["repo"]),
        branch=value["branch"], commit=CommitId(value["commit"]), root=value.get("root", ""),
    )  # fmt: skip


# --- trees that are referred to -----------------------------------------------------------------------------------

ROOTS = (
    RootSource(
        column=pipeline_versions.c.code_root,
        keys=(pipelines.c.project, pipelines.c.name, pipeline_versions.c.version),
        join=(pipelines,),
        label=lambda row: f"code of pipeline {row.k0}/{row.k1} version {row.k2}",
    ),
    RootSource(
        column=jobs.c.inputs,
        keys=(pipelines.c.project, pipelines.c.name, jobs.c.id),
        join=(pipelines,),
        label=lambda row: f"input of job {row.k0}/{row.k1}@{row.k2}",
        where=jobs.c.status.in_([Status.QUEUED, Status.RUNNING]),
        read=lambda inputs: [one["root"] for one in inputs if one.get("root")],
    ),
    RootSource(
        column=jobs.c.base_root,
        keys=(pipelines.c.project, pipelines.c.name, jobs.c.id),
        join=(pipelines,),
        label=lambda row: f"base of job {row.k0}/{row.k1}@{row.k2}",
    ),
)
