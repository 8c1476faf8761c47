"""All SQL on ``datums`` and ``datum_results``. What touches many rows does so in few statements."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from trunkline.core.ids import TreeHash
from trunkline.core.status import Status
from trunkline.pipelines.datums import PlannedDatum
from trunkline.pipelines.model import Datum, DatumInput
from trunkline.storage.db.schema import datum_results, datums
from trunkline.storage.db.upsert import upsert

T = TypeVar("T")

PARAMETERS_MAX = 500
"""Values in one IN list: far below what any database allows."""
ROWS_PER_INSERT = 5000
SUMMED_STATS = ("download_seconds", "process_seconds", "upload_seconds", "download_bytes", "upload_bytes")


def known_results(connection: Connection, identities: Iterable[str]) -> dict[str, str]:
    """Output trees by identity, for those that were computed before."""
    found: dict[str, str] = {}
    for part in _parts(identities, PARAMETERS_MAX):
        rows = connection.execute(
            sa.select(datum_results.c.identity, datum_results.c.output_root).where(
                datum_results.c.identity.in_(part)
            )
        )
        found.update((row.identity, row.output_root) for row in rows)
    return found


def insert_datums(
    connection: Connection,
    job_pk: int,
    planned: Sequence[PlannedDatum],
    results: Mapping[str, str],
    now: float,
) -> None:
    """All datums of a job; those with a known result are ``skipped`` from the start."""
    for part in _parts(planned, ROWS_PER_INSERT):
        connection.execute(
            sa.insert(datums), [_new_row(job_pk, one, results.get(one.identity), now) for one in part]
        )


def _new_row(job_pk: int, planned: PlannedDatum, output_root: str | None, now: float) -> dict[str, Any]:
    return {
        "job_pk": job_pk, "id": planned.id, "identity": planned.identity,
        "status": Status.QUEUED if output_root is None else Status.SKIPPED,
        "inputs": [asdict(one) for one in planned.inputs], "output_root": output_root, "attempts": 0, "reason": "",
        "stats": {}, "finished_at": None if output_root is None else now,
    }  # fmt: skip


def queued_after(connection: Connection, job_pk: int, datum_id: str, limit: int) -> list[str]:
    """IDs of datums that are to be processed, in order, from behind ``datum_id`` on."""
    rows = connection.execute(
        sa.select(datums.c.id)
        .where(datums.c.job_pk == job_pk, datums.c.status == Status.QUEUED, datums.c.id > datum_id)
        .order_by(datums.c.id)
        .limit(limit)
    )
    return list(rows.scalars())


def get_datum(connection: Connection, job_pk: int, datum_id: str) -> Datum | None:
    row = connection.execute(
        sa.select(datums).where(datums.c.job_pk == job_pk, datums.c.id == datum_id)
    ).one_or_none()
    return _datum(row) if row is not None else None


def list_datums(connection: Connection, job_pk: int, limit: int, after: str = "") -> list[Datum]:
    """In order of their IDs, from behind ``after`` on."""
    rows = connection.execute(
        sa.select(datums)
        .where(datums.c.job_pk == job_pk, datums.c.id > after)
        .order_by(datums.c.id)
        .limit(limit)
    )
    return [_datum(row) for row in rows]


def find_datum_ids(connection: Connection, job_pk: int, prefix: str) -> list[str]:
    """Up to two IDs that start with ``prefix``."""
    rows = connection.execute(
        sa.select(datums.c.id)
        .where(datums.c.job_pk == job_pk, datums.c.id.startswith(prefix, autoescape=True))
        .limit(2)
    )
    return list(rows.scalars())


def first_failed(connection: Connection, job_pk: int) -> Datum | None:
    row = connection.execute(
        sa.select(datums)
        .where(datums.c.job_pk == job_pk, datums.c.status == Status.FAILED)
        .order_by(datums.c.finished_at)
        .limit(1)
    ).one_or_none()
    return _datum(row) if row is not None else None


def outputs(connection: Connection, job_pk: int) -> dict[str, TreeHash]:
    """Output tree by datum, of all that have one."""
    rows = connection.execute(
        sa.select(datums.c.id, datums.c.output_root).where(
            datums.c.job_pk == job_pk, datums.c.output_root.is_not(None)
        )
    )
    return {row.id: TreeHash(row.output_root) for row in rows}


def sum_of_stats(connection: Connection, job_pk: int) -> dict[str, float]:
    """Over the datums that this job processed itself."""
    sums: dict[str, float] = {}
    rows = connection.execute(
        sa.select(datums.c.stats).where(datums.c.job_pk == job_pk, datums.c.status != Status.SKIPPED)
    )
    for stats in rows.scalars():
        for name in SUMMED_STATS:
            if isinstance(value := stats.get(name), int | float):
                sums[name] = sums.get(name, 0) + value
    return sums


def start_try(connection: Connection, job_pk: int, datum_id: str, now: float) -> None:
    values = {"status": Status.RUNNING, "attempts": datums.c.attempts + 1, "started_at": now}
    connection.execute(_one(job_pk, datum_id).where(datums.c.status == Status.QUEUED).values(values))


def end_try(
    connection: Connection, job_pk: int, datum_id: str, *, reason: str, is_counted: bool = True
) -> None:
    """Back to the queue. A try that was given back through no fault of the code is not counted."""
    attempts = datums.c.attempts if is_counted else datums.c.attempts - 1
    connection.execute(_one(job_pk, datum_id).values(status=Status.QUEUED, attempts=attempts, reason=reason))


def finish_datum(
    connection: Connection, job_pk: int, datum_id: str, status: Status, now: float, **values: Any
) -> bool:
    """The datum's end; False if it has ended before."""
    unfinished = datums.c.status.in_((Status.QUEUED, Status.RUNNING))
    statement = _one(job_pk, datum_id).where(unfinished).values(status=status, finished_at=now, **values)
    return connection.execute(statement).rowcount == 1


def cancel_unfinished(connection: Connection, job_pk: int, now: float) -> None:
    connection.execute(
        sa.update(datums)
        .where(datums.c.job_pk == job_pk, datums.c.status.in_((Status.QUEUED, Status.RUNNING)))
        .values(status=Status.CANCELLED, finished_at=now)
    )


def remember_result(
    connection: Connection, *, identity: str, output_root: str, job_id: str, now: float
) -> None:
    """The first result of an identity stays: two of them are equally right."""
    statement = upsert(datum_results).values(
        identity=identity, output_root=output_root, job_id=job_id, created_at=now
    )
    connection.execute(statement.on_conflict_do_nothing())


def _one(job_pk: int, datum_id: str) -> sa.Update:
    return sa.update(datums).where(datums.c.job_pk == job_pk, datums.c.id == datum_id)


def _parts(values: Iterable[T], size: int) -> Iterator[list[T]]:
    rest = iter(values)
    while part := list(islice(rest, size)):
        yield part


def _datum(row: Row[Any]) -> Datum:
    return Datum(
        id=row.id,
        identity=row.identity,
        status=Status(row.status),
        inputs=tuple(DatumInput(**{**one, "paths": tuple(one["paths"])}) for one in row.inputs),
        output_root=TreeHash(row.output_root) if row.output_root else None,
        recovered=bool(row.stats.get("recovered")),
        attempts=row.attempts,
        reason=row.reason,
        stats=row.stats,
        started_at=row.started_at,
        finished_at=row.finished_at,
    )
