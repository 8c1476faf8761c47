"""What happened: job sets and their cost, who works on a job, and logs. Nothing here changes a job."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.engine import Connection

from trunkline.core.clock import Clock
from trunkline.core.status import Status
from trunkline.errors import ConflictError, InvalidInputError, NotFoundError
from trunkline.jobs.model import Done, Task
from trunkline.jobs.queue import Lease
from trunkline.jobs.service import JobsService
from trunkline.pipelines import datum_store, set_store, store
from trunkline.pipelines.datum_tasks import add_stats
from trunkline.pipelines.keys import DATUM_SET, SPOUT, SPOUT_LOG, SWEEP_LOGS, job_key, pipeline_key
from trunkline.pipelines.log_index import ALL_LINES, LogFilter, LogReader
from trunkline.pipelines.logs import JobLogs
from trunkline.pipelines.model import Cost, Job, JobSet, JobWorker, LogLine
from trunkline.pipelines.staying import run_of
from trunkline.pipelines.store import JobRow
from trunkline.storage.db.engine import Database

JOBS_PER_SET_MAX = 100_000
TAIL_LINES_MAX = 100_000
LABELS_MAX = 10_000

Tail = Callable[[int], tuple[list[LogLine], int, bool]]
"""Called with a place in a log: lines, the next place, and whether that was all there will ever be."""


@dataclass(frozen=True, kw_only=True)
class LogWish:
    """Which lines of a job's log are wanted, and how."""

    datum: str | None = None
    """The ID of a datum that the job has computed."""
    inputs: tuple[str, ...] = ()
    """Only of datums that see all of these: paths or hashes."""
    since: float | None = None
    until: float | None = None
    worker: str | None = None
    tail: int | None = None
    """The last so many of those that are there."""
    files: bool = False
    """Say of each line which files its datum sees."""


class Looking:
    """A part of ``PipelineService``."""

    def __init__(self, db: Database, clock: Clock, jobs: JobsService, logs: JobLogs) -> None:
        self._db = db
        self._clock = clock
        self._jobs = jobs
        self._logs = logs

    # --- job sets ---

    def jobs_of(self, commit_id: str) -> list[Job]:
        """All jobs of a commit set, in the order in which they were made."""
        with self._db.read() as connection:
            return self._jobs_of(connection, commit_id)

    def _jobs_of(self, connection: Connection, commit_id: str) -> list[Job]:
        return store.list_jobs(connection, commit_id=commit_id, limit=JOBS_PER_SET_MAX)[::-1]

    def job_set(self, commit_id: str) -> JobSet:
        """:raises NotFoundError: ``no_job``, if no job has this ID."""
        found = self.jobs_of(commit_id)
        if not found:
            raise NotFoundError(f"there is no job {commit_id}: see 'trunkline list job'", kind="no_job")
        return self._set(found)

    def list_job_sets(
        self, project: str | None = None, *, limit: int = 100, after: str | None = None
    ) -> list[JobSet]:
        """Those with the newest jobs first, from behind ``after`` on; with ``project`` those that have a job in it."""
        with self._db.read() as connection:
            ids = store.list_job_sets(connection, project=project, before=after, limit=limit)
            return [self._set(self._jobs_of(connection, one)) for one in ids]

    def _set(self, found: Sequence[Job]) -> JobSet:
        return JobSet(id=found[0].id, jobs=tuple(found), cost=cost_of(found, self._clock.now()))

    # --- who works ---

    def workers(self, row: JobRow) -> list[JobWorker]:
        """What workers do for a job just now."""
        with self._db.read() as connection:
            held = self._jobs.queue.holders(connection, DATUM_SET, job_key(row) + "/")
            running = set_store.running_in(connection, row.pk, (payload["set"] for _, payload in held))
        found = []
        for worker, payload in held:
            datum = running.get(payload["set"])
            files = "" if datum is None else files_text(datum.files, row)
            found.append(
                JobWorker(
                    worker=worker, datum=datum.id if datum is not None else "", files=files,
                    started_at=datum.started_at if datum is not None else None,
                )
            )  # fmt: skip
        return found

    # --- logs ---

    def open_log(self, row: JobRow, wish: LogWish, offset: int = 0) -> LogStream:
        """Lines of a job's log, from ``offset`` on.

        :raises NotFoundError: ``no_datum``, if no datum of the job sees the inputs.
        """
        _check_tail(wish)
        datums = None if wish.datum is None else frozenset([wish.datum])
        if wish.inputs:
            with self._db.read() as connection:
                ids = datum_store.computed_with(connection, row.pk, wish.inputs, row.job.inputs)
            if not ids:
                raise NotFoundError(
                    f"no datum that job {job_key(row)} computed sees {', '.join(wish.inputs)}: see 'trunkline list datum "
                    f"{row.job.pipeline}@{row.job.id}'", kind="no_datum",
                )  # fmt: skip
            datums = frozenset(ids) if datums is None else datums & frozenset(ids)
        wanted = LogFilter(datums=datums, since=wish.since, until=wish.until, worker=wish.worker)
        reader = self._logs.reader(row.job.project, row.job.pipeline, row.job.id, wanted, offset)
        return LogStream(self._db, row, reader, wish, wanted)

    def open_spout_log(self, project: str, pipeline: str, wish: LogWish, offset: int = 0) -> Tail:
        """The one log of a spout, which has no jobs and no datums; it ends when the spout is stopped."""
        _check_tail(wish)
        if wish.datum is not None or wish.inputs:
            raise InvalidInputError(
                f"{project}/{pipeline} is a spout: it has no datums to choose from", kind="bad_logs"
            )
        wanted = LogFilter(since=wish.since, until=wish.until, worker=wish.worker)
        reader = self._logs.reader(project, pipeline, SPOUT_LOG, wanted, offset)
        left = wish.tail

        def tail(_offset: int) -> tuple[list[LogLine], int, bool]:
            nonlocal left
            with self._db.read() as connection:
                found = store.get_pipeline(connection, project, pipeline)
            lines = reader.more() if left is None else reader.last(left)
            left = None
            is_over = found is None or found.state != "running"
            return lines, reader.offset, is_over and not lines

        return tail

    def append_log(self, lease: Lease, offset: int, lines: Sequence[Mapping[str, Any]]) -> int:
        """Store log lines of a datum set; ``offset`` is how many this worker has sent of it before. Returns how many there are.

        :raises ConflictError: ``lease_lost``.
        """
        with self._db.read() as connection:
            task = self._jobs.held(connection, lease)
            if task.kind != SPOUT:
                row = store.get_job_by_pk(connection, task.payload["job_pk"])
        if task.kind == SPOUT:
            return self._logs.append(
                project=task.payload["project"], pipeline=task.payload["pipeline"], job_id=SPOUT_LOG, worker=task.owner,
                source=run_of(task), offset=offset, lines=lines, now=self._clock.now(),
            )  # fmt: skip
        if row is None:
            raise ConflictError(f"the job of {task.key} was deleted", kind="lease_lost")
        return self._logs.append(
            project=row.job.project, pipeline=row.job.pipeline, job_id=row.job.id, worker=task.owner,
            source=f"{task.payload['set']}:{task.attempts}", offset=offset, lines=lines, now=self._clock.now(),
        )  # fmt: skip

    def begin_logs(self, project: str, pipeline: str) -> None:
        """Before the first version of a pipeline: what a spout of this name, deleted a moment ago, has left is not its log."""
        self._logs.delete(project, pipeline, [SPOUT_LOG])

    def forget_logs(self, connection: Connection, project: str, pipeline: str) -> None:
        """In the transaction that takes jobs away: let their logs go, too, also if the server ends right after it."""
        self._jobs.queue.enqueue(
            connection, kind=SWEEP_LOGS, key=pipeline_key(project, pipeline), queue="control",
            payload={"project": project, "pipeline": pipeline},
        )  # fmt: skip

    def sweep_logs(self, task: Task) -> Done:
        """The step that does so: logs of a pipeline whose jobs are not there."""
        project, pipeline = task.payload["project"], task.payload["pipeline"]
        kept = self._logs.jobs(project, pipeline)  # before the jobs are: one may be made meanwhile
        with self._db.read() as connection:
            kept -= store.job_ids(connection, project, pipeline)
            if store.find_pipeline_id(connection, project, pipeline) is not None:
                kept.discard(SPOUT_LOG)
        self._logs.delete(project, pipeline, kept)
        return Done()


class LogStream:
    """A reader of one job's log: called with a place in it, answers lines, the next place, and whether that was all.

    The last line says why a job did not succeed. It is not in the file, where it could be missing or wrong: it is read from the
    job's row, together with the end itself.
    """

    def __init__(
        self, db: Database, row: JobRow, reader: LogReader, wish: LogWish, wanted: LogFilter = ALL_LINES
    ) -> None:
        self._db = db
        self._row = row
        self._reader = reader
        self._wish = wish
        self._wanted = wanted
        self._tail = wish.tail
        self._labels: dict[str, str] = {}

    def __call__(self, _offset: int) -> tuple[list[LogLine], int, bool]:
        with self._db.read() as connection:
            row = store.get_job_by_pk(connection, self._row.pk)
        if row is None:  # it was deleted, and its log with it
            return [], self._reader.offset, True
        end = end_of(row.job)
        is_said = end is not None and self._wanted.takes(end) and self._tail != 0
        if self._tail is None:
            lines = self._reader.more()
        else:
            lines, self._tail = self._reader.last(max(0, self._tail - is_said)), None
            lines = lines or self._reader.more()
        is_all = row.job.status.is_final and not lines
        if is_all and is_said and end is not None:
            lines = [end]
        if self._wish.files:
            self._look_up(lines)
        job = self._row.job.id
        labels = self._labels
        labelled = [line._replace(job=job, files=labels.get(line.datum, "")) for line in lines]
        return labelled, self._reader.offset, is_all

    def _look_up(self, lines: Sequence[LogLine]) -> None:
        unknown = {line.datum for line in lines} - set(self._labels) - {""}
        if not unknown:
            return
        if len(self._labels) > LABELS_MAX:
            self._labels.clear()
            unknown = {line.datum for line in lines} - {""}
        with self._db.read() as connection:
            found = datum_store.files_by_id(connection, self._row.pk, unknown)
        self._labels.update((one, files_text(files, self._row)) for one, files in found.items())


def end_of(job: Job) -> LogLine | None:
    """What the log of a job says at its end, if that was no good one."""
    if not job.status.is_final or job.status == Status.SUCCEEDED or not job.reason:
        return None
    text = f"job {job.status.value}: {job.reason}"
    return LogLine(ts=job.finished_at or job.created_at, text=text, stream="trunkline", datum="", attempt=1)


def _check_tail(wish: LogWish) -> None:
    if wish.tail is not None and not 0 <= wish.tail <= TAIL_LINES_MAX:
        raise InvalidInputError(f"tail is {wish.tail}: at most {TAIL_LINES_MAX} lines", kind="bad_logs")


def files_text(files: Sequence[Sequence[Any]], row: JobRow) -> str:
    """``images:/a.png``, as people know a datum."""
    return datum_store.label(files, row.job.inputs).removeprefix("datum ")


def cost_of(found: Sequence[Job], now: float) -> Cost:
    """What jobs took together."""
    sums: dict[str, float] = {}
    for job in found:
        add_stats(sums, [job.stats])
    starts = [job.started_at for job in found if job.started_at is not None]
    ends = [job.finished_at or now for job in found if job.started_at is not None]
    datums = sum(job.processed + job.failed + job.recovered + job.quarantined for job in found)
    seconds = max(ends) - min(starts) if starts else 0.0
    return Cost(jobs=len(found), datums=datums, stats=sums, seconds=seconds)
