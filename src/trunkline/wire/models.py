"""Models of the registry and their versions."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from trunkline.wire.base import Ask, Wire


class Model(Wire):
    id: int
    name: str
    description: str
    labels: tuple[str, ...]
    metadata: dict[str, Any]
    version_count: int
    created_at: float


class CreateModel(Ask):
    name: str
    description: str = ""
    labels: list[str] = Field(default_factory=list)
    metadata: dict[str, Any] = Field(default_factory=dict)
    exist_ok: bool = False


class ModelVersion(Wire):
    model: str
    number: int
    name: str
    """The commit set's ID, where one caused it."""
    checkpoint: str | None
    checkpoint_root: str | None
    package_root: str | None
    """The tree that a service loads; None until the version is packaged."""
    metrics: dict[str, Any]
    metadata: dict[str, Any]
    notes: str
    aliases: tuple[str, ...]
    created_at: float


class CreateModelVersion(Ask):
    name: str
    checkpoint: str | None = None
    checkpoint_root: str | None = None
    metrics: dict[str, Any] = Field(default_factory=dict)
    metadata: dict[str, Any] = Field(default_factory=dict)
    notes: str = ""


class SetPackage(Ask):
    root: str


class SetAlias(Ask):
    ref: str
