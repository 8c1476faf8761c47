"""The use cases of pipelines: check, decide, write. What is about jobs is in ``job_service``, their work in
``runner``, ``finishing`` and ``datum_tasks``."""

from __future__ import annotations

import secrets as random
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from sqlalchemy.engine import Connection

from trunkline.core.clock import Clock
from trunkline.core.ids import BranchName, new_commit_id
from trunkline.core.status import Status
from trunkline.errors import (
    AlreadyExistsError,
    InvalidInputError,
    NotFoundError,
    StateError,
)
from trunkline.jobs.service import JobsService
from trunkline.pipelines import store
from trunkline.pipelines.checks import Node, SpecChecks, check_cycles
from trunkline.pipelines.crons import FIRE_CRONS, Crons
from trunkline.pipelines.datum_tasks import IssueToken
from trunkline.pipelines.egress.base import OpenTarget
from trunkline.pipelines.egress.step import Egress
from trunkline.pipelines.inputs import Leaf, leaves, quiet_sources
from trunkline.pipelines.job_service import JobUseCases, no_pipeline
from trunkline.pipelines.keys import EGRESS_JOB, SPOUT, queue_name
from trunkline.pipelines.model import Pipeline
from trunkline.pipelines.planning import Preview
from trunkline.pipelines.preview import PipelinePreview, changed_fields, first_datums, heads_of
from trunkline.pipelines.s3 import JobDoor
from trunkline.pipelines.spec import PipelineSpec, effective, parse_spec, with_defaults
from trunkline.pipelines.staying import Staying, is_spout
from trunkline.pipelines.together import Wish, blamed_on, check_count, in_order, label_of
from trunkline.secrets.service import SecretsService
from trunkline.settings import Settings
from trunkline.storage.db.engine import Database
from trunkline.versioning.model import Trigger
from trunkline.versioning.service import VersioningService


class PipelineService(JobUseCases):
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
        open_target: OpenTarget | None = None,
        job_door: JobDoor | None = None,
    ) -> None:
        super().__init__(db, clock, versioning, jobs, secrets, settings, issue_token, job_door)
        self._checks = SpecChecks(
            versioning=versioning, secrets=secrets, settings=settings, open_target=open_target
        )
        self._egress = Egress(
            db=db, clock=clock, versioning=versioning, steps=self._steps, open_target=open_target
        )
        self._staying = Staying(
            db=db, queue=jobs.queue, outbox=jobs.outbox, steps=self._steps, sets=self._datum_sets, settings=settings,
            issue_token=issue_token,
        )  # fmt: skip
        self.crons = Crons(db=db, clock=clock, versioning=versioning, queue=jobs.queue)

    def register(self) -> None:
        """Tell the jobs service what this domain does. Call once, before it starts."""
        super().register()
        self._jobs.on_control(FIRE_CRONS, self.crons.step)
        self._jobs.on_control(EGRESS_JOB, self._egress)
        self._jobs.on_worker(SPOUT, self._staying)

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
        asked = [{"spec": spec, "code_root": code_root}]
        [made] = self.create_all(project, asked, update=update, reprocess=reprocess)
        return made

    def create_all(
        self,
        project: str,
        pipelines: Sequence[Mapping[str, Any]],
        *,
        update: bool = False,
        reprocess: bool = False,
    ) -> list[Pipeline]:
        """``create`` for several, each a ``spec`` and its ``code_root``: all of them, or none. They are made in the order that
        their inputs ask for, and returned as they were given. What they begin has one ID.

        :raises InvalidInputError: ``too_many_pipelines``; ``pipeline_twice``. And what ``create`` raises, naming the pipeline.
        """
        wishes = self._wishes(project, pipelines)
        for wish in wishes:
            if wish.spec.dry_run:
                raise InvalidInputError(
                    "the spec says dry_run: use 'trunkline create pipeline -f FILE --dry-run'", kind="dry_run"
                )
        with self._db.write() as connection:
            made = self._make_all(connection, wishes, update=update, reprocess=reprocess)
        return [made[wish.node] for wish in wishes]

    def preview(
        self,
        project: str,
        spec: Mapping[str, Any],
        *,
        code_root: str | None = None,
        update: bool = False,
        reprocess: bool = False,
        datums: int = 0,
    ) -> PipelinePreview:
        """What ``create`` would do, and the first ``datums`` of all its datums. Raises what that would raise, because it does
        the same and then takes it back."""
        asked = [{"spec": spec, "code_root": code_root}]
        [found] = self.preview_all(project, asked, update=update, reprocess=reprocess, datums=datums)
        return found

    def preview_all(
        self,
        project: str,
        pipelines: Sequence[Mapping[str, Any]],
        *,
        update: bool = False,
        reprocess: bool = False,
        datums: int = 0,
    ) -> list[PipelinePreview]:
        """What ``create_all`` would do. An input that would come with it is as if empty."""
        wishes = self._wishes(project, pipelines)
        with self._db.read() as connection:
            old = {wish.node: store.get_pipeline(connection, *wish.node) for wish in wishes}
            ids = {wish.node: store.find_pipeline_id(connection, *wish.node) for wish in wishes}
        try:
            with self._db.write(wakes=False) as connection:
                made = self._make_all(connection, wishes, update=update, reprocess=reprocess)
                raise _Rehearsed
        except _Rehearsed:
            pass
        return [self._preview_of(made[wish.node], old[wish.node], ids[wish.node], datums) for wish in wishes]

    def _preview_of(
        self, made: Pipeline, old: Pipeline | None, pipeline_id: int | None, datums: int
    ) -> PipelinePreview:
        stands_alone = is_spout(made.spec)
        commits = {} if stands_alone else heads_of(self._versioning, made.spec)
        planner = self._steps.planner
        return PipelinePreview(
            pipeline=made, is_new=old is None,
            changes=tuple(changed_fields(old.spec, made.spec)) if old is not None else (),
            work=Preview() if stands_alone else planner.preview(made, pipeline_id, commits),
            datums=() if stands_alone else tuple(first_datums(planner, made.spec, commits, datums)),
        )  # fmt: skip

    def _wishes(self, project: str, pipelines: Sequence[Mapping[str, Any]]) -> list[Wish]:
        """Specs that are right as far as can be seen without the other pipelines."""
        check_count(len(pipelines))
        wishes = []
        for number, one in enumerate(pipelines, 1):
            label = label_of(one["spec"], number, len(pipelines))
            with blamed_on(label):
                spec = self._read(one["spec"], project)
            wishes.append(Wish(spec=spec, code_root=one.get("code_root"), label=label))
        coming = {repo for wish in wishes for repo in wish.makes} if len(wishes) > 1 else frozenset()
        for wish in wishes:
            with blamed_on(wish.label):
                self._checks.check(wish.spec, wish.code_root, coming)
        return wishes

    def _make_all(
        self, connection: Connection, wishes: Sequence[Wish], *, update: bool, reprocess: bool
    ) -> dict[Node, Pipeline]:
        ordered = in_order(wishes)
        check_cycles(connection, [wish.spec for wish in ordered])
        made = {}
        with self._versioning.together(connection):
            for wish in ordered:
                with blamed_on(wish.label):
                    made[wish.node] = self._make(
                        connection, wish.spec, wish.code_root, update=update, reprocess=reprocess
                    )
        return made

    def _read(self, spec: Mapping[str, Any], project: str) -> PipelineSpec:
        """With the defaults of its project and of the server, which are settings."""
        of_projects, of_all = self._settings.project_pipeline_defaults, self._settings.pipeline_defaults
        if not of_projects and not of_all:
            return parse_spec(spec, project)
        named = spec.get("pipeline") if isinstance(spec, Mapping) else None
        own = named.get("project") if isinstance(named, Mapping) else None
        home = own.get("name") if isinstance(own, Mapping) else own
        own_defaults = of_projects.get(home if isinstance(home, str) and home else project, {})
        return parse_spec(with_defaults(spec, own_defaults, of_all), project)

    def _make(
        self,
        connection: Connection,
        checked: PipelineSpec,
        code_root: str | None,
        *,
        update: bool,
        reprocess: bool,
    ) -> Pipeline:
        home, name = checked.pipeline.project, checked.pipeline.name
        now = self._clock.now()
        self._staying.check(connection, checked)
        old = store.get_pipeline(connection, home, name)
        if old is None:
            pipeline_id = self._create(connection, checked, now)
        else:
            _check_update(old, checked, update=update)
            pipeline_id = self._prepare_update(connection, old)
        code, salt = _settled(checked, old, code_root, reprocess=reprocess)
        store.add_version(
            connection, pipeline_id, spec=effective(checked), code_root=code, salt=salt, now=now
        )
        self.crons.adopt(connection, pipeline_id, name, checked.cron_inputs)
        self._wait_where_asked(checked)
        self._follow(connection, checked)
        if old is not None:
            self._drop_waiting_branches(old, checked)
        made = store.get_pipeline(connection, home, name)
        assert made is not None, "it was written in the same transaction"
        if made.state == "running":
            self._staying.begin(connection, made)
        return made

    def writes_as(self, subject: str, project: str, name: str, branch: str) -> str | None:
        """As whom the subject of a token may write to a branch: a spout that runs, to its own output; None: it may not."""
        with self._db.read() as connection:
            may = self._staying.may_write(connection, subject, project, name, branch)
        return owner_of_output(name) if may else None

    def list_pipelines(self, project: str | None = None) -> list[Pipeline]:
        with self._db.read() as connection:
            found = store.list_pipelines(connection, project)
        return [self._with_alerts(pipeline) for pipeline in found]

    def inspect(self, project: str, name: str, version: int | None = None) -> Pipeline:
        """As it is now, or as it was in a version.

        :raises NotFoundError: ``no_pipeline`` or ``no_version``.
        """
        with self._db.read() as connection:
            present = store.get_pipeline(connection, project, name)
            found = present if version is None else store.get_pipeline(connection, project, name, version)
        if present is None:
            raise no_pipeline(project, name)
        if found is None:
            raise NotFoundError(
                f"pipeline {project}/{name} has no version {version}: it has 1 to {present.version}",
                kind="no_version",
            )
        return self._with_alerts(found) if found.version == present.version else found

    def versions(
        self, project: str, name: str, *, limit: int = 100, before: int | None = None
    ) -> list[Pipeline]:
        """A pipeline in all its versions, the newest first.

        :raises NotFoundError: ``no_pipeline``.
        """
        present = self.inspect(project, name)
        with self._db.read() as connection:
            return store.list_versions(connection, project, name, before or present.version + 1, limit)

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
        with self._db.read() as connection:
            details = self._staying.details(connection, found)
        return replace(found, notes=(*alerts, *found.notes), details=details)

    def delete(self, project: str, name: str, *, force: bool = False, keep_repo: bool = False) -> None:
        """Delete a pipeline with its jobs and logs, and its output repo unless that is to stay.

        :raises StateError: if another pipeline reads its output, unless ``force``.
        """
        with self._db.write() as connection:
            pipeline_id = store.find_pipeline_id(connection, project, name)
            if pipeline_id is None:
                raise no_pipeline(project, name)
            pipeline = store.get_pipeline(connection, project, name)
            assert pipeline is not None, "it was found in the same transaction"
            if not keep_repo:
                self._release_readers(connection, project, name, force=force)
            for row in store.unfinished_jobs(connection, pipeline_id):
                self._steps.end(connection, row, Status.CANCELLED, "its pipeline was deleted")
            self._staying.rest(connection, pipeline)
            self._jobs.queue.drop_queue(connection, queue_name(project, name))
            if keep_repo:
                self._stop_following(connection, pipeline)
                self._versioning.release_owned_repo(connection, project, name, owner_of_output(name))
            else:
                self._versioning.delete_owned_repo(
                    connection, project, name, owner_of_output(name), force=force
                )
            self.crons.release(connection, pipeline_id, name, keep=keep_repo, force=force)
            self._drop_waiting_branches(pipeline, None)
            store.delete_pipeline(connection, pipeline_id)
            self.looking.forget_logs(connection, project, name)

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
                raise no_pipeline(project, name)
            store.set_state(connection, pipeline_id, state)
            found = store.get_pipeline(connection, project, name)
            assert found is not None, "it was found in the same transaction"
            if state == "running":
                self._staying.begin(connection, found)
            else:
                self._staying.rest(connection, found)
            self._steps.wake(connection, project, name)
            self.crons.wake(connection)  # a stopped pipeline does not tick
        return self.inspect(project, name)

    def delete_job(self, project: str, pipeline: str, job_id: str) -> None:
        """Forget a job, its datums and its log; one that runs is ended first. Its output commit stays.

        :raises NotFoundError: ``no_pipeline`` or ``no_job``.
        """
        found = self._job(project, pipeline, job_id)
        with self._db.write() as connection:
            row = store.get_job_by_pk(connection, found.pk)
            if row is not None:
                if not row.job.status.is_final:
                    self._steps.end(connection, row, Status.CANCELLED, "it was deleted")
                store.delete_job(connection, row.pk)
                self.looking.forget_logs(connection, project, pipeline)

    # --- parts of create ---

    def _create(self, connection: Connection, spec: PipelineSpec, now: float) -> int:
        project, name = spec.pipeline.project, spec.pipeline.name
        description = spec.description or f"Output repo for pipeline {project}/{name}."
        self._versioning.create_owned_repo(connection, project, name, owner_of_output(name), description)
        self.looking.begin_logs(project, name)
        return store.insert_pipeline(connection, project, name, now)

    def _prepare_update(self, connection: Connection, old: Pipeline) -> int:
        pipeline_id = store.find_pipeline_id(connection, old.project, old.name)
        assert pipeline_id is not None, "it was found in the same transaction"
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

    def _drop_waiting_branches(self, old: Pipeline, spec: PipelineSpec | None) -> None:
        """Those that an older version needed, and nobody else follows."""
        needed = {f"{leaf.repo}@{leaf.branch}" for leaf in spec.pfs_inputs} if spec is not None else set()
        for leaf in _leaves(old.spec):
            address = f"{leaf.repo}@{leaf.branch}"
            if leaf.branch.startswith(f"{old.name}-trigger-") and address not in needed:
                with suppress(NotFoundError, StateError):
                    self._versioning.delete_branch(leaf.project, address)

    def _follow(self, connection: Connection, spec: PipelineSpec) -> None:
        """Make the output branch follow the inputs; this opens an output commit, and that is the first job."""
        read = effective(spec)["input"]
        self._versioning.set_provenance(
            connection, spec.pipeline.project, spec.pipeline.name, spec.output_branch,
            [leaf.source for leaf in leaves(read)], commit_id=new_commit_id(), quiet=quiet_sources(read),
        )  # fmt: skip


class _Rehearsed(Exception):  # noqa: N818  (it is no error)
    """All went well, and is to be taken back."""


def _check_update(old: Pipeline, spec: PipelineSpec, *, update: bool) -> None:
    """:raises AlreadyExistsError: if no update was meant. :raises InvalidInputError: if it changes what must stay."""
    if not (update or spec.update):
        raise AlreadyExistsError(
            f"pipeline {old.project}/{old.name} exists already: change it with 'trunkline update pipeline -f FILE'",
            kind="pipeline_exists",
        )
    if old.spec["output_branch"] != spec.output_branch:
        raise InvalidInputError(
            f"the output branch of a pipeline cannot be changed: it is {old.spec['output_branch']!r}",
            kind="output_branch_fixed",
        )


def _settled(
    spec: PipelineSpec, old: Pipeline | None, code_root: str | None, *, reprocess: bool
) -> tuple[str | None, str]:
    """The code folder and the salt of a version: what was said, or what the version before had."""
    salt = spec.salt or (old.salt if old is not None else "")
    if reprocess or spec.reprocess:
        salt = random.token_hex(8)
    kept = old.code_root if old is not None and spec.transform.code else None
    if spec.transform.code and not (code_root or kept):
        raise InvalidInputError(
            f"transform.code names the folder {spec.transform.code!r}, but it was not sent along: "
            "use 'trunkline create pipeline -f FILE'",
            kind="no_code",
        )
    return code_root or kept, salt


def _leaves(spec: Mapping[str, Any]) -> list[Leaf]:
    return leaves(spec.get("input") or {})


def owner_of_output(name: str) -> str:
    """Who owns the output repo of a pipeline, for versioned data."""
    return f"pipeline:{name}"
