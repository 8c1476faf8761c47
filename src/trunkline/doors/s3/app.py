"""The application: finds the operation of a request, checks who asks, and says errors as S3 does."""

from __future__ import annotations

import contextlib
import logging
import threading
import uuid
from collections.abc import Callable
from typing import cast

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import request_response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from trunkline.doors.s3 import bucketops, listing, multipart, reading, writing
from trunkline.doors.s3.answers import XML, error_body
from trunkline.doors.s3.call import LARGE_READS_MAX, LARGE_WRITES_MAX, Call, Room, call_of
from trunkline.doors.s3.errors import S3Error, not_implemented, translate
from trunkline.doors.s3.gate import admit, check_scope, narrow
from trunkline.errors import TrunklineError, UnavailableError
from trunkline.services import Services

log = logging.getLogger(__name__)

UNREAD_BYTES_MAX = 2**20
Operation = Callable[[Call], Response]

SERVICE: dict[tuple[str, str], Operation] = {("GET", ""): bucketops.list_buckets}
BUCKET: dict[tuple[str, str], Operation] = {
    ("GET", ""): listing.list_objects,
    ("GET", "location"): bucketops.get_location,
    ("GET", "versioning"): bucketops.get_versioning,
    ("GET", "uploads"): multipart.list_uploads,
    ("HEAD", ""): bucketops.head_bucket,
    ("PUT", ""): bucketops.create_bucket,
    ("PUT", "versioning"): bucketops.put_versioning,
    ("POST", "delete"): writing.delete_objects,
    ("DELETE", ""): bucketops.delete_bucket,
}
OBJECT: dict[tuple[str, str], Operation] = {
    ("GET", ""): reading.get_object,
    ("GET", "uploadId"): multipart.list_parts,
    ("GET", "tagging"): reading.get_tagging,
    ("HEAD", ""): reading.get_object,
    ("PUT", ""): writing.put_object,
    ("PUT", "copy"): writing.copy_object,
    ("PUT", "uploadId"): multipart.upload_part,
    ("PUT", "uploadId copy"): multipart.upload_part_copy,
    ("POST", "uploads"): multipart.create_upload,
    ("POST", "uploadId"): multipart.complete_upload,
    ("DELETE", ""): writing.delete_object,
    ("DELETE", "uploadId"): multipart.abort_upload,
}
SUBRESOURCES = frozenset({
    "accelerate", "acl", "analytics", "attributes", "cors", "delete", "encryption", "intelligent-tiering", "inventory",
    "legal-hold", "lifecycle", "location", "logging", "metadataConfiguration", "metadataTable", "metrics", "notification",
    "object-lock", "ownershipControls", "policy", "policyStatus", "publicAccessBlock", "renameObject", "replication",
    "requestPayment", "restore", "retention", "select", "session", "tagging", "torrent", "uploadId", "uploads",
    "versioning", "versions", "website",
})  # fmt: skip
"""Words in a query that make it another operation."""


def create_app(services: Services, stopping: threading.Event) -> Starlette:
    """The door over ``services``. When ``stopping`` is set, requests that wait for their bodies end."""
    app = Starlette(middleware=[Middleware(_ClosesUnasked)])
    app.router.default = request_response(_answer)  # no pattern of a route matches a key with a line break
    app.state.services = services
    app.state.stopping = stopping
    app.state.for_jobs = False
    app.state.writes, app.state.reads = Room(LARGE_WRITES_MAX), Room(LARGE_READS_MAX)
    return app


def create_app_for_jobs(services: Services, stopping: threading.Event) -> Starlette:
    """The same for jobs alone: each sees its own buckets, by the names of its inputs."""
    app = create_app(services, stopping)
    app.state.for_jobs = True
    return app


class _ClosesUnasked:
    """Ends the connection where a client that waits for a '100 Continue' gets its answer instead: what comes next on it would
    be taken for the body."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        waits = "100-continue" in Headers(scope=scope).get("expect", "").lower()

        async def receive_asked() -> Message:
            nonlocal waits
            waits = False
            return await receive()

        async def send_checked(message: Message) -> None:
            if waits and message["type"] == "http.response.start":
                MutableHeaders(scope=message)["connection"] = "close"
            await send(message)

        await self._app(scope, receive_asked, send_checked)


async def _answer(request: Request) -> Response:
    request_id = uuid.uuid4().hex
    response = await _respond(request, request_id)
    response.headers["x-amz-request-id"] = request_id
    return response


async def _respond(request: Request, request_id: str) -> Response:
    call: Call | None = None
    try:
        call = call_of(cast(Services, request.app.state.services), request)
        return await run_in_threadpool(_perform, call)
    except S3Error as error:
        found = error
    except TrunklineError as error:
        found = translate(error)
        if found.status >= 500 and not isinstance(error, UnavailableError):
            log.error("request %s: %s", request_id, error)
    except Exception:
        log.exception("request %s failed", request_id)
        found = S3Error("InternalError", f"internal error: the server's log has it as {request_id}", 500)
    if call is not None and _should_drain(call):
        with contextlib.suppress(UnavailableError):
            await call.body.drain()
    return _error(request, found, request_id)


def _perform(call: Call) -> Response:
    admit(call)
    if call.for_jobs:
        narrow(call)
    operation = operation_of(call)
    check_scope(call, is_read=call.method in ("GET", "HEAD"))
    return operation(call)


def operation_of(call: Call) -> Operation:
    """What a request asks for.

    :raises S3Error: ``NotImplemented`` or ``MethodNotAllowed``.
    """
    word = next((name for name, _ in call.pairs if name in SUBRESOURCES), "")
    if call.method == "PUT" and "x-amz-copy-source" in call.headers:
        word = f"{word} copy".strip()
    table = OBJECT if call.key else BUCKET if call.bucket_name else SERVICE
    found = table.get((call.method, word))
    if found is not None:
        return found
    if word and call.method in ("GET", "HEAD", "PUT", "POST", "DELETE"):
        raise not_implemented(f"{call.method} of {word!r}")
    raise S3Error("MethodNotAllowed", f"{call.method} is not allowed here", 405, Method=call.method)


def _should_drain(call: Call) -> bool:
    """A client hears why only if its body is read. A stranger's is read only if it is small and on its way already."""
    if call.signing is not None:
        return True
    size, expect = call.headers.get("content-length", ""), call.headers.get("expect", "")
    return not expect and size.isascii() and size.isdigit() and int(size) <= UNREAD_BYTES_MAX


def _error(request: Request, error: S3Error, request_id: str) -> Response:
    headers = (
        {"content-range": f"bytes */{error.fields['ActualObjectSize']}"} if error.status == 416 else None
    )
    if request.method == "HEAD":
        return Response(status_code=error.status, headers=headers)
    body = error_body(error, request.url.path, request_id)
    return Response(body, status_code=error.status, media_type=XML, headers=headers)
