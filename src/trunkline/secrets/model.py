"""What a secret looks like from outside: never its values."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_NAMESPACE = "default"


@dataclass(frozen=True, kw_only=True)
class Namespace:
    name: str
    created_at: float


@dataclass(frozen=True, kw_only=True)
class Secret:
    namespace: str
    name: str
    type: str
    keys: tuple[str, ...]
    created_at: float
