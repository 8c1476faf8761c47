"""Where the server is, what calls are signed with, how long to be patient, and its errors as our own classes.

Standard library only, and little of it: commands that move files start with this and no more.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from trunkline import errors
from trunkline.errors import TrunklineError, UnavailableError
from trunkline.sdk import config

BACKOFF_SECONDS_MIN = 0.1
BACKOFF_SECONDS_MAX = 3.0
ERROR_HEADER = "x-trunkline-error"
"""Response header that names the error's class: one HTTP status can stand for several."""

TRANSACTION_HEADER = "x-trunkline-transaction"
"""Request header with a transaction's ID; ``wire.transactions`` says what it does."""

CLASS_OF_STATUS: dict[int, type[TrunklineError]] = {
    400: errors.InvalidInputError, 401: errors.UnauthenticatedError, 403: errors.PermissionDeniedError,
    404: errors.NotFoundError, 409: errors.ConflictError, 413: errors.LimitError,
    422: errors.InvalidInputError, 429: errors.LimitError, 503: errors.UnavailableError,
}  # fmt: skip
"""For answers without the header: something between us and the server made them."""

Query = Mapping[str, Any]
T = TypeVar("T")


def path_of(*parts: str | int) -> str:
    """``/v1/`` and the parts, each quoted whole: ``path_of("projects", "a/b")`` is ``/v1/projects/a%2Fb``."""
    return "/v1/" + "/".join(quoted(str(part)) for part in parts)


_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-~")


def quoted(text: str) -> str:
    """Percent-encoded, slashes too, as ``urllib.parse.quote(text, safe="")`` does it; importing that takes longer than all
    of a small command's own work.

    :raises InvalidInputError: ``bad_address``, for what is not UTF-8.
    """
    try:
        data = text.encode()
    except UnicodeEncodeError as error:
        shown = text.encode("utf-8", "backslashreplace").decode()
        raise errors.InvalidInputError(f"{shown!r} is not valid UTF-8", kind="bad_address") from error
    return "".join(chr(byte) if byte in _UNRESERVED else f"%{byte:02X}" for byte in data)


def encode_query(query: Query | None) -> str:
    """``?a=1&b=true``; None is left out, lists are repeated."""
    pairs = []
    for name, value in (query or {}).items():
        for one in value if type(value) in (list, tuple) else [value]:  # an address is one, too
            if one is not None:
                pairs.append((name, str(one).lower() if isinstance(one, bool) else str(one)))
    return "?" + "&".join(f"{quoted(name)}={quoted(value)}" for name, value in pairs) if pairs else ""


class Endpoint:
    """One server, which may be restarted elsewhere while we speak with it. Safe to share between threads."""

    def __init__(self, url: str | None = None, token: str | None = None, retry_seconds: float = 0) -> None:
        self._url = url.rstrip("/") if url is not None else None
        self._may_move = url is None or config.home_is_named()
        self._token = token
        self.retry_seconds = retry_seconds
        self.transaction: str | None = None
        """The transaction that gathers what is changed through this client; None: it happens at once."""

    @property
    def url(self) -> str:
        """The server's address, e.g. ``http://127.0.0.1:8900``."""
        if self._url is None:
            self._url = config.find_url().rstrip("/")
        return self._url

    @property
    def token(self) -> str:
        """What the calls are signed with."""
        if self._token is None:
            self._token = config.find_token()
        return self._token

    @property
    def project(self) -> str:
        """The project that is meant where none is named: inside a job the job's own, else ``default``."""
        return config.environment_project() or "default"

    def _in(self, project: str | None, *parts: str) -> str:
        return path_of("projects", project or self.project, *parts)

    def _gathering(self) -> dict[str, str]:
        """The header that every request has, or none."""
        return {} if self.transaction is None else {TRANSACTION_HEADER: self.transaction}

    def _patiently(self, attempt: Callable[[], T]) -> T:
        """Repeat what finds no server, for ``retry_seconds``."""
        if not self.retry_seconds:
            return attempt()
        import random  # noqa: PLC0415 (brings hashlib and more along)

        deadline = time.monotonic() + self.retry_seconds
        pause = BACKOFF_SECONDS_MIN
        while True:
            try:
                return attempt()
            except UnavailableError as error:
                if time.monotonic() + pause >= deadline or error.kind == "not_replayable":
                    raise
            time.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(pause * 2, BACKOFF_SECONDS_MAX)
            self._follow_the_server()

    def _follow_the_server(self) -> None:
        """A server that was restarted may be at another port; its data directory says where. Not for an address that a
        person gave: what is written there speaks of another server."""
        if self._may_move and (found := config.recorded_url()) is not None:
            self._url = found.rstrip("/")


def unreachable(url: str, *, timed_out: bool) -> UnavailableError:
    """The error for a server that does not answer."""
    reason = "did not answer in time" if timed_out else "does not answer"
    return UnavailableError(
        f"the server at {url} {reason}: start it with 'trunkline up', if it does not run",
        kind="unreachable",
    )


def value_of(data: bytes) -> Any:
    """What an answer says; None if it is empty.

    :raises UnavailableError: ``unexpected_answer``, if it is not JSON: something else than our server made it.
    """
    try:
        return json.loads(data) if data else None
    except ValueError as error:
        raise UnavailableError(
            "what answers is no trunkline server: it sends no JSON; check TRUNKLINE_URL",
            kind="unexpected_answer",
        ) from error


def error_of(status: int, reason: str | None, error_class: str | None, data: bytes) -> TrunklineError:
    """The very error that the server raised, from its answer."""
    try:
        body = json.loads(data)["error"]
        message, kind, details = str(body["message"]), str(body["kind"]), dict(body.get("details") or {})
        if body.get("request_id"):
            details.setdefault("request_id", body["request_id"])
    except (ValueError, KeyError, TypeError):
        message, kind, details = f"the server answered {status} {reason}", "unexpected_answer", {}
    return error_named(error_class, CLASS_OF_STATUS.get(status, errors.InternalError))(
        message, kind=kind, details=details
    )


def error_named(name: str | None, otherwise: type[TrunklineError]) -> type[TrunklineError]:
    """The error class of that name."""
    named = getattr(errors, name or "", None)
    return named if isinstance(named, type) and issubclass(named, TrunklineError) else otherwise
