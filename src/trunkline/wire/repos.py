"""Repos."""

from __future__ import annotations

from trunkline.wire.base import Ask, Wire


class Repo(Wire):
    project: str
    name: str
    description: str
    owner: str | None
    """What it belongs to, e.g. ``pipeline:NAME``; None for a person's repo."""
    branches: tuple[str, ...]
    size: int
    """Bytes at the head of ``master``."""
    created_at: float


class CreateRepo(Ask):
    name: str
    description: str = ""
    update: bool = False
