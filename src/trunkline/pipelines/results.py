"""What datums have made, by identity, whichever job or pipeline they belonged to; and all SQL on ``datum_results``.

What the datums of a running job make stays in their own rows at first, and is *filed* with ``datum_results`` when some sets have
ended, or the job. Identities come in no order: each row that is filed changes a page of its own in the index of all
results, unless it comes with so many others that they share pages.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from trunkline.core.status import Status
from trunkline.storage.db.many import Many
from trunkline.storage.db.prepared import Prepared
from trunkline.storage.db.schema import datum_results, datums, jobs
from trunkline.storage.db.upsert import upsert
from trunkline.versioning.roots import RootSource

PARAMETERS_MAX = 1000
"""Values in one list: far below what any database allows."""


class Result(NamedTuple):
    """The output of a datum: all that is below ``prefix`` in the tree ``root``; no root: it wrote nothing."""

    root: str | None
    prefix: str = ""
    size: int = 0
    file_count: int = 0
    job_id: str = ""


def known_results(connection: Connection, identities: Collection[str]) -> dict[str, Result]:
    """By identity, for those that were computed before."""
    found: dict[str, Result] = {}
    for part in _parts(identities):
        for query in (_UNFILED_AMONG, _FILED_AMONG):  # of two, the one that was filed
            for row in query.all(connection, wanted=part):
                found[row.identity] = Result(
                    row.output_root, row.output_prefix, row.size, row.file_count, row.job_id
                )
    return found


def in_flight(connection: Connection, pipeline_id: int, job_pk: int, identities: Collection[str]) -> set[str]:
    """Identities that another job of the pipeline is computing, or is going to."""
    found: set[str] = set()
    if _OTHER_JOBS.first(connection, of_pipeline=pipeline_id, but=job_pk) is not None:
        for part in _parts(identities):
            found.update(
                _IN_FLIGHT_AMONG.scalars(connection, of_pipeline=pipeline_id, but=job_pk, wanted=part)
            )
    return found


def _parts(identities: Collection[str]) -> Iterator[list[str]]:
    rest = iter(identities)
    while part := list(islice(rest, PARAMETERS_MAX)):
        yield part


def file_results(connection: Connection, job_pk: int, now: float, sets: range | None = None) -> None:
    """Have what datums of a job have made among the results: of those in the ``sets`` where each has ended, or of all that have
    ended."""
    if sets is None:
        _FILE.run(connection, of_job=job_pk, now=now)
        _MARK_FILED.run(connection, of_job=job_pk, now=now)
        return
    some = {"of_job": job_pk, "first": sets.start, "last": sets.stop - 1}
    if _OPEN_IN_SETS.first(connection, **some) is None:
        _FILE_SETS.run(connection, **some, now=now)
        _MARK_SETS_FILED.run(connection, **some, now=now)


def remember(connection: Connection, found: Iterable[tuple[str, Result]], now: float) -> None:
    """The first result of an identity stays: two of them are equally right."""
    values = [
        {
            "identity": identity, "output_root": one.root, "output_prefix": one.prefix, "size": one.size,
            "file_count": one.file_count, "job_id": one.job_id, "created_at": now,
        }
        for identity, one in found
    ]  # fmt: skip
    _REMEMBER(connection, values)


UNFILED = datums.c.filed_at.is_(None)
_OF_JOBS = datums.join(jobs, jobs.c.pk == datums.c.job_pk)
_MADE = (
    datums.c.identity, datums.c.output_root, datums.c.output_prefix, datums.c.size, datums.c.file_count,
    jobs.c.id.label("job_id"),
)  # fmt: skip
_wanted: sa.BindParameter[Any] = sa.bindparam("wanted", expanding=True)
_UNFILED_AMONG = Prepared(
    sa.select(*_MADE)
    .select_from(_OF_JOBS)
    .where(datums.c.identity.in_(_wanted), UNFILED, datums.c.status == Status.SUCCEEDED)
)
_OTHER_JOBS = Prepared(
    sa.select(1)
    .where(
        jobs.c.pipeline_id == sa.bindparam("of_pipeline"), jobs.c.status == Status.RUNNING,
        jobs.c.pk != sa.bindparam("but"),
    )
    .limit(1)
)  # fmt: skip
_IN_FLIGHT_AMONG = Prepared(
    sa.select(datums.c.identity).where(
        datums.c.identity.in_(_wanted), UNFILED, datums.c.status.in_((Status.QUEUED, Status.RUNNING)),
        datums.c.waits.is_(False), datums.c.job_pk != sa.bindparam("but"),
        # (A join would begin with the pipeline's jobs, and go through all their datums.)
        sa.exists()
        .where(
            jobs.c.pk == datums.c.job_pk, jobs.c.pipeline_id == sa.bindparam("of_pipeline"),
            jobs.c.status == Status.RUNNING,
        )
        .correlate(datums),
    )
)  # fmt: skip
_FILED_AMONG = Prepared(
    sa.select(*[column for column in datum_results.columns if column.name != "created_at"]).where(
        datum_results.c.identity.in_(_wanted)
    )
)
_OF_JOB = (datums.c.job_pk == sa.bindparam("of_job"), UNFILED)
_IN_SETS = (*_OF_JOB, datums.c.set_no.between(sa.bindparam("first"), sa.bindparam("last")))
_ENDED = (*_OF_JOB, datums.c.finished_at.is_not(None))
_OPEN_IN_SETS = Prepared(sa.select(datums.c.id).where(*_IN_SETS, datums.c.finished_at.is_(None)).limit(1))


def _file(*where: sa.ColumnElement[bool]) -> tuple[Prepared, Prepared]:
    """What has these datums among the results, and what notes that."""
    made = (
        sa.select(*_MADE, sa.bindparam("now", type_=sa.Float))
        .select_from(_OF_JOBS)
        .where(*where, datums.c.status == Status.SUCCEEDED)
        .order_by(datums.c.identity)
    )
    names = [column.name for column in datum_results.columns]
    filing = upsert(datum_results).from_select(names, made).on_conflict_do_nothing()
    return Prepared(filing), Prepared(sa.update(datums).where(*where).values(filed_at=sa.bindparam("now")))


_FILE, _MARK_FILED = _file(*_ENDED)
_FILE_SETS, _MARK_SETS_FILED = _file(*_IN_SETS)
_REMEMBER = Many(
    upsert(datum_results).on_conflict_do_nothing(), [column.name for column in datum_results.columns]
)

ROOTS = (
    RootSource(
        column=datum_results.c.output_root,
        keys=(datum_results.c.identity, datum_results.c.job_id),
        label=lambda row: f"cached result {row.k0} of job {row.k1}",
        is_cache=True,
    ),
)
