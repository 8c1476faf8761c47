"""All SQL on datum sets: the groups in which ``datums`` are leased, and the datums that wait for another job's."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from trunkline.core.status import Status
from trunkline.pipelines.datum_store import OPEN, parts
from trunkline.pipelines.results import UNFILED
from trunkline.storage.db.prepared import Prepared
from trunkline.storage.db.schema import datums, jobs

LOOKED_UP_MAX = 100
"""More of a set, which has a thousand datums at most, are found sooner by going through it than by their IDs."""


def open_in_set(connection: Connection, job_pk: int, set_no: int) -> list[Row[Any]]:
    """``id, status, attempts`` of the datums of a set that have not ended, in order."""
    return _OPEN_IN_SET.all(connection, in_job=job_pk, in_set=set_no)


def open_among(
    connection: Connection, job_pk: int, ids: Collection[str], set_no: int | None = None
) -> dict[str, str]:
    """Identities by ID, of those that have not ended; only those of a set, if one is given."""
    if set_no is None:
        rows = [row for part in parts(ids) for row in _OPEN_AMONG.all(connection, in_job=job_pk, wanted=part)]
    elif len(ids) <= LOOKED_UP_MAX:
        rows = _OPEN_IN_SET_AMONG.all(connection, in_job=job_pk, in_set=set_no, wanted=list(ids))
    else:
        rows = _IDENTITIES_IN_SET.all(connection, in_job=job_pk, in_set=set_no)
    return {one: identity for one, identity in rows if one in ids}


def described(connection: Connection, job_pk: int, set_no: int) -> list[dict[str, Any]]:
    """What a worker is told of them."""
    return [
        {"id": one, "identity": identity, "attempts": attempts, "files": files, "env": env}
        for one, identity, attempts, files, env in _DESCRIBED.all(connection, in_job=job_pk, in_set=set_no)
    ]


def first_open(connection: Connection, job_pk: int, set_no: int) -> str | None:
    found: str | None = _FIRST_OPEN.scalar(connection, in_job=job_pk, in_set=set_no)
    return found


def _open(*columns: sa.Column[Any]) -> sa.Select[Any]:
    return sa.select(*columns).where(*_IN_SET, datums.c.status.in_(OPEN)).order_by(datums.c.position)


_IN_SET = (datums.c.job_pk == sa.bindparam("in_job"), datums.c.set_no == sa.bindparam("in_set"))
_OPEN_IN_SET = Prepared(_open(datums.c.id, datums.c.status, datums.c.attempts))
_DESCRIBED = Prepared(_open(datums.c.id, datums.c.identity, datums.c.attempts, datums.c.files, datums.c.env))
_IDENTITIES_IN_SET = Prepared(_open(datums.c.id, datums.c.identity))
_FIRST_OPEN = Prepared(_open(datums.c.id).limit(1))
_wanted: sa.BindParameter[Any] = sa.bindparam("wanted", expanding=True)
_among = sa.select(datums.c.id, datums.c.identity).where(
    datums.c.job_pk == sa.bindparam("in_job"), datums.c.id.in_(_wanted), datums.c.status.in_(OPEN)
)
_OPEN_AMONG = Prepared(_among)
_OPEN_IN_SET_AMONG = Prepared(_among.where(datums.c.set_no == sa.bindparam("in_set")))
_NONE_BUT = Prepared(
    sa.update(datums)
    .where(*_IN_SET, datums.c.status == Status.RUNNING, datums.c.id != sa.bindparam("this"))
    .values(status=Status.QUEUED)
)
_BEGIN = Prepared(
    sa.update(datums)
    .where(*_IN_SET, datums.c.id == sa.bindparam("this"), datums.c.status == Status.QUEUED)
    .values(status=Status.RUNNING, started_at=sa.bindparam("now"))
)


def running_in(connection: Connection, job_pk: int, sets: Iterable[int]) -> dict[int, Row[Any]]:
    """The datum that each of some sets is at."""
    found: dict[int, Row[Any]] = {}
    for part in parts(sets):
        rows = connection.execute(
            sa.select(datums).where(
                datums.c.job_pk == job_pk, datums.c.set_no.in_(part), datums.c.status == Status.RUNNING
            )
        )
        found.update((row.set_no, row) for row in rows)
    return found


def mark_running(connection: Connection, job_pk: int, set_no: int, datum_id: str | None, now: float) -> None:
    """Which datum of a set is being worked on; none of it if ``datum_id`` is None."""
    _NONE_BUT.run(connection, in_job=job_pk, in_set=set_no, this=datum_id or "")
    if datum_id is not None:
        _BEGIN.run(connection, in_job=job_pk, in_set=set_no, this=datum_id, now=now)


def count_try(connection: Connection, job_pk: int, ids: Sequence[str], reason: str) -> None:
    """A try that ended without a result; the datums are queued."""
    for part in parts(ids):
        connection.execute(
            sa.update(datums)
            .where(datums.c.job_pk == job_pk, datums.c.id.in_(part), datums.c.status.in_(OPEN))
            .values(status=Status.QUEUED, attempts=datums.c.attempts + 1, reason=reason)
        )


# --- waiting for another job's datum ------------------------------------------------------------------------------


def waiting_for(connection: Connection, identities: Iterable[str]) -> list[tuple[int, str, str]]:
    """``(job, datum, identity)`` of those that wait for one of these."""
    return [
        (row.job_pk, row.id, row.identity)
        for part in parts(identities)
        for row in _WAITING_AMONG.all(connection, wanted=part)
    ]


_WAITING_AMONG = Prepared(
    sa.select(datums.c.job_pk, datums.c.id, datums.c.identity).where(
        datums.c.identity.in_(_wanted), UNFILED, datums.c.waits.is_(True), datums.c.status == Status.QUEUED
    )
)


def waiting_in_vain(connection: Connection, pipeline_id: int) -> dict[int, list[str]]:
    """Datums that wait although nobody computes what they wait for: by job, one of each identity."""
    found: dict[int, list[str]] = {}
    seen: set[str] = set()
    for row in _WAITING_IN_VAIN.all(connection, pipeline=pipeline_id):
        if row.identity not in seen:
            seen.add(row.identity)
            found.setdefault(row.job_pk, []).append(row.id)
    return found


def _waiting_in_vain() -> sa.Select[Any]:
    other, its_job = datums.alias(), jobs.alias()
    is_computed = (
        sa.select(1)
        .select_from(other.join(its_job, its_job.c.pk == other.c.job_pk))
        .where(
            other.c.identity == datums.c.identity, other.c.filed_at.is_(None), other.c.status.in_(OPEN),
            other.c.waits.is_(False), other.c.job_pk != datums.c.job_pk, its_job.c.pipeline_id == sa.bindparam("pipeline"),
            its_job.c.status == Status.RUNNING,
        )
        .exists()
    )  # fmt: skip
    return (
        sa.select(datums.c.job_pk, datums.c.id, datums.c.identity)
        .join(jobs, jobs.c.pk == datums.c.job_pk)
        .where(
            jobs.c.pipeline_id == sa.bindparam("pipeline"), jobs.c.status == Status.RUNNING,
            datums.c.status == Status.QUEUED, datums.c.waits.is_(True), ~is_computed,
        )
        .order_by(datums.c.job_pk)
    )  # fmt: skip


_WAITING_IN_VAIN = Prepared(_waiting_in_vain())


def into_set(connection: Connection, job_pk: int, ids: Sequence[str], set_no: int) -> None:
    """Let datums be computed after all, as a set of their own."""
    last = connection.execute(
        sa.select(sa.func.coalesce(sa.func.max(datums.c.position), -1)).where(datums.c.job_pk == job_pk)
    ).scalar_one()
    connection.execute(
        sa.update(datums)
        .where(datums.c.job_pk == job_pk, datums.c.id == sa.bindparam("this"))
        .values(waits=False, set_no=set_no, position=sa.bindparam("place")),
        [{"this": one, "place": last + 1 + number} for number, one in enumerate(ids)],
    )
