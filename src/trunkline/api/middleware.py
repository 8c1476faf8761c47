"""What happens round every request: its ID, the checks that need no route, and the last line of defence.

One plain ASGI callable: Starlette's own base class would run every answer through another task and buffer.
"""

from __future__ import annotations

import re
import uuid
from http.cookies import CookieError, SimpleCookie
from urllib.parse import unquote_to_bytes, urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from trunkline.access.model import Identity
from trunkline.access.service import AccessService
from trunkline.api import errors
from trunkline.api.auth import IDENTITY_KEY, OPEN_PATHS
from trunkline.errors import (
    InvalidInputError,
    LimitError,
    PermissionDeniedError,
    TrunklineError,
    UnauthenticatedError,
)

REQUEST_ID_HEADER = "x-request-id"
COOKIE = "trunkline_console"
BODY_LIMIT_KEY = "trunkline.body_bytes_max"
"""In the ASGI scope: how large the body may be; None for those that are streamed to disk."""
LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost", "::1"})

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Guard:
    """Request ID, host and origin, token, size of the body; an unexpected exception becomes a plain 500."""

    def __init__(self, app: ASGIApp, *, access: AccessService, host: str | None, body_bytes_max: int) -> None:
        self._app = app
        self._access = access
        self._body_bytes_max = body_bytes_max
        # Behind a name of its own, a server cannot know all the names it has; and there, too, a page that rebinds its
        # name to us has neither our cookie (it belongs to another host) nor a token.
        self._hosts = LOOPBACK_NAMES | {host} if host is not None else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get(REQUEST_ID_HEADER, "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        errors.request_id.set(request_id)
        scope[BODY_LIMIT_KEY] = self._body_bytes_max
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                MutableHeaders(scope=message)[REQUEST_ID_HEADER] = request_id
            await send(message)

        try:
            _check_text(scope)
            self._check_host(headers)
            scope[IDENTITY_KEY] = await self._identify(scope["path"], headers)
            await self._app(scope, _bounded(scope, receive), send_with_id)
        except TrunklineError as error:
            await _refuse(error, headers)(scope, receive, send_with_id)
        except Exception:
            if started:
                raise  # half an answer is out: only dropping the connection tells the client
            await errors.answer(errors.unexpected())(scope, receive, send_with_id)

    def _check_host(self, headers: Headers) -> None:
        """Against DNS rebinding: a page from elsewhere whose name was made to point to this machine."""
        host = headers.get("host", "")
        if self._hosts is not None and _host_name(host) not in self._hosts:
            raise PermissionDeniedError(f"the host name {host!r} is not this server's", kind="bad_host")
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            raise PermissionDeniedError(f"requests from pages of {origin!r} are refused", kind="bad_origin")

    async def _identify(self, path: str, headers: Headers) -> Identity | None:
        if path in OPEN_PATHS:
            return None
        token = token_of(headers)
        if token is None:
            raise UnauthenticatedError(
                "no token: send 'Authorization: Bearer TOKEN' with the token of the data directory's 'token' file",
                kind="no_token",
            )
        if self._access.is_remembered(token):
            return self._access.check(token)
        return await run_in_threadpool(self._access.check, token)


def _check_text(scope: Scope) -> None:
    """Servers put U+FFFD where a URL is not UTF-8: a file would silently get another name."""
    for raw in (scope.get("raw_path") or b"", scope["query_string"]):
        if b"%" in raw:
            try:
                unquote_to_bytes(raw).decode()
            except UnicodeDecodeError as error:
                raise InvalidInputError("the URL is not UTF-8", kind="bad_url") from error


def token_of(headers: Headers) -> str | None:
    """The token that a request carries, unchecked."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    try:
        cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return None
    return cookie.value if cookie is not None else None


def _host_name(host: str) -> str:
    return (urlsplit(f"//{host}").hostname or "").lower()


def _bounded(scope: Scope, receive: Receive) -> Receive:
    """``receive`` that counts, and stops at the limit that the scope names at that moment."""
    size = 0

    async def counted() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        limit = scope[BODY_LIMIT_KEY]
        if limit is not None and size > limit:
            raise LimitError(
                f"the request body is larger than {limit} bytes (setting 'request_bytes_max')",
                kind="body_too_large",
            )
        return message

    return counted


def _refuse(error: TrunklineError, headers: Headers) -> Response:
    if isinstance(error, UnauthenticatedError) and "text/html" in headers.get("accept", ""):
        text = "Not signed in. Run 'trunkline status' and open the console link that it prints.\n"
        return Response(text, status_code=401, media_type="text/plain")
    return errors.answer(error)
