"""Pages for people: the console, the reference of the API, and the door that a one-time link opens."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse
from starlette.responses import Response

from trunkline import console
from trunkline.access.model import Scope
from trunkline.access.service import CONSOLE_SECONDS
from trunkline.api.auth import GuardedRoute, allow
from trunkline.api.deps import Use
from trunkline.api.middleware import COOKIE
from trunkline.api.routes.server import everything

router = APIRouter(route_class=GuardedRoute, include_in_schema=False)

HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
}


@router.get("/healthz")
def healthz() -> Response:
    return PlainTextResponse("ok\n")


@router.get("/login")
def login(link: str, use: Use) -> Response:
    """Exchange a one-time link for a cookie."""
    answer = RedirectResponse("/", status_code=303, headers=HEADERS)
    # Lax, not Strict: the first page after the redirect was asked for by whatever program opened the link.
    answer.set_cookie(
        COOKIE, use.access.redeem(link), max_age=int(CONSOLE_SECONDS), httponly=True, samesite="lax", path="/"
    )
    return answer


@router.get("/")
@allow(Scope.CONSOLE)
def index(use: Use) -> Response:
    return HTMLResponse(console.index_page(use), headers=HEADERS)


@router.get("/id/{commit_id}")
@allow(Scope.CONSOLE)
def id_page(commit_id: str, use: Use) -> Response:
    return HTMLResponse(console.id_page(everything(use, commit_id)), headers=HEADERS)


@router.get("/style.css")
@allow(Scope.CONSOLE)
def style() -> Response:
    return Response(console.stylesheet(), media_type="text/css")


@router.get("/docs")
@allow(Scope.CONSOLE)
def docs(request: Request) -> Response:
    return HTMLResponse(console.reference_page(_schema(request)), headers=HEADERS)


@router.get("/openapi.json")
@allow(Scope.CONSOLE)
def openapi(request: Request) -> Response:
    return JSONResponse(_schema(request))


def _schema(request: Request) -> dict[str, Any]:
    schema: dict[str, Any] = request.app.openapi()
    return schema
