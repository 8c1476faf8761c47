"""Branches."""

from __future__ import annotations

from trunkline.wire.base import Ask, Wire


class Trigger(Wire):
    """When a branch moves to the head of another one by itself."""

    branch: str
    """The watched branch, of the same repo."""
    size: str | None
    """So many bytes more than the old head, e.g. ``100MB``."""
    commits: int | None
    """So many commits since the old head."""
    rate_limit: str | None
    """The next time of this schedule after the old head has passed."""
    cron: str | None
    """At the times of this schedule; stands alone."""
    all: bool
    """All conditions must be met, not just one of them."""


class Branch(Wire):
    project: str
    repo: str
    name: str
    head: str | None
    provenance: tuple[str, ...]
    """What it follows directly, as ``project/repo@branch``."""
    subvenance: tuple[str, ...]
    """What follows it directly."""
    trigger: Trigger | None
    created_at: float


class BranchDetails(Branch):
    """A branch with all that it follows and all that follows it, directly or not."""

    all_provenance: tuple[str, ...]
    all_subvenance: tuple[str, ...]


class SetTrigger(Ask):
    branch: str
    size: str | None = None
    commits: int | None = None
    rate_limit: str | None = None
    cron: str | None = None
    all: bool = False


class CreateBranch(Ask):
    name: str
    head: str | None = None
    """A branch of the same repo, or a commit: ``ID``, ``branch=ID``, ``branch^2``; None: as it is, or empty."""
    provenance: list[str] | None = None
    """Branches that it follows from now on; None: as it is; empty: none."""
    trigger: SetTrigger | None = None
    drop_trigger: bool = False
