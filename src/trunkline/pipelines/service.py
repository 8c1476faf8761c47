"""The use cases of pipelines: check, decide, write. The work itself is in ``runner`` and ``datum_tasks``."""

from __future__ import annotations

import secrets as random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy.engine import Connection

from trunkline.core.clock import Clock
from trunkline.core.ids import (
    DEFAULT_PROJECT,
    BranchName,
    TreeHash,
    check_name,
    check_pipeline_name,
    new_commit_id,
)
from trunkline.core.status import Status
from trunkline.errors import (
    AlreadyExistsError,
    ConflictError,
    InvalidInputError,
    NotFoundError,
    StateError,
)
from trunkline.jobs.queue import Lease
from trunkline.jobs.service import JobsService
from trunkline.pipelines import datum_store, store
from trunkline.pipelines.datum_tasks import DatumTasks, IssueToken
from trunkline.pipelines.inputs import Leaf, leaves
from trunkline.pipelines.logs import JobLogs
from trunkline.pipelines.model import Datum, Job, LogLine, Pipeline
from trunkline.pipelines.runner import DATUM, FINISH_JOB, PLAN_JOB, Steps, queue_name
from trunkline.pipelines.spec import PfsInput, PipelineSpec, effective, leaves_of, parse_spec
from trunkline.pipelines.store import JobRow
from trunkline.secrets.service import SecretsService
from trunkline.settings import Settings
from trunkline.storage.db.engine import Database
from trunkline.versioning.model import Trigger
from trunkline.versioning.service import VersioningService

DATUM_ID_PREFIX_MIN = 6
LIST_MAX = 100_000


class PipelineService:
    """Pipelines, their jobs, datums and logs."""

    def __init__(
        self,
        db: Database,
        clock: Clock,
        versioning: VersioningService,
        jobs: JobsService,
        secrets: SecretsService,
        settings: Settings,
        issue_token: IssueToken,
    ) -> None:
        self._db = db
        self._clock = clock
        self._versioning = versioning
        self._jobs = jobs
        self._secrets = secrets
        self._settings = settings
        self._logs = JobLogs(settings.logs_dir / "pipelines")
        self._steps = Steps(db=db, clock=clock, versioning=versioning, jobs=jobs, settings=settings)
        self._datum_tasks = DatumTasks(
            db=db, clock=clock, steps=self._steps, secrets=secrets, settings=settings, issue_token=issue_token
        )

    def register(self) -> None:
        """Tell the jobs service what this domain does. Call once, before it starts."""
        self._jobs.on_control(PLAN_JOB, self._steps.plan_job)
        self._jobs.on_control(FINISH_JOB, self._steps.finish_job)
        self._jobs.on_worker(DATUM, self._datum_tasks)
        self._jobs.outbox.subscribe("commit.opened", self._steps.commit_opened)
        self._jobs.outbox.subscribe("commit.finished", self._steps.commit_finished)
        self._jobs.outbox.subscribe("commit.squashed", self._steps.commit_removed)
        self._jobs.outbox.subscribe("commit.dropped", self._steps.commit_removed)

    # --- pipelines ---

    def create(
        self,
        project: str,
        spec: Mapping[str, Any],
        *,
        code_root: str | None = None,
        update: bool = False,
        reprocess: bool = False,
    ) -> Pipeline:
        """Create a pipeline, or make a new version of it; either way a job for what its inputs hold now begins.

        :raises InvalidInputError: for a bad spec, glob or image; ``NotFoundError`` for a missing repo, project or secret;
            ``AlreadyExistsError`` without ``update``; ``ConflictError`` for a cycle.
        """
        checked = parse_spec(spec, project)
        self._check(checked, code_root)
        home, name = checked.pipeline.project, checked.pipeline.name
        now = self._clock.now()
        with self._db.write() as connection:
            self._check_cycle(connection, checked)
            old = store.get_pipeline(connection, home, name)
            if old is None:
                pipeline_id = self._create(connection, checked, now)
            elif update or checked.update:
                pipeline_id = self._prepare_update(connection, old, checked)
            else:
                raise AlreadyExistsError(
                    f"pipeline {home}/{name} exists already: change it with 'trunkline update pipeline -f FILE'",
                    kind="pipeline_exists",
                )
            salt = checked.salt or (old.salt if old is not None else "")
            if reprocess or checked.reprocess:
                salt = random.token_hex(8)
            kept_code = old.code_root if old is not None and checked.transform.code else None
            if checked.transform.code and not (code_root or kept_code):
                raise InvalidInputError(
                    f"transform.code names the folder {checked.transform.code!r}, but it was not sent along: "
                    "use 'trunkline create pipeline -f FILE'",
                    kind="no_code",
                )
            store.add_version(
                connection,
                pipeline_id,
                spec=effective(checked),
                code_root=code_root or kept_code,
                salt=salt,
                now=now,
            )
            self._wait_where_asked(checked)
            self._follow(connection, checked)
            created = store.get_pipeline(connection, home, name)
        assert created is not None, "it was written in the same transaction"
        return created

    def list_pipelines(self, project: str | None = None) -> list[Pipeline]:
        with self._db.read() as connection:
            found = store.list_pipelines(connection, project)
        return [self._with_alerts(pipeline) for pipeline in found]

    def inspect(self, project: str, name: str) -> Pipeline:
        """:raises NotFoundError: ``no_pipeline``."""
        with self._db.read() as connection:
            found = store.get_pipeline(connection, project, name)
        if found is None:
            raise _no_pipeline(project, name)
        return self._with_alerts(found)

    def _with_alerts(self, found: Pipeline) -> Pipeline:
        """Say so where a pipeline waits in vain: what it read was deleted with force, and it follows nothing any more."""
        try:
            output = f"{found.name}@{found.spec['output_branch']}"
            followed = set(self._versioning.inspect_branch(found.project, output).provenance)
        except NotFoundError:
            followed = set()
        lost = dict.fromkeys(leaf.source for leaf in _leaves(found.spec) if leaf.source not in followed)
        alerts = (
            f"it no longer follows {source}, which was deleted: when that is there again, "
            "'trunkline update pipeline -f FILE' makes it follow"
            for source in lost
        )
        return replace(found, notes=(*alerts, *found.notes))

    def delete(self, project: str, name: str, *, force: bool = False, keep_repo: bool = False) -> None:
        """Delete a pipeline with its jobs and logs, and its output repo unless that is to stay.

        :raises StateError: if another pipeline reads its output, unless ``force``.
        """
        with self._db.write() as connection:
            pipeline_id = store.find_pipeline_id(connection, project, name)
            if pipeline_id is None:
                raise _no_pipeline(project, name)
            pipeline = store.get_pipeline(connection, project, name)
            assert pipeline is not None, "it was found in the same transaction"
            if not keep_repo:
                self._release_readers(connection, project, name, force=force)
            for row in store.unfinished_jobs(connection, pipeline_id):
                self._steps.end(connection, row, Status.CANCELLED, "its pipeline was deleted")
            self._jobs.queue.drop_queue(connection, queue_name(project, name))
            if keep_repo:
                self._stop_following(connection, pipeline)
                self._versioning.release_owned_repo(connection, project, name, _owner(name))
            else:
                self._versioning.delete_owned_repo(connection, project, name, _owner(name), force=force)
            store.delete_pipeline(connection, pipeline_id)
        self._logs.delete(project, name)

    def _release_readers(self, connection: Connection, project: str, name: str, *, force: bool) -> None:
        readers = [
            other
            for other in store.list_pipelines(connection, None)
            if any((leaf.project, leaf.repo) == (project, name) for leaf in _leaves(other.spec))
        ]
        if readers and not force:
            names = ", ".join(f"{other.project}/{other.name}" for other in readers)
            raise StateError(
                f"pipeline {project}/{name} is read by {names}: delete those first, or use --force",
                kind="pipeline_in_use",
            )
        for other in readers:
            self._stop_following(connection, other)

    def _stop_following(self, connection: Connection, pipeline: Pipeline) -> None:
        self._versioning.set_provenance(
            connection, pipeline.project, pipeline.name, pipeline.spec["output_branch"], [],
            commit_id=new_commit_id(),
        )  # fmt: skip

    def start(self, project: str, name: str) -> Pipeline:
        """Let the jobs of a stopped pipeline run again: all that have gathered meanwhile, in order."""
        return self._set_state(project, name, "running")

    def stop(self, project: str, name: str) -> Pipeline:
        """Begin no more jobs. One that runs goes on; new commits of the inputs wait for ``start``."""
        return self._set_state(project, name, "paused")

    def _set_state(self, project: str, name: str, state: str) -> Pipeline:
        with self._db.write() as connection:
            pipeline_id = store.find_pipeline_id(connection, project, name)
            if pipeline_id is None:
                raise _no_pipeline(project, name)
            store.set_state(connection, pipeline_id, state)
            self._steps.wake(connection, project, name)
        return self.inspect(project, name)

    # --- checks and parts of create ---

    def _check(self, spec: PipelineSpec, code_root: str | None) -> None:
        check_pipeline_name(spec.pipeline.name)
        check_name("branch", spec.output_branch)
        self._settings.environment_for(spec.transform.image, requirements=bool(spec.transform.requirements))
        self._versioning.inspect_project(spec.pipeline.project)
        for where, leaf in leaves_of(spec.input) if spec.input is not None else ():
            if isinstance(leaf, PfsInput):
                self._check_repo(spec, where, leaf)
        for wanted in spec.transform.secrets:
            self._check_secret(spec.pipeline.project, wanted.name, wanted.key)
        if code_root is not None:
            self._versioning.check_tree(TreeHash(code_root))

    def _check_repo(self, spec: PipelineSpec, where: str, leaf: PfsInput) -> None:
        project, repo = leaf.project, leaf.repo
        if (project, repo) == (spec.pipeline.project, spec.pipeline.name):
            raise InvalidInputError(
                f"pipeline {project}/{repo} cannot have its own output repo as input", kind="pipeline_cycle"
            )
        try:
            self._versioning.inspect_repo(project, repo)
        except NotFoundError as error:
            flag = "" if project == DEFAULT_PROJECT else f" --project {project}"
            raise NotFoundError(
                f"input repo {project}/{repo} does not exist: create it with 'trunkline create repo {repo}{flag}'",
                kind="no_repo",
                details={"project": project, "repo": repo, "field": f"{where}.repo"},
            ) from error

    def _check_secret(self, project: str, name: str, key: str) -> None:
        secret = self._secrets.find((project, DEFAULT_PROJECT), name)
        places = project if project == DEFAULT_PROJECT else f"{project} or {DEFAULT_PROJECT}"
        if secret is None:
            raise NotFoundError(
                f"there is no secret {name} in namespace {places}: create it with 'trunkline apply -f FILE'",
                kind="no_secret",
            )
        if key and key not in secret.keys:
            raise NotFoundError(
                f"secret {name} has no key {key!r}; it has {', '.join(secret.keys) or 'none'}",
                kind="no_secret_key",
            )

    def _check_cycle(self, connection: Connection, spec: PipelineSpec) -> None:
        """Follow all inputs upstream, until one of them leads back here."""
        above: dict[Node, list[Node]] = {
            (other.project, other.name): [(leaf.project, leaf.repo) for leaf in _leaves(other.spec)]
            for other in store.list_pipelines(connection, None)
        }
        own = (spec.pipeline.project, spec.pipeline.name)
        above[own] = [(leaf.project, leaf.repo) for leaf in spec.pfs_inputs]
        chain = _chain_back(own, above)
        if chain is not None:
            said = " <- ".join("/".join(one) for one in chain)
            raise ConflictError(f"this would make a cycle: {said}", kind="pipeline_cycle")

    def _create(self, connection: Connection, spec: PipelineSpec, now: float) -> int:
        project, name = spec.pipeline.project, spec.pipeline.name
        description = spec.description or f"Output repo for pipeline {project}/{name}."
        self._versioning.create_owned_repo(connection, project, name, _owner(name), description)
        return store.insert_pipeline(connection, project, name, now)

    def _prepare_update(self, connection: Connection, old: Pipeline, spec: PipelineSpec) -> int:
        pipeline_id = store.find_pipeline_id(connection, old.project, old.name)
        assert pipeline_id is not None, "it was found in the same transaction"
        if old.spec["output_branch"] != spec.output_branch:
            raise InvalidInputError(
                f"the output branch of a pipeline cannot be changed: it is {old.spec['output_branch']!r}",
                kind="output_branch_fixed",
            )
        for row in store.unfinished_jobs(connection, pipeline_id):
            self._steps.end(connection, row, Status.CANCELLED, "its pipeline was updated")
        return pipeline_id

    def _wait_where_asked(self, spec: PipelineSpec) -> None:
        """The branches that stand between an input and this pipeline, and move when their triggers say so."""
        for leaf in spec.pfs_inputs:
            trigger = leaf.trigger
            if trigger is not None:
                self._versioning.create_branch(
                    leaf.project,
                    f"{leaf.repo}@{leaf.branch}",
                    trigger=Trigger(
                        branch=BranchName(trigger.branch), size=trigger.size or None, commits=trigger.commits or None,
                        rate_limit=trigger.rate_limit_spec or None, cron=trigger.cron_spec or None, all=trigger.all,
                    ),
                )  # fmt: skip

    def _follow(self, connection: Connection, spec: PipelineSpec) -> None:
        """Make the output branch follow the inputs; this opens an output commit, and that is the first job."""
        upstream = [leaf.source for leaf in leaves(effective(spec).get("input", {}))]
        self._versioning.set_provenance(
            connection, spec.pipeline.project, spec.pipeline.name, spec.output_branch, upstream,
            commit_id=new_commit_id(),
        )  # fmt: skip

    # --- jobs ---

    def list_jobs(
        self,
        project: str | None = None,
        pipeline: str | None = None,
        *,
        limit: int = 100,
        after: tuple[str, str, str] | None = None,
    ) -> list[Job]:
        """Newest first. ``after``: project, pipeline and ID of the job that was listed last.

        :raises NotFoundError: if the pipeline does not exist, or the job ``after``.
        """
        if project is not None and pipeline is not None:
            self.inspect(project, pipeline)
        with self._db.read() as connection:
            last = None if after is None else store.get_job(connection, *after)
            if after is not None and last is None:
                raise _no_job(*after)
            before = None if last is None else last.pk
            return store.list_jobs(connection, project=project, pipeline=pipeline, before=before, limit=limit)

    def jobs_of(self, commit_id: str) -> list[Job]:
        """All jobs of a commit set, in the order in which they were made."""
        with self._db.read() as connection:
            found = store.list_jobs(connection, commit_id=commit_id, limit=LIST_MAX)
        return found[::-1]

    def inspect_job(self, project: str, pipeline: str, job_id: str) -> Job:
        """:raises NotFoundError: ``no_job``."""
        return self._job(project, pipeline, job_id).job

    def stop_job(self, project: str, pipeline: str, job_id: str) -> Job:
        """End a job now: its processes are killed, its output commit is finished with an error.

        :raises StateError: if it has ended already.
        """
        with self._db.write() as connection:
            row = store.get_job(connection, project, pipeline, job_id)
            if row is None:
                raise _no_job(project, pipeline, job_id)
            if not self._steps.end(connection, row, Status.CANCELLED, "it was stopped by request"):
                raise StateError(
                    f"job {project}/{pipeline}@{job_id} has ended already: it is {row.job.status.value}",
                    kind="job_over",
                )
        return self.inspect_job(project, pipeline, job_id)

    def list_datums(
        self, project: str, pipeline: str, job_id: str, *, limit: int = LIST_MAX, after: str = ""
    ) -> list[Datum]:
        """The datums of a job in order of their IDs, from behind ``after`` on; none before it is planned."""
        row = self._job(project, pipeline, job_id)
        with self._db.read() as connection:
            return datum_store.list_datums(connection, row.pk, limit, after)

    # --- logs ---

    def logs(
        self,
        project: str,
        pipeline: str,
        job_id: str | None = None,
        datum: str | None = None,
        offset: int = 0,
    ) -> tuple[list[LogLine], int, bool]:
        """Lines of a job's log from ``offset`` on, where to go on, and whether that was all there will ever be.

        ``job_id`` None: the latest job. ``datum`` may be the beginning of a datum's ID.
        """
        row = self._job(project, pipeline, job_id)
        if datum is not None:
            datum = self._datum_id(row, datum)
        lines, after = self._logs.read(project, pipeline, row.job.id, datum=datum, offset=offset)
        return lines, after, row.job.status.is_final and after == offset

    def append_log(self, lease: Lease, offset: int, lines: Sequence[Mapping[str, Any]]) -> int:
        """Store log lines of a datum's try; ``offset`` is how many of it were sent before. Returns how many there are.

        :raises ConflictError: ``lease_lost``; ``InvalidInputError`` if lines are missing in between.
        """
        with self._db.read() as connection:
            task = self._jobs.held(connection, lease)
            row = store.get_job_by_pk(connection, task.payload["job_pk"])
        if row is None:
            raise ConflictError(f"the job of {task.key} was deleted", kind="lease_lost")
        return self._logs.append(
            project=row.job.project, pipeline=row.job.pipeline, job_id=row.job.id, datum=task.payload["datum_id"],
            attempt=task.attempts, offset=offset, lines=lines,
        )  # fmt: skip

    def _datum_id(self, row: JobRow, prefix: str) -> str:
        with self._db.read() as connection:
            found = datum_store.find_datum_ids(connection, row.pk, prefix)
        if len(found) != 1 or len(prefix) < DATUM_ID_PREFIX_MIN:
            problem = "there is no datum" if not found else "there are several datums"
            raise NotFoundError(
                f"{problem} {prefix!r} in job {row.job.id}: see 'trunkline list datum {row.job.pipeline}@{row.job.id}'",
                kind="no_datum",
            )
        return found[0]

    def _job(self, project: str, pipeline: str, job_id: str | None) -> JobRow:
        with self._db.read() as connection:
            row = store.get_job(connection, project, pipeline, job_id)
            exists = row is not None or store.find_pipeline_id(connection, project, pipeline) is not None
        if not exists:
            raise _no_pipeline(project, pipeline)
        if row is None:
            self._jobs.outbox.drain()  # its commit may be so new that the event of it still waits
            with self._db.read() as connection:
                row = store.get_job(connection, project, pipeline, job_id)
        if row is None:
            raise _no_job(project, pipeline, job_id)
        return row


def _leaves(spec: Mapping[str, Any]) -> list[Leaf]:
    return leaves(spec.get("input") or {})


Node = tuple[str, str]
"""Project and name of a repo, or of the pipeline that owns it."""


def _chain_back(start: Node, above: Mapping[Node, Sequence[Node]]) -> list[Node] | None:
    """The shortest way upstream from a pipeline to itself, if there is one."""
    came_from: dict[Node, Node] = {}
    level = [start]
    while level:
        further: list[Node] = []
        for at in level:
            for upstream in above.get(at, ()):
                if upstream == start:
                    chain = [start, at]
                    while chain[-1] != start:
                        chain.append(came_from[chain[-1]])
                    return chain[::-1]
                if upstream not in came_from:
                    came_from[upstream] = at
                    further.append(upstream)
        level = further
    return None


def _owner(name: str) -> str:
    return f"pipeline:{name}"


def _no_pipeline(project: str, name: str) -> NotFoundError:
    return NotFoundError(
        f"there is no pipeline {project}/{name}: see 'trunkline list pipeline'", kind="no_pipeline"
    )


def _no_job(project: str, pipeline: str, job_id: str | None) -> NotFoundError:
    if job_id is None:
        return NotFoundError(
            f"pipeline {project}/{pipeline} has no job yet: try again in a moment", kind="no_job"
        )
    return NotFoundError(
        f"there is no job {project}/{pipeline}@{job_id}: see 'trunkline list job -p {pipeline}'",
        kind="no_job",
    )
