"""Projects."""

from __future__ import annotations

from trunkline.access.model import Scope
from trunkline.api.auth import allow
from trunkline.api.deps import Use
from trunkline.api.routes import new_router
from trunkline.wire.base import Page
from trunkline.wire.projects import CreateProject, Project

router = new_router("projects")


@router.get("/projects")
@allow(Scope.JOB)
def list_projects(use: Use) -> Page[Project]:
    return Page(items=[Project.model_validate(found) for found in use.versioning.list_projects()])


@router.post("/projects", status_code=201)
def create_project(ask: CreateProject, use: Use) -> Project:
    return Project.model_validate(use.versioning.create_project(ask.name, ask.description))


@router.get("/projects/{project}")
@allow(Scope.JOB)
def inspect_project(project: str, use: Use) -> Project:
    return Project.model_validate(use.versioning.inspect_project(project))


@router.delete("/projects/{project}", status_code=204)
def delete_project(project: str, use: Use, force: bool = False) -> None:
    use.versioning.delete_project(project, force=force)
