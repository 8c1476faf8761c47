"""Commits and commit sets."""

from __future__ import annotations

from fastapi import Response

from trunkline.access.model import Scope
from trunkline.api.auth import allow, gathered
from trunkline.api.deps import At, InTransaction, Stopping, Use, WaitSeconds
from trunkline.api.paging import PAGE_ITEMS_DEFAULT, Cursor, Limit, page_of
from trunkline.api.routes import new_router
from trunkline.api.stream import LongPoll, followed
from trunkline.versioning.model import Origin
from trunkline.wire.base import Page
from trunkline.wire.commits import Commit, CommitDetails, CommitSet, FinishCommit, StartCommit

router = new_router("commits")


@router.get("/projects/{project}/repos/{repo}/commits")
@allow(Scope.JOB)
def list_commits(
    project: str, repo: str, use: Use, branch: str | None = None, since: str | None = None,
    origin: Origin | None = None, limit: Limit = PAGE_ITEMS_DEFAULT, cursor: Cursor = None,
) -> Page[Commit]:  # fmt: skip
    found = use.versioning.list_commits(
        project, repo, branch=branch, since=since, origin=origin, limit=limit + 1, after=cursor
    )
    return page_of(Commit, found, limit, lambda commit: commit.id)


@router.post("/projects/{project}/repos/{repo}/commits", status_code=201)
@gathered
def start_commit(
    project: str, repo: str, ask: StartCommit, use: Use, transaction: InTransaction = None
) -> Commit:
    made = use.transactions.do(
        transaction, "start_commit", project=project, address=f"{repo}@{ask.branch}",
        description=ask.description,
    )  # fmt: skip
    return Commit.model_validate(made)


@router.get("/projects/{project}/repos/{repo}/branches/{branch}/commits", response_class=Response)
@allow(Scope.JOB)
def follow_commits(
    project: str, repo: str, branch: str, use: Use, stopping: Stopping, after: str | None = None,
    finished: bool = True, origin: Origin | None = None,
) -> Response:  # fmt: skip
    following = use.versioning.follow_commits(
        project, f"{repo}@{branch}", after=after, finished=finished, origin=origin
    )
    return followed(
        lambda: [Commit.model_validate(one) for one in following.next()],
        changes=use.db.changes,
        stopping=stopping,
    )


@router.get("/projects/{project}/commits", response_model=Commit)
@allow(Scope.JOB)
def inspect_commit(
    project: str, at: At, use: Use, wait_seconds: WaitSeconds = 0, details: bool = False
) -> Response:
    def look() -> Commit:
        if details:
            return CommitDetails.model_validate(use.versioning.describe_commit(project, at))
        return Commit.model_validate(use.versioning.inspect_commit(project, at))

    return LongPoll(
        look,
        is_settled=lambda commit: commit.is_finished,
        wait_seconds=wait_seconds,
        changes=use.db.changes,
    )


@router.post("/projects/{project}/commits/finish")
@gathered
def finish_commit(project: str, ask: FinishCommit, use: Use, transaction: InTransaction = None) -> Commit:
    made = use.transactions.do(
        transaction, "finish_commit", project=project, address=ask.at, description=ask.description
    )
    return Commit.model_validate(made)


@router.get("/commits")
@allow(Scope.JOB)
def list_commit_sets(use: Use, limit: Limit = PAGE_ITEMS_DEFAULT, cursor: Cursor = None) -> Page[CommitSet]:
    found = use.versioning.list_commit_sets(limit=limit + 1, after=cursor)
    return page_of(CommitSet, found, limit, lambda one: one.id)


@router.get("/commits/{commit_id}", response_model=CommitSet)
@allow(Scope.JOB)
def inspect_commit_set(commit_id: str, use: Use, wait_seconds: WaitSeconds = 0) -> Response:
    return LongPoll(
        lambda: CommitSet.model_validate(use.versioning.inspect_commit_set(commit_id)),
        is_settled=lambda found: found.is_finished,
        wait_seconds=wait_seconds,
        changes=use.db.changes,
    )
