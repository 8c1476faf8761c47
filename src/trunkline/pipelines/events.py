"""What pipelines do when commits come, end and go: subscribers of the outbox, which only write rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy.engine import Connection

from trunkline.core.clock import Clock
from trunkline.core.ids import CommitId
from trunkline.core.status import Status
from trunkline.jobs.outbox import Outbox
from trunkline.pipelines import store
from trunkline.pipelines.finishing import Finishing


class Events:
    """From commits to jobs."""

    def __init__(
        self, clock: Clock, steps: Finishing, forget_logs: Callable[[Connection, str, str], None]
    ) -> None:
        self._clock = clock
        self._steps = steps
        self._forget_logs = forget_logs

    def subscribe(self, outbox: Outbox) -> None:
        outbox.subscribe("commit.opened", self.commit_opened)
        outbox.subscribe("commit.finished", self.commit_finished)
        outbox.subscribe("commit.squashed", self.commit_removed)
        outbox.subscribe("commit.dropped", self.commit_removed)

    def commit_opened(self, connection: Connection, payload: dict[str, Any]) -> None:
        """An output commit was opened: there is a job to do, sooner or later."""
        pipeline = store.get_pipeline(connection, payload["project"], payload["repo"])
        if pipeline is None or payload["branch"] != pipeline.spec["output_branch"]:
            return
        if pipeline.spec.get("spout") is not None:  # it commits by itself: there is nothing to do for that
            return
        pipeline_id = store.find_pipeline_id(connection, pipeline.project, pipeline.name)
        assert pipeline_id is not None, "it was found in the same transaction"
        store.insert_job(connection, pipeline_id, CommitId(payload["id"]), self._clock.now())
        self._steps.wake(connection, pipeline.project, pipeline.name)

    def commit_finished(self, connection: Connection, _payload: dict[str, Any]) -> None:
        """Whoever waits may now have all its inputs."""
        for project, pipeline in store.pipelines_with_waiting_jobs(connection):
            self._steps.wake(connection, project, pipeline)

    def commit_removed(self, connection: Connection, payload: dict[str, Any]) -> None:
        """An output commit was squashed or dropped: its job is ended, if it has not been, and goes, too, with its log."""
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
            self._steps.ended(connection, row, Status.CANCELLED)
        store.delete_job(connection, row.pk)
        self._forget_logs(connection, pipeline.project, pipeline.name)
