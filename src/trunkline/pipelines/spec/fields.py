"""The kinds of values that specs are made of: durations, quantities, names."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError


class SpecModel(BaseModel):
    """A part of a spec: unknown fields are refused, both snake_case and camelCase are read, null is as if not said."""

    model_config = ConfigDict(
        extra="forbid", alias_generator=to_camel, validate_by_name=True, validate_by_alias=True, strict=False
    )

    @model_validator(mode="before")
    @classmethod
    def _null_says_nothing(cls, value: Any) -> Any:
        if isinstance(value, dict):
            return {name: inner for name, inner in value.items() if inner is not None}
        return value


def _refuse(value: Any) -> Any:
    if value in (None, False, "", 0, {}, []):
        return None
    raise PydanticCustomError("not_supported", "not supported")


NotSupported = Annotated[Any, BeforeValidator(_refuse)]
"""A field of Pachyderm's that stands for something trunkline does not have: refused unless it says nothing."""


def dropped(instead: str) -> BeforeValidator:
    """A field that Pachyderm once had, and dropped: refused however little it says, with what to do ``instead``."""

    def refuse(_value: Any) -> Any:
        raise PydanticCustomError("dropped", "{instead}", {"instead": instead})

    return BeforeValidator(refuse)


Kept = Any
"""A field that only means something to Kubernetes: kept in the spec, without effect here."""


def _as_text(value: Any) -> Any:
    # YAML turns `PORT: 80` into a number; an environment holds text.
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int | float) else value


EnvValue = Annotated[str, BeforeValidator(_as_text)]

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)")
_UNIT_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def _duration(value: Any) -> Any:
    """Go's durations: ``90s``, ``1h30m``; a bare number is seconds."""
    if value in (None, ""):
        return None
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
    else:
        text = str(value)
        if not text or len(text) > 100 or _DURATION.sub("", text):
            raise PydanticCustomError("bad_duration", "is no duration: write it as 90s, 5m or 1h30m")
        seconds = sum(float(number) * _UNIT_SECONDS[unit] for number, unit in _DURATION.findall(text))
    if not 0 < seconds < SECONDS_MAX:
        raise PydanticCustomError("bad_duration", "must be longer than nothing, and shorter than 100 years")
    return seconds


SECONDS_MAX = 100 * 366 * 86400.0
Seconds = Annotated[float | None, BeforeValidator(_duration)]

_QUANTITY = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(?:[eE](\d{1,2})|([mkKMGTPE]|[KMGTPE]i))?B?")
_FACTORS = {
    "m": 0.001, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18,
    **{f"{unit}i": float(1024**power) for power, unit in enumerate("KMGTPE", 1)},
}  # fmt: skip


def parse_quantity(value: float | str) -> float:
    """Kubernetes' quantities: ``500m``, ``0.5``, ``2G``, ``512Mi``.

    :raises ValueError: for any other text.
    """
    if isinstance(value, int | float):
        return float(value)
    found = _QUANTITY.fullmatch(value.strip()) if len(value) <= 40 else None
    if found is None:
        raise ValueError(value)
    factor = _FACTORS[found[3]] if found[3] else 10.0 ** int(found[2] or 0)
    return float(found[1]) * factor


def _quantity(value: Any) -> Any:
    if value in (None, "", 0):
        return None
    try:
        if isinstance(value, bool) or not isinstance(value, int | float | str) or parse_quantity(value) <= 0:
            raise ValueError(value)
    except ValueError:
        raise PydanticCustomError(
            "bad_quantity", "is no quantity: write it as 0.5, 500m, 2G or 512Mi"
        ) from None
    return value


Quantity = Annotated[float | str | None, BeforeValidator(_quantity)]
