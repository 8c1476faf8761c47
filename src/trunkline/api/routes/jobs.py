"""Jobs, their datums and logs."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query, Response

from trunkline.access.model import Scope
from trunkline.api.auth import allow
from trunkline.api.deps import Offset, Use, WaitSeconds
from trunkline.api.paging import PAGE_ITEMS_DEFAULT, Cursor, Limit, bad_cursor, page_of
from trunkline.api.routes import new_router
from trunkline.api.stream import LongPoll, ndjson
from trunkline.core.ids import DEFAULT_PROJECT, is_commit_id
from trunkline.core.status import Status
from trunkline.errors import InvalidInputError
from trunkline.pipelines.looking import LogWish
from trunkline.pipelines.model import JobFilter
from trunkline.services import Services
from trunkline.wire.base import Page
from trunkline.wire.jobs import Datum, Job, JobSet, JobWorker
from trunkline.wire.pipelines import RestartDatums, RestartedDatums
from trunkline.wire.why import WhyJob

router = new_router("jobs")

States = Annotated[list[str] | None, Query()]
Inputs = Annotated[list[str] | None, Query(alias="input")]


@router.get("/jobs")
@allow(Scope.JOB)
def list_all_jobs(
    use: Use, project: str | None = None, limit: Limit = PAGE_ITEMS_DEFAULT, cursor: Cursor = None,
    status: States = None, inputs: Inputs = None, history: int | None = None,
) -> Page[Job]:  # fmt: skip
    wanted = _filter(use, project, status, inputs, history)
    found = use.pipelines.list_jobs(project, None, limit=limit + 1, after=_job_in(cursor), wanted=wanted)
    return page_of(Job, found, limit, _job_cursor)


@router.get("/projects/{project}/pipelines/{name}/jobs")
@allow(Scope.JOB)
def list_jobs(
    project: str, name: str, use: Use, limit: Limit = PAGE_ITEMS_DEFAULT, cursor: Cursor = None,
    status: States = None, inputs: Inputs = None, history: int | None = None,
) -> Page[Job]:  # fmt: skip
    wanted = _filter(use, project, status, inputs, history)
    found = use.pipelines.list_jobs(project, name, limit=limit + 1, after=_job_in(cursor), wanted=wanted)
    return page_of(Job, found, limit, _job_cursor)


def _filter(
    use: Services, project: str | None, status: States, inputs: Inputs, history: int | None
) -> JobFilter:
    commits = []
    for one in inputs or ():
        commit = use.versioning.inspect_commit(project or DEFAULT_PROJECT, one)
        commits.append((str(commit.project), str(commit.repo), str(commit.id)))
    return JobFilter(statuses=_statuses(status), inputs=tuple(commits), history=history)


def _statuses(words: States) -> frozenset[Status]:
    try:
        return frozenset(map(Status, words or ()))
    except ValueError as error:
        known = ", ".join(one.value for one in Status)
        raise InvalidInputError(f"{error}: known are {known}", kind="bad_status") from error


@router.get("/jobsets")
@allow(Scope.JOB)
def list_job_sets(
    use: Use, project: str | None = None, limit: Limit = PAGE_ITEMS_DEFAULT, cursor: Cursor = None
) -> Page[JobSet]:
    if cursor is not None and not is_commit_id(cursor):
        raise bad_cursor(cursor)
    found = use.pipelines.looking.list_job_sets(project, limit=limit + 1, after=cursor)
    return page_of(JobSet, found, limit, lambda one: one.id)


@router.get("/jobsets/{commit_id}")
@allow(Scope.JOB)
def inspect_job_set(commit_id: str, use: Use) -> JobSet:
    return JobSet.model_validate(use.pipelines.looking.job_set(commit_id))


def _job_cursor(job: Job) -> str:
    return f"{job.project}/{job.pipeline}/{job.id}"


def _job_in(cursor: str | None) -> tuple[str, str, str] | None:
    if cursor is None:
        return None
    match cursor.split("/"):
        case [project, pipeline, job_id]:
            return project, pipeline, job_id
    raise bad_cursor(cursor)


@router.get("/projects/{project}/pipelines/{name}/jobs/{job_id}", response_model=Job)
@allow(Scope.JOB)
def inspect_job(project: str, name: str, job_id: str, use: Use, wait_seconds: WaitSeconds = 0) -> Response:
    return LongPoll(
        lambda: Job.model_validate(use.pipelines.inspect_job(project, name, job_id)),
        is_settled=lambda job: Status(job.status).is_final,
        wait_seconds=wait_seconds,
        changes=use.db.changes,
    )


@router.post("/projects/{project}/pipelines/{name}/jobs/{job_id}/stop")
def stop_job(project: str, name: str, job_id: str, use: Use) -> Job:
    use.pipelines.stop_job(project, name, job_id)
    return Job.model_validate(use.pipelines.inspect_job(project, name, job_id))


@router.delete("/projects/{project}/pipelines/{name}/jobs/{job_id}", status_code=204)
def delete_job(project: str, name: str, job_id: str, use: Use) -> None:
    use.pipelines.delete_job(project, name, job_id)


@router.post("/projects/{project}/pipelines/{name}/jobs/{job_id}/restart")
def restart_datums(project: str, name: str, job_id: str, ask: RestartDatums, use: Use) -> RestartedDatums:
    ids = use.pipelines.restart_datum(project, name, job_id, datum=ask.datum, paths=ask.paths)
    return RestartedDatums(datums=tuple(ids))


@router.get("/projects/{project}/pipelines/{name}/jobs/{job_id}/running")
@allow(Scope.JOB)
def list_job_workers(project: str, name: str, job_id: str, use: Use) -> Page[JobWorker]:
    found = use.pipelines.workers(project, name, job_id)
    return Page(items=[JobWorker.model_validate(one) for one in found])


@router.get("/projects/{project}/pipelines/{name}/jobs/{job_id}/datums")
@allow(Scope.JOB)
def list_datums(
    project: str, name: str, job_id: str, use: Use, limit: Limit = PAGE_ITEMS_DEFAULT, cursor: Cursor = None,
    status: States = None,
) -> Page[Datum]:  # fmt: skip
    found = use.pipelines.list_datums(
        project, name, job_id, limit=limit + 1, after=cursor or "", statuses=_statuses(status)
    )
    return page_of(Datum, found, limit, lambda datum: datum.id)


@router.get("/projects/{project}/pipelines/{name}/jobs/{job_id}/datums/{datum}")
@allow(Scope.JOB)
def inspect_datum(project: str, name: str, job_id: str, datum: str, use: Use) -> Datum:
    return Datum.model_validate(use.pipelines.inspect_datum(project, name, job_id, datum))


@router.get("/projects/{project}/pipelines/{name}/jobs/{job_id}/why")
@allow(Scope.JOB)
def why_job(
    project: str, name: str, job_id: str, use: Use, limit: Limit = PAGE_ITEMS_DEFAULT, cursor: Cursor = None
) -> WhyJob:
    found = WhyJob.model_validate(
        use.pipelines.why(project, name, job_id, limit=limit + 1, after=cursor or "")
    )
    more = len(found.datums) > limit
    shown = found.datums[:limit]
    return found.model_copy(update={"datums": shown, "next": shown[-1].id if more else None})


@router.get("/projects/{project}/pipelines/{name}/logs", response_class=Response)
@allow(Scope.JOB)
def pipeline_logs(
    project: str, name: str, use: Use, job: str | None = None, datum: str | None = None, inputs: Inputs = None,
    since: float | None = None, until: float | None = None, worker: str | None = None,
    tail: Annotated[int | None, Query(ge=0)] = None, files: bool = False, offset: Offset = 0, follow: bool = False,
) -> Response:  # fmt: skip
    wish = LogWish(
        datum=datum,
        inputs=tuple(inputs or ()),
        since=since,
        until=until,
        worker=worker,
        tail=tail,
        files=files,
    )
    stream = use.pipelines.open_log(project, name, job, wish, offset)

    def read(at: int) -> tuple[list[dict[str, Any]], int, bool]:
        lines, following, done = stream(at)
        return [line._asdict() for line in lines], following, done

    return ndjson(read, offset=offset, follow=follow)
