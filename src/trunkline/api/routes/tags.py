"""Tags of repos."""

from __future__ import annotations

from trunkline.access.model import Scope
from trunkline.api.auth import allow, gathered
from trunkline.api.deps import InTransaction, Use
from trunkline.api.paging import PAGE_ITEMS_DEFAULT, Cursor, Limit, page_of
from trunkline.api.routes import new_router
from trunkline.wire.base import Page
from trunkline.wire.tags import CreateTag, Tag

router = new_router("tags")


@router.get("/projects/{project}/repos/{repo}/tags")
@allow(Scope.JOB)
def list_tags(
    project: str, repo: str, use: Use, limit: Limit = PAGE_ITEMS_DEFAULT, cursor: Cursor = None
) -> Page[Tag]:
    found = use.versioning.list_tags(project, repo, limit=limit + 1, after=cursor)
    return page_of(Tag, found, limit, lambda tag: tag.name)


@router.post("/projects/{project}/repos/{repo}/tags", status_code=201)
@gathered
def create_tag(project: str, repo: str, ask: CreateTag, use: Use, transaction: InTransaction = None) -> Tag:
    made = use.transactions.do(
        transaction, "create_tag", project=project, address=f"{repo}@{ask.name}", commit=ask.commit,
        description=ask.description, move=ask.move,
    )  # fmt: skip
    return Tag.model_validate(made)


@router.get("/projects/{project}/repos/{repo}/tags/{tag}")
@allow(Scope.JOB)
def inspect_tag(project: str, repo: str, tag: str, use: Use) -> Tag:
    return Tag.model_validate(use.versioning.inspect_tag(project, f"{repo}@{tag}"))


@router.delete("/projects/{project}/repos/{repo}/tags/{tag}", status_code=204)
@gathered
def delete_tag(project: str, repo: str, tag: str, use: Use, transaction: InTransaction = None) -> None:
    use.transactions.do(transaction, "delete_tag", project=project, address=f"{repo}@{tag}")
