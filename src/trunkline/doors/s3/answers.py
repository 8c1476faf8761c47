"""The shapes of answers."""

from __future__ import annotations

from starlette.responses import Response

from trunkline.doors.s3.errors import S3Error
from trunkline.doors.s3.xmltext import Xml, document, tag

XML = "application/xml"


def xml(root: str, *inside: Xml, headers: dict[str, str] | None = None) -> Response:
    """A document."""
    return Response(document(root, *inside), media_type=XML, headers=headers)


def empty(status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Nothing but headers."""
    return Response(status_code=status, headers=headers)


def error_body(error: S3Error, resource: str, request_id: str) -> bytes:
    """What went wrong."""
    return document(
        "Error",
        tag("Code", error.code),
        tag("Message", error.message),
        tag("Resource", resource),
        tag("RequestId", request_id),
        *(tag(name, value) for name, value in error.fields.items()),
        namespace=False,
    )
