"""The use cases of jobs and datums: look, stop, do again. What jobs do by themselves is in ``runner`` and ``finishing``."""

from __future__ import annotations

import secrets as random
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from trunkline.core.clock import Clock
from trunkline.core.ids import TreeHash, new_commit_id
from trunkline.core.status import Status
from trunkline.errors import CorruptionError, InvalidInputError, NotFoundError, StateError
from trunkline.jobs.queue import Lease
from trunkline.jobs.service import JobsService
from trunkline.pipelines import datum_store, store
from trunkline.pipelines.datum_tasks import COUNTERS, DatumSets, IssueToken
from trunkline.pipelines.events import Events
from trunkline.pipelines.inputs import leaves, quiet_sources
from trunkline.pipelines.keys import DATUM_SET, FINISH_JOB, JOB_TIMEOUT, PLAN_JOB, SWEEP_LOGS, set_key
from trunkline.pipelines.logs import JobLogs
from trunkline.pipelines.looking import LogWish, Looking, Tail
from trunkline.pipelines.model import ALL_JOBS, Datum, Job, JobFilter, JobWorker, LogLine, Pipeline
from trunkline.pipelines.planning import Inexact, files_of, places
from trunkline.pipelines.runner import Steps
from trunkline.pipelines.s3 import JobBucket, JobDoor, buckets_of
from trunkline.pipelines.staying import is_spout, no_jobs
from trunkline.pipelines.store import JobRow
from trunkline.pipelines.why import WhyDatum, WhyJob, counted, in_words, kind_of
from trunkline.secrets.service import SecretsService
from trunkline.settings import Settings
from trunkline.storage.db.engine import Database
from trunkline.versioning.service import VersioningService

DATUM_ID_PREFIX_MIN = 6
DATUM_ID_SHOWN = 12
LIST_MAX = 100_000


class JobUseCases:
    """Jobs, their datums and logs: a part of ``PipelineService``."""

    def __init__(
        self,
        db: Database,
        clock: Clock,
        versioning: VersioningService,
        jobs: JobsService,
        secrets: SecretsService,
        settings: Settings,
        issue_token: IssueToken,
        job_door: JobDoor | None = None,
    ) -> None:
        self._db = db
        self._clock = clock
        self._versioning = versioning
        self._jobs = jobs
        self._secrets = secrets
        self._settings = settings
        self.looking = Looking(
            db, clock, jobs, JobLogs(settings.logs_dir / "pipelines", settings.job_log_bytes_max)
        )
        self._steps = Steps(db=db, clock=clock, versioning=versioning, jobs=jobs, settings=settings)
        self._events = Events(clock, self._steps, self.looking.forget_logs)
        self._datum_sets = DatumSets(
            db=db, clock=clock, steps=self._steps, queue=jobs.queue, secrets=secrets, settings=settings,
            issue_token=issue_token, job_door=job_door,
        )  # fmt: skip

    def register(self) -> None:
        """Tell the jobs service what this domain does. Call once, before it starts."""
        self._jobs.on_control(PLAN_JOB, self._steps.plan_job, repeatable=True)
        self._jobs.on_control(FINISH_JOB, self._steps.finish_job)
        self._jobs.on_control(JOB_TIMEOUT, self._steps.time_out)
        self._jobs.on_control(SWEEP_LOGS, self.looking.sweep_logs)
        self._jobs.on_worker(DATUM_SET, self._datum_sets, repeatable=True)
        self._events.subscribe(self._jobs.outbox)

    # --- looking ---

    def list_jobs(
        self,
        project: str | None = None,
        pipeline: str | None = None,
        *,
        limit: int = 100,
        after: tuple[str, str, str] | None = None,
        wanted: JobFilter = ALL_JOBS,
    ) -> list[Job]:
        """Newest first. ``after``: project, pipeline and ID of the job that was listed last.

        :raises NotFoundError: if the pipeline does not exist, or the job ``after``.
        """
        with self._db.read() as connection:
            if project and pipeline and store.find_pipeline_id(connection, project, pipeline) is None:
                raise no_pipeline(project, pipeline)
            last = None if after is None else store.get_job(connection, *after)
            if after is not None and last is None:
                raise _no_job(*after)
            before = None if last is None else last.pk
            return store.list_jobs(
                connection, project=project, pipeline=pipeline, before=before, limit=limit, wanted=wanted
            )

    def jobs_of(self, commit_id: str) -> list[Job]:
        """All jobs of a commit set, in the order in which they were made."""
        return self.looking.jobs_of(commit_id)

    def inspect_job(self, project: str, pipeline: str, job_id: str) -> Job:
        """:raises NotFoundError: ``no_job``."""
        return self._job(project, pipeline, job_id).job

    def s3_buckets(self, subject: str) -> dict[str, JobBucket]:
        """The buckets that the holder of a job's token sees, by their names; none once the job has ended."""
        with self._db.read() as connection:
            return buckets_of(connection, subject)

    def workers(self, project: str, pipeline: str, job_id: str) -> list[JobWorker]:
        """What workers do for a job just now."""
        return self.looking.workers(self._job(project, pipeline, job_id))

    # --- steering ---

    def stop_job(self, project: str, pipeline: str, job_id: str) -> Job:
        """End a job now: its processes are killed, its output commit is finished with an error.

        :raises StateError: if it has ended already.
        """
        with self._db.write() as connection:
            row = store.get_job(connection, project, pipeline, job_id)
            if row is None:
                raise _no_job(project, pipeline, job_id)
            if not self._steps.end(connection, row, Status.CANCELLED, "it was stopped by request"):
                raise _ended_already(row)
        return self.inspect_job(project, pipeline, job_id)

    def rerun(self, project: str, name: str, *, reprocess: bool = False) -> Job:
        """A new job for what the inputs hold now. It does what earlier jobs have not done: datums that failed, were recovered
        or set aside. With ``reprocess`` all of them, as a new version of the pipeline."""
        commit_id = new_commit_id()
        with self._db.write() as connection:
            pipeline = store.get_pipeline(connection, project, name)
            pipeline_id = store.find_pipeline_id(connection, project, name)
            if pipeline is None or pipeline_id is None:
                raise no_pipeline(project, name)
            if is_spout(pipeline.spec):
                raise no_jobs(project, name)
            if reprocess:
                for row in store.unfinished_jobs(connection, pipeline_id):
                    self._steps.end(connection, row, Status.CANCELLED, "its pipeline is reprocessed")
                store.add_version(
                    connection, pipeline_id, spec=pipeline.spec, code_root=pipeline.code_root,
                    salt=random.token_hex(8), now=self._clock.now(),
                )  # fmt: skip
            upstream = dict.fromkeys(leaf.source for leaf in leaves(pipeline.spec["input"]))
            self._versioning.set_provenance(
                connection,
                project,
                name,
                pipeline.spec["output_branch"],
                upstream,
                commit_id=commit_id,
                quiet=quiet_sources(pipeline.spec["input"]),
            )
        return self.inspect_job(project, name, commit_id)

    def restart_datum(
        self, project: str, pipeline: str, job_id: str, *, datum: str = "", paths: Sequence[str] = ()
    ) -> list[str]:
        """Have datums of a running job done again from their beginning: the one whose ID starts with ``datum``, or those that
        see all of the paths. One that is being done is taken from its worker. Returns their IDs.

        :raises StateError: if the job has ended: then ``rerun`` is the way.
        """
        if bool(datum) == bool(paths):
            raise InvalidInputError("name either a datum or paths of its inputs", kind="bad_datum")
        row = self._job(project, pipeline, job_id)
        datum_id = self._datum_id(row, datum) if datum else ""
        with self._db.write() as connection:
            row = store.get_job_by_pk(connection, row.pk) or row
            phases = (store.PLANNING, store.QUEUEING, store.PROCESSING, store.FINISHING)
            if row.job.status != Status.RUNNING or row.job.phase not in phases:
                raise _ended_already(
                    row, f"use 'trunkline rerun pipeline {pipeline}' to do what failed again"
                )
            if datum_id:
                found = [one for one in [datum_store.get(connection, row.pk, datum_id)] if one is not None]
            else:
                found = datum_store.seeing(connection, row.pk, paths)
            if not found:
                raise _no_datum(", ".join(paths) or datum, row)
            for number in {one.set_no for one in found if one.status == Status.RUNNING}:
                self._jobs.queue.revoke(connection, DATUM_SET, set_key(row, number))
            ended = [one.id for one in found if one.status in COUNTERS]
            if ended:
                counts = datum_store.reopen(connection, row.pk, ended)
                minus = {COUNTERS[status]: -number for status, number in counts.items()}
                store.count(connection, row.pk, minus)
                if row.job.phase == store.FINISHING:
                    store.set_phase(connection, row.pk, store.PROCESSING)
                self._steps.add_sets(connection, row.pk, ended)
        return [one.id for one in found]

    # --- datums ---

    def list_datums(
        self, project: str, pipeline: str, job_id: str, *, limit: int = LIST_MAX, after: str = "",
        statuses: Collection[Status] = (),
    ) -> list[Datum]:  # fmt: skip
        """The datums of a job from behind ``after`` on, as far as it is planned. First those that differ from the job before, in
        order of their IDs; then those that do not, in order of their inputs. ``statuses``: only those with one of these; datums
        that are gone are listed only so."""
        row = self._job(project, pipeline, job_id)
        if row.job.status in (Status.QUEUED, Status.UNRUNNABLE):
            return []
        with self._db.read() as connection:
            is_row = not after or datum_store.get(connection, row.pk, after) is not None
            rows = datum_store.rows_of(connection, row.pk, limit, after, statuses=statuses) if is_row else []
            found = [datum_store.datum_of(one, row.job.inputs) for one in rows]
            its_pipeline = store.get_pipeline(connection, project, pipeline, row.job.version)
        has_more = _has_unchanged(row) and (not statuses or Status.SKIPPED in statuses)
        if has_more and len(found) < limit and its_pipeline is not None:
            try:
                unchanged = self._unchanged(its_pipeline, row, "" if is_row else after)
                found += self._with_outputs(row, list(islice(unchanged, limit - len(found))))
            except (NotFoundError, CorruptionError):  # what it read is not there any more: its rows are
                pass
        return found

    def inspect_datum(self, project: str, pipeline: str, job_id: str, datum: str) -> Datum:
        """:raises NotFoundError: ``no_datum``."""
        row = self._job(project, pipeline, job_id)
        with self._db.read() as connection:
            ids = datum_store.find_ids(connection, row.pk, datum)
            its_pipeline = store.get_pipeline(connection, project, pipeline, row.job.version)
            if len(ids) == 1 and len(datum) >= DATUM_ID_PREFIX_MIN:
                return datum_store.datum_of(datum_store.get(connection, row.pk, ids[0]), row.job.inputs)  # type: ignore[arg-type]
        if not ids and _has_unchanged(row) and its_pipeline is not None and len(datum) >= DATUM_ID_PREFIX_MIN:
            for one in self._unchanged(its_pipeline, row, ""):
                if one.id.startswith(datum):
                    return self._with_outputs(row, [one])[0]
        raise _no_datum(datum, row, several=bool(ids))

    def why(
        self, project: str, pipeline: str, job_id: str, *, limit: int = LIST_MAX, after: str = ""
    ) -> WhyJob:
        """Why each datum of a job was done, or was not: all in numbers, and those that are not unchanged from behind
        ``after`` on.

        :raises NotFoundError: ``no_job``.
        """
        row = self._job(project, pipeline, job_id)
        with self._db.read() as connection:
            base = None if row.base_pk is None else store.get_job_by_pk(connection, row.base_pk)
            kinds, retried = counted(datum_store.whys_of(connection, row.pk), row.job.total)
            rows = datum_store.rows_of(connection, row.pk, limit, after, removed=True)
        found = [
            WhyDatum(
                id=one.id, paths=tuple(f"{row.job.inputs[file[0]].repo}:{file[1]}" for file in one.files),
                status=Status(one.status), kind=kind_of(one.status, one.why), files=tuple(one.why.get("files") or ()),
                code=tuple(one.why.get("code") or ()), from_job=one.why.get("from"), was=str(one.why.get("was") or ""),
                attempts=one.attempts, text=in_words(one.status, one.why, one.attempts),
            )
            for one in rows
        ]  # fmt: skip
        return WhyJob(
            job=row.job,
            base=None if base is None else base.job.id,
            kinds=kinds,
            retried=retried,
            datums=tuple(found),
        )

    def _unchanged(self, pipeline: Pipeline, row: JobRow, after: str) -> Iterator[Datum]:
        """The datums of a job that have no row, from behind ``after`` on."""
        with self._db.read() as connection:
            own = datum_store.ids_of(connection, row.pk)
        place = places(row.job.inputs)
        is_behind = not after
        for one, identity, combination in self._steps.planner.datums_of(pipeline, row):
            if is_behind and one not in own:
                seen = datum_store.seen_files(files_of(combination, place), row.job.inputs)
                yield Datum(
                    id=one, identity=identity, status=Status.SKIPPED, inputs=seen, output_root=None, output_prefix="",
                    size=0, file_count=0, attempts=0, reason="", why={}, stats={}, started_at=None, finished_at=None,
                )  # fmt: skip
            is_behind = is_behind or one == after

    def _with_outputs(self, row: JobRow, datums: list[Datum]) -> list[Datum]:
        """What they made when they were done last."""
        with self._db.read() as connection:
            known = datum_store.latest(connection, row.pipeline_id, row.pk, [one.id for one in datums])
        found = []
        for one in datums:
            made = next((made for made in known.get(one.id, ()) if made.identity == one.identity), None)
            if made is not None:
                one = replace(
                    one, output_root=TreeHash(made.output_root) if made.output_root else None,
                    output_prefix=made.output_prefix, size=made.size, file_count=made.file_count,
                    job=made.why.get("from", made.job_id) if made.status == Status.SKIPPED else made.job_id,
                )  # fmt: skip
            found.append(one)
        return found

    def make_output(self, project: str, pipeline: str, job_id: str) -> bool:
        """Store the output tree of a job once more, from its datums' outputs, which are stored apart from it. False if not all
        of these are known."""
        with self._db.read() as connection:
            row = store.get_job(connection, project, pipeline, job_id)
            version = row.job.version if row is not None else None
            its_pipeline = store.get_pipeline(connection, project, pipeline, version)
        if row is None or row.job.status != Status.SUCCEEDED or its_pipeline is None:
            return False
        try:
            parts = self._steps.planner.outputs_of(its_pipeline, row)
        except Inexact:
            return False
        return bool(self._versioning.assemble(None, [], parts))

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
        stream = self.open_log(project, pipeline, job_id, LogWish(datum=datum), offset)
        lines, after, done = stream(offset)
        return lines, after, done and after == offset

    def open_log(
        self, project: str, pipeline: str, job_id: str | None, wish: LogWish, offset: int = 0
    ) -> Tail:
        """The log of a job, to be read as it grows. ``job_id`` None: the latest job. The wish's datum may be the beginning of
        an ID.

        :raises NotFoundError: ``no_datum``; ``no_log``, if another job has computed it, which is named.
        """
        with self._db.read() as connection:
            found = store.get_pipeline(connection, project, pipeline)
        if found is not None and is_spout(found.spec):
            return self.looking.open_spout_log(project, pipeline, wish, offset)
        row = self._job(project, pipeline, job_id)
        if wish.datum is not None:
            wish = replace(wish, datum=self._computed_here(row, wish.datum))
        return self.looking.open_log(row, wish, offset)

    def _computed_here(self, row: JobRow, datum: str) -> str:
        found = self.inspect_datum(row.job.project, row.job.pipeline, row.job.id, datum)
        if found.status == Status.SKIPPED:
            where = f"its log is with job {found.job}" if found.job else "no job that is left has its log"
            raise NotFoundError(
                f"datum {found.id[:DATUM_ID_SHOWN]} was not computed by job {row.job.id}: {where}",
                kind="no_log",
            )
        return found.id

    def append_log(self, lease: Lease, offset: int, lines: Sequence[Mapping[str, Any]]) -> int:
        """Store log lines of a datum set; ``offset`` is how many this worker has sent of it before. Returns how many there are.

        :raises ConflictError: ``lease_lost``.
        """
        return self.looking.append_log(lease, offset, lines)

    def _datum_id(self, row: JobRow, prefix: str) -> str:
        with self._db.read() as connection:
            found = datum_store.find_ids(connection, row.pk, prefix)
        if len(found) != 1 or len(prefix) < DATUM_ID_PREFIX_MIN:
            raise _no_datum(prefix, row, several=bool(found))
        return found[0]

    def _job(self, project: str, pipeline: str, job_id: str | None) -> JobRow:
        with self._db.read() as connection:
            row = store.get_job(connection, project, pipeline, job_id)
            exists = row is not None or store.find_pipeline_id(connection, project, pipeline) is not None
        if not exists:
            raise no_pipeline(project, pipeline)
        if row is None:
            self._jobs.outbox.drain()  # its commit may be so new that the event of it still waits
            with self._db.read() as connection:
                row = store.get_job(connection, project, pipeline, job_id)
        if row is None:
            raise _no_job(project, pipeline, job_id)
        return row


def no_pipeline(project: str, name: str) -> NotFoundError:
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


def _has_unchanged(row: JobRow) -> bool:
    """Whether the job has datums without a row, which are as they were in its base. (While it is planned: not known yet.)"""
    return row.base_pk is not None and row.job.phase != store.PLANNING


def _no_datum(datum: str, row: JobRow, *, several: bool = False) -> NotFoundError:
    problem = "there are several datums" if several else "there is no datum"
    return NotFoundError(
        f"{problem} {datum!r} in job {row.job.id}: see 'trunkline list datum {row.job.pipeline}@{row.job.id}'",
        kind="no_datum",
    )


def _ended_already(row: JobRow, more: str = "") -> StateError:
    name = f"{row.job.project}/{row.job.pipeline}@{row.job.id}"
    return StateError(
        f"job {name} has ended already: it is {row.job.status.value}" + (f"; {more}" if more else ""),
        kind="job_over",
    )
