"""Repos and their branches."""

from __future__ import annotations

from trunkline.access.model import Scope
from trunkline.api.auth import allow, gathered
from trunkline.api.deps import InTransaction, Use
from trunkline.api.routes import new_router
from trunkline.wire.base import Page
from trunkline.wire.branches import Branch, BranchDetails, CreateBranch
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
@gathered
def create_repo(project: str, ask: CreateRepo, use: Use, transaction: InTransaction = None) -> Repo:
    made = use.transactions.do(transaction, "create_repo", project=project, **ask.model_dump())
    return Repo.model_validate(made)


@router.get("/projects/{project}/repos/{repo}")
@allow(Scope.JOB)
def inspect_repo(project: str, repo: str, use: Use) -> Repo:
    return Repo.model_validate(use.versioning.inspect_repo(project, repo))


@router.delete("/projects/{project}/repos/{repo}", status_code=204)
@gathered
def delete_repo(
    project: str, repo: str, use: Use, force: bool = False, transaction: InTransaction = None
) -> None:
    use.transactions.do(transaction, "delete_repo", project=project, name=repo, force=force)


@router.get("/projects/{project}/repos/{repo}/branches")
@allow(Scope.JOB)
def list_branches(project: str, repo: str, use: Use) -> Page[Branch]:
    return Page(items=[Branch.model_validate(found) for found in use.versioning.list_branches(project, repo)])


@router.post("/projects/{project}/repos/{repo}/branches", status_code=201)
@gathered
def create_branch(
    project: str, repo: str, ask: CreateBranch, use: Use, transaction: InTransaction = None
) -> Branch:
    made = use.transactions.do(
        transaction, "create_branch", project=project, address=f"{repo}@{ask.name}",
        **ask.model_dump(exclude={"name"}),
    )  # fmt: skip
    return Branch.model_validate(made)


@router.get("/projects/{project}/repos/{repo}/branches/{branch}")
@allow(Scope.JOB)
def inspect_branch(project: str, repo: str, branch: str, use: Use) -> BranchDetails:
    return BranchDetails.model_validate(use.versioning.inspect_branch(project, f"{repo}@{branch}"))


@router.delete("/projects/{project}/repos/{repo}/branches/{branch}", status_code=204)
@gathered
def delete_branch(
    project: str, repo: str, branch: str, use: Use, force: bool = False, transaction: InTransaction = None
) -> None:
    use.transactions.do(
        transaction, "delete_branch", project=project, address=f"{repo}@{branch}", force=force
    )
