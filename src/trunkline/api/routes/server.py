"""The server itself: signs of life, its address book, and everything of one ID."""

from __future__ import annotations

import os

from trunkline import __version__
from trunkline.access.model import Scope
from trunkline.api.auth import allow, gathered
from trunkline.api.deps import Use
from trunkline.api.routes import new_router
from trunkline.core.ids import is_commit_id
from trunkline.errors import InvalidInputError, NotFoundError
from trunkline.services import Services
from trunkline.wire.commits import Commit
from trunkline.wire.experiments import Experiment
from trunkline.wire.inferenceservices import Revision
from trunkline.wire.jobs import Job
from trunkline.wire.models import ModelVersion
from trunkline.wire.status import ConsoleLink, Everything, Process, Status

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
        gateway_url=settings.gateway_url, started_at=use.started_at, database=use.db.shown_url,
        objects=settings.place_of_objects, processes=processes,
    )  # fmt: skip


@router.post("/console-link", status_code=201)
@gathered
def console_link(use: Use) -> ConsoleLink:
    return ConsoleLink(url=f"{use.settings.url}/login?link={use.access.console_link_token()}")


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
    found = Everything(
        id=commit_id,
        commits=[Commit.model_validate(one) for one in commits],
        jobs=[Job.model_validate(one) for one in use.pipelines.jobs_of(commit_id)],
        experiments=[Experiment.model_validate(one) for one in use.training.experiments_of(commit_id)],
        versions=[ModelVersion.model_validate(one) for one in use.registry.versions_of(commit_id)],
        revisions=[Revision.model_validate(one) for one in use.serving.services_of(commit_id)],
    )
    if not any((found.commits, found.jobs, found.experiments, found.versions, found.revisions)):
        raise NotFoundError(
            f"nothing bears the ID {commit_id}: 'trunkline list commits' shows them", kind="unknown_id"
        )
    return found
