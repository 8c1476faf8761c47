"""Conditional requests (RFC 9110, section 13), on reading, copying and writing."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from trunkline.core.ids import TreeHash
from trunkline.doors.s3.call import Call
from trunkline.doors.s3.errors import S3Error
from trunkline.doors.s3.look import Seen, is_later, look, matches
from trunkline.errors import ConflictError
from trunkline.versioning.model import FileInfo


class NotModifiedError(Exception):
    """The client has it already: 304."""


def check_read(headers: Mapping[str, str], info: FileInfo, modified_at: float, prefix: str = "") -> None:
    """:raises NotModifiedError: or ``S3Error`` ``PreconditionFailed``. ``prefix``: in front of the headers' names."""
    if_match, if_none_match = headers.get(prefix + "if-match"), headers.get(prefix + "if-none-match")
    if if_match is not None:
        if not matches(if_match, info):
            raise failed("If-Match")
    elif is_later(headers.get(prefix + "if-unmodified-since", ""), modified_at) is True:
        raise failed("If-Unmodified-Since")
    if if_none_match is not None:
        if matches(if_none_match, info):
            raise failed("If-None-Match") if prefix else NotModifiedError
    elif is_later(headers.get(prefix + "if-modified-since", ""), modified_at) is False:
        raise failed("If-Modified-Since") if prefix else NotModifiedError


def check_write(call: Call, key: str) -> Callable[[TreeHash], None]:
    """What must hold of the tree when a file is written. A directory is not replaced by a file unasked."""
    bucket = call.bucket
    if_match, if_none_match = call.headers.get("if-match"), call.headers.get("if-none-match")

    def check(root: TreeHash) -> None:
        seen = Seen(bucket=bucket, commit=None, root=root)
        present = look(call.services, seen, key)
        if if_match is not None and (present is None or not matches(if_match, present)):
            raise failed("If-Match")
        if if_none_match is not None and present is not None and matches(if_none_match, present):
            raise failed("If-None-Match")
        if present is None and look(call.services, seen, key + "/") is not None:
            raise ConflictError(
                f"{key!r} cannot be written: there are objects below {key + '/'!r}; delete those first",
                kind="path_collision",
            )

    return check


def failed(condition: str) -> S3Error:
    return S3Error("PreconditionFailed", f"the condition {condition} does not hold", 412, Condition=condition)
