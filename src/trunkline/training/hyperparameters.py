"""Hyperparameters: what an experiment's config may say of them, and points drawn from that. Pure.

A value that is not a map, or a map with ``type: const``, is fixed. A map with another ``type`` is a range. A map without
``type`` groups hyperparameters under a name.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from trunkline.core.suggest import did_you_mean
from trunkline.errors import InvalidInputError


@dataclass(frozen=True, kw_only=True)
class Const:
    value: Any


@dataclass(frozen=True, kw_only=True)
class Categorical:
    values: tuple[Any, ...]


@dataclass(frozen=True, kw_only=True)
class Int:
    """Whole numbers from ``low`` to ``high``, both included."""

    low: int
    high: int
    count: int | None


@dataclass(frozen=True, kw_only=True)
class Double:
    low: float
    high: float
    count: int | None


@dataclass(frozen=True, kw_only=True)
class Log:
    """``base`` to the power of a number between ``low`` and ``high``."""

    base: float
    low: float
    high: float
    count: int | None


@dataclass(frozen=True, kw_only=True)
class Group:
    members: dict[str, Spec]


_Number = TypeVar("_Number", int, float)

Spec = Const | Categorical | Int | Double | Log | Group

_KEYS = {
    "const": ({"val"}, set[str]()),
    "categorical": ({"vals"}, set[str]()),
    "int": ({"minval", "maxval"}, {"count"}),
    "double": ({"minval", "maxval"}, {"count"}),
    "log": ({"minval", "maxval"}, {"base", "count"}),
}
"""Of each type: the keys it must have, and those it may have."""


def parse(given: Mapping[str, Any]) -> Group:
    """The hyperparameters of a config.

    :raises InvalidInputError: ``bad_hyperparameter``, naming which one and what is wrong.
    """
    return _group("", given)


def sample(spec: Spec, rng: random.Random) -> Any:
    """One point; groups are drawn in the order of their sorted names, so a seed always gives the same point."""
    match spec:
        case Const(value=value):
            return value
        case Categorical(values=values):
            return values[rng.randrange(len(values))]
        case Int(low=low, high=high):
            return rng.randint(low, high)
        case Double(low=low, high=high):
            return rng.uniform(low, high)
        case Log(base=base, low=low, high=high):
            return math.pow(base, rng.uniform(low, high))
        case Group(members=members):
            return {name: sample(members[name], rng) for name in sorted(members)}


def _group(path: str, given: Mapping[str, Any]) -> Group:
    return Group(
        members={
            str(name): _spec(f"{path}.{name}" if path else str(name), value) for name, value in given.items()
        }
    )


def _spec(path: str, value: Any) -> Spec:
    if not isinstance(value, Mapping):
        return Const(value=value)
    if "type" not in value:
        return _group(path, value)
    kind = str(value["type"])
    if kind not in _KEYS:
        raise _error(path, f"unknown type {kind!r}{did_you_mean(kind, _KEYS)}; types are {', '.join(_KEYS)}")
    needed, optional = _KEYS[kind]
    given = {str(k): v for k, v in value.items() if k != "type" and (v is not None or k == "val")}
    for key in given:
        if key not in needed | optional:
            raise _error(path, f"unknown key {key!r} for type {kind}{did_you_mean(key, needed | optional)}")
    for key in sorted(needed - set(given)):
        raise _error(path, f"type {kind} needs {key!r}")
    return _typed(path, kind, given)


def _typed(path: str, kind: str, given: dict[str, Any]) -> Spec:
    if kind == "const":
        return Const(value=given["val"])
    if kind == "categorical":
        if not isinstance(given["vals"], list) or not given["vals"]:
            raise _error(path, "'vals' must be a list of at least one value")
        return Categorical(values=tuple(given["vals"]))
    count = _number(path, "count", given["count"], int) if "count" in given else None
    if count is not None and count < 1:
        raise _error(path, f"'count' must be at least 1, not {count}")
    if kind == "int":
        low, high = (_number(path, key, given[key], int) for key in ("minval", "maxval"))
        _check_order(path, low, high)
        return Int(low=low, high=high, count=count)
    least, most = (_number(path, key, given[key], float) for key in ("minval", "maxval"))
    _check_order(path, least, most)
    if kind == "double":
        return Double(low=least, high=most, count=count)
    base = _number(path, "base", given.get("base", 10.0), float)
    if base <= 0:
        raise _error(path, f"'base' must be positive, not {base}")
    return Log(base=base, low=least, high=most, count=count)


def _check_order(path: str, low: float, high: float) -> None:
    if not low < high:
        raise _error(path, f"'minval' ({low}) must be less than 'maxval' ({high})")


def _number(path: str, key: str, value: Any, wanted: Callable[[Any], _Number]) -> _Number:
    try:
        number = wanted(value)
        exact = float(value) == float(number) and math.isfinite(float(number)) and not isinstance(value, bool)
    except (TypeError, ValueError, OverflowError):
        exact = False
    if not exact:
        word = "a whole number" if wanted is int else "a number"
        raise _error(path, f"{key!r} must be {word}, not {value!r}")
    return number


def _error(path: str, problem: str) -> InvalidInputError:
    return InvalidInputError(
        f"hyperparameter {path!r}: {problem}", kind="bad_hyperparameter", details={"hyperparameter": path}
    )
