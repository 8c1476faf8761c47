"""Pipelines whose process stays: services, which run for the newest job and have a port, and spouts, which have no job and
commit by themselves. What makes them so is one task each, that ends only when nobody wants it any more.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy.engine import Connection

from trunkline.core.status import Status
from trunkline.errors import ConflictError, NotFoundError, StateError
from trunkline.jobs.model import Report, Task
from trunkline.jobs.outbox import Outbox
from trunkline.jobs.queue import TaskQueue
from trunkline.pipelines import store
from trunkline.pipelines.datum_tasks import DatumSets, IssueToken
from trunkline.pipelines.finishing import Finishing
from trunkline.pipelines.keys import DATUM_SET, DATUM_WORKER, SPOUT, job_key, pipeline_key, queue_name
from trunkline.pipelines.model import Pipeline
from trunkline.pipelines.spec import PipelineSpec
from trunkline.settings import Settings
from trunkline.storage.db.engine import Database

HOST = "127.0.0.1"
RETRY_SECONDS = 1.0


def service_of(spec: Mapping[str, Any]) -> dict[str, Any] | None:
    """The service of an effective spec, a spout's included."""
    return spec.get("service") or (spec.get("spout") or {}).get("service")


def is_spout(spec: Mapping[str, Any]) -> bool:
    return spec.get("spout") is not None


def run_of(task: Task) -> str:
    """A name for what one worker does of a task: no other run ever has it, and it does not give the lease away. The number of a
    task would not do, since databases give it anew once the task is gone."""
    return hashlib.sha256(task.lease_token.encode()).hexdigest()[:16]


def spout_subject(pipeline: Pipeline, task: Task) -> str:
    """Whom the token of a spout stands for: one run of it, as long as that is the present one."""
    return f"spout:{pipeline.project}/{pipeline.name}@{pipeline.spec['output_branch']}#{run_of(task)}"


def no_jobs(project: str, name: str) -> StateError:
    return StateError(f"pipeline {project}/{name} is a spout, and has no jobs", kind="no_jobs")


class Staying:
    """The ``WorkerHandler`` of kind ``spout``, and what starts and stops both kinds."""

    def __init__(
        self,
        *,
        db: Database,
        queue: TaskQueue,
        outbox: Outbox,
        steps: Finishing,
        sets: DatumSets,
        settings: Settings,
        issue_token: IssueToken,
    ) -> None:
        self._db = db
        self._queue = queue
        self._outbox = outbox
        self._steps = steps
        self._sets = sets
        self._settings = settings
        self._issue_token = issue_token

    # --- ports ---

    def check(self, connection: Connection, spec: PipelineSpec) -> None:
        """:raises ConflictError: ``port_taken``, if another pipeline or the server itself has a port of this service."""
        service = spec.service or (spec.spout.service if spec.spout is not None else None)
        if service is None:
            return
        wanted = {service.internal_port, service.external_port} - {0}
        taken = {
            self._settings.port: "trunkline itself",
            self._settings.gateway_port: "the gateway of predictions",
            self._settings.s3_port: "the S3 door",
        }
        for other in store.list_pipelines(connection, None):
            its = service_of(other.spec)
            if its and (other.project, other.name) != (spec.pipeline.project, spec.pipeline.name):
                for port in (its["internal_port"], its["external_port"]):
                    taken[port] = f"pipeline {other.project}/{other.name}"
        for port in sorted(wanted & (taken.keys() - {0})):
            raise ConflictError(f"port {port} is taken by {taken[port]}: choose another", kind="port_taken")

    def details(self, connection: Connection, pipeline: Pipeline) -> dict[str, Any]:
        """Where its service is, if it is one; in the words that Pachyderm has for it."""
        service = service_of(pipeline.spec)
        if not service:
            return {}
        port = service["external_port"] or service["internal_port"]
        is_up = self._queue.is_held(connection, queue_name(pipeline.project, pipeline.name))
        state = "stopped" if pipeline.state == "paused" else "running" if is_up else "waiting"
        return {
            "service": {
                "ip": HOST, "internal_port": service["internal_port"], "external_port": port, "type": service["type"],
                "url": f"http://{HOST}:{port}", "state": state,
            }
        }  # fmt: skip

    # --- starting and stopping ---

    def begin(self, connection: Connection, pipeline: Pipeline) -> None:
        """Have its process run, in the present version; one that runs in another is replaced."""
        if is_spout(pipeline.spec):
            self._declare(connection, pipeline)
            self._end_token(connection, pipeline)
            self._queue.revoke(connection, SPOUT, _spout_key(pipeline))
            self._ask(connection, pipeline)
        elif pipeline.spec.get("service"):
            for row in self._running(connection, pipeline):
                self._steps.enqueue_sets(connection, row, range(row.sets))

    def rest(self, connection: Connection, pipeline: Pipeline) -> None:
        """Have its process end. The job of a service stays as it is, and goes on at the next ``begin``."""
        if is_spout(pipeline.spec):
            self._end_token(connection, pipeline)
            self._queue.drop(connection, SPOUT, _spout_key(pipeline))
        elif pipeline.spec.get("service"):
            for row in self._running(connection, pipeline):
                self._queue.drop(connection, DATUM_SET, f"{job_key(row)}/")

    def _running(self, connection: Connection, pipeline: Pipeline) -> Iterator[store.JobRow]:
        pipeline_id = store.find_pipeline_id(connection, pipeline.project, pipeline.name)
        assert pipeline_id is not None, "it was found in the same transaction"
        for row in store.unfinished_jobs(connection, pipeline_id):
            if row.job.status == Status.RUNNING and row.job.phase in (store.QUEUEING, store.PROCESSING):
                yield row

    def _declare(self, connection: Connection, pipeline: Pipeline) -> None:
        name = queue_name(pipeline.project, pipeline.name)
        self._queue.declare(connection, name, worker=DATUM_WORKER, workers_max=1, options={})

    def _ask(self, connection: Connection, pipeline: Pipeline, after_seconds: float = 0.0) -> None:
        self._queue.enqueue(
            connection, kind=SPOUT, key=_spout_key(pipeline), queue=queue_name(pipeline.project, pipeline.name),
            payload={"project": pipeline.project, "pipeline": pipeline.name}, after_seconds=after_seconds,
        )  # fmt: skip

    def may_write(self, connection: Connection, subject: str, project: str, name: str, branch: str) -> bool:
        """Whether a token's subject is the present run of the spout whose output this is."""
        pipeline = store.get_pipeline(connection, project, name)
        if pipeline is None or not is_spout(pipeline.spec) or branch != pipeline.spec["output_branch"]:
            return False
        task = self._queue.running(connection, SPOUT, _spout_key(pipeline))
        return task is not None and spout_subject(pipeline, task) == subject

    def _end_token(self, connection: Connection, pipeline: Pipeline) -> None:
        """The token of the present run is worth nothing any more."""
        task = self._queue.running(connection, SPOUT, _spout_key(pipeline))
        if task is not None:
            self._outbox.publish(connection, "spout.ended", {"subject": spout_subject(pipeline, task)})

    # --- the worker's side of a spout ---

    def describe(self, task: Task) -> dict[str, Any]:
        """As a datum set of one datum that sees nothing, with a token that may write to its own output.

        :raises NotFoundError: if the pipeline is gone.
        """
        with self._db.read() as connection:
            pipeline = self._pipeline(connection, task)
        if pipeline is None:
            raise NotFoundError(f"the pipeline of {task.key} is gone", kind="no_pipeline")
        return {
            **self._sets.of_pipeline(pipeline),
            "job": {
                "project": pipeline.project, "pipeline": pipeline.name, "id": "", "version": pipeline.version,
            },
            "set": 0, "careful": False, "stays": True,
            "job_token": self._issue_token("job", spout_subject(pipeline, task), None),
            "env_extra": {
                "PPS_PIPELINE_NAME": pipeline.name, "PPS_PROJECT_NAME": pipeline.project,
                "PPS_SPEC_COMMIT": f"v{pipeline.version}", "TRUNKLINE_PROJECT": pipeline.project,
                "TRUNKLINE_PIPELINE": pipeline.name,
            },
            "inputs": [],
            "datums": [{"id": SPOUT, "identity": "", "attempts": 0, "files": [], "env": {}}],
            "service": service_of(pipeline.spec), "s3_out": False,
        }  # fmt: skip

    def started(self, connection: Connection, task: Task) -> None:
        """Nothing to note."""

    def progress(
        self,
        connection: Connection,
        task: Task,
        results: Sequence[Mapping[str, Any]],
        current: str | None,
    ) -> bool:
        """It has no results; the one it may tell is that it cannot run."""
        return self._is_wanted(self._pipeline(connection, task)) and not results

    def reported(self, connection: Connection, task: Task, report: Report) -> float | None:
        """The process has ended with its worker. If it is wanted, another one is."""
        left = report.status in (Status.QUEUED, Status.CANCELLED)
        self._again(connection, task, 0.0 if left else RETRY_SECONDS)
        return None

    def lost(self, connection: Connection, task: Task) -> float | None:
        """Its worker died; that is no reason to give it up."""
        self._again(connection, task, RETRY_SECONDS)
        return None

    def _again(self, connection: Connection, task: Task, after_seconds: float) -> None:
        pipeline = self._pipeline(connection, task)
        if pipeline is not None:
            self._end_token(connection, pipeline)
        self._queue.forget(connection, task.id)
        if pipeline is not None and self._is_wanted(pipeline):
            self._ask(connection, pipeline, after_seconds)

    def _pipeline(self, connection: Connection, task: Task) -> Pipeline | None:
        return store.get_pipeline(connection, task.payload["project"], task.payload["pipeline"])

    def _is_wanted(self, pipeline: Pipeline | None) -> bool:
        return pipeline is not None and pipeline.state == "running" and is_spout(pipeline.spec)


def _spout_key(pipeline: Pipeline) -> str:
    return f"{pipeline_key(pipeline.project, pipeline.name)}/{SPOUT}"
