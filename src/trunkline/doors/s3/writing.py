"""``PutObject``, ``CopyObject``, ``DeleteObject`` and ``DeleteObjects``: each is one commit, or a write into an open one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from starlette.responses import Response

from trunkline.core.ids import TreeHash
from trunkline.doors.s3.answers import empty, xml
from trunkline.doors.s3.call import Call
from trunkline.doors.s3.conditions import check_read, check_write
from trunkline.doors.s3.errors import S3Error, no_such_key, not_implemented
from trunkline.doors.s3.look import MTIME, Seen, etag, look, mtime_of, path_of, see, xml_time
from trunkline.doors.s3.signature import decode_uri
from trunkline.doors.s3.xmltext import Xml, parse, tag
from trunkline.errors import ConflictError
from trunkline.versioning.model import Commit, CopyTree, DeletePath, FileInfo, PutFile

DELETES_MAX = 1000


def put_object(call: Call) -> Response:
    """A file. An empty object whose key ends with ``/`` marks a directory; those exist by their files, so nothing is kept."""
    see(call.services, call.bucket)
    if call.key.endswith("/") and not call.key.startswith("/"):
        return _put_marker(call)
    change = PutFile(
        path=path_of(call.key), parts=call.parts(), modified_at=mtime_of(call.headers, call.services.clock.now())
    )  # fmt: skip
    with call.room():
        commit, info = _write(call, change)
    given = {name: value for name, value in call.verified.items() if name.startswith("x-amz-")}
    return empty(headers={"etag": etag(info), "x-amz-version-id": commit.id, **given})


def _put_marker(call: Call) -> Response:
    if any(call.parts()):
        raise S3Error(
            "InvalidArgument",
            f"key {call.key!r} ends with '/': only an empty object can be there",
            Key=call.key,
        )
    return empty(headers={"etag": '"d41d8cd98f00b204e9800998ecf8427e"'})


def _write(call: Call, change: PutFile | CopyTree) -> tuple[Commit, FileInfo]:
    versioning = call.services.versioning
    commit = versioning.modify(
        call.bucket.project,
        call.bucket.address,
        [change],
        check=check_write(call, call.key),
        as_owner=call.bucket.owner,
    )
    assert commit.root is not None, "it was just written"
    return commit, versioning.stat(commit.root, change.path)


@dataclass(frozen=True, kw_only=True)
class Source:
    """What is copied."""

    seen: Seen
    info: FileInfo


def source_of(call: Call) -> Source:
    """The file that ``x-amz-copy-source`` names, if its conditions hold.

    :raises S3Error: ``NoSuchKey``, ``PreconditionFailed`` or ``InvalidArgument``.
    """
    text, _, query = call.headers["x-amz-copy-source"].partition("?")
    bucket, slash, key = decode_uri(text.encode("latin-1")).removeprefix("/").partition("/")
    if not slash or not key:
        raise S3Error("InvalidArgument", "x-amz-copy-source must read /bucket/key")
    version = query.removeprefix("versionId=") if query.startswith("versionId=") else None
    seen = see(call.services, call.bucket_named(bucket), version)
    info = look(call.services, seen, key)
    if info is None:
        raise no_such_key(key)
    if not info.is_dir:
        check_read(call.headers, info, seen.modified_at(info), "x-amz-copy-source-")
    return Source(seen=seen, info=info)


def copy_object(call: Call) -> Response:
    """On the server, and free: the copy shares its content with the source."""
    _ = call.document()
    see(call.services, call.bucket)
    source = source_of(call)
    if source.info.is_dir:
        if not call.key.endswith("/"):
            raise S3Error("InvalidArgument", f"key {call.key!r} names a file, its source a directory")
        return _copied(source.info, call.services.clock.now(), None)
    commit, info = _write(call, _copy_of(call, source))
    return _copied(info, info.modified_at or call.services.clock.now(), commit)


def _copy_of(call: Call, source: Source) -> PutFile | CopyTree:
    path, tree = path_of(call.key), source.seen.tree
    directive = call.headers.get("x-amz-metadata-directive", "COPY")
    if directive not in ("COPY", "REPLACE"):
        raise S3Error("InvalidArgument", "x-amz-metadata-directive can be COPY or REPLACE")
    if directive == "COPY" or MTIME not in call.headers:
        return CopyTree(path=path, root=tree, source_path=source.info.path)
    return PutFile(
        path=path, parts=call.services.versioning.read(tree, source.info.path), executable=source.info.executable,
        modified_at=mtime_of(call.headers, call.services.clock.now()),
    )  # fmt: skip


def _copied(info: FileInfo, at: float, commit: Commit | None) -> Response:
    headers: dict[str, str] = {} if commit is None else {"x-amz-version-id": commit.id}
    return xml(
        "CopyObjectResult", tag("ETag", etag(info)), tag("LastModified", xml_time(at)), headers=headers
    )


def delete_object(call: Call) -> Response:
    """Not an error if it is absent; then there is no commit."""
    if "versionId" in call.query:
        raise not_implemented("deleting from a commit that was made")
    _delete(call, [call.key])
    return empty(204)


def delete_objects(call: Call) -> Response:
    """Up to 1,000 keys, in one commit."""
    asked = parse(call.document(), "Delete")
    objects = list(asked.all("Object"))
    if not 1 <= len(objects) <= DELETES_MAX:
        raise S3Error("MalformedXML", f"from 1 to {DELETES_MAX} objects can be deleted at once")
    errors = [_no_version(one.get("Key")) for one in objects if one.get("VersionId") not in ("", "null")]
    keys = [one.get("Key") for one in objects if one.get("VersionId") in ("", "null")]
    _delete(call, keys)
    is_quiet = asked.get("Quiet").strip().lower() == "true"
    done = [] if is_quiet else [tag("Deleted", tag("Key", key)) for key in keys]
    return xml("DeleteResult", *done, *errors)


def _no_version(key: str) -> Xml:
    error = not_implemented("deleting from a commit that was made")
    return tag("Error", tag("Key", key), tag("Code", error.code), tag("Message", error.message))


def _delete(call: Call, keys: Sequence[str]) -> None:
    services, bucket = call.services, call.bucket
    seen = see(services, bucket)
    present = [
        key for key in dict.fromkeys(keys) if not key.endswith("/") and look(services, seen, key) is not None
    ]

    def check(root: TreeHash) -> None:
        now = Seen(bucket=bucket, commit=None, root=root)
        for key in present:
            if (
                look(services, now, key + "/") is not None
            ):  # what became a directory must not go with all in it
                raise ConflictError(f"{key!r} was replaced meanwhile: repeat the request", kind="busy")

    if present:
        services.versioning.modify(
            bucket.project,
            bucket.address,
            [DeletePath(path="/" + key) for key in present],
            check=check,
            as_owner=bucket.owner,
        )
