"""What buckets and keys mean right now: trees, paths, entity tags, times."""

from __future__ import annotations

import mimetypes
import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime

from starlette.datastructures import Headers

from trunkline.core.ids import DEFAULT_BRANCH, TreeHash, is_commit_id
from trunkline.doors.s3.buckets import Bucket
from trunkline.doors.s3.call import Call
from trunkline.doors.s3.errors import S3Error, no_such_key
from trunkline.errors import InvalidInputError, NotFoundError
from trunkline.services import Services
from trunkline.versioning.model import Commit, FileInfo

MTIME = "x-amz-meta-mtime"
"""Where S3 clients that keep modification times (rclone, s3fs-fuse) put them, in seconds since the Unix epoch."""
DIRECTORY_TYPE = "application/x-directory"
_TYPES = mimetypes.MimeTypes()  # Python's own table: the same answer on every machine


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A bucket at one moment."""

    bucket: Bucket
    commit: Commit | None
    """None: a branch without commits."""
    root: TreeHash | None

    @property
    def tree(self) -> TreeHash:
        """:raises S3Error: ``NoSuchKey`` where there is nothing yet."""
        if self.root is None:
            raise S3Error("NoSuchKey", "the bucket is empty", 404)
        return self.root

    def modified_at(self, info: FileInfo) -> float:
        """A file's own time, or that of the commit."""
        if info.modified_at is not None:
            return info.modified_at
        assert self.commit is not None, "a file was found in it"
        return self.commit.finished_at or self.commit.created_at


def see(services: Services, bucket: Bucket, version: str | None = None) -> Seen:
    """A bucket as it is, or as it was in a commit (``versionId``).

    :raises NotFoundError: if it does not exist.
    """
    address = bucket.address
    if version is not None and version not in ("", "null"):
        if not is_commit_id(version):
            raise S3Error("InvalidArgument", f"{version!r} is no version: versions are IDs of commits")
        if bucket.is_pinned and version != bucket.commit:
            raise S3Error("NoSuchVersion", f"a job sees version {bucket.commit} of this bucket", 404)
        address = replace(bucket, commit=version).address
    versioning = services.versioning
    try:
        commit, root, _ = versioning.resolve(bucket.project, address)
    except NotFoundError as error:
        if error.kind not in ("no_commit", "no_branch") or bucket.commit is not None or version:
            raise
        if error.kind == "no_commit":
            versioning.inspect_branch(bucket.project, bucket.address)  # there is a branch, and nothing on it
        elif bucket.branch != DEFAULT_BRANCH or not is_fresh(services, bucket.project, bucket.repo):
            raise
        return Seen(bucket=bucket, commit=None, root=None)
    return Seen(bucket=bucket, commit=commit, root=root)


def is_fresh(services: Services, project: str, repo: str) -> bool:
    """Whether a repo was made and never used: then its ``master`` may be written to, although it does not exist yet."""
    if services.versioning.inspect_repo(project, repo).branches:
        return False
    return not services.versioning.list_commits(project, repo, limit=1)


def path_of(key: str) -> str:
    """The path of a key that is to be written.

    :raises S3Error: ``InvalidArgument`` or ``KeyTooLongError``; the services refuse what else cannot be a path.
    """
    if key.startswith("/") or key.endswith("/"):
        raise S3Error("InvalidArgument", f"key {key!r} names no file: it begins or ends with '/'", Key=key)
    return "/" + key


def find(call: Call, seen: Seen, key: str) -> FileInfo:
    """The file of a key.

    :raises S3Error: ``NoSuchKey``, also for keys that no file can have.
    """
    found = look(call.services, seen, key)
    if found is None:
        raise no_such_key(key)
    return found


def look(services: Services, seen: Seen, key: str) -> FileInfo | None:
    """The file of a key, if there is one. A directory has one, too, whose key ends with ``/``: an empty object, as clients
    make them to mark one."""
    if seen.root is None or key.startswith("/"):
        return None
    try:
        info = services.versioning.stat(seen.root, "/" + key)
    except (NotFoundError, InvalidInputError):
        return None
    if key.endswith("/") != info.is_dir or key == "":
        return None
    return info


def etag(info: FileInfo) -> str:
    """The content's hash. The suffix is that of objects made of parts, so that nobody takes it for an MD5."""
    return f'"{info.hash}-1"'


def hash_of_etag(text: str) -> str:
    """The content's hash in an ETag that we gave."""
    return text.strip().strip('"').removesuffix("-1")


def http_time(at: float) -> str:
    """``Wed, 12 Oct 2009 17:50:00 GMT``; times that no calendar has are cut to those that one has."""
    return format_datetime(_moment(at), usegmt=True)


def xml_time(at: float) -> str:
    """``2009-10-12T17:50:30.000Z``."""
    return _moment(at).strftime("%Y-%m-%dT%H:%M:%S.") + f"{int(at * 1000) % 1000:03d}Z"


def _moment(at: float) -> datetime:
    return datetime.fromtimestamp(min(max(at, 0), 253402300799), UTC)


def content_type(key: str) -> str:
    """Guessed by the name."""
    if key.endswith("/"):
        return DIRECTORY_TYPE
    kind, encoding = _TYPES.guess_type(key, strict=False)
    if encoding is not None:
        return "application/gzip" if encoding == "gzip" else "application/octet-stream"
    return kind or "application/octet-stream"


def mtime_of(headers: Headers, now: float) -> float:
    """When a file that is put was changed: what the client says, or now."""
    text = headers.get(MTIME, "")
    return float(text) if re.fullmatch(r"\d{1,12}(\.\d{1,12})?", text) else now


def matches(header: str, info: FileInfo) -> bool:
    """Whether an ``If-Match`` or ``If-None-Match`` header names a file's content."""
    return any(
        one.strip() == "*" or one.strip().removeprefix("W/").strip('"') == etag(info).strip('"')
        for one in header.split(",")
    )


def is_later(header: str, at: float) -> bool | None:
    """Whether a time lies behind the one in a header; None where that cannot be read."""
    try:
        return int(at) > parsedate_to_datetime(header).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
