"""Commits and commit sets."""

from __future__ import annotations

from typing import Literal

from trunkline.wire.base import Ask, Wire


class Commit(Wire):
    project: str
    repo: str
    branch: str
    id: str
    parent: str | None
    origin: Literal["user", "auto"]
    status: Literal["open", "finished"]
    description: str
    error: str | None
    """Why its job failed."""
    root: str | None
    """Tree hash of its files."""
    size: int
    file_count: int
    provenance: tuple[str, ...]
    """Direct upstream commits as ``project/repo@ID``."""
    created_at: float
    finished_at: float | None

    @property
    def is_finished(self) -> bool:
        return self.status == "finished"


class CommitDetails(Commit):
    """A commit with all that it was made from and what was made from it, directly or not."""

    all_provenance: tuple[str, ...]
    all_subvenance: tuple[str, ...]
    """The first thousand, by their beginning."""
    has_more_subvenance: bool


class CommitSet(Wire):
    """All commits that share one ID."""

    id: str
    commits: tuple[Commit, ...]
    created_at: float

    @property
    def is_finished(self) -> bool:
        return all(commit.is_finished for commit in self.commits)


class StartCommit(Ask):
    branch: str = "master"
    description: str = ""


class FinishCommit(Ask):
    at: str
    description: str | None = None
