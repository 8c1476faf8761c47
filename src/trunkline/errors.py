"""Every error that trunkline raises on purpose, in one tree grouped by what the handler would do.

A class says how to react (its HTTP status and CLI exit code are tables in ``api/errors.py`` and ``cli/errors.py``);
``kind`` is the stable, greppable name of the exact case, for programs; the message is for people and says what went
wrong, with which object, and what to do next.
"""

from __future__ import annotations

from typing import Any, ClassVar


class TrunklineError(Exception):
    """Base of all errors. ``kind`` defaults to the class's own; ``details`` must be JSON-serialisable."""

    default_kind: ClassVar[str] = "error"

    def __init__(
        self, message: str, *, kind: str | None = None, details: dict[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.kind = kind or self.default_kind
        self.details = details or {}

    def __str__(self) -> str:
        return self.message


class InvalidInputError(TrunklineError, ValueError):
    """What was asked is malformed: fix the request."""

    default_kind = "invalid_input"


class UnauthenticatedError(TrunklineError):
    """No token, or one that is not known (any more)."""

    default_kind = "unauthenticated"


class PermissionDeniedError(TrunklineError):
    """The token is good, but not for this."""

    default_kind = "permission_denied"


class NotFoundError(TrunklineError, LookupError):
    """A name or ID that does not exist."""

    default_kind = "not_found"


class AlreadyExistsError(TrunklineError):
    """The name is taken."""

    default_kind = "already_exists"


class ConflictError(TrunklineError):
    """A race was lost, or two things contradict each other: read again, then decide."""

    default_kind = "conflict"


class StateError(TrunklineError):
    """Not allowed in the present state."""

    default_kind = "wrong_state"


class LimitError(TrunklineError):
    """A bound was reached: size, count or rate."""

    default_kind = "limit"


class UnavailableError(TrunklineError):
    """Not now; the same call may succeed later."""

    default_kind = "unavailable"


class CorruptionError(TrunklineError):
    """Stored bytes are not what their name says."""

    default_kind = "corruption"


class InternalError(TrunklineError):
    """A broken invariant of trunkline itself."""

    default_kind = "internal"
