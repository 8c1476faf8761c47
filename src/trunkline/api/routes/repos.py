"""Repos and their branches."""

from __future__ import annotations

from trunkline.access.model import Scope
from trunkline.api.auth import allow
from trunkline.api.deps import Use
from trunkline.api.routes import new_router
from trunkline.wire.base import Page
from trunkline.wire.branches import Branch, CreateBranch
from trunkline.wire.repos import CreateRepo, Repo

router = new_router("repos")


@router.get("/repos")
@allow(Scope.JOB)
def list_all_repos(use: Use) -> Page[Repo]:
    return Page(items=[Repo.model_validate(found) for found in use.versioning.list_repos()])


@router.get("/projects/{project}/repos")
@allow(Scope.JOB)
def list_repos(project: str, use: Use) -> Page[Repo]:
    return Page(items=[Repo.model_validate(found) for found in use.versioning.list_repos(project)])


@router.post("/projects/{project}/repos", status_code=201)
def create_repo(project: str, ask: CreateRepo, use: Use) -> Repo:
    return Repo.model_validate(
        use.versioning.create_repo(project, ask.name, ask.description, update=ask.update)
    )


@router.get("/projects/{project}/repos/{repo}")
@allow(Scope.JOB)
def inspect_repo(project: str, repo: str, use: Use) -> Repo:
    return Repo.model_validate(use.versioning.inspect_repo(project, repo))


@router.delete("/projects/{project}/repos/{repo}", status_code=204)
def delete_repo(project: str, repo: str, use: Use, force: bool = False) -> None:
    use.versioning.delete_repo(project, repo, force=force)


@router.get("/projects/{project}/repos/{repo}/branches")
@allow(Scope.JOB)
def list_branches(project: str, repo: str, use: Use) -> Page[Branch]:
    return Page(items=[Branch.model_validate(found) for found in use.versioning.list_branches(project, repo)])


@router.post("/projects/{project}/repos/{repo}/branches", status_code=201)
def create_branch(project: str, repo: str, ask: CreateBranch, use: Use) -> Branch:
    address = f"{repo}@{ask.name}"
    return Branch.model_validate(use.versioning.create_branch(project, address, head=ask.head))


@router.get("/projects/{project}/repos/{repo}/branches/{branch}")
@allow(Scope.JOB)
def inspect_branch(project: str, repo: str, branch: str, use: Use) -> Branch:
    return Branch.model_validate(use.versioning.inspect_branch(project, f"{repo}@{branch}"))


@router.delete("/projects/{project}/repos/{repo}/branches/{branch}", status_code=204)
def delete_branch(project: str, repo: str, branch: str, use: Use, force: bool = False) -> None:
    use.versioning.delete_branch(project, f"{repo}@{branch}", force=force)
