"""Secrets: keys can be read, values cannot."""

from __future__ import annotations

from pydantic import Field

from trunkline.wire.base import Ask, Wire


class Secret(Wire):
    namespace: str
    name: str
    type: str
    keys: tuple[str, ...]
    created_at: float


class ApplySecret(Ask):
    type: str = "Opaque"
    data: dict[str, str] = Field(default_factory=dict)
    """Values in base64, as Kubernetes has them."""
    string_data: dict[str, str] = Field(default_factory=dict)
    """Values as they are."""
