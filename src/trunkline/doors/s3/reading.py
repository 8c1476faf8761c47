"""``GetObject`` and ``HeadObject``."""

from __future__ import annotations

import re

from starlette.responses import Response

from trunkline.api.ranges import parse_range
from trunkline.api.stream import streamed_batches
from trunkline.doors.s3.answers import empty, xml
from trunkline.doors.s3.call import Call
from trunkline.doors.s3.conditions import NotModifiedError, check_read
from trunkline.doors.s3.errors import S3Error, not_implemented
from trunkline.doors.s3.look import MTIME, Seen, content_type, etag, find, http_time, matches, see
from trunkline.doors.s3.xmltext import tag
from trunkline.versioning.model import FileInfo

OVERRIDES = (
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-type",
    "expires",
)
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\xa0-\xff]*")


def get_object(call: Call) -> Response:
    """A file, or a range of it, as it is read; a directory (its key ends with ``/``) is an empty object."""
    if call.query.get("partNumber", "1") != "1":
        raise not_implemented("reading an object by its parts")
    seen = see(call.services, call.bucket, call.query.get("versionId"))
    info = find(call, seen, call.key)
    headers = _headers(call, seen, info)
    try:
        check_read(call.headers, info, seen.modified_at(info))
    except NotModifiedError:
        return empty(304, {name: headers[name] for name in ("etag", "last-modified")})
    size = 0 if info.is_dir else info.size
    offset, length, status = 0, size, 200
    if (found := parse_range(_range_of(call, info), size)) is not None:
        offset, length = found
        if length == 0:
            raise S3Error(
                "InvalidRange",
                f"the range lies behind the end of {size} bytes",
                416,
                ActualObjectSize=str(size),
            )
        headers["content-range"] = f"bytes {offset}-{offset + length - 1}/{size}"
        status = 206
    headers["content-length"] = str(length)
    if call.method == "HEAD" or info.is_dir:
        return empty(status, headers)
    batches = call.content(seen.tree, info.path, offset, length)
    return streamed_batches(batches, media_type=headers["content-type"], headers=headers, status=status)


def _range_of(call: Call, info: FileInfo) -> str | None:
    condition = call.headers.get("if-range")
    return call.headers.get("range") if condition is None or matches(condition, info) else None


def _headers(call: Call, seen: Seen, info: FileInfo) -> dict[str, str]:
    headers = {
        "accept-ranges": "bytes",
        "content-type": content_type(call.key),
        "etag": etag(info),
        "last-modified": http_time(seen.modified_at(info)) if not info.is_dir else http_time(0),
    }
    if seen.commit is not None:
        headers["x-amz-version-id"] = seen.commit.id
    if info.modified_at is not None:
        headers[MTIME] = f"{info.modified_at:.9f}".rstrip("0").rstrip(".")
    for name in OVERRIDES:
        value = call.query.get(f"response-{name}")
        if value is not None:
            if not _HEADER_VALUE.fullmatch(value):
                raise S3Error("InvalidArgument", f"response-{name} is no value for a header")
            headers[name] = value
    return headers


def get_tagging(call: Call) -> Response:
    """There are no tags; some clients ask before they copy."""
    find(call, see(call.services, call.bucket, call.query.get("versionId")), call.key)
    return xml("Tagging", tag("TagSet"))
