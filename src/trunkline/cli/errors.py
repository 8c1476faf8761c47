"""One table from error class to exit code."""

from __future__ import annotations

from trunkline import errors
from trunkline.errors import TrunklineError

EXIT: dict[type[TrunklineError], int] = {
    errors.InvalidInputError: 2,
    errors.UnauthenticatedError: 3,
    errors.PermissionDeniedError: 3,
    errors.NotFoundError: 4,
    errors.AlreadyExistsError: 5,
    errors.ConflictError: 5,
    errors.StateError: 5,
    errors.LimitError: 6,
    errors.UnavailableError: 7,
    errors.CorruptionError: 70,
    errors.InternalError: 70,
}
INTERRUPTED = 130


def exit_code(error: TrunklineError) -> int:
    """The exit code of an error, by the nearest class in the table."""
    return next((EXIT[kind] for kind in type(error).__mro__ if kind in EXIT), 70)
