"""Changing and searching history."""

from __future__ import annotations

from trunkline.access.model import Scope
from trunkline.api.auth import allow, gathered
from trunkline.api.deps import At, InTransaction, Use
from trunkline.api.paging import PAGE_ITEMS_DEFAULT, Cursor, Limit
from trunkline.api.routes import new_router
from trunkline.versioning.merging import Strategy
from trunkline.wire.base import Page
from trunkline.wire.history import FoundCommit, Merge, MergeBranch, RemoveCommits, Removed

router = new_router("history")


@router.post("/projects/{project}/commits/squash")
@gathered
def squash_commits(project: str, ask: RemoveCommits, use: Use, transaction: InTransaction = None) -> Removed:
    done = use.transactions.do(
        transaction, "squash", project=project, address=ask.at, recursive=ask.recursive
    )
    return Removed.model_validate(done)


@router.post("/projects/{project}/commits/drop")
def drop_commits(project: str, ask: RemoveCommits, use: Use) -> Removed:
    return Removed.model_validate(use.versioning.drop(project, ask.at, recursive=ask.recursive))


@router.get("/projects/{project}/commits/find")
@allow(Scope.JOB)
def find_commits(
    project: str, at: At, use: Use, since: str | None = None, limit: Limit = PAGE_ITEMS_DEFAULT, cursor: Cursor = None
) -> Page[FoundCommit]:  # fmt: skip
    found, after = use.versioning.find_commits(project, at, since=since, limit=limit, after=cursor)
    return Page(items=[FoundCommit.model_validate(one) for one in found], next=after)


@router.post("/projects/{project}/merge")
def merge_branch(project: str, ask: MergeBranch, use: Use) -> Merge:
    strategy = None if ask.strategy is None else Strategy(ask.strategy)
    merged = use.versioning.merge_branch(
        project, ask.source, ask.target, description=ask.description, strategy=strategy, dry_run=ask.dry_run
    )
    return Merge.model_validate(merged)
