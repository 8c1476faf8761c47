"""``ListObjects``, versions 1 and 2. A page costs what it shows."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterator
from itertools import islice
from urllib.parse import quote

from starlette.responses import Response

from trunkline.doors.s3.answers import xml
from trunkline.doors.s3.call import Call
from trunkline.doors.s3.errors import S3Error
from trunkline.doors.s3.look import Seen, etag, see, xml_time
from trunkline.doors.s3.xmltext import Xml, many, tag
from trunkline.versioning.model import FileInfo

KEYS_MAX = 1000
KEY_BYTES_MAX = 8192
OWNER = many(tag("ID", "trunkline"), tag("DisplayName", "trunkline"))

Item = tuple[str, FileInfo | None]


def list_objects(call: Call) -> Response:
    """``GET /bucket``, with ``list-type=2`` or without."""
    version = call.query.get("list-type", "1")
    if version not in ("1", "2"):
        raise S3Error("InvalidArgument", "list-type can only be 2", ArgumentName="list-type")
    encode = encoder(call)
    seen = see(call.services, call.bucket)
    prefix, delimiter = _text(call, "prefix"), _text(call, "delimiter")
    limit = call.integer("max-keys", KEYS_MAX, KEYS_MAX)
    after = _start_after(call) if version == "2" else _text(call, "marker")
    found = list(islice(_items(call, seen, prefix, delimiter, after), limit + 1)) if limit else []
    items, is_truncated = found[:limit], len(found) > limit
    last = items[-1][0] if is_truncated else None
    elements = [
        tag("Name", call.bucket_name),
        tag("Prefix", encode(prefix)),
        *([tag("Delimiter", encode(delimiter))] if delimiter else []),
        tag("MaxKeys", str(limit)),
        *([tag("EncodingType", "url")] if "encoding-type" in call.query else []),
        tag("IsTruncated", "true" if is_truncated else "false"),
        *(_position_v2 if version == "2" else _position_v1)(call, len(items), last),
    ]
    with_owner = version == "1" or call.query.get("fetch-owner") == "true"
    for key, info in items:
        if info is None:
            elements.append(tag("CommonPrefixes", tag("Prefix", encode(key))))
        else:
            elements.append(_contents(seen, encode(key), info, with_owner=with_owner))
    return xml("ListBucketResult", *elements)


def _items(call: Call, seen: Seen, prefix: str, delimiter: str, after: str) -> Iterator[Item]:
    if seen.root is None:
        return iter(())
    return call.services.versioning.scan(seen.root, prefix, delimiter=delimiter, after=after)


def _contents(seen: Seen, key: str, info: FileInfo, *, with_owner: bool) -> Xml:
    return tag(
        "Contents",
        tag("Key", key),
        tag("LastModified", xml_time(seen.modified_at(info))),
        tag("ETag", etag(info)),
        tag("Size", str(info.size)),
        *([tag("Owner", OWNER)] if with_owner else []),
        tag("StorageClass", "STANDARD"),
    )


def _position_v1(call: Call, _count: int, last: str | None) -> list[Xml]:
    encode = encoder(call)
    marker = [tag("Marker", encode(call.query.get("marker", "")))]
    return marker if last is None else [*marker, tag("NextMarker", encode(last))]


def _position_v2(call: Call, count: int, last: str | None) -> list[Xml]:
    elements = [tag("KeyCount", str(count))]
    if "start-after" in call.query:
        elements.append(tag("StartAfter", encoder(call)(call.query["start-after"])))
    if "continuation-token" in call.query:
        elements.append(tag("ContinuationToken", call.query["continuation-token"]))
    if last is not None:
        elements.append(tag("NextContinuationToken", base64.urlsafe_b64encode(last.encode()).decode()))
    return elements


def _start_after(call: Call) -> str:
    """A token is the last key that was shown, in base64: it survives restarts, and changes in between."""
    if "continuation-token" not in call.query:
        return _text(call, "start-after")
    try:
        token = call.query["continuation-token"].encode()
        return base64.b64decode(token, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError) as error:
        raise S3Error("InvalidArgument", "the continuation token is none that was given") from error


def _text(call: Call, name: str) -> str:
    text = call.query.get(name, "")
    if len(text) > KEY_BYTES_MAX:
        raise S3Error("InvalidArgument", f"{name} is too long", ArgumentName=name)
    return text


def encoder(call: Call) -> Callable[[str], str]:
    """How keys are written into an answer: as they are, or percent-encoded where that was asked for."""
    wanted = call.query.get("encoding-type")
    if wanted not in (None, "url"):
        raise S3Error("InvalidArgument", "encoding-type can only be url", ArgumentName="encoding-type")
    return (lambda key: quote(key, safe="/-_.~")) if wanted else (lambda key: key)
