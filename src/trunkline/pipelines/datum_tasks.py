"""The domain's side of datum tasks: what a worker is told, and what follows from what it reports."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from sqlalchemy.engine import Connection

from trunkline.core.clock import Clock
from trunkline.core.ids import DEFAULT_PROJECT
from trunkline.core.status import Status
from trunkline.errors import NotFoundError, StateError
from trunkline.jobs.model import Report, Task
from trunkline.pipelines import datum_store, store
from trunkline.pipelines.model import Datum, Pipeline
from trunkline.pipelines.runner import Steps, environment_of
from trunkline.pipelines.store import JobRow
from trunkline.secrets.service import SecretsService
from trunkline.settings import Settings
from trunkline.storage.db.engine import Database

log = logging.getLogger(__name__)

IssueToken = Callable[[str, str, float | None], str]
"""``(scope, subject, seconds it lives)`` -> token; the access service's ``issue``."""

RETRY_SECONDS = 0.5
TOKENS_KEPT_MAX = 64
TOKEN_SECONDS = 30 * 24 * 3600.0
"""Longer than any job; the composition root ends a token with its job."""
REASON_CHARACTERS_MAX = 2000


class DatumTasks:
    """The ``WorkerHandler`` of kind ``datum``."""

    def __init__(
        self,
        *,
        db: Database,
        clock: Clock,
        steps: Steps,
        secrets: SecretsService,
        settings: Settings,
        issue_token: IssueToken,
    ) -> None:
        self._db = db
        self._clock = clock
        self._steps = steps
        self._secrets = secrets
        self._settings = settings
        self._issue_token = issue_token
        self._lock = threading.Lock()
        self._tokens: dict[int, str] = {}

    # --- what the worker is told ---

    def describe(self, task: Task) -> dict[str, Any]:
        """All that a worker needs for a datum; secrets are read now, so they are never stored in a task.

        :raises NotFoundError: if a secret is missing; ``StateError`` if the job is not running any more.
        """
        row, datum, pipeline = self._load(task)
        transform = pipeline.spec["transform"]
        environment = environment_of(transform, self._settings)
        secrets_env, secret_files = self._secret_values(pipeline)
        return {
            "job": {"project": pipeline.project, "pipeline": pipeline.name, "id": row.job.id},
            "datum_id": datum.id,
            "tries": pipeline.spec["datum_tries"],
            "transform": {
                name: transform[name]
                for name in ("cmd", "stdin", "env", "err_cmd", "err_stdin", "working_dir", "accept_return_code", "requirements")
            },
            "environment": environment.model_dump(),
            "secrets_env": secrets_env,
            "secret_files": secret_files,
            "code_root": pipeline.code_root,
            "inputs": [
                {
                    "name": one.name, "project": one.project, "repo": one.repo, "commit": one.commit, "root": one.root,
                    "glob_paths": list(one.paths),
                }
                for one in datum.inputs
            ],
            "env_extra": _environment_of(row, datum, pipeline),
            "job_token": self._token_of(row),
            "datum_timeout_seconds": pipeline.spec.get("datum_timeout"),
        }  # fmt: skip

    def _load(self, task: Task) -> tuple[JobRow, Datum, Pipeline]:
        with self._db.read() as connection:
            row = store.get_job_by_pk(connection, task.payload["job_pk"])
            datum = datum_store.get_datum(connection, task.payload["job_pk"], task.payload["datum_id"])
            pipeline = None
            if row is not None:
                pipeline = store.get_pipeline(connection, row.job.project, row.job.pipeline, row.job.version)
        if row is None or datum is None or pipeline is None or row.job.status != Status.RUNNING:
            raise StateError(f"the job of {task.key} is not running any more", kind="job_over")
        return row, datum, pipeline

    def _secret_values(self, pipeline: Pipeline) -> tuple[dict[str, str], dict[str, str]]:
        env: dict[str, str] = {}
        files: dict[str, str] = {}
        for wanted in pipeline.spec["transform"]["secrets"]:
            secret = self._secrets.find((pipeline.project, DEFAULT_PROJECT), wanted["name"])
            if secret is None:
                raise NotFoundError(
                    f"there is no secret {wanted['name']} in namespace {pipeline.project} or {DEFAULT_PROJECT}: "
                    "create it with 'trunkline apply -f FILE'",
                    kind="no_secret",
                )
            if wanted["env_var"]:
                value = self._secrets.value(secret.namespace, secret.name, wanted["key"])
                env[wanted["env_var"]] = value
            else:
                folder = wanted["mount_path"].rstrip("/")
                for key in [wanted["key"]] if wanted["key"] else secret.keys:
                    files[f"{folder}/{key}"] = self._secrets.value(secret.namespace, secret.name, key)
        return env, files

    def _token_of(self, row: JobRow) -> str:
        """One token for a job, as long as this server runs."""
        with self._lock:
            if row.pk not in self._tokens:
                while len(self._tokens) >= TOKENS_KEPT_MAX:
                    del self._tokens[next(iter(self._tokens))]
                subject = f"job:{row.job.project}/{row.job.pipeline}@{row.job.id}"
                self._tokens[row.pk] = self._issue_token("job", subject, TOKEN_SECONDS)
            return self._tokens[row.pk]

    # --- what it says ---

    def started(self, connection: Connection, task: Task) -> None:
        """A try begins."""
        now = self._clock.now()
        datum_store.start_try(connection, task.payload["job_pk"], task.payload["datum_id"], now)

    def reported(self, connection: Connection, task: Task, report: Report) -> float | None:
        """A try has ended: done, to be repeated, or given up."""
        job_pk, datum_id = task.payload["job_pk"], task.payload["datum_id"]
        row = store.get_job_by_pk(connection, job_pk)
        if row is None or row.job.status != Status.RUNNING:
            return None
        if report.status == Status.SUCCEEDED:
            self._succeeded(connection, row, datum_id, report.result)
            return None
        if report.status in (Status.QUEUED, Status.CANCELLED):  # given back: the worker was asked to leave
            datum_store.end_try(connection, job_pk, datum_id, reason="", is_counted=False)
            return 0.0
        return self._failed(connection, row, datum_id, report.error, report.result.get("stats"))

    def lost(self, connection: Connection, task: Task) -> float | None:
        """The worker died (killed for its memory, say): counted as a try, so that such code does not run for ever."""
        row = store.get_job_by_pk(connection, task.payload["job_pk"])
        if row is None or row.job.status != Status.RUNNING:
            return None
        reason = "its worker process died or went silent"
        return self._failed(connection, row, task.payload["datum_id"], reason, None)

    def _succeeded(self, connection: Connection, row: JobRow, datum_id: str, result: dict[str, Any]) -> None:
        now = self._clock.now()
        recovered = bool(result.get("recovered"))
        stats = {**result.get("stats", {}), "recovered": True} if recovered else result.get("stats", {})
        output_root = None if recovered else result["output_root"]
        done = datum_store.finish_datum(
            connection, row.pk, datum_id, Status.SUCCEEDED, now, output_root=output_root, stats=stats,
            reason=str(result.get("reason", ""))[:REASON_CHARACTERS_MAX],
        )  # fmt: skip
        if not done:
            return
        if output_root is not None:
            datum = datum_store.get_datum(connection, row.pk, datum_id)
            assert datum is not None, "it was finished just now"
            datum_store.remember_result(
                connection, identity=datum.identity, output_root=output_root, job_id=row.job.id, now=now
            )
        self._count(connection, row, "recovered" if recovered else "processed")

    def _failed(
        self, connection: Connection, row: JobRow, datum_id: str, reason: str, stats: dict[str, Any] | None
    ) -> float | None:
        reason = reason[:REASON_CHARACTERS_MAX] or "it failed without saying why"
        datum = datum_store.get_datum(connection, row.pk, datum_id)
        pipeline = store.get_pipeline(connection, row.job.project, row.job.pipeline, row.job.version)
        if datum is None or pipeline is None:
            return None
        if datum.attempts < pipeline.spec["datum_tries"]:
            datum_store.end_try(connection, row.pk, datum_id, reason=reason)
            log.info("datum %s of %s failed, will be tried again: %s", datum_id[:12], row.job.id, reason)
            return RETRY_SECONDS
        now = self._clock.now()
        if datum_store.finish_datum(
            connection, row.pk, datum_id, Status.FAILED, now, reason=reason, stats=stats or {}
        ):
            self._count(connection, row, "failed")
        return None

    def _count(self, connection: Connection, row: JobRow, column: str) -> None:
        updated = store.count(connection, row.pk, column)
        if updated is not None:
            self._steps.finish_if_complete(connection, updated)


def _environment_of(row: JobRow, datum: Datum, pipeline: Pipeline) -> dict[str, str]:
    """Pachyderm's variables, and our own. ``<input>`` (a path) is added by the worker, which knows where ``/pfs`` is."""
    found = {
        "PACH_JOB_ID": row.job.id,
        "PACH_DATUM_ID": datum.id,
        "PACH_OUTPUT_COMMIT_ID": row.job.id,
        "PPS_PIPELINE_NAME": pipeline.name,
        "PPS_PROJECT_NAME": pipeline.project,
        "PPS_SPEC_COMMIT": f"v{pipeline.version}",
        "TRUNKLINE_PROJECT": pipeline.project,
        "TRUNKLINE_PIPELINE": pipeline.name,
        "TRUNKLINE_JOB_ID": row.job.id,
        "TRUNKLINE_DATUM_ID": datum.id,
    }
    for one in datum.inputs:
        found[f"{one.name}_COMMIT"] = one.commit
    return found
