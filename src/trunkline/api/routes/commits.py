"""Commits and commit sets."""

from __future__ import annotations

from fastapi import Response

from trunkline.access.model import Scope
from trunkline.api.auth import allow
from trunkline.api.deps import At, Use, WaitSeconds
from trunkline.api.paging import PAGE_ITEMS_DEFAULT, Cursor, Limit, page_of
from trunkline.api.routes import new_router
from trunkline.api.stream import LongPoll
from trunkline.wire.base import Page
from trunkline.wire.commits import Commit, CommitSet, FinishCommit, StartCommit

router = new_router("commits")


@router.get("/projects/{project}/repos/{repo}/commits")
@allow(Scope.JOB)
def list_commits(
    project: str, repo: str, use: Use, branch: str | None = None, limit: Limit = PAGE_ITEMS_DEFAULT,
    cursor: Cursor = None,
) -> Page[Commit]:  # fmt: skip
    found = use.versioning.list_commits(project, repo, branch=branch, limit=limit + 1, after=cursor)
    return page_of(Commit, found, limit, lambda commit: commit.id)


@router.post("/projects/{project}/repos/{repo}/commits", status_code=201)
def start_commit(project: str, repo: str, ask: StartCommit, use: Use) -> Commit:
    address = f"{repo}@{ask.branch}"
    return Commit.model_validate(use.versioning.start_commit(project, address, ask.description))


@router.get("/projects/{project}/commits", response_model=Commit)
@allow(Scope.JOB)
def inspect_commit(project: str, at: At, use: Use, wait_seconds: WaitSeconds = 0) -> Response:
    return LongPoll(
        lambda: Commit.model_validate(use.versioning.inspect_commit(project, at)),
        is_settled=lambda commit: commit.is_finished,
        wait_seconds=wait_seconds,
        changes=use.db.changes,
    )


@router.post("/projects/{project}/commits/finish")
def finish_commit(project: str, ask: FinishCommit, use: Use) -> Commit:
    return Commit.model_validate(use.versioning.finish_commit(project, ask.at, ask.description))


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
