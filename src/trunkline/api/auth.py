"""Who may call which route: nobody but the owner, unless the route says so.

Authentication (is the token good?) happens before routing, in ``middleware``; authorisation here, when the route is known
and before its body is read. (Async, as all of ASGI is; nothing here blocks.)
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from fastapi.routing import APIRoute
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from trunkline.access.model import Identity
from trunkline.access.model import Scope as AccessScope
from trunkline.api.bodies import JsonRequest
from trunkline.errors import PermissionDeniedError, StateError
from trunkline.wire.transactions import TRANSACTION_HEADER

OPEN_PATHS = frozenset({"/healthz", "/login"})
"""What is answered without a token: a sign of life, and the door that a one-time link opens."""
IDENTITY_KEY = "trunkline.identity"

GATHERED = "__trunkline_gathered__"

_AS_TYPED = {
    "put_archive": "'put file'", "unpack_archive": "'put file'", "unpack_fileset": "'put file'",
    "copy_in_files": "'put file --unlink'", "change_files": "'put file' and 'delete file'",
}  # fmt: skip
"""Of routes whose names are not those of the commands that call them."""

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])


def allow(*scopes: AccessScope) -> Callable[[Endpoint], Endpoint]:
    """Let tokens of these scopes call the route, too. Goes below the route's own decorator."""

    def mark(endpoint: Endpoint) -> Endpoint:
        endpoint.__trunkline_scopes__ = frozenset(scopes)  # type: ignore[attr-defined]
        return endpoint

    return mark


def scopes_of(endpoint: Any) -> frozenset[AccessScope]:
    """Who may call an endpoint."""
    return frozenset({AccessScope.ADMIN}) | getattr(endpoint, "__trunkline_scopes__", frozenset())


def gathered(endpoint: Endpoint) -> Endpoint:
    """The route knows what to do in a transaction. Goes below the route's own decorator; routes that change something and lack
    it are refused in one, rather than done at once."""
    setattr(endpoint, GATHERED, True)
    return endpoint


class GuardedRoute(APIRoute):
    """A route that looks at the caller's scope first. Every router of the API uses it; a test sees to that."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.path not in OPEN_PATHS:
            identity: Identity = scope[IDENTITY_KEY]
            if identity.scope not in scopes_of(self.endpoint):
                raise PermissionDeniedError(
                    f"a token of scope '{identity.scope}' may not {scope['method']} {scope['path']}",
                    kind="wrong_scope",
                    details={"scope": identity.scope},
                )
            self._refuse_outside(scope)
        await super().handle(scope, receive, send)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        answer = super().get_route_handler()

        async def with_json(request: Request) -> Response:
            return await answer(JsonRequest(request.scope, request.receive))

        return with_json

    def _refuse_outside(self, scope: Scope) -> None:
        named = Headers(scope=scope).get(TRANSACTION_HEADER)
        if named and scope["method"] not in ("GET", "HEAD") and not hasattr(self.endpoint, GATHERED):
            what = _AS_TYPED.get(self.name) or f"'{self.name.replace('_', ' ')}'"
            raise StateError(
                f"{what} cannot be part of a transaction: finish transaction {named[:64]} first, or leave it with "
                "'trunkline stop transaction'",
                kind="not_in_transaction",
            )
