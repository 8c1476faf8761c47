"""Files of commits: one by one, as listings, and as whole directories in a tar stream."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Annotated

from fastapi import Header, Response

from trunkline.access.model import Scope
from trunkline.api.archives import answer_with, changes_in
from trunkline.api.auth import allow
from trunkline.api.deps import Accept, At, Body, ContentType, Use
from trunkline.api.paging import PAGE_ITEMS_DEFAULT, Cursor, Limit, page_of, tree_cursor
from trunkline.api.ranges import parse_range
from trunkline.api.routes import new_router
from trunkline.api.stream import streamed
from trunkline.core.paths import parse_address
from trunkline.errors import InvalidInputError, NotFoundError
from trunkline.versioning.model import Change, CopyTree, DeletePath, PutFile
from trunkline.versioning.model import FileInfo as StoredFile
from trunkline.wire.base import Page
from trunkline.wire.commits import Commit
from trunkline.wire.files import CopyFile, DiffEntry, FileInfo

router = new_router("files")


@router.get("/projects/{project}/files", response_class=Response)
@allow(Scope.JOB)
def get_file(
    project: str, at: At, use: Use, byte_range: Annotated[str | None, Header(alias="range")] = None
) -> Response:
    _, root, path = use.versioning.resolve(project, at)
    info = use.versioning.stat(root, path)
    if info.is_dir:
        raise InvalidInputError(f"{at} is a directory: get it with -r, or as an archive", kind="is_directory")
    offset, length = (parse_range(byte_range, info.size) if info.size else None) or (0, None)
    headers = {"accept-ranges": "bytes", "etag": f'"{info.hash}"'}
    if length == 0:
        return Response(status_code=416, headers={"content-range": f"bytes */{info.size}"})
    if length is not None:
        headers["content-range"] = f"bytes {offset}-{offset + length - 1}/{info.size}"
    headers["content-length"] = str(info.size if length is None else length)
    parts = use.versioning.read(root, path, offset=offset, length=length)
    return streamed(
        parts, media_type="application/octet-stream", headers=headers, status=200 if length is None else 206
    )


@router.put("/projects/{project}/files")
def put_file(
    project: str, at: At, body: Body, use: Use, append: bool = False, mtime: float | None = None,
    executable: bool = False,
) -> Commit:  # fmt: skip
    change = PutFile(
        path=_path_in(project, at),
        parts=body.parts(),
        modified_at=mtime,
        executable=executable,
        append=append,
    )
    return _modified(use, project, at, [change])


@router.delete("/projects/{project}/files")
def delete_file(project: str, at: At, use: Use) -> Commit:
    path = _path_in(project, at)
    _, root, _ = use.versioning.resolve(project, at)
    use.versioning.stat(
        root, path
    )  # an absent one is worth an error here: it is most likely a typing mistake
    return _modified(use, project, at, [DeletePath(path=path)])


@router.post("/projects/{project}/files/copy")
def copy_file(project: str, ask: CopyFile, use: Use) -> Commit:
    _, root, source_path = use.versioning.resolve(project, ask.source)
    change = CopyTree(path=_path_in(project, ask.to), root=root, source_path=source_path)
    return _modified(use, project, ask.to, [change])


@router.get("/projects/{project}/tree")
@allow(Scope.JOB)
def list_files(
    project: str, at: At, use: Use, glob: str | None = None, walk: bool = False, limit: Limit = PAGE_ITEMS_DEFAULT,
    cursor: Cursor = None,
) -> Page[FileInfo]:  # fmt: skip
    _, root, path = use.versioning.resolve(project, at)
    [root], after = tree_cursor(cursor, 1) or ([root], None)
    if glob is not None:
        found: Iterable[StoredFile] = use.versioning.glob(root, glob, after=after)
    else:
        found = (use.versioning.walk if walk else use.versioning.list_dir)(root, path, after=after)
    return page_of(FileInfo, found, limit, lambda file: root + file.path)


@router.get("/projects/{project}/stat")
@allow(Scope.JOB)
def inspect_file(project: str, at: At, use: Use) -> FileInfo:
    _, root, path = use.versioning.resolve(project, at)
    return FileInfo.model_validate(use.versioning.stat(root, path))


@router.get("/projects/{project}/diff")
@allow(Scope.JOB)
def diff_files(
    project: str, at: At, use: Use, old: str | None = None, limit: Limit = PAGE_ITEMS_DEFAULT, cursor: Cursor = None
) -> Page[DiffEntry]:  # fmt: skip
    commit, new_root, path = use.versioning.resolve(project, at)
    if old is not None:
        _, old_root, _ = use.versioning.resolve(project, old)
    elif commit.parent is not None:
        _, old_root, _ = use.versioning.resolve(commit.project, f"{commit.repo}@{commit.parent}")
    else:
        old_root = use.versioning.stage([]).root
    [old_root, new_root], after = tree_cursor(cursor, 2) or ([old_root, new_root], None)
    found = use.versioning.diff(old_root, new_root, path, after=after)
    return page_of(DiffEntry, found, limit, lambda entry: old_root + new_root + entry.path)


@router.get("/projects/{project}/archive", response_class=Response)
@allow(Scope.JOB)
def get_archive(project: str, at: At, use: Use, glob: str | None = None, accept: Accept = None) -> Response:
    _, root, path = use.versioning.resolve(project, at)
    tops = [path] if glob is None else [info.path for info in use.versioning.glob(root, glob)]
    found = chain.from_iterable(use.versioning.walk(root, top) for top in tops)
    return answer_with(use.versioning, root, found, accept)


@router.put("/projects/{project}/archive")
def put_archive(
    project: str, at: At, body: Body, use: Use, append: bool = False, content_type: ContentType = None
) -> Commit:
    into = parse_address(at, project).path or "/"
    return _modified(use, project, at, changes_in(body, content_type, into=into, append=append))


def _modified(use: Use, project: str, at: str, changes: Iterable[Change]) -> Commit:
    address = at.partition(":")[0]
    return Commit.model_validate(use.versioning.modify(project, address, changes))


def _path_in(project: str, at: str) -> str:
    path = parse_address(at, project).path
    if path is None or path == "/":
        raise NotFoundError(f"{at} names no file: write repo@branch:/path", kind="no_path")
    return path
