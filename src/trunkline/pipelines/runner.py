"""The control step that begins jobs: each as soon as its inputs are finished, several of a pipeline at once.

Each step reads, decides, and hands what it wants written to the queue, which writes it in the transaction that ends the
step's lease. Whatever changed between reading and writing is caught there: every write of a job's status names the status
that it expects. So a step that is cut short, repeated, or overtaken by ``stop job`` does no harm.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from typing import Any

from sqlalchemy.engine import Connection

from trunkline.core.status import Status
from trunkline.errors import InvalidInputError, NotFoundError
from trunkline.jobs.model import CONTROL_QUEUE, Again, Done, Outcome, Task
from trunkline.jobs.queue import Lease
from trunkline.pipelines import datum_store, results, store
from trunkline.pipelines.datum_store import NOTHING, Inserted, NewDatum
from trunkline.pipelines.finishing import Finishing
from trunkline.pipelines.keys import DATUM_SET, DATUM_WORKER, JOB_TIMEOUT, job_key, queue_name
from trunkline.pipelines.model import Pipeline
from trunkline.pipelines.planning import Plan
from trunkline.pipelines.store import JobRow
from trunkline.versioning.model import Commit, CommitStatus

log = logging.getLogger(__name__)

JOBS_AT_ONCE_MAX = 8
LOOKED_AT_MAX = 64
TASKS_PER_STEP = 500
"""Tasks queued in one transaction: other writers get their turn in between."""
FIRST_ROWS = 500
"""A job with more datums begins with so many while the others are planned."""
ROWS_PER_WRITE = 2000
"""Rows of those others in one transaction."""
SET_DATUMS_MAX = 1000
SETS_PER_WORKER = 4
COUNTED = ("processed", "skipped", "failed", "recovered", "quarantined")


def is_serial(spec: Mapping[str, Any]) -> bool:
    """Whether the jobs of a pipeline come one after the other: each does everything again, or there is only one of it."""
    alone = ("service", "spout", "s3_out")
    return spec.get("reprocess_spec") == "every_job" or any(spec.get(name) for name in alone)


def datums_per_set(spec: Mapping[str, Any], datums: int) -> int:
    """``datum_set_spec``, or about four sets for each worker."""
    wanted = spec.get("datum_set_spec") or {}
    if wanted.get("number"):
        return min(int(wanted["number"]), SET_DATUMS_MAX)
    workers = int(spec["parallelism_spec"]["constant"])
    sets = workers * int(wanted.get("per_worker") or SETS_PER_WORKER)
    return max(1, min(-(-datums // sets), SET_DATUMS_MAX))


def set_numbers(
    spec: Mapping[str, Any], datums: Sequence[NewDatum], *, first: int, before: int, expected: int = 0
) -> list[int]:
    """The set of each of some datums; the sets of a job are numbered from ``first`` on. ``before``: how many datums of this job
    are in sets already. Where it is not known how many are ``expected`` in all, the sets of a large job grow."""
    wanted = spec.get("datum_set_spec") or {}
    if not wanted.get("size_bytes") or wanted.get("number"):
        size = datums_per_set(spec, max(expected, before + len(datums)))
        if not wanted.get("number"):  # each worker gets something of each part
            size = min(size, -(-len(datums) // int(spec["parallelism_spec"]["constant"])) or 1)
        return [first + number // size for number in range(len(datums))]
    numbers: list[int] = []
    bytes_in_set, start, set_no = 0, 0, first
    for number, datum in enumerate(datums):
        if number > start and (bytes_in_set >= wanted["size_bytes"] or number - start >= SET_DATUMS_MAX):
            bytes_in_set, start, set_no = 0, number, set_no + 1
        numbers.append(set_no)
        bytes_in_set += sum(file[3] for file in datum.files)
    return numbers


class Steps(Finishing):
    """The handler of ``plan-job`` (one task for each pipeline), besides those that end jobs."""

    def plan_job(self, task: Task) -> Outcome:
        """Move one job of a pipeline on, if one can move."""
        project, name = task.payload["project"], task.payload["pipeline"]
        with self._db.read() as connection:
            pipeline = store.get_pipeline(connection, project, name)
            pipeline_id = store.find_pipeline_id(connection, project, name)
            rows = store.unfinished_jobs(connection, pipeline_id) if pipeline_id is not None else []
        if pipeline is None or not rows:
            return Done()
        torn = next((row for row in rows if _is_half_planned(row)), None)
        if torn is not None:
            return self._plan_anew(torn)
        queueing = next((row for row in rows if row.job.phase == store.QUEUEING), None)
        if queueing is not None:
            return self._queue_more(queueing)
        if pipeline.state == "paused":
            return Done()
        is_service = bool(pipeline.spec.get("service"))
        if is_service or pipeline.spec.get("supersede"):
            outcome = self._supersede(rows, is_service=is_service)
            if outcome is not None:
                return outcome
        at_once = 1 if is_serial(pipeline.spec) else JOBS_AT_ONCE_MAX
        for row in rows[:at_once]:
            if row.job.status == Status.QUEUED:
                outcome = self._look(task, pipeline, row, is_last=row is rows[-1])
                if outcome is not None:
                    return outcome
        return Done()

    def _inputs(self, row: JobRow) -> dict[str, Commit] | None:
        """A job's inputs; None where they are not all finished."""
        with self._db.read() as connection:
            found = self._versioning.inputs_of(connection, row.job.project, row.job.pipeline, row.job.id)
        return None if any(one.status != CommitStatus.FINISHED for one in found.values()) else found

    def _supersede(self, rows: list[JobRow], *, is_service: bool) -> Outcome | None:
        """The newest job that can begin, or has begun, ends all that are older. A service that ran has thereby done its job."""
        newest = next((row for row in rows[:0:-1][:LOOKED_AT_MAX] if self._is_ready(row)), None)
        if newest is None:
            return None
        older = [row for row in rows if row.pk < newest.pk]
        nothing = self._versioning.stage(()) if is_service else None

        def apply(connection: Connection) -> None:
            now = store.get_job_by_pk(connection, newest.pk)
            if now is not None and not now.job.status.is_final:
                for one in older:
                    if is_service and one.job.status == Status.RUNNING:
                        self.end(connection, one, Status.SUCCEEDED, tree=nothing)
                    else:
                        self.end(connection, one, Status.CANCELLED, f"superseded by job {newest.job.id}")

        return Again(after_seconds=0.0, apply=apply)

    def _is_ready(self, row: JobRow) -> bool:
        if row.job.status == Status.RUNNING:
            return True
        output = self._output_of(row)
        if output is None or output.status == CommitStatus.FINISHED:
            return False
        found = self._inputs(row)
        return found is not None and all(commit.error is None for commit in found.values())

    def _look(self, task: Task, pipeline: Pipeline, row: JobRow, *, is_last: bool) -> Outcome | None:
        """None: its inputs are not there yet."""
        output = self._output_of(row)
        if output is None or output.status == CommitStatus.FINISHED:
            return Done(apply=lambda connection: self._abandon(connection, row))
        inputs = self._inputs(row)
        if inputs is None:
            return None
        bad = next((commit for commit in inputs.values() if commit.error is not None), None)
        if bad is not None:
            reason = f"its input {bad.address} has failed: {bad.error}"
            return Again(
                after_seconds=0.0,
                apply=lambda connection: self._end(connection, row, Status.UNRUNNABLE, reason),
            )
        return self._start(task, pipeline, row, inputs, is_last=is_last)

    # --- beginning ---

    def _start(
        self, task: Task, pipeline: Pipeline, row: JobRow, inputs: dict[str, Commit], *, is_last: bool
    ) -> Outcome:
        try:
            plan = self.planner.plan(pipeline, row.pipeline_id, row.job.id, row.pk, inputs)
            rows = iter(plan.rows)
            first = list(islice(rows, FIRST_ROWS))
            if pipeline.spec.get("service") and len(first) > 1:
                raise InvalidInputError(
                    "a service runs for one datum, and its inputs have several: use the glob '/'",
                    kind="bad_service",
                )
            is_large = len(first) == FIRST_ROWS
            done = self._begin_early(task, pipeline, row, plan, first, rows) if is_large else NOTHING
        except (InvalidInputError, NotFoundError) as error:
            reason = f"its datums cannot be listed: {error}"
            return Done(apply=lambda connection: self._end(connection, row, Status.FAILED, reason))
        except _Overtaken:
            return Again(after_seconds=0.0)

        def apply(connection: Connection) -> None:
            if is_large:
                self._end_plan(connection, row.pk, plan, done)
            elif self._begin(connection, pipeline, row, plan):
                self._end_plan(
                    connection, row.pk, plan, self._add(connection, pipeline, row.pk, plan, first, NOTHING)
                )

        is_more = not is_last or max(done.to_do, len(first)) > TASKS_PER_STEP
        return Again(after_seconds=0.0, apply=apply) if is_more else Done(apply=apply)

    def _begin_early(
        self, task: Task, pipeline: Pipeline, row: JobRow, plan: Plan, first: list[NewDatum], rest: Iterator[NewDatum]
    ) -> Inserted:  # fmt: skip
        """Many datums: workers have the first of them while the others are planned. A plan that is cut short is made again."""
        lease = Lease(task_id=task.id, token=task.lease_token)
        done, part = NOTHING, first
        while part:
            is_first = part is first
            with self._db.write(wakes=is_first, syncs=False, spills=False) as connection:
                if self._queue.held(connection, lease) is None:  # somebody else plans it by now
                    raise _Overtaken
                if is_first and not self._begin(connection, pipeline, row, plan):
                    raise _Overtaken
                if not _is_half_planned(store.get_job_by_pk(connection, row.pk)):
                    raise _Overtaken
                done = self._add(connection, pipeline, row.pk, plan, part, done)
            part = list(islice(rest, ROWS_PER_WRITE))
        return done

    def _begin(self, connection: Connection, pipeline: Pipeline, row: JobRow, plan: Plan) -> bool:
        """False if the job has ended meanwhile."""
        now = self._clock.now()
        began = store.transition(
            connection, row, (Status.QUEUED,), Status.RUNNING, now, phase=store.PLANNING, version=pipeline.version,
            inputs=[asdict(one) for one in plan.inputs], code=plan.code, started_at=now,
            base_pk=plan.base.pk if plan.base is not None else None, base_root=plan.base_root,
        )  # fmt: skip
        if not began:
            return False
        if row.job.phase == store.PLANNING:  # begun by a version that wrote its rows before
            datum_store.delete_all(connection, row.pk)
        if pipeline.spec.get("s3_out"):
            self._versioning.begin_output(connection, row.job.project, row.job.pipeline, row.job.id)
        if seconds := pipeline.spec.get("job_timeout"):
            self._queue.enqueue(
                connection, kind=JOB_TIMEOUT, key=job_key(row), queue=CONTROL_QUEUE,
                payload={"job_pk": row.pk, "seconds": seconds}, after_seconds=seconds,
            )  # fmt: skip
        return True

    def _add(
        self, connection: Connection, pipeline: Pipeline, job_pk: int, plan: Plan, rows: list[NewDatum], done: Inserted
    ) -> Inserted:  # fmt: skip
        """Some more datums of a job that has begun, in sets that workers can take; returns what there are in all."""
        row = store.get_job_by_pk(connection, job_pk)
        assert row is not None, "it was begun, or looked at, in this transaction"
        added = datum_store.insert(
            connection, job_pk=job_pk, pipeline_id=row.pipeline_id, rows=rows, first=done.to_do, now=self._clock.now(),
            numbers=lambda fresh: set_numbers(
                pipeline.spec, fresh, first=row.sets, before=done.to_do, expected=plan.datums_expected or 0
            ),
            use_cache=plan.has_results,
        )  # fmt: skip
        if added.sets and not done.sets:
            workers_max = int(pipeline.spec["parallelism_spec"]["constant"])
            name = queue_name(pipeline.project, pipeline.name)
            self._queue.declare(connection, name, worker=DATUM_WORKER, workers_max=workers_max, options={})
        sets = row.sets + added.sets
        end = min(sets, row.sets_queued + TASKS_PER_STEP)
        self.enqueue_sets(connection, row, range(row.sets_queued, end))
        store.update_job(
            connection, job_pk, Status.RUNNING, total=row.job.total + added.datums,
            skipped=row.job.skipped + added.cached, sets=sets, sets_queued=end,
        )  # fmt: skip
        return Inserted(*(a + b for a, b in zip(done, added, strict=True)))

    def _end_plan(self, connection: Connection, job_pk: int, plan: Plan, done: Inserted) -> None:
        """All datums of a job have their rows."""
        row = store.get_job_by_pk(connection, job_pk)
        if row is None or not _is_half_planned(row):
            return
        unchanged = 0 if plan.total is None else plan.total - done.datums
        total = row.job.total + unchanged
        store.update_job(
            connection, job_pk, Status.RUNNING, total=total, skipped=row.job.skipped + unchanged, phase=store.QUEUEING
        )  # fmt: skip
        self._queue_slice(connection, job_pk)
        if done.waiting:
            self.release_waiting(connection, row.pipeline_id)
        log.info("job %s: %d datums, %d to do", job_key(row), total, done.to_do + done.waiting)

    def _plan_anew(self, row: JobRow) -> Outcome:
        """The server ended while this job was planned. What its datums have made meanwhile is known, and not made again, where
        results are kept at all."""

        def apply(connection: Connection) -> None:
            nothing: dict[str, Any] = dict.fromkeys(("total", "sets", "sets_queued", *COUNTED), 0)
            began = store.transition(
                connection, row, (Status.RUNNING,), Status.QUEUED, self._clock.now(), phase=store.WAITING,
                started_at=None, base_pk=None, base_root=None, sets_lost=[], stats={}, **nothing,
            )  # fmt: skip
            if began:
                self._queue.forget_all(connection, DATUM_SET, f"{job_key(row)}/")
                results.file_results(connection, row.pk, self._clock.now())
                datum_store.delete_all(connection, row.pk)
                self.release_waiting(connection, row.pipeline_id)

        return Again(after_seconds=0.0, apply=apply)

    # --- queueing ---

    def _queue_more(self, row: JobRow) -> Outcome:
        def apply(connection: Connection) -> None:
            self._queue_slice(connection, row.pk)

        return Again(after_seconds=0.0, apply=apply)

    def _queue_slice(self, connection: Connection, job_pk: int) -> None:
        """Tasks for the next sets of a job; with the last ones it is ``processing``."""
        row = store.get_job_by_pk(connection, job_pk)
        if row is None or row.job.status != Status.RUNNING or row.job.phase != store.QUEUEING:
            return
        end = min(row.sets, row.sets_queued + TASKS_PER_STEP)
        self.enqueue_sets(connection, row, range(row.sets_queued, end))
        phase = store.PROCESSING if end == row.sets else store.QUEUEING
        store.update_job(connection, job_pk, Status.RUNNING, sets_queued=end, phase=phase)
        if phase == store.PROCESSING:
            self.finish_if_complete(connection, row)


class _Overtaken(Exception):  # noqa: N818  (it is no error)
    """The job was ended while it was planned, or is planned by somebody else."""


def _is_half_planned(row: JobRow | None) -> bool:
    """Whether a job has begun, and has not all of its datums yet."""
    return row is not None and row.job.status == Status.RUNNING and row.job.phase == store.PLANNING
