"""All SQL on ``datums``: the rows in which a job differs from its base. What touches many rows does so in few statements."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from trunkline.core.ids import TreeHash
from trunkline.core.status import Status
from trunkline.pipelines.model import Datum, DatumInput, JobInput
from trunkline.pipelines.results import Result, in_flight, known_results
from trunkline.storage.db.many import Many
from trunkline.storage.db.prepared import Prepared
from trunkline.storage.db.schema import SHORT_ID, SHORT_ID_CHARACTERS, datums, jobs, pipelines
from trunkline.versioning.model import TreePart
from trunkline.versioning.roots import RootSource

T = TypeVar("T")

PARAMETERS_MAX = 500
"""Values in one IN list: far below what any database allows."""
ROWS_PER_FETCH = 2000
OPEN = (Status.QUEUED, Status.RUNNING)
UNDONE = (Status.RECOVERED, Status.QUARANTINED)
"""What a job that succeeded may have left to the next one."""


class NewDatum(NamedTuple):
    """A row to be: a datum that is not in the base as it is now."""

    id: str
    identity: str
    files: list[list[Any]]
    env: Mapping[str, str]
    why: Mapping[str, Any]
    old_identity: str | None = None
    old: Result | None = None
    """What it had made in the base, if anything."""
    is_removed: bool = False


class Inserted(NamedTuple):
    """How many rows were written of which kind, and how many sets those to do are in."""

    to_do: int
    waiting: int
    cached: int
    removed: int
    sets: int

    @property
    def datums(self) -> int:
        """Those that the job has."""
        return self.to_do + self.waiting + self.cached


NOTHING = Inserted(0, 0, 0, 0, 0)


def insert(
    connection: Connection,
    *,
    job_pk: int,
    pipeline_id: int,
    rows: Sequence[NewDatum],
    first: int,
    numbers: Callable[[Sequence[NewDatum]], Sequence[int]],
    now: float,
    use_cache: bool = True,
) -> Inserted:
    """Rows of a job. Those whose result is known are ``skipped`` from the start; those that another job of the pipeline
    computes just now wait for it; the others have positions from ``first`` on, and ``numbers`` says which set each is in."""
    wanted = [row.identity for row in rows if not row.is_removed]
    known = known_results(connection, wanted) if use_cache else {}
    busy = in_flight(connection, pipeline_id, job_pk, [one for one in wanted if one not in known])
    waiting = cached = removed = 0
    values, fresh = [], []
    for row in rows:
        if not (row.is_removed or row.identity in known or row.identity in busy):
            fresh.append(row)
            continue
        value = _new_row(job_pk, row)
        if row.is_removed:
            removed += 1
            value |= {"status": Status.REMOVED, "finished_at": now, "filed_at": now}
        elif row.identity in known:
            cached += 1
            value |= _output(known[row.identity]) | {
                "status": Status.SKIPPED, "finished_at": now, "filed_at": now,
                "why": {**row.why, "kind": "cached", "was": row.why["kind"], "from": known[row.identity].job_id},
            }  # fmt: skip
        else:
            waiting += 1
            value["waits"] = True
        values.append(value)
    _INSERT(connection, values)
    sets = numbers(fresh)
    _insert_fresh(connection, job_pk, fresh, first, sets)
    return Inserted(len(fresh), waiting, cached, removed, len(set(sets)))


_INSERT = Many(sa.insert(datums), [column.name for column in datums.columns])
_INSERT_FRESH = Many(
    sa.insert(datums).values(
        {
            name: sa.literal_column(value)
            for name, value in {
                "status": f"'{Status.QUEUED}'", "attempts": "0", "reason": "''", "stats": "'{}'",
            }.items()
        }
    ),
    ("job_pk", "id", "identity", "files", "env", "why", "old_identity", "old_root", "old_prefix", "position", "set_no"),
)  # fmt: skip
"""Of rows that are to be computed. There may be many: what is the same for all is said once, or is the table's default."""


def _insert_fresh(
    connection: Connection, job_pk: int, rows: Sequence[NewDatum], first: int, sets: Sequence[int]
) -> None:
    if not rows:
        return
    ids, identities, files, envs, whys, old_identities, olds, _ = zip(*rows, strict=True)
    roots, prefixes, *_ = zip(*[old or _NOTHING for old in olds], strict=True)
    _INSERT_FRESH.columns(
        connection,
        {
            "job_pk": [job_pk] * len(rows), "id": ids, "identity": identities, "files": files, "env": envs, "why": whys,
            "old_identity": old_identities, "old_root": roots, "old_prefix": prefixes,
            "position": range(first, first + len(rows)), "set_no": sets,
        },
    )  # fmt: skip


def _new_row(job_pk: int, row: NewDatum) -> dict[str, Any]:
    old = row.old
    return {
        "job_pk": job_pk, "id": row.id, "identity": row.identity, "old_identity": row.old_identity,
        "old_root": None if old is None else old.root, "old_prefix": "" if old is None else old.prefix,
        "position": None, "set_no": None, "files": row.files, "env": row.env, "why": row.why, "waits": False,
        "status": Status.QUEUED, "output_root": None, "output_prefix": "", "size": 0, "file_count": 0, "attempts": 0,
        "reason": "", "stats": {}, "started_at": None, "finished_at": None, "filed_at": None,
    }  # fmt: skip


def _output(result: Result) -> dict[str, Any]:
    return {
        "output_root": result.root, "output_prefix": result.prefix, "size": result.size,
        "file_count": result.file_count,
    }  # fmt: skip


def delete_all(connection: Connection, job_pk: int) -> None:
    """The rows of a plan that was not finished."""
    connection.execute(sa.delete(datums).where(datums.c.job_pk == job_pk))


# --- ends ---------------------------------------------------------------------------------------------------------


class Ended(NamedTuple):
    """How a datum ended."""

    id: str
    status: Status
    attempts: int
    reason: str
    output: Result | None
    stats: dict[str, Any]
    started_at: float


def end(connection: Connection, job_pk: int, ended: Sequence[Ended], now: float) -> None:
    """Write the ends of datums that ``set_store.open_among`` has found in the same transaction."""
    if not ended:
        return
    ids, statuses, attempts, reasons, outputs, stats, started_at = zip(*ended, strict=True)
    roots, prefixes, sizes, file_counts, _ = zip(*[output or _NOTHING for output in outputs], strict=True)
    _END.columns(
        connection,
        {
            "job": [job_pk] * len(ended), "this": ids, "now": [now] * len(ended),
            "new_status": [status.value for status in statuses], "new_attempts": attempts, "new_reason": reasons,
            "new_stats": stats, "new_started_at": started_at, "new_output_root": roots, "new_output_prefix": prefixes,
            "new_size": sizes, "new_file_count": file_counts,
        },
    )  # fmt: skip


_NOTHING = Result(None)
_TOLD = (
    "status", "attempts", "reason", "output_root", "output_prefix", "size", "file_count", "stats", "started_at",
)  # fmt: skip
_END = Many(
    sa.update(datums)
    .where(datums.c.job_pk == sa.bindparam("job"), datums.c.id == sa.bindparam("this"))
    .values(
        waits=False,
        finished_at=sa.bindparam("now"),
        **{name: sa.bindparam(f"new_{name}", type_=datums.c[name].type) for name in _TOLD},
    )
)


def cancel_open(connection: Connection, job_pk: int, now: float) -> None:
    """At a job's end: what has not ended is not wanted any more, and the base is not needed."""
    _CANCEL_OPEN.run(connection, of_job=job_pk, now=now)
    _FORGET_BASE.run(connection, of_job=job_pk)


_OF_JOB = datums.c.job_pk == sa.bindparam("of_job")
_CANCEL_OPEN = Prepared(
    sa.update(datums)
    .where(_OF_JOB, datums.c.status.in_(OPEN))
    .values(
        status=Status.CANCELLED, waits=False, finished_at=sa.bindparam("now"), filed_at=sa.bindparam("now")
    )
)
_FORGET_BASE = Prepared(
    sa.update(datums).where(_OF_JOB, datums.c.old_root.is_not(None)).values(old_root=None)
)


def reopen(connection: Connection, job_pk: int, ids: Sequence[str]) -> dict[Status, int]:
    """Have ended datums done again; returns how many had which status."""
    counts: dict[Status, int] = {}
    for part in parts(ids):
        where = (datums.c.job_pk == job_pk, datums.c.id.in_(part))
        for status in connection.execute(sa.select(datums.c.status).where(*where)).scalars():
            counts[Status(status)] = counts.get(Status(status), 0) + 1
        connection.execute(
            sa.update(datums).where(*where).values(
                status=Status.QUEUED, waits=False, attempts=0, reason="", output_root=None, output_prefix="", size=0,
                file_count=0, stats={}, started_at=None, finished_at=None, filed_at=None,
            )
        )  # fmt: skip
    return counts


# --- looking ------------------------------------------------------------------------------------------------------


def get(connection: Connection, job_pk: int, datum_id: str) -> Row[Any] | None:
    return connection.execute(
        sa.select(datums).where(datums.c.job_pk == job_pk, datums.c.id == datum_id)
    ).one_or_none()


def rows_of(
    connection: Connection,
    job_pk: int,
    limit: int,
    after: str = "",
    *,
    removed: bool = False,
    statuses: Collection[Status] = (),
) -> list[Row[Any]]:
    """In order of their IDs, from behind ``after`` on; only those with one of the ``statuses``, if any are given."""
    statement = (
        sa.select(datums)
        .where(datums.c.job_pk == job_pk, datums.c.id > after)
        .order_by(datums.c.id)
        .limit(limit)
    )
    if statuses:
        statement = statement.where(datums.c.status.in_(statuses))
    elif not removed:
        statement = statement.where(datums.c.status != Status.REMOVED)
    return list(connection.execute(statement))


def whys_of(connection: Connection, job_pk: int) -> Iterator[tuple[str, dict[str, Any], int]]:
    """Status, why, and attempts of each row."""
    query = sa.select(datums.c.status, datums.c.why, datums.c.attempts).where(datums.c.job_pk == job_pk)
    for row in connection.execute(query.execution_options(yield_per=ROWS_PER_FETCH)):
        yield row.status, row.why, row.attempts


def ids_of(connection: Connection, job_pk: int) -> set[str]:
    return set(connection.execute(sa.select(datums.c.id).where(datums.c.job_pk == job_pk)).scalars())


def with_status(connection: Connection, job_pk: int, *statuses: Status) -> list[Row[Any]]:
    """In the order in which they ended."""
    return _WITH_STATUS.all(connection, of_job=job_pk, statuses=statuses)


_WITH_STATUS = Prepared(
    sa.select(datums)
    .where(_OF_JOB, datums.c.status.in_(sa.bindparam("statuses", expanding=True)))
    .order_by(datums.c.finished_at, datums.c.position, datums.c.id)
)


def find_ids(connection: Connection, job_pk: int, prefix: str) -> list[str]:
    """Up to two IDs that start with ``prefix``."""
    rows = connection.execute(
        sa.select(datums.c.id)
        .where(datums.c.job_pk == job_pk, datums.c.id.startswith(prefix, autoescape=True))
        .limit(2)
    )
    return list(rows.scalars())


def seeing(connection: Connection, job_pk: int, paths: Sequence[str]) -> list[Row[Any]]:
    """The rows whose inputs have all of these paths."""
    wanted = {path.rstrip("/") for path in paths}
    rows = connection.execute(
        sa.select(datums)
        .where(datums.c.job_pk == job_pk, datums.c.status != Status.REMOVED)
        .execution_options(yield_per=ROWS_PER_FETCH)
    )
    return [row for row in rows if wanted <= {file[1].rstrip("/") for file in row.files}]


def computed_with(
    connection: Connection, job_pk: int, wanted: Sequence[str], inputs: Sequence[JobInput]
) -> list[str]:
    """IDs of the rows that see all of ``wanted``: paths, also of files below a folder that is seen, with or without their repo
    (``repo:/path``), or hashes of content."""
    found = []
    query = sa.select(datums.c.id, datums.c.files).where(datums.c.job_pk == job_pk)
    for row in connection.execute(query.execution_options(yield_per=ROWS_PER_FETCH)):
        if all(any(_is_seen(one, file, inputs) for file in row.files) for one in wanted):
            found.append(row.id)
    return found


def _is_seen(wanted: str, file: Sequence[Any], inputs: Sequence[JobInput]) -> bool:
    number, path, digest, _ = file
    if wanted == digest:
        return True
    repo, colon, rest = wanted.partition(":")
    if colon and not repo.startswith("/"):
        if repo.rpartition("/")[2].partition("@")[0] != inputs[number].repo:
            return False
        wanted = rest
    wanted = "/" + wanted.strip("/")
    return bool(wanted == "/" + path.strip("/") or (path.endswith("/") and wanted.startswith(path)))


def files_by_id(connection: Connection, job_pk: int, ids: Iterable[str]) -> dict[str, list[list[Any]]]:
    """What datums see."""
    found: dict[str, list[list[Any]]] = {}
    for part in parts(ids):
        rows = connection.execute(
            sa.select(datums.c.id, datums.c.files).where(datums.c.job_pk == job_pk, datums.c.id.in_(part))
        )
        found.update((row.id, row.files) for row in rows)
    return found


def latest(
    connection: Connection, pipeline_id: int, up_to: int, ids: Iterable[str]
) -> dict[str, list[Row[Any]]]:
    """The rows that jobs of a pipeline up to a certain one have of each datum, newest first; of jobs that succeeded."""
    found: dict[str, list[Row[Any]]] = {}
    for part in parts(ids):
        # Whether the job counts is asked in an expression of its own: a join would begin with all the jobs of the pipeline.
        job_id = (
            sa.select(jobs.c.id)
            .where(
                jobs.c.pk == datums.c.job_pk, jobs.c.pipeline_id == pipeline_id, jobs.c.status == Status.SUCCEEDED
            )
            .scalar_subquery()
        )  # fmt: skip
        rows: Iterable[Row[Any]] = connection.execute(
            sa.select(
                datums.c.id, datums.c.identity, datums.c.status, datums.c.files, datums.c.output_root,
                datums.c.output_prefix, datums.c.size, datums.c.file_count, datums.c.why, job_id.label("job_id"),
            )
            .where(
                SHORT_ID.in_([one[:SHORT_ID_CHARACTERS] for one in part]), datums.c.id.in_(part),
                datums.c.job_pk <= up_to,
            )
            .order_by(datums.c.job_pk.desc())
        )  # fmt: skip
        for row in rows:
            if row.job_id is not None:
                found.setdefault(row.id, []).append(row)
    return found


def changes_of_output(
    connection: Connection, job_pk: int, labels: Sequence[JobInput]
) -> tuple[list[TreePart], list[TreePart]]:
    """What goes from the base's output, and what comes to it."""
    query = sa.select(
        datums.c.files, datums.c.old_root, datums.c.old_prefix, datums.c.output_root, datums.c.output_prefix
    ).where(
        datums.c.job_pk == job_pk, sa.or_(datums.c.old_root.is_not(None), datums.c.output_root.is_not(None))
    )  # fmt: skip
    gone: list[TreePart] = []
    came: list[TreePart] = []
    for row in connection.execute(
        query.order_by(datums.c.position, datums.c.id).execution_options(yield_per=ROWS_PER_FETCH)
    ):
        name = label(row.files, labels)
        if row.old_root is not None:
            gone.append(TreePart(name, TreeHash(row.old_root), row.old_prefix))
        if row.output_root is not None:
            came.append(TreePart(name, TreeHash(row.output_root), row.output_prefix))
    return gone, came


def label(files: Sequence[Sequence[Any]], inputs: Sequence[JobInput]) -> str:
    """A datum as a person knows it: ``datum images:/a.png``."""
    shown = [f"{inputs[file[0]].repo}:{file[1]}" for file in files[:3]]
    return "datum " + ", ".join(shown) + (f" and {len(files) - 3} more" if len(files) > 3 else "")


def parts(values: Iterable[T], size: int = PARAMETERS_MAX) -> Iterator[list[T]]:
    rest = iter(values)
    while part := list(islice(rest, size)):
        yield part


def datum_of(row: Row[Any], inputs: Sequence[JobInput]) -> Datum:
    """A row as others see it; ``inputs`` are its job's."""
    return Datum(
        id=row.id, identity=row.identity, status=Status(row.status), inputs=seen_files(row.files, inputs),
        output_root=TreeHash(row.output_root) if row.output_root else None, output_prefix=row.output_prefix,
        size=row.size, file_count=row.file_count, attempts=row.attempts, reason=row.reason, why=row.why,
        stats=row.stats, started_at=row.started_at, finished_at=row.finished_at,
        job=row.why.get("from", "") if row.why.get("kind") == "cached" else "",
    )  # fmt: skip


def seen_files(files: Sequence[Sequence[Any]], inputs: Sequence[JobInput]) -> tuple[DatumInput, ...]:
    return tuple(
        DatumInput(
            name=inputs[number].name, project=inputs[number].project, repo=inputs[number].repo,
            branch=inputs[number].branch, commit=inputs[number].commit, root=inputs[number].root, paths=(path,),
            hash=digest, size=size,
        )
        for number, path, digest, size in files
    )  # fmt: skip


# --- trees that are referred to ---


def _datum_label(row: Row[Any]) -> str:
    return f"datum {row.k2} of job {row.k0}/{row.k1}@{row.k3}"


_KEYS = (pipelines.c.project, pipelines.c.name, datums.c.id, jobs.c.id)
ROOTS = (
    RootSource(
        column=datums.c.output_root,
        keys=_KEYS,
        join=(jobs, pipelines),
        label=_datum_label,
        when_changed={
            "filed_at": sa.func.coalesce(datums.c.filed_at, datums.c.finished_at)
        },  # no result any more
    ),
    RootSource(
        column=datums.c.old_root,
        keys=_KEYS,
        join=(jobs, pipelines),
        label=lambda row: f"earlier output of {_datum_label(row)}",
    ),
)


def consumers(connection: Connection, keys: Mapping[str, Sequence[bytes]]) -> Iterator[tuple[str, str]]:
    """The datums that saw any of the files (given by tree and key), with their identities. One that did not change from job
    to job is found in the first."""
    query = sa.select(
        datums.c.files,
        datums.c.identity,
        pipelines.c.project,
        pipelines.c.name,
        datums.c.id,
        jobs.c.id,
        jobs.c.inputs,
    )
    query = query.select_from(datums.join(jobs).join(pipelines)).where(datums.c.status != Status.REMOVED)
    rows = connection.execute(query.execution_options(yield_per=ROWS_PER_FETCH))
    for files, identity, project, pipeline, datum, job, inputs in rows:
        if any(_sees(path, keys.get(inputs[number].get("root", ""), ())) for number, path, *_ in files):
            yield f"datum {datum} of job {project}/{pipeline}@{job}", identity


def _sees(path: str, keys: Sequence[bytes]) -> bool:
    files = ["/" + key.decode() for key in keys]
    return any(file == path or (path.endswith("/") and file.startswith(path)) for file in files)
