"""Branches."""

from __future__ import annotations

from trunkline.wire.base import Ask, Wire


class Branch(Wire):
    project: str
    repo: str
    name: str
    head: str | None
    provenance: tuple[str, ...]
    """Upstream branches as ``project/repo@branch``."""
    created_at: float


class CreateBranch(Ask):
    name: str
    head: str | None = None
    """A branch of the same repo, or a commit's ID; None: empty."""
