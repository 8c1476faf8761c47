"""Points in time as people say them on a command line. Pure."""

from __future__ import annotations

import re
from datetime import datetime

from trunkline.errors import InvalidInputError

UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)", re.ASCII)
_WHOLE = re.compile(rf"(?:{_PART.pattern})+", re.ASCII)


def moment(text: str, now: float) -> float:
    """``24h``, ``90m``, ``1d12h`` ago, or a date or time in ISO 8601 (local, where it does not say): seconds since 1970.

    :raises InvalidInputError: ``bad_time``.
    """
    if _WHOLE.fullmatch(text):
        return now - sum(float(number) * UNITS[unit] for number, unit in _PART.findall(text))
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError) as error:
        raise InvalidInputError(
            f"{text!r} is no time: write how long ago, as 24h or 90m, or a time as 2026-01-31T12:00:00Z",
            kind="bad_time",
        ) from error
