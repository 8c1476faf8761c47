"""The end of jobs: outputs put together, in the order of the commits; and whatever else ends a job.

Several jobs of a pipeline run at once. Each has its base, whose output it edits; but they end one after the other, so that the
output branch grows in the order of the input's commits.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from sqlalchemy.engine import Connection

from trunkline.core.clock import Clock
from trunkline.core.ids import TreeHash
from trunkline.core.status import Status
from trunkline.errors import ConflictError, CorruptionError, InvalidInputError, NotFoundError
from trunkline.jobs.model import CONTROL_QUEUE, SLOW_QUEUE, Done, Outcome, Task
from trunkline.jobs.service import JobsService
from trunkline.pipelines import datum_store, results, set_store, store
from trunkline.pipelines.keys import (
    DATUM_SET,
    EGRESS_JOB,
    FINISH_JOB,
    JOB_TIMEOUT,
    PLAN_JOB,
    job_key,
    pipeline_key,
    queue_name,
    set_key,
)
from trunkline.pipelines.model import Pipeline
from trunkline.pipelines.planning import Inexact, Planner
from trunkline.pipelines.store import JobRow
from trunkline.settings import Settings
from trunkline.storage.db.engine import Database
from trunkline.versioning.model import Change, Commit, CommitStatus, CopyTree, PutFile, TreeInfo, TreePart
from trunkline.versioning.service import VersioningService

log = logging.getLogger(__name__)

QUARANTINE_BRANCH = "quarantine"
RELEASED_SET_MAX = 500


class Finishing:
    """The handlers of ``finish-job`` (one task for each pipeline) and ``job-timeout`` (one for each job)."""

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
        self.planner = Planner(db=db, versioning=versioning, settings=settings)

    def wake(self, connection: Connection, project: str, pipeline: str) -> None:
        """Have the waiting jobs of a pipeline looked at."""
        self._ask(connection, PLAN_JOB, project, pipeline)

    def _ask(self, connection: Connection, kind: str, project: str, pipeline: str) -> None:
        self._queue.enqueue(
            connection, kind=kind, key=pipeline_key(project, pipeline), queue=CONTROL_QUEUE,
            payload={"project": project, "pipeline": pipeline},
        )  # fmt: skip

    # --- finish-job ---

    def finish_if_complete(self, connection: Connection, row: JobRow) -> None:
        """Ask for the end of a job whose datums are all done; ``row`` was read in the same transaction."""
        if row.is_complete and row.job.phase != store.FINISHING:
            store.set_phase(connection, row.pk, store.FINISHING)
            self._ask(connection, FINISH_JOB, row.job.project, row.job.pipeline)

    def finish_job(self, task: Task) -> Outcome:
        """End the oldest job of a pipeline, if all its datums have ended."""
        project, name = task.payload["project"], task.payload["pipeline"]
        with self._db.read() as connection:
            pipeline_id = store.find_pipeline_id(connection, project, name)
            rows = store.unfinished_jobs(connection, pipeline_id) if pipeline_id is not None else []
            row = rows[0] if rows else None
            if row is None or row.job.phase != store.FINISHING:
                return Done()
            pipeline = store.get_pipeline(connection, project, name, row.job.version)
            failed = datum_store.with_status(connection, row.pk, Status.FAILED)
            gone: list[TreePart] = []
            came: list[TreePart] = []
            if not failed:
                gone, came = datum_store.changes_of_output(connection, row.pk, row.job.inputs)
        assert pipeline is not None, "versions live as long as their pipeline"
        output = self._output_of(row)
        if output is None or output.status == CommitStatus.FINISHED:
            return Done(apply=lambda connection: self._abandon(connection, row))
        if failed:
            reason = _why_failed(datum_store.label(failed[0].files, row.job.inputs), failed)
            return Done(apply=lambda connection: self._end(connection, row, Status.FAILED, reason))
        if pipeline.spec.get("s3_out"):
            return self._success(pipeline, row, self._written_by_s3(output))
        base = TreeHash(row.base_root) if row.base_root is not None else None
        try:
            tree = self._versioning.assemble(base, gone, came, owner=self._owner(row))
        except (ConflictError, CorruptionError, InvalidInputError) as error:
            reason = f"the outputs of its datums do not fit together: {error}"
            return Done(apply=lambda connection: self._end(connection, row, Status.FAILED, reason))
        return self._success(pipeline, row, tree)

    def _written_by_s3(self, output: Commit) -> TreeInfo:
        """What was put into the bucket ``out``: it is in the open commit."""
        if output.root is None:
            return self._versioning.stage(())
        return TreeInfo(root=output.root, size=output.size, file_count=output.file_count)

    def _success(self, pipeline: Pipeline, row: JobRow, tree: TreeInfo) -> Outcome:
        aside = self._aside(pipeline, row)

        def apply(connection: Connection) -> None:
            if pipeline.spec.get("egress"):
                self._egress(connection, row, tree)
            elif not self.end(connection, row, Status.SUCCEEDED, tree=tree):
                return
            if aside is not None:
                self._versioning.commit_aside(
                    connection, row.job.project, row.job.pipeline, QUARANTINE_BRANCH, tree=aside,
                    description=f"set aside by job {row.job.id}",
                )  # fmt: skip

        return Done(apply=apply)

    def _egress(self, connection: Connection, row: JobRow, tree: TreeInfo) -> None:
        """The output leaves for elsewhere before the job ends; that step calls ``end``."""
        store.set_phase(connection, row.pk, store.EGRESSING)
        payload = {"job_pk": row.pk, "root": tree.root, "size": tree.size, "file_count": tree.file_count}
        self._queue.enqueue(connection, kind=EGRESS_JOB, key=job_key(row), queue=SLOW_QUEUE, payload=payload)

    def _owner(self, row: JobRow) -> Callable[[str], str | None]:
        """Which datum that this job did not touch wrote a path. Looks through all of them: only for an error."""

        def owner(path: str) -> str | None:
            with self._db.read() as connection:
                base = store.get_job_by_pk(connection, row.base_pk) if row.base_pk is not None else None
                pipeline = None
                if base is not None:
                    pipeline = store.get_pipeline(
                        connection, base.job.project, base.job.pipeline, base.job.version
                    )
            if base is None or pipeline is None:
                return None
            try:
                parts = self.planner.outputs_of(pipeline, base)
            except (Inexact, NotFoundError):
                return None
            return next((part.label for part in parts if self._versioning.has_part_at(part, path)), None)

        return owner

    def _aside(self, pipeline: Pipeline, row: JobRow) -> TreeInfo | None:
        """What is in quarantine after this job: of each datum its inputs, and why."""
        if pipeline.spec.get("on_failure") != "quarantine":
            return None
        with self._db.read() as connection:
            rows = datum_store.with_status(connection, row.pk, Status.QUARANTINED)

        def changes() -> Iterable[Change]:
            for one in rows:
                report = {
                    "datum": one.id, "job": row.job.id, "reason": one.reason, "attempts": one.attempts,
                    "files": [f"{row.job.inputs[file[0]].repo}:{file[1]}" for file in one.files],
                }  # fmt: skip
                text = json.dumps(report, indent=1, ensure_ascii=False) + "\n"
                yield PutFile(path=f"/{one.id}/reason.json", parts=[text.encode()])
                for number, path, *_ in one.files:
                    source = row.job.inputs[number]
                    target = f"/{one.id}/{source.name}{path.rstrip('/')}"
                    yield CopyTree(path=target, root=TreeHash(source.root), source_path=path)

        return self._versioning.stage(changes())

    # --- any end ---

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
            self.ended(connection, row, Status.CANCELLED)

    def end(
        self,
        connection: Connection,
        row: JobRow,
        status: Status,
        reason: str = "",
        *,
        tree: TreeInfo | None = None,
    ) -> bool:
        """A job's end, whatever it is: its status, its output commit, its tasks, the word to others, the next job."""
        old = (Status.QUEUED,) if status == Status.UNRUNNABLE else store.UNFINISHED
        if not store.transition(connection, row, old, status, self._clock.now(), reason=reason):
            return False
        error = None if status == Status.SUCCEEDED else (reason or status.value)
        try:
            self._versioning.finish_output(
                connection, row.job.project, row.job.pipeline, row.job.id, tree=tree, error=error
            )
        except NotFoundError:  # dropped just now: the event of that comes next, and takes the job away
            log.info("job %s: its output commit is gone", job_key(row))
        self.ended(connection, row, status)
        log.info("job %s: %s %s", job_key(row), status.value, reason)
        return True

    def _end(self, connection: Connection, row: JobRow, status: Status, reason: str) -> None:
        self.end(connection, row, status, reason)

    def ended(self, connection: Connection, row: JobRow, status: Status) -> None:
        """What follows from a job's end, after its status was written."""
        project, pipeline = row.job.project, row.job.pipeline
        row = store.get_job_by_pk(connection, row.pk) or row  # it may have begun since it was read
        datum_store.cancel_open(connection, row.pk, self._clock.now())
        results.file_results(connection, row.pk, self._clock.now())
        self._queue.drop(connection, DATUM_SET, f"{job_key(row)}/", stop=not row.is_complete)
        self._queue.drop(connection, JOB_TIMEOUT, job_key(row))
        self._queue.drop(connection, EGRESS_JOB, job_key(row), stop=False)
        self.release_waiting(connection, row.pipeline_id)
        payload = {"project": project, "pipeline": pipeline, "id": row.job.id, "status": status.value}
        self._outbox.publish(connection, "job.finished", payload)
        rest = store.unfinished_jobs(connection, row.pipeline_id)
        if rest and rest[0].job.phase == store.FINISHING:
            self._ask(connection, FINISH_JOB, project, pipeline)
        if any(one.job.status == Status.QUEUED for one in rest):
            self.wake(connection, project, pipeline)

    def time_out(self, task: Task) -> Outcome:
        """A job's time is over."""
        with self._db.read() as connection:
            row = store.get_job_by_pk(connection, task.payload["job_pk"])
        if row is None or row.job.status != Status.RUNNING:
            return Done()
        reason = f"it ran past its job_timeout of {task.payload['seconds']:g} s"
        return Done(apply=lambda connection: self._end(connection, row, Status.FAILED, reason))

    # --- tasks of datum sets ---

    def enqueue_sets(
        self, connection: Connection, row: JobRow, numbers: Iterable[int], *, after_seconds: float = 0.0
    ) -> None:
        payloads = {set_key(row, number): {"job_pk": row.pk, "set": number} for number in numbers}
        name = queue_name(row.job.project, row.job.pipeline)
        self._queue.enqueue_all(
            connection, kind=DATUM_SET, queue=name, payloads=payloads, after_seconds=after_seconds
        )

    def release_waiting(self, connection: Connection, pipeline_id: int) -> None:
        """Datums whose twin in another job will not be computed any more are computed themselves."""
        for job_pk, ids in set_store.waiting_in_vain(connection, pipeline_id).items():
            self.add_sets(connection, job_pk, ids)

    def add_sets(self, connection: Connection, job_pk: int, ids: Sequence[str]) -> None:
        """More work for a job that runs: these datums, in sets of their own."""
        row = store.get_job_by_pk(connection, job_pk)
        assert row is not None, "its datums were read in the same transaction"
        groups = list(datum_store.parts(ids, RELEASED_SET_MAX))
        for number, group in enumerate(groups, row.sets):
            set_store.into_set(connection, job_pk, group, number)
        sets = row.sets + len(groups)
        values = {"sets": sets}
        if row.sets_queued == row.sets:  # else they get their turn after those that wait for one
            values["sets_queued"] = sets
            self.enqueue_sets(connection, row, range(row.sets, sets))
        store.update_job(connection, job_pk, Status.RUNNING, **values)


def _why_failed(first: str, failed: Sequence[Any]) -> str:
    """One line for the first datum that failed, and how many others did."""
    others = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
    return f"{first} failed{others}: {failed[0].reason}"
