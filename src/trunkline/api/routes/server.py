"""The server itself: signs of life, its address book, and everything of one ID."""

from __future__ import annotations

import os

from fastapi import Request, Response

from trunkline import __version__
from trunkline.access.model import Scope
from trunkline.api.auth import allow, gathered
from trunkline.api.deps import Use
from trunkline.api.middleware import token_of
from trunkline.api.routes import new_router
from trunkline.core.ids import is_commit_id
from trunkline.errors import InvalidInputError, NotFoundError, UnavailableError
from trunkline.services import Services
from trunkline.wire.commits import Commit
from trunkline.wire.experiments import Experiment
from trunkline.wire.inferenceservices import Revision
from trunkline.wire.jobs import Cost, Job
from trunkline.wire.models import ModelVersion
from trunkline.wire.status import ConsoleLink, Everything, Process, S3Credentials, Status

router = new_router("server")


@router.get("/status")
@allow(Scope.WORKER, Scope.JOB)
def status(use: Use) -> Status:
    settings = use.settings
    processes = [
        Process(id=p.id, kind=p.kind, subject=p.subject, pid=(p.handle or {}).get("pid"))
        for p in use.table.running()
    ]
    return Status(
        version=__version__, home=str(settings.home), pid=os.getpid(), url=settings.url,
        gateway_url=settings.gateway_url, doors=settings.door_urls, started_at=use.started_at,
        database=use.db.shown_url, objects=settings.place_of_objects, processes=processes,
    )  # fmt: skip


@router.post("/console-link", status_code=201)
@gathered
def console_link(use: Use) -> ConsoleLink:
    return ConsoleLink(url=f"{use.settings.url}/login?link={use.access.console_link_token()}")


@router.get("/s3credentials")
@allow(Scope.JOB)
def get_s3_credentials(request: Request, response: Response, use: Use) -> S3Credentials:
    url = use.settings.door_urls.get("s3")
    token = token_of(request.headers)
    assert token is not None, "nobody gets here without"
    if url is None:
        raise UnavailableError("the S3 door is closed: start the server with --door s3", kind="door_closed")
    pair = use.access.key_pair(token)
    response.headers["cache-control"] = "no-store"
    return S3Credentials(access_key_id=pair.id, secret_access_key=pair.secret, endpoint_url=url)


@router.get("/inspect/{commit_id}")
@allow(Scope.JOB)
def inspect_id(commit_id: str, use: Use) -> Everything:
    return everything(use, commit_id)


def everything(use: Services, commit_id: str) -> Everything:
    """All that bears an ID; an experiment or a service may exist although no commit has it.

    :raises NotFoundError: ``unknown_id``, if nothing bears it.
    """
    if not is_commit_id(commit_id):
        raise InvalidInputError(f"{commit_id!r} is not an ID: 32 lower-case hex digits", kind="bad_id")
    try:
        commits = use.versioning.inspect_commit_set(commit_id).commits
    except NotFoundError:
        commits = ()
    jobs = use.pipelines.jobs_of(commit_id)
    found = Everything(
        id=commit_id,
        commits=[Commit.model_validate(one) for one in commits],
        jobs=[Job.model_validate(one) for one in jobs],
        cost=Cost.model_validate(use.pipelines.looking.job_set(commit_id).cost) if jobs else None,
        experiments=[Experiment.model_validate(one) for one in use.training.experiments_of(commit_id)],
        versions=[ModelVersion.model_validate(one) for one in use.registry.versions_of(commit_id)],
        revisions=[Revision.model_validate(one) for one in use.serving.services_of(commit_id)],
    )
    if not any((found.commits, found.jobs, found.experiments, found.versions, found.revisions)):
        raise NotFoundError(
            f"nothing bears the ID {commit_id}: 'trunkline list commits' shows them", kind="unknown_id"
        )
    return found
