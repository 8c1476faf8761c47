"""Metric values as they are stored: JSON that every reader can parse. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from trunkline.errors import InvalidInputError

GROUP_LENGTH_MAX = 64
NAMES_MAX = 1000


def stored_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Metric values with NaN and the infinities as strings, which JSON has no numbers for.

    :raises InvalidInputError: ``too_many_metrics``.
    """
    if len(values) > NAMES_MAX:
        raise InvalidInputError(
            f"{len(values)} metrics in one report: the limit is {NAMES_MAX}", kind="too_many_metrics"
        )
    return {str(name): _stored(value) for name, value in values.items()}


def check_group(group: str) -> str:
    """:raises InvalidInputError: ``bad_name``."""
    if not group.strip() or len(group) > GROUP_LENGTH_MAX:
        raise InvalidInputError(
            f"metric group {group!r} is not allowed: a word of at most {GROUP_LENGTH_MAX} characters",
            kind="bad_name",
        )
    return group


def check_steps(steps: int) -> int:
    """:raises InvalidInputError: ``bad_steps``."""
    if steps < 0:
        raise InvalidInputError(f"steps must not be negative, not {steps}", kind="bad_steps")
    return steps


def _stored(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, Mapping):
        return {str(name): _stored(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_stored(inner) for inner in value]
    return value
