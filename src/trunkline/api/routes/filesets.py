"""Trees without a commit: code folders, datum outputs, checkpoints, packages."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query, Response

from trunkline.access.model import Scope
from trunkline.api.archives import answer_with, changes_in
from trunkline.api.auth import allow, gathered
from trunkline.api.deps import Accept, Body, ContentType, Use
from trunkline.api.paging import PAGE_ITEMS_DEFAULT, Cursor, Limit, page_of, tree_cursor
from trunkline.api.routes import new_router
from trunkline.core.ids import TreeHash
from trunkline.versioning.model import CopyTree
from trunkline.wire.base import Page
from trunkline.wire.files import FileInfo, TreeInfo
from trunkline.wire.filesets import Copies, Paths

router = new_router("filesets")


@router.post("/filesets", status_code=201)
@allow(Scope.WORKER, Scope.JOB)
@gathered  # it changes nothing that anybody sees
def create_fileset(
    body: Body, use: Use, base: str | None = None, content_type: ContentType = None
) -> TreeInfo:
    root = TreeHash(base) if base is not None else None
    return TreeInfo.model_validate(use.versioning.stage(changes_in(body, content_type), base=root))


@router.post("/filesets/unpack", status_code=201)
def unpack_fileset(body: Body, use: Use) -> TreeInfo:
    return TreeInfo.model_validate(
        use.versioning.stage(use.sources.unpack((bytes(part) for part in body.parts()), into="/"))
    )


@router.get("/filesets/{root}/archive", response_class=Response)
@allow(Scope.WORKER, Scope.JOB)
def get_fileset(
    root: str, use: Use, path: Annotated[list[str] | None, Query()] = None, accept: Accept = None
) -> Response:
    return _archive(use, root, path or ["/"], accept)


@router.post("/filesets/{root}/archive", response_class=Response)
@allow(Scope.WORKER, Scope.JOB)
@gathered  # it changes nothing
def get_of_fileset(root: str, ask: Paths, use: Use, accept: Accept = None) -> Response:
    return _archive(use, root, ask.paths, accept)


@router.post("/filesets/copies", status_code=201)
@allow(Scope.WORKER, Scope.JOB)
@gathered  # it changes nothing that anybody sees
def copy_into_fileset(ask: Copies, use: Use, base: str | None = None) -> TreeInfo:
    changes = [
        CopyTree(path=one.path, root=TreeHash(one.root), source_path=one.source_path) for one in ask.copies
    ]
    root = TreeHash(base) if base is not None else None
    return TreeInfo.model_validate(use.versioning.stage(changes, base=root))


def _archive(use: Use, root: str, paths: list[str], accept: str | None) -> Response:
    tree = TreeHash(root)
    use.versioning.check_tree(tree, to_keep=False)
    return answer_with(use.versioning, tree, paths, accept)


@router.get("/filesets/{root}/tree")
@allow(Scope.WORKER, Scope.JOB)
def list_fileset(
    root: str, use: Use, path: str = "/", walk: bool = True, limit: Limit = PAGE_ITEMS_DEFAULT, cursor: Cursor = None
) -> Page[FileInfo]:  # fmt: skip
    tree = TreeHash(root)
    use.versioning.check_tree(tree, to_keep=False)
    _, after = tree_cursor(cursor, 0) or ([], None)
    found = (use.versioning.walk if walk else use.versioning.list_dir)(tree, path, after=after)
    return page_of(FileInfo, found, limit, lambda file: file.path)
