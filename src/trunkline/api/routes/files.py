"""Files of commits: one by one, as listings, and as whole directories in a tar stream."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Annotated

from fastapi import Header, Response

from trunkline.access.model import Scope
from trunkline.api.archives import answer_with, changes_in
from trunkline.api.auth import allow
from trunkline.api.changes import changes_of, copied, deletions, file_of
from trunkline.api.deps import Accept, At, Body, Caller, ContentType, Use
from trunkline.api.paging import PAGE_ITEMS_DEFAULT, Cursor, Limit, answer_rows, tree_cursor
from trunkline.api.ranges import behind_the_end, parse_range
from trunkline.api.routes import new_router
from trunkline.api.spouts import writes_as
from trunkline.api.stream import streamed_batches
from trunkline.core.ids import TreeHash
from trunkline.core.paths import parse_address
from trunkline.errors import InvalidInputError, NotFoundError, PermissionDeniedError
from trunkline.versioning.model import Change, PutFile
from trunkline.versioning.model import FileInfo as StoredFile
from trunkline.wire.base import Page
from trunkline.wire.commits import Commit
from trunkline.wire.files import ChangeFiles, CopyFile, CopyIn, Delete, DiffEntry, FileInfo, TreeInfo

router = new_router("files")


@router.get("/projects/{project}/files", response_class=Response)
@allow(Scope.JOB)
def get_file(
    project: str, at: At, use: Use, byte_range: Annotated[str | None, Header(alias="range")] = None
) -> Response:
    _, root, path = use.versioning.resolve(project, at)
    path = file_of(use, root, path)
    info = use.versioning.stat(root, path)
    offset, length = (parse_range(byte_range, info.size) if info.size else None) or (0, None)
    headers = {"accept-ranges": "bytes", "etag": f'"{info.hash}"'}
    if length == 0:
        return behind_the_end(path, info.size)
    if length is not None:
        headers["content-range"] = f"bytes {offset}-{offset + length - 1}/{info.size}"
    headers["content-length"] = str(info.size if length is None else length)
    batches = use.versioning.read_range(root, path, offset=offset, length=length)
    return streamed_batches(
        batches, media_type="application/octet-stream", headers=headers, status=200 if length is None else 206
    )


@router.put("/projects/{project}/files")
@allow(Scope.JOB)
def put_file(
    project: str, at: At, body: Body, use: Use, caller: Caller, append: bool = False, mtime: float | None = None,
    executable: bool = False, mtime_ns: int | None = None,
) -> Commit:  # fmt: skip
    owner = writes_as(use, caller, project, at)
    change = PutFile(
        path=_path_in(project, at),
        source=body,
        modified_at=mtime,
        modified_ns=mtime_ns,
        executable=executable,
        append=append,
    )
    return _modified(use, project, at, [change], owner=owner)


@router.delete("/projects/{project}/files")
@allow(Scope.JOB)
def delete_file(project: str, at: At, use: Use, caller: Caller, recursive: bool = True) -> Commit:
    owner = writes_as(use, caller, project, at)
    ask = Delete(path=_path_in(project, at), recursive=recursive)
    return _modified(use, project, at, deletions(use, project, at, [ask]), owner=owner)


@router.post("/projects/{project}/files/copy")
def copy_file(project: str, ask: CopyFile, use: Use) -> Commit:
    change = copied(use, project, ask.source, _path_in(project, ask.to, root=True), ask.append)
    return _modified(use, project, ask.to, [change])


@router.post("/projects/{project}/files/change")
@allow(Scope.JOB)
def change_files(project: str, ask: ChangeFiles, use: Use, caller: Caller) -> Commit:
    owner = writes_as(use, caller, project, ask.at)
    if owner is not None and any(one.op not in ("take", "delete") for one in ask.changes):
        raise PermissionDeniedError("the token of a spout may only put and delete files", kind="wrong_scope")
    return _modified(use, project, ask.at, changes_of(use, project, ask), ask.description, owner=owner)


@router.post("/projects/{project}/files/copy-in")
def copy_in_files(project: str, ask: CopyIn, use: Use) -> TreeInfo:
    _, root, path = use.versioning.resolve(project, ask.at)
    return TreeInfo.model_validate(use.versioning.copy_in(root, path))


@router.put("/projects/{project}/unpack")
def unpack_archive(project: str, at: At, body: Body, use: Use, append: bool = False) -> Commit:
    into = parse_address(at, project).path or "/"
    return _modified(
        use, project, at, use.sources.unpack((bytes(part) for part in body.parts()), into=into, append=append)
    )


@router.get("/projects/{project}/tree", response_model=Page[FileInfo])
@allow(Scope.JOB)
def list_files(
    project: str, at: At, use: Use, glob: str | None = None, walk: bool = False, limit: Limit = PAGE_ITEMS_DEFAULT,
    cursor: Cursor = None,
) -> Response:  # fmt: skip
    _, root, path = use.versioning.resolve(project, at)
    [root], after = tree_cursor(cursor, 1) or ([root], None)
    if glob is not None:
        found: Iterable[StoredFile] = use.versioning.glob(root, glob, after=after)
    else:
        found = (use.versioning.walk if walk else use.versioning.list_dir)(root, path, after=after)
    return answer_rows(
        FileInfo, found, limit, lambda file: root + file.path, lambda files: _linked(use, files)
    )


@router.get("/projects/{project}/stat")
@allow(Scope.JOB)
def inspect_file(project: str, at: At, use: Use) -> FileInfo:
    _, root, path = use.versioning.resolve(project, at)
    return FileInfo.model_validate(_linked(use, [use.versioning.stat(root, path)])[0])


@router.get("/projects/{project}/diff", response_model=Page[DiffEntry])
@allow(Scope.JOB)
def diff_files(
    project: str, at: At, use: Use, old: str | None = None, shallow: bool = False, limit: Limit = PAGE_ITEMS_DEFAULT,
    cursor: Cursor = None,
) -> Response:  # fmt: skip
    commit, new_root, path = use.versioning.resolve(project, at)
    if old is not None:
        old_root = _other_root(use, project, old, path)
    elif commit.parent is not None:
        _, old_root, _ = use.versioning.resolve(commit.project, f"{commit.repo}@{commit.parent}")
    else:
        old_root = use.versioning.stage([]).root
    [old_root, new_root], after = tree_cursor(cursor, 2) or ([old_root, new_root], None)
    found = use.versioning.diff(old_root, new_root, path, after=after, shallow=shallow)
    return answer_rows(
        DiffEntry, found, limit, lambda entry: old_root + new_root + (entry.new or entry.old).path
    )


@router.get("/projects/{project}/archive", response_class=Response)
@allow(Scope.JOB)
def get_archive(project: str, at: At, use: Use, glob: str | None = None, accept: Accept = None) -> Response:
    _, root, path = use.versioning.resolve(project, at)
    tops = [path] if glob is None else [info.path for info in use.versioning.glob(root, glob)]
    if not tops:
        raise NotFoundError(f"{at} holds no file that matches {glob}", kind="no_file")
    return answer_with(use.versioning, root, tops, accept)


@router.put("/projects/{project}/archive")
@allow(Scope.JOB)
def put_archive(
    project: str,
    at: At,
    body: Body,
    use: Use,
    caller: Caller,
    append: bool = False,
    content_type: ContentType = None,
) -> Commit:
    owner = writes_as(use, caller, project, at)
    into = parse_address(at, project).path or "/"
    return _modified(use, project, at, changes_in(body, content_type, into=into, append=append), owner=owner)


def _modified(
    use: Use,
    project: str,
    at: str,
    changes: Iterable[Change],
    description: str = "",
    *,
    owner: str | None = None,
) -> Commit:
    address = at.partition(":")[0]
    return Commit.model_validate(
        use.versioning.modify(project, address, changes, description, as_owner=owner)
    )


def _linked(use: Use, files: list[StoredFile]) -> list[StoredFile]:
    """The files, with what is linked marked as such."""
    found = use.versioning.linked([file.hash for file in files if not file.is_dir])
    if not found:
        return files
    return [replace(file, linked=found.get(file.hash)) if not file.is_dir else file for file in files]


def _other_root(use: Use, project: str, old: str, path: str) -> TreeHash:
    _, root, old_path = use.versioning.resolve(project, old)
    if parse_address(old, project).path is not None and old_path != path:
        raise InvalidInputError(
            f"{path} and {old_path} are different paths: a difference is of one path in two commits; leave it out of {old}",
            kind="bad_address",
        )
    return root


def _path_in(project: str, at: str, *, root: bool = False) -> str:
    path = parse_address(at, project).path
    if path is None or (path == "/" and not root):
        raise NotFoundError(f"{at} names no file: write repo@branch:/path", kind="no_path")
    return path
