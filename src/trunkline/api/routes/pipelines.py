"""Pipelines."""

from __future__ import annotations

from typing import Any

from trunkline.access.model import Scope
from trunkline.api.auth import allow, gathered
from trunkline.api.deps import InTransaction, Use
from trunkline.api.paging import PAGE_ITEMS_DEFAULT, Cursor, Limit, bad_cursor, page_of
from trunkline.api.routes import new_router
from trunkline.wire.base import Page
from trunkline.wire.commits import Commit
from trunkline.wire.jobs import Job
from trunkline.wire.pipelines import (
    CreatePipeline,
    CreatePipelines,
    Pipeline,
    PipelinePreview,
    PreviewPipeline,
    PreviewPipelines,
    RerunPipeline,
    RunCron,
)

router = new_router("pipelines")


@router.get("/pipelines")
@allow(Scope.JOB)
def list_all_pipelines(use: Use) -> Page[Pipeline]:
    return Page(items=[Pipeline.model_validate(found) for found in use.pipelines.list_pipelines(None)])


@router.post("/pipelines", status_code=201)
@gathered
def create_pipelines(ask: CreatePipelines, use: Use, transaction: InTransaction = None) -> Page[Pipeline]:
    made = use.transactions.do(
        transaction, "create_pipelines", project=ask.project, pipelines=_plain(ask), update=ask.update,
        reprocess=ask.reprocess,
    )  # fmt: skip
    return Page(items=[Pipeline.model_validate(one) for one in made])


@router.post("/pipelines/preview")
def preview_pipelines(ask: PreviewPipelines, use: Use) -> Page[PipelinePreview]:
    found = use.pipelines.preview_all(
        ask.project, _plain(ask), update=ask.update, reprocess=ask.reprocess, datums=ask.datums
    )
    return Page(items=[PipelinePreview.model_validate(one) for one in found])


def _plain(ask: CreatePipelines) -> list[dict[str, Any]]:
    return [{"spec": one.spec, "code_root": one.code_root} for one in ask.pipelines]


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
