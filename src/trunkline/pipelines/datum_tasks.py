"""The domain's side of datum sets: what a worker is told, and what follows from what it reports."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy.engine import Connection, Row

from trunkline.core.clock import Clock
from trunkline.core.ids import DEFAULT_PROJECT
from trunkline.core.status import Status
from trunkline.errors import NotFoundError, StateError
from trunkline.jobs.model import Report, Task
from trunkline.jobs.queue import TaskQueue
from trunkline.pipelines import datum_store, results, set_store, store
from trunkline.pipelines.datum_store import Ended
from trunkline.pipelines.inputs import Leaf, leaves
from trunkline.pipelines.model import Pipeline
from trunkline.pipelines.results import Result
from trunkline.pipelines.runner import Steps
from trunkline.pipelines.s3 import JobDoor, needs_s3
from trunkline.pipelines.spec import limits_of
from trunkline.pipelines.store import JobRow
from trunkline.secrets.service import SecretsService
from trunkline.settings import Settings
from trunkline.storage.db.engine import Database

log = logging.getLogger(__name__)

IssueToken = Callable[[str, str, float | None], str]
"""``(scope, subject, seconds it lives)`` -> token; the access service's ``issue``."""

RETRY_SECONDS = 0.5
SETS_PER_FILING = 5
"""Whose results are filed together, when the last of them is given back; what is left is filed at the job's end."""
TOKENS_KEPT_MAX = 64
TOKEN_SECONDS = 30 * 24 * 3600.0
"""Longer than any job; the composition root ends a token with its job."""
REASON_CHARACTERS_MAX = 2000
WORKER_DIED = "its worker process died (out of memory?)"

SUMMED = (
    "download_seconds",
    "process_seconds",
    "upload_seconds",
    "cpu_seconds",
    "download_bytes",
    "upload_bytes",
)
GREATEST = ("memory_bytes",)
COUNTERS = {
    Status.SUCCEEDED: "processed", Status.SKIPPED: "skipped", Status.FAILED: "failed",
    Status.RECOVERED: "recovered", Status.QUARANTINED: "quarantined",
}  # fmt: skip
"""Where a job counts the datums that ended so."""


class DatumSets:
    """The ``WorkerHandler`` of kind ``datum-set``."""

    def __init__(
        self,
        *,
        db: Database,
        clock: Clock,
        steps: Steps,
        queue: TaskQueue,
        secrets: SecretsService,
        settings: Settings,
        issue_token: IssueToken,
        job_door: JobDoor | None = None,
    ) -> None:
        self._job_door = job_door
        self._db = db
        self._clock = clock
        self._steps = steps
        self._queue = queue
        self._secrets = secrets
        self._settings = settings
        self._issue_token = issue_token
        self._lock = threading.Lock()
        self._tokens: dict[int, str] = {}

    # --- what the worker is told ---

    def describe(self, task: Task) -> dict[str, Any]:
        """All that a worker needs for a set; secrets are read now, so they are never stored in a task.

        :raises NotFoundError: if a secret is missing; ``StateError`` if the job is not running any more.
        """
        number = task.payload["set"]
        with self._db.read() as connection:
            row = store.get_job_by_pk(connection, task.payload["job_pk"])
            pipeline = None
            told: list[dict[str, Any]] = []
            if row is not None:
                pipeline = store.get_pipeline(connection, row.job.project, row.job.pipeline, row.job.version)
                told = set_store.described(connection, row.pk, number)
        if row is None or pipeline is None or row.job.status != Status.RUNNING:
            raise StateError(f"the job of {task.key} is not running any more", kind="job_over")
        spec = pipeline.spec
        return {
            **self.of_pipeline(pipeline),
            "job": {
                "project": pipeline.project, "pipeline": pipeline.name, "id": row.job.id, "version": row.job.version,
            },
            "set": number,
            "careful": number in row.sets_lost,
            "job_token": self._token_of(row),
            "env_extra": self._environment(row, pipeline),
            "inputs": _inputs_of(row, pipeline),
            "datums": told,
            "service": spec.get("service"),
            "stays": bool(spec.get("service")),
            "s3_out": bool(spec.get("s3_out")),
        }  # fmt: skip

    def of_pipeline(self, pipeline: Pipeline) -> dict[str, Any]:
        """What is the same for all that workers do for a pipeline.

        :raises NotFoundError: if a secret is missing.
        """
        spec = pipeline.spec
        secrets_env, secret_files = self._secret_values(pipeline)
        needs_packages = bool(spec["transform"].get("requirements"))
        place = self._settings.environment_for(spec["transform"]["image"], requirements=needs_packages)
        return {
            "tries": spec["datum_tries"],
            "transform": spec["transform"],
            "environment": place.model_dump(),
            "secrets_env": secrets_env,
            "secret_files": secret_files,
            "code_root": pipeline.code_root,
            "limits": limits_of(spec),
            "datum_timeout_seconds": spec.get("datum_timeout"),
        }

    def _secret_values(self, pipeline: Pipeline) -> tuple[dict[str, str], dict[str, str]]:
        env: dict[str, str] = {}
        files: dict[str, str] = {}
        for wanted in pipeline.spec["transform"].get("secrets", ()):
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

    def _environment(self, row: JobRow, pipeline: Pipeline) -> dict[str, str]:
        found = _environment_of(row, pipeline)
        if self._job_door is not None and needs_s3(pipeline.spec):
            found |= self._job_door(self._token_of(row))
        return found

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
        """A worker took the set; it is at the first of its datums."""
        job_pk, number = task.payload["job_pk"], task.payload["set"]
        first = set_store.first_open(connection, job_pk, number)
        if first is not None:
            set_store.mark_running(connection, job_pk, number, first, self._clock.now())

    def progress(
        self, connection: Connection, task: Task, results: Sequence[Mapping[str, Any]], current: str | None
    ) -> bool:
        """Datums of the set that have ended, and the one that it is at."""
        job_pk = task.payload["job_pk"]
        row = store.get_job_by_pk(connection, job_pk)
        if row is None:
            return False
        if row.job.status != Status.RUNNING:
            self._remember_late(connection, row, results)
            return False
        if results:
            self._apply(connection, row, results, task.payload["set"])
        if current is not None or results:
            set_store.mark_running(connection, job_pk, task.payload["set"], current, self._clock.now())
        return True

    def reported(self, connection: Connection, task: Task, report: Report) -> float | None:
        """The set is given back. Datums that were not reported are to be done again."""
        job_pk, number = task.payload["job_pk"], task.payload["set"]
        row = store.get_job_by_pk(connection, job_pk)
        if row is None or row.job.status != Status.RUNNING:
            self._queue.forget(connection, task.id)
            return None
        rows = set_store.open_in_set(connection, job_pk, number)
        if not rows:
            first = number - number % SETS_PER_FILING
            results.file_results(connection, job_pk, self._clock.now(), range(first, first + SETS_PER_FILING))
            return None
        set_store.mark_running(connection, job_pk, number, None, self._clock.now())
        if (pipeline := self._service_of(connection, row)) is not None:
            left = report.status in (Status.QUEUED, Status.CANCELLED)
            self._serve_again(connection, task, row, pipeline, 0.0 if left else RETRY_SECONDS)
            return None
        if report.status in (Status.QUEUED, Status.CANCELLED):  # the worker was asked to leave
            return 0.0
        reason = report.error or "its worker did not say how it went"
        is_left = self._count_try(connection, row, rows, reason)
        return RETRY_SECONDS if is_left else None

    def lost(self, connection: Connection, task: Task) -> float | None:
        """The worker died (killed for its memory, say). The first time that costs nothing but time; from then on the set is
        done carefully, and the datum that it was at has had a try, so that such code does not run for ever."""
        job_pk, number = task.payload["job_pk"], task.payload["set"]
        row = store.get_job_by_pk(connection, job_pk)
        if row is None or row.job.status != Status.RUNNING:
            self._queue.forget(connection, task.id)
            return None
        rows = set_store.open_in_set(connection, job_pk, number)
        if not rows:
            return None
        if (pipeline := self._service_of(connection, row)) is not None:
            self._serve_again(connection, task, row, pipeline, RETRY_SECONDS)
            return None
        if number not in row.sets_lost:
            lost = sorted({*row.sets_lost, number})
            store.update_job(connection, job_pk, Status.RUNNING, sets_lost=lost)
            set_store.mark_running(connection, job_pk, number, None, self._clock.now())
            return 0.0
        at = next((one for one in rows if one.status == Status.RUNNING), rows[0])
        set_store.mark_running(connection, job_pk, number, None, self._clock.now())
        is_given_up = not self._count_try(connection, row, [at], WORKER_DIED)
        return None if is_given_up and len(rows) == 1 else 0.0

    def _service_of(self, connection: Connection, row: JobRow) -> Pipeline | None:
        pipeline = store.get_pipeline(connection, row.job.project, row.job.pipeline, row.job.version)
        return pipeline if pipeline is not None and pipeline.spec.get("service") else None

    def _serve_again(
        self, connection: Connection, task: Task, row: JobRow, pipeline: Pipeline, after_seconds: float
    ) -> None:
        """A service whose worker has ended is to run on, however often that was; unless its pipeline was stopped."""
        self._queue.forget(connection, task.id)
        if pipeline.state == "running":
            self._steps.enqueue_sets(connection, row, [task.payload["set"]], after_seconds=after_seconds)

    def _count_try(self, connection: Connection, row: JobRow, rows: Sequence[Row[Any]], reason: str) -> bool:
        """Datums whose try ended without a result; returns whether any of them has another."""
        reason = reason[:REASON_CHARACTERS_MAX]
        pipeline = store.get_pipeline(connection, row.job.project, row.job.pipeline, row.job.version)
        assert pipeline is not None, "versions live as long as their pipeline"
        tries = pipeline.spec["datum_tries"]
        left = [one for one in rows if one.attempts + 1 < tries]
        set_store.count_try(connection, row.pk, [one.id for one in left], reason)
        given_up = [
            {"id": one.id, "status": "failed", "reason": reason, "attempts": one.attempts + 1, "stats": {}}
            for one in rows
            if one.attempts + 1 >= tries
        ]
        if given_up:
            self._apply(connection, row, given_up)
        return bool(left)

    # --- results ---

    def _apply(
        self,
        connection: Connection,
        row: JobRow,
        told: Iterable[Mapping[str, Any]],
        set_no: int | None = None,
    ) -> None:
        now = self._clock.now()
        by_id = {one["id"]: one for one in told}
        identities = set_store.open_among(connection, row.pk, by_id, set_no)
        failed_is = self._meaning_of_failure(connection, row, by_id.values())
        ended = [_ended(by_id[one], row, failed_is, now) for one in identities]
        if not ended:
            return
        datum_store.end(connection, row.pk, ended, now)
        succeeded = [(identities[one.id], one.output) for one in ended if one.output is not None]
        self._count(connection, row, ended)
        self._pass_on(connection, row, dict(succeeded), identities.values(), now)

    def _meaning_of_failure(
        self, connection: Connection, row: JobRow, told: Iterable[Mapping[str, Any]]
    ) -> Status:
        if all(one["status"] != Status.FAILED for one in told):
            return Status.FAILED
        pipeline = store.get_pipeline(connection, row.job.project, row.job.pipeline, row.job.version)
        set_aside = pipeline is not None and pipeline.spec.get("on_failure") == "quarantine"
        return Status.QUARANTINED if set_aside else Status.FAILED

    def _count(self, connection: Connection, row: JobRow, ended: Sequence[Ended]) -> None:
        counts = Counter(COUNTERS[one.status] for one in ended)
        stats = dict(row.job.stats)
        add_stats(stats, [one.stats for one in ended])
        updated = store.count(connection, row.pk, counts, stats)
        if updated is not None and updated.job.phase == store.PROCESSING:
            self._steps.finish_if_complete(connection, updated)

    def _pass_on(
        self,
        connection: Connection,
        row: JobRow,
        known: Mapping[str, Result],
        ended: Iterable[str],
        now: float,
    ) -> None:
        """Give the results to datums of later jobs that waited for them; what failed they must do themselves."""
        waiting = set_store.waiting_for(connection, ended)
        by_job: dict[int, list[Ended]] = {}
        for job_pk, datum, identity in waiting:
            if identity in known:
                one = Ended(datum, Status.SKIPPED, 0, "", known[identity], {}, now)
                by_job.setdefault(job_pk, []).append(one)
        for job_pk, some in by_job.items():
            datum_store.end(connection, job_pk, some, now)
            updated = store.count(connection, job_pk, {"skipped": len(some)})
            if updated is not None and updated.job.phase == store.PROCESSING:
                self._steps.finish_if_complete(connection, updated)
        if len(waiting) > sum(map(len, by_job.values())):
            self._steps.release_waiting(connection, row.pipeline_id)

    def _remember_late(self, connection: Connection, row: JobRow, told: Sequence[Mapping[str, Any]]) -> None:
        """The job is over, but what was computed is as right as ever."""
        found = []
        for one in told:
            if one["status"] == Status.SUCCEEDED:
                datum = datum_store.get(connection, row.pk, one["id"])
                if datum is not None:
                    found.append((datum.identity, _result(one, row)))
        results.remember(connection, found, self._clock.now())


def _result(told: Mapping[str, Any], row: JobRow) -> Result:
    return Result(
        told.get("root"), told.get("prefix", ""), told.get("size", 0), told.get("file_count", 0), row.job.id
    )


def _ended(told: Mapping[str, Any], row: JobRow, failed_is: Status, now: float) -> Ended:
    started_at = now - (told.get("seconds_ago") or 0.0)
    reason = str(told.get("reason", ""))[:REASON_CHARACTERS_MAX]
    attempts, stats = told.get("attempts", 1), told.get("stats") or {}
    if told["status"] == Status.SUCCEEDED:
        return Ended(told["id"], Status.SUCCEEDED, attempts, reason, _result(told, row), stats, started_at)
    status = failed_is if told["status"] == Status.FAILED else Status(told["status"])
    reason = reason or "it failed without saying why"
    return Ended(told["id"], status, attempts, reason, None, stats, started_at)


def add_stats(sums: dict[str, float], stats: Sequence[Mapping[str, Any]]) -> None:
    """What datums took, to the sums of their job."""
    for name in SUMMED:
        if value := sum([one[name] or 0 for one in stats if name in one]):
            sums[name] = sums.get(name, 0) + value
    for name in GREATEST:
        if value := max([one[name] or 0 for one in stats if name in one], default=0):
            sums[name] = max(sums.get(name, 0), value)


def _inputs_of(row: JobRow, pipeline: Pipeline) -> list[dict[str, Any]]:
    by_place: dict[tuple[str, str, str, str], Leaf] = {
        leaf.place: leaf for leaf in leaves(pipeline.spec["input"])
    }
    found = []
    for one in row.job.inputs:
        leaf = by_place[(one.name, one.project, one.repo, one.branch)]
        found.append(
            {
                "name": one.name, "project": one.project, "repo": one.repo, "branch": one.branch, "commit": one.commit,
                "root": one.root, "lazy": leaf.lazy, "empty_files": leaf.empty_files, "s3": leaf.s3,
            }
        )  # fmt: skip
    return found


def _environment_of(row: JobRow, pipeline: Pipeline) -> dict[str, str]:
    """Pachyderm's variables, and our own, as far as they are the same for all datums of a job. The rest is added by the
    worker: ``<input>`` (a path), and which datum it is."""
    found = {
        "PACH_JOB_ID": row.job.id,
        "PACH_OUTPUT_COMMIT_ID": row.job.id,
        "PPS_PIPELINE_NAME": pipeline.name,
        "PPS_PROJECT_NAME": pipeline.project,
        "PPS_SPEC_COMMIT": f"v{row.job.version}",
        "TRUNKLINE_PROJECT": pipeline.project,
        "TRUNKLINE_PIPELINE": pipeline.name,
        "TRUNKLINE_JOB_ID": row.job.id,
    }
    for one in row.job.inputs:
        if one.commit:
            found[f"{one.name}_COMMIT"] = one.commit
    return found
