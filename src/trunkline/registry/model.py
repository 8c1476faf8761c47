"""The nouns of the registry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trunkline.core.ids import TreeHash

LATEST = "latest"
"""The version reference that always means the newest; no version or alias may be called so."""


@dataclass(frozen=True, kw_only=True)
class Model:
    id: int
    name: str
    description: str
    labels: tuple[str, ...]
    metadata: dict[str, Any]
    version_count: int
    created_at: float


@dataclass(frozen=True, kw_only=True)
class ModelVersion:
    model: str
    number: int
    """1, 2, 3 … in the order of registration."""
    name: str
    """The commit set's ID, where one caused it."""
    checkpoint: str | None
    """UUID of the checkpoint it was made from."""
    checkpoint_root: TreeHash | None
    package_root: TreeHash | None
    """The model store's tree, which a service loads; None until the version is packaged."""
    metrics: dict[str, Any]
    metadata: dict[str, Any]
    notes: str
    aliases: tuple[str, ...]
    created_at: float
