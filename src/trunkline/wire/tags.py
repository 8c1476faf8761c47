"""Tags."""

from __future__ import annotations

from trunkline.wire.base import Ask, Wire


class Tag(Wire):
    """A name for one commit, which protects it."""

    project: str
    repo: str
    name: str
    commit: str
    description: str
    created_at: float


class CreateTag(Ask):
    name: str
    commit: str = "master"
    """A branch, tag or ID of the same repo, ancestry included."""
    description: str = ""
    move: bool = False
    """Let an existing tag name another commit."""
