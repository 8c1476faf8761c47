"""Pipelines, their jobs and logs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import Response

from trunkline.access.model import Scope
from trunkline.api.auth import allow, gathered
from trunkline.api.deps import InTransaction, Offset, Use, WaitSeconds
from trunkline.api.paging import PAGE_ITEMS_DEFAULT, Cursor, Limit, bad_cursor, page_of
from trunkline.api.routes import new_router
from trunkline.api.stream import LongPoll, ndjson
from trunkline.core.status import Status
from trunkline.wire.base import Page
from trunkline.wire.commits import Commit
from trunkline.wire.jobs import Datum, Job
from trunkline.wire.pipelines import (
    CreatePipeline,
    Pipeline,
    PipelinePreview,
    PreviewPipeline,
    RerunPipeline,
    RestartDatums,
    RestartedDatums,
    RunCron,
)
from trunkline.wire.why import WhyJob

router = new_router("pipelines")


@router.get("/pipelines")
@allow(Scope.JOB)
def list_all_pipelines(use: Use) -> Page[Pipeline]:
    return Page(items=[Pipeline.model_validate(found) for found in use.pipelines.list_pipelines(None)])


@router.get("/projects/{project}/pipelines")
@allow(Scope.JOB)
def list_pipelines(project: str, use: Use) -> Page[Pipeline]:
    return Page(items=[Pipeline.model_validate(found) for found in use.pipelines.list_pipelines(project)])


@router.post("/projects/{project}/pipelines", status_code=201)
@gathered
def create_pipeline(
    project: str, ask: CreatePipeline, use: Use, transaction: InTransaction = None
) -> Pipeline:
    created = use.transactions.do(
        transaction, "create_pipeline", project=project, spec=ask.spec, code_root=ask.code_root,
        update=ask.update, reprocess=ask.reprocess,
    )  # fmt: skip
    return Pipeline.model_validate(created)


@router.post("/projects/{project}/pipelines/preview")
def preview_pipeline(project: str, ask: PreviewPipeline, use: Use) -> PipelinePreview:
    found = use.pipelines.preview(
        project,
        ask.spec,
        code_root=ask.code_root,
        update=ask.update,
        reprocess=ask.reprocess,
        datums=ask.datums,
    )
    return PipelinePreview.model_validate(found)


@router.get("/projects/{project}/pipelines/{name}")
@allow(Scope.JOB)
def inspect_pipeline(project: str, name: str, use: Use, version: int | None = None) -> Pipeline:
    return Pipeline.model_validate(use.pipelines.inspect(project, name, version))


@router.get("/projects/{project}/pipelines/{name}/versions")
@allow(Scope.JOB)
def list_pipeline_versions(
    project: str, name: str, use: Use, limit: Limit = PAGE_ITEMS_DEFAULT, cursor: Cursor = None
) -> Page[Pipeline]:
    if cursor is not None and not (cursor.isascii() and cursor.isdigit() and len(cursor) < 10):
        raise bad_cursor(cursor)
    before = None if cursor is None else int(cursor)
    found = use.pipelines.versions(project, name, limit=limit + 1, before=before)
    return page_of(Pipeline, found, limit, lambda pipeline: str(pipeline.version))


@router.delete("/projects/{project}/pipelines/{name}", status_code=204)
def delete_pipeline(project: str, name: str, use: Use, force: bool = False, keep_repo: bool = False) -> None:
    use.pipelines.delete(project, name, force=force, keep_repo=keep_repo)


@router.post("/projects/{project}/pipelines/{name}/start")
def start_pipeline(project: str, name: str, use: Use) -> Pipeline:
    use.pipelines.start(project, name)
    return Pipeline.model_validate(use.pipelines.inspect(project, name))


@router.post("/projects/{project}/pipelines/{name}/stop")
def stop_pipeline(project: str, name: str, use: Use) -> Pipeline:
    use.pipelines.stop(project, name)
    return Pipeline.model_validate(use.pipelines.inspect(project, name))


@router.post("/projects/{project}/pipelines/{name}/cron", status_code=201)
def run_cron(project: str, name: str, ask: RunCron, use: Use) -> Page[Commit]:
    return Page(
        items=[Commit.model_validate(one) for one in use.pipelines.crons.run(project, name, ask.input)]
    )


@router.post("/projects/{project}/pipelines/{name}/rerun", status_code=201)
def rerun_pipeline(project: str, name: str, ask: RerunPipeline, use: Use) -> Job:
    return Job.model_validate(use.pipelines.rerun(project, name, reprocess=ask.reprocess))


@router.get("/jobs")
@allow(Scope.JOB)
def list_all_jobs(
    use: Use, project: str | None = None, limit: Limit = PAGE_ITEMS_DEFAULT, cursor: Cursor = None
) -> Page[Job]:
    found = use.pipelines.list_jobs(project, None, limit=limit + 1, after=_job_in(cursor))
    return page_of(Job, found, limit, _job_cursor)


@router.get("/projects/{project}/pipelines/{name}/jobs")
@allow(Scope.JOB)
def list_jobs(
    project: str, name: str, use: Use, limit: Limit = PAGE_ITEMS_DEFAULT, cursor: Cursor = None
) -> Page[Job]:
    found = use.pipelines.list_jobs(project, name, limit=limit + 1, after=_job_in(cursor))
    return page_of(Job, found, limit, _job_cursor)


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


@router.get("/projects/{project}/pipelines/{name}/jobs/{job_id}/datums")
@allow(Scope.JOB)
def list_datums(
    project: str, name: str, job_id: str, use: Use, limit: Limit = PAGE_ITEMS_DEFAULT, cursor: Cursor = None
) -> Page[Datum]:
    found = use.pipelines.list_datums(project, name, job_id, limit=limit + 1, after=cursor or "")
    return page_of(Datum, found, limit, lambda datum: datum.id)


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
    project: str, name: str, use: Use, job: str | None = None, datum: str | None = None, offset: Offset = 0,
    follow: bool = False,
) -> Response:  # fmt: skip
    if job is None and (found := use.pipelines.list_jobs(project, name, limit=1)):
        job = found[0].id  # settled here, so that a follower stays with the job that it began with

    def tail(at: int) -> tuple[list[dict[str, Any]], int, bool]:
        lines, following, done = use.pipelines.logs(project, name, job, datum, at)
        return [asdict(line) for line in lines], following, done

    return ndjson(tail, offset=offset, follow=follow)
