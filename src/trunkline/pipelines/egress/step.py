"""The step between a job's last datum and its end, where its spec says ``egress``: its output is sent elsewhere.

Sent is what changed since the last time; what that was is known by the trees that were sent (``manifest``). A step that is cut
short, or whose target is away, is done again a bounded number of times; then the job fails and says why.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from sqlalchemy.engine import Connection

from trunkline.core.clock import Clock
from trunkline.core.ids import TreeHash
from trunkline.core.status import Status
from trunkline.errors import TrunklineError, UnavailableError
from trunkline.jobs.model import Again, Done, Outcome, Task
from trunkline.pipelines import store
from trunkline.pipelines.egress import manifest
from trunkline.pipelines.egress.base import OpenTarget, Parcel, Stopped, Target
from trunkline.pipelines.finishing import Finishing
from trunkline.pipelines.keys import job_key
from trunkline.pipelines.model import Pipeline
from trunkline.pipelines.store import JobRow
from trunkline.storage.db.engine import Database
from trunkline.versioning.model import TreeInfo
from trunkline.versioning.service import VersioningService

log = logging.getLogger(__name__)

TRIES_MAX = 6
RETRY_SECONDS = (1.0, 4.0, 16.0, 60.0, 120.0)


class Egress:
    """The handler of ``egress-job``."""

    def __init__(
        self,
        *,
        db: Database,
        clock: Clock,
        versioning: VersioningService,
        steps: Finishing,
        open_target: OpenTarget | None,
    ) -> None:
        self._db = db
        self._clock = clock
        self._versioning = versioning
        self._steps = steps
        self._open_target = open_target

    def __call__(self, task: Task) -> Outcome:
        with self._db.read() as connection:
            row = store.get_job_by_pk(connection, task.payload["job_pk"])
            pipeline = None
            if row is not None:
                pipeline = store.get_pipeline(connection, row.job.project, row.job.pipeline, row.job.version)
        if row is None or pipeline is None or not _is_egressing(row):
            return Done()
        tree = TreeInfo(
            root=TreeHash(task.payload["root"]), size=task.payload["size"], file_count=task.payload["file_count"]
        )  # fmt: skip
        said = {**row.job.egress, "attempts": task.attempts}
        try:
            target = self._open(pipeline)
            said["target"] = target.name
            said |= self._send(row, pipeline, target, tree)
        except Stopped:
            return Done()
        except TrunklineError as error:
            return self._failed(task, row, said, error)
        said.pop("error", None)

        def apply(connection: Connection) -> None:
            now = self._clock.now()
            store.update_job(connection, row.pk, Status.RUNNING, egress=said)
            manifest.end(connection, row.pipeline_id, target.name, tree.root, pipeline.salt, row.job.id, now)
            self._steps.end(connection, row, Status.SUCCEEDED, tree=tree)

        return Done(apply=apply)

    def _open(self, pipeline: Pipeline) -> Target:
        if self._open_target is None:
            raise UnavailableError("this server has no drivers for egress", kind="no_egress")
        return self._open_target(pipeline.project, pipeline.spec["egress"])

    def _send(self, row: JobRow, pipeline: Pipeline, target: Target, tree: TreeInfo) -> dict[str, Any]:
        with self._db.write() as connection:
            sent = manifest.sent_to(connection, row.pipeline_id, target.name, pipeline.salt)
            manifest.begin(
                connection, row.pipeline_id, target.name, tree.root, pipeline.salt, row.job.id, self._clock.now()
            )  # fmt: skip
        # Without a tree that is known to be there all files are sent; the others still say what may have to be deleted.
        trees = sent.trees if sent.is_whole else (*sent.trees, self._versioning.stage(()).root)
        parcel = Parcel(self._versioning, trees, tree.root, lambda: self._is_wanted(row.pk))
        began = time.monotonic()
        if not parcel.is_empty:
            target.send(parcel)
        seconds = time.monotonic() - began
        log.info("job %s: sent to %s: %s", job_key(row), target.name, parcel.written.shown())
        return {**parcel.written.shown(), "seconds": round(seconds, 3)}

    def _is_wanted(self, job_pk: int) -> bool:
        with self._db.read() as connection:
            row = store.get_job_by_pk(connection, job_pk)
        return row is not None and _is_egressing(row)

    def _failed(self, task: Task, row: JobRow, said: dict[str, Any], error: TrunklineError) -> Outcome:
        may_help = isinstance(error, UnavailableError) and task.attempts < TRIES_MAX
        said["error"] = str(error)
        tries = f" (tried {task.attempts} times)" if task.attempts > 1 else ""
        reason = f"its output could not be sent to {said.get('target', 'its egress')}{tries}: {error}"
        log.warning("job %s: %s", job_key(row), reason)

        def note(connection: Connection) -> None:
            store.update_job(connection, row.pk, Status.RUNNING, egress=said)

        def give_up(connection: Connection) -> None:
            note(connection)
            self._steps.end(connection, row, Status.FAILED, reason)

        if may_help:
            return Again(after_seconds=RETRY_SECONDS[task.attempts - 1], apply=note)
        return Done(apply=give_up)


def _is_egressing(row: JobRow) -> bool:
    return row.job.status == Status.RUNNING and row.job.phase == store.EGRESSING
