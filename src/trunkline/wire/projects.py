"""Projects."""

from __future__ import annotations

from trunkline.wire.base import Ask, Wire


class Project(Wire):
    name: str
    description: str
    created_at: float


class CreateProject(Ask):
    name: str
    description: str = ""
