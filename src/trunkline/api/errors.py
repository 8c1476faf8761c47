"""One table from error class to HTTP status, and the one shape of an error's body."""

from __future__ import annotations

import contextvars
import logging
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from trunkline import errors
from trunkline.errors import InternalError, InvalidInputError, NotFoundError, TrunklineError

log = logging.getLogger(__name__)

STATUS: dict[type[TrunklineError], int] = {
    errors.InvalidInputError: 422,
    errors.UnauthenticatedError: 401,
    errors.PermissionDeniedError: 403,
    errors.NotFoundError: 404,
    errors.AlreadyExistsError: 409,
    errors.ConflictError: 409,
    errors.StateError: 409,
    errors.LimitError: 429,
    errors.UnavailableError: 503,
    errors.CorruptionError: 500,
    errors.InternalError: 500,
}
SIZE_KINDS = frozenset({"body_too_large", "file_too_large", "disk_full"})
"""Kinds of ``LimitError`` that waiting does not help: 413."""
ERROR_HEADER = "x-trunkline-error"
"""Names the error's class, so that the SDK can raise the same: one status may stand for several."""

request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="")


def status_of(error: TrunklineError) -> int:
    """The HTTP status of an error, by the nearest class in the table."""
    if isinstance(error, errors.LimitError) and error.kind in SIZE_KINDS:
        return 413
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), 500)


def answer(error: TrunklineError) -> JSONResponse:
    """The response for an error."""
    body = {
        "kind": error.kind,
        "message": error.message,
        "details": error.details,
        "request_id": request_id.get(),
    }
    headers = {ERROR_HEADER: type(error).__name__}
    if isinstance(error, errors.UnauthenticatedError):
        headers["www-authenticate"] = 'Bearer realm="trunkline"'
    return JSONResponse({"error": body}, status_code=status_of(error), headers=headers)


def unexpected() -> InternalError:
    """What a caller is told of a bug: nothing but where to look. Called while the exception is handled."""
    log.exception("request %s failed", request_id.get())
    return InternalError(
        f"internal error: the server's log has the trace under request {request_id.get()}", kind="internal"
    )


async def on_trunkline_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, TrunklineError), "registered for this class only"
    if status_of(error) >= 500 and not isinstance(error, errors.UnavailableError):
        log.error("request %s: %s", request_id.get(), error)
    return answer(error)


async def on_http_exception(_request: Request, error: Exception) -> Response:
    """Starlette's own: no such route, wrong method; and FastAPI's wrapper round what broke while a body was read."""
    assert isinstance(error, HTTPException), "registered for this class only"
    if isinstance(error.__cause__, TrunklineError):
        return answer(error.__cause__)
    if error.status_code == 404:
        return answer(NotFoundError("no such path: /docs lists them all", kind="no_such_route"))
    response = answer(InvalidInputError(str(error.detail), kind="bad_request"))
    response.status_code = error.status_code
    return response


async def on_validation_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError), "registered for this class only"
    problems = [_problem(found) for found in error.errors()]
    return answer(
        InvalidInputError(
            "; ".join(problem["message"] for problem in problems),
            kind="bad_field",
            details={"fields": problems},
        )
    )


def _problem(found: dict[str, Any]) -> dict[str, str]:
    """One field's problem. The value itself is left out: it may be a secret."""
    where = [str(part) for part in found["loc"] if part not in ("body", "query", "path")]
    name = ".".join(where) or "body"
    if found["type"] == "unknown_field":
        return {"field": ".".join([*where, found["ctx"]["name"]]), "message": found["msg"]}
    if found["type"] == "json_invalid":
        return {"field": "body", "message": f"the body is not JSON: {found.get('ctx', {}).get('error', '')}"}
    return {"field": name, "message": f"{name}: {found['msg']}"}
