"""The control steps of jobs: plan the next one of a pipeline, finish one whose datums are all done.

Each step reads, decides, and hands what it wants written to the queue, which writes it in the transaction that ends the
step's lease. Whatever changed between reading and writing is caught there: every write of a job's status names the status
that it expects. So a step that is cut short, repeated, or overtaken by ``stop job`` does no harm.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy.engine import Connection

from trunkline.core.clock import Clock
from trunkline.core.ids import CommitId, ProjectName, RepoName
from trunkline.core.status import Status
from trunkline.environments import ResolvedEnvironment
from trunkline.errors import ConflictError, CorruptionError, InvalidInputError, NotFoundError
from trunkline.jobs.model import CONTROL_QUEUE, Again, Done, Outcome, Task
from trunkline.jobs.service import JobsService
from trunkline.pipelines import datum_store, store
from trunkline.pipelines.datums import Code, Match, PlannedDatum, plan
from trunkline.pipelines.model import DatumInput, JobInput, Pipeline
from trunkline.pipelines.store import JobRow
from trunkline.settings import Settings
from trunkline.storage.db.engine import Database
from trunkline.versioning.model import Commit, CommitStatus, TreeInfo
from trunkline.versioning.service import VersioningService

log = logging.getLogger(__name__)

PLAN_JOB = "plan-job"
FINISH_JOB = "finish-job"
DATUM = "datum"
DATUM_WORKER = "datum"
TASKS_PER_STEP = 500
"""Datum tasks queued in one transaction: other writers get their turn in between."""

Apply = Callable[[Connection], None]


def queue_name(project: str, pipeline: str) -> str:
    return f"pipeline:{project}/{pipeline}"


def pipeline_key(project: str, pipeline: str) -> str:
    return f"{project}/{pipeline}"


def job_key(row: JobRow) -> str:
    return f"{row.job.project}/{row.job.pipeline}@{row.job.id}"


def code_of(pipeline: Pipeline, settings: Settings, job_id: str) -> Code:
    """What decides the results of a pipeline's datums, besides their inputs."""
    every_job = pipeline.spec.get("reprocess_spec") == "every_job"
    transform = pipeline.spec["transform"]
    return Code(
        transform=transform,
        environment=environment_of(transform, settings).identity(),
        code_root=pipeline.code_root,
        salt=f"{pipeline.salt}/{job_id}" if every_job else pipeline.salt,
    )


def environment_of(transform: Mapping[str, Any], settings: Settings) -> ResolvedEnvironment:
    """Where the commands of a pipeline run on this machine."""
    return settings.environment_for(transform["image"], requirements=bool(transform.get("requirements")))


class Steps:
    """The handlers of ``plan-job`` (one task for each pipeline) and ``finish-job`` (one for each job)."""

    def __init__(
        self,
        *,
        db: Database,
        clock: Clock,
        versioning: VersioningService,
        jobs: JobsService,
        settings: Settings,
    ) -> None:
        self._db = db
        self._clock = clock
        self._versioning = versioning
        self._queue = jobs.queue
        self._outbox = jobs.outbox
        self._settings = settings

    def wake(self, connection: Connection, project: str, pipeline: str) -> None:
        """Have the next job of a pipeline looked at."""
        payload = {"project": project, "pipeline": pipeline}
        self._queue.enqueue(
            connection,
            kind=PLAN_JOB,
            key=pipeline_key(project, pipeline),
            queue=CONTROL_QUEUE,
            payload=payload,
        )

    # --- plan-job ---

    def plan_job(self, task: Task) -> Outcome:
        """Move the oldest unfinished job of a pipeline on, if it can move."""
        project, name = task.payload["project"], task.payload["pipeline"]
        with self._db.read() as connection:
            pipeline = store.get_pipeline(connection, project, name)
            pipeline_id = store.find_pipeline_id(connection, project, name)
            row = store.next_job(connection, pipeline_id) if pipeline_id is not None else None
            inputs = {}
            if row is not None and row.job.status == Status.QUEUED:
                inputs = self._versioning.inputs_of(connection, project, name, row.job.id)
        if pipeline is None or row is None:
            return Done()
        if row.job.status == Status.RUNNING:
            return self._queue_more(row) if row.job.phase == store.QUEUEING else Done()
        if pipeline.state == "paused":
            return Done()
        output = self._output_of(row)
        if output is None or output.status == CommitStatus.FINISHED:
            return Done(apply=lambda connection: self._abandon(connection, row))
        if any(commit.status != CommitStatus.FINISHED for commit in inputs.values()):
            return Done()
        bad = next((commit for commit in inputs.values() if commit.error is not None), None)
        if bad is not None:
            reason = f"its input {bad.address} has failed: {bad.error}"
            return Done(apply=lambda connection: self._end(connection, row, Status.UNRUNNABLE, reason))
        return self._start(pipeline, row, inputs)

    def _output_of(self, row: JobRow) -> Commit | None:
        try:
            return self._versioning.inspect_commit(row.job.project, f"{row.job.pipeline}@{row.job.id}")
        except NotFoundError:
            return None

    def _abandon(self, connection: Connection, row: JobRow) -> None:
        """Its output commit was finished or removed by somebody else."""
        reason = "its output commit is no longer open"
        if store.transition(
            connection, row, store.UNFINISHED, Status.CANCELLED, self._clock.now(), reason=reason
        ):
            self._ended(connection, row, Status.CANCELLED)

    def _start(self, pipeline: Pipeline, row: JobRow, inputs: dict[str, Commit]) -> Outcome:
        try:
            sources, planned = self._datums(pipeline, row, inputs)
        except (InvalidInputError, NotFoundError) as error:
            reason = f"its datums cannot be listed: {error}"
            return Done(apply=lambda connection: self._end(connection, row, Status.FAILED, reason))
        with self._db.read() as connection:
            results = datum_store.known_results(connection, [datum.identity for datum in planned])
        skipped = sum(1 for datum in planned if datum.identity in results)

        def apply(connection: Connection) -> None:
            now = self._clock.now()
            started = store.start_job(
                connection,
                row,
                version=pipeline.version,
                inputs=sources,
                total=len(planned),
                skipped=skipped,
                now=now,
            )
            if started:
                datum_store.insert_datums(connection, row.pk, planned, results, now)
                self._declare(connection, pipeline)
                log.info("job %s: %d datums, %d of them known", job_key(row), len(planned), skipped)

        return Again(after_seconds=0.0, apply=apply)  # the next round queues the tasks

    def _declare(self, connection: Connection, pipeline: Pipeline) -> None:
        name = queue_name(pipeline.project, pipeline.name)
        workers_max = int(pipeline.spec["parallelism_spec"]["constant"])
        self._queue.declare(connection, name, worker=DATUM_WORKER, workers_max=workers_max, options={})

    def _datums(
        self, pipeline: Pipeline, row: JobRow, inputs: dict[str, Commit]
    ) -> tuple[list[JobInput], list[PlannedDatum]]:
        pfs = pipeline.spec["input"]["pfs"]
        address = f"{pfs['project']}/{pfs['repo']}@{pfs['branch']}"
        commit = inputs.get(address)
        if commit is None:  # nothing was ever committed there
            return [], []
        source = JobInput(
            name=pfs["name"], project=ProjectName(pfs["project"]), repo=RepoName(pfs["repo"]), branch=pfs["branch"],
            commit=commit.id,
        )  # fmt: skip
        if commit.root is None or commit.file_count == 0:
            return [source], []
        seen = DatumInput(
            name=source.name, project=source.project, repo=source.repo, branch=source.branch, commit=source.commit,
            root=commit.root, paths=(), hash="", size=0,
        )  # fmt: skip
        return [source], plan(
            seen, self._matches(commit, pfs["glob"]), code_of(pipeline, self._settings, row.job.id)
        )

    def _matches(self, commit: Commit, glob: str) -> list[Match]:
        assert commit.root is not None, "an empty commit has no datums"
        if glob.strip("/") == "":
            found = [self._versioning.stat(commit.root, "/")]
        else:
            found = list(self._versioning.glob(commit.root, glob))
        return [Match(path=info.path, hash=info.hash, size=info.size) for info in found]

    def _queue_more(self, row: JobRow) -> Outcome:
        with self._db.read() as connection:
            ids = datum_store.queued_after(connection, row.pk, row.queueing_after, TASKS_PER_STEP)
        is_last = len(ids) < TASKS_PER_STEP

        def apply(connection: Connection) -> None:
            now = store.get_job_by_pk(connection, row.pk)
            if now is None or now.job.status != Status.RUNNING or now.queueing_after != row.queueing_after:
                return
            name = queue_name(row.job.project, row.job.pipeline)
            payloads = {
                f"{job_key(row)}/{datum_id}": {"job_pk": row.pk, "datum_id": datum_id} for datum_id in ids
            }
            self._queue.enqueue_all(connection, kind=DATUM, queue=name, payloads=payloads)
            if ids:
                store.note_queued_up_to(connection, row.pk, ids[-1])
            if is_last:
                store.set_phase(connection, row.pk, store.PROCESSING)
                self.finish_if_complete(connection, now)

        return Done(apply=apply) if is_last else Again(after_seconds=0.0, apply=apply)

    # --- finish-job ---

    def finish_if_complete(self, connection: Connection, row: JobRow) -> None:
        """Ask for the end of a job whose datums are all done; ``row`` was read in the same transaction."""
        if row.is_complete:
            store.set_phase(connection, row.pk, store.FINISHING)
            payload = {"job_pk": row.pk}
            self._queue.enqueue(
                connection, kind=FINISH_JOB, key=job_key(row), queue=CONTROL_QUEUE, payload=payload
            )

    def finish_job(self, task: Task) -> Outcome:
        """Merge the outputs of a job's datums into its output commit, or fail it with the first datum's reason."""
        with self._db.read() as connection:
            row = store.get_job_by_pk(connection, task.payload["job_pk"])
            if row is None or row.job.status != Status.RUNNING or not row.is_complete:
                return Done()
            stats = datum_store.sum_of_stats(connection, row.pk)
            failed = datum_store.first_failed(connection, row.pk)
            outputs = datum_store.outputs(connection, row.pk) if failed is None else {}
        output = self._output_of(row)
        if output is None or output.status == CommitStatus.FINISHED:
            return Done(apply=lambda connection: self._abandon(connection, row))
        reason, tree = "", None
        if failed is not None:
            reason = _why(failed.inputs, failed.reason, row.job.failed)
        else:
            try:
                tree = self._versioning.merge(outputs)
            except (ConflictError, CorruptionError, InvalidInputError) as error:
                reason = f"the outputs of its datums do not fit together: {error}"
        status = Status.FAILED if reason else Status.SUCCEEDED
        return Done(apply=lambda connection: self._end(connection, row, status, reason, tree, stats))

    def end(
        self,
        connection: Connection,
        row: JobRow,
        status: Status,
        reason: str = "",
        *,
        tree: TreeInfo | None = None,
        stats: dict[str, float] | None = None,
    ) -> bool:
        """A job's end, whatever it is: its status, its output commit, its tasks, the word to others, the next job."""
        old = (Status.QUEUED,) if status == Status.UNRUNNABLE else store.UNFINISHED
        values: dict[str, Any] = {"stats": stats or {}}
        if not store.transition(connection, row, old, status, self._clock.now(), reason=reason, **values):
            return False
        error = None if status == Status.SUCCEEDED else (reason or status.value)
        try:
            self._versioning.finish_output(
                connection, row.job.project, row.job.pipeline, row.job.id, tree=tree, error=error
            )
        except NotFoundError:  # dropped just now: the event of that comes next, and takes the job away
            log.info("job %s: its output commit is gone", job_key(row))
        self._ended(connection, row, status)
        log.info("job %s: %s %s", job_key(row), status.value, reason)
        return True

    def _end(
        self,
        connection: Connection,
        row: JobRow,
        status: Status,
        reason: str,
        tree: TreeInfo | None = None,
        stats: dict[str, float] | None = None,
    ) -> None:
        self.end(connection, row, status, reason, tree=tree, stats=stats)

    def _ended(self, connection: Connection, row: JobRow, status: Status) -> None:
        project, pipeline = row.job.project, row.job.pipeline
        datum_store.cancel_unfinished(connection, row.pk, self._clock.now())
        if row.job.status == Status.RUNNING:
            # Only one job of a pipeline runs at a time: what is in its queue is this job's, or left over from before.
            self._queue.drop_queue(connection, queue_name(project, pipeline))
        payload = {"project": project, "pipeline": pipeline, "id": row.job.id, "status": status.value}
        self._outbox.publish(connection, "job.finished", payload)
        self.wake(connection, project, pipeline)

    # --- events ---

    def commit_opened(self, connection: Connection, payload: dict[str, Any]) -> None:
        """An output commit was opened: there is a job to do, sooner or later."""
        pipeline = store.get_pipeline(connection, payload["project"], payload["repo"])
        if pipeline is None or payload["branch"] != pipeline.spec["output_branch"]:
            return
        pipeline_id = store.find_pipeline_id(connection, pipeline.project, pipeline.name)
        assert pipeline_id is not None, "it was found in the same transaction"
        store.insert_job(connection, pipeline_id, CommitId(payload["id"]), self._clock.now())
        self.wake(connection, pipeline.project, pipeline.name)

    def commit_finished(self, connection: Connection, _payload: dict[str, Any]) -> None:
        """Whoever waits may now have all its inputs."""
        for project, pipeline in store.pipelines_with_waiting_jobs(connection):
            self.wake(connection, project, pipeline)

    def commit_removed(self, connection: Connection, payload: dict[str, Any]) -> None:
        """An output commit was squashed or dropped: its job is ended, if it has not been, and goes, too."""
        pipeline = store.get_pipeline(connection, payload["project"], payload["repo"])
        if pipeline is None or payload["branch"] != pipeline.spec["output_branch"]:
            return
        row = store.get_job(connection, pipeline.project, pipeline.name, payload["id"])
        if row is None:
            return
        reason = "its output commit was removed"
        if not row.job.status.is_final and store.transition(
            connection, row, store.UNFINISHED, Status.CANCELLED, self._clock.now(), reason=reason
        ):
            self._ended(connection, row, Status.CANCELLED)
        store.delete_job(connection, row.pk)


def _why(inputs: tuple[DatumInput, ...], reason: str, failed: int) -> str:
    """One line for the first datum that failed, and how many others did."""
    where = ", ".join(f"{one.repo}:{path}" for one in inputs for path in one.paths)
    others = f" (and {failed - 1} more)" if failed > 1 else ""
    return f"datum {where} failed{others}: {reason}"
