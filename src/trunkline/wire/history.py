"""Squash, drop, merge, and the commits that touched a path."""

from __future__ import annotations

from typing import Literal

from trunkline.wire.base import Ask, Wire
from trunkline.wire.commits import Commit
from trunkline.wire.files import FileInfo


class RemoveCommits(Ask):
    at: str
    """A commit's address, or an ID alone for the whole commit set."""
    recursive: bool = False
    """Also what was made from it."""


class Removed(Wire):
    """What a squash or drop took away, and what it began."""

    commits: tuple[Commit, ...]
    opened: tuple[Commit, ...]
    """New commits on branches that follow others, from the heads that these have now."""


class MergeBranch(Ask):
    source: str
    """What is merged: the address of a branch, tag or commit."""
    target: str
    """The branch that it is merged into."""
    description: str = ""
    strategy: Literal["ours", "theirs"] | None = None
    """Who wins where both have changed the same: the target, or the source. None: nothing is merged then."""
    dry_run: bool = False


class MergeConflict(Wire):
    path: str
    reason: str


class Merge(Wire):
    """What a merge did, or would do."""

    commit: Commit | None
    """None for a dry run, and where the target had all of the source already."""
    base: str | None
    """ID of the nearest common ancestor; None where the target had no commits."""
    is_up_to_date: bool
    added: int
    deleted: int
    changed: int
    conflicts: tuple[MergeConflict, ...]
    """Those that the strategy has settled, the first of them."""
    conflict_count: int


class FoundCommit(Wire):
    """A commit that touched a path."""

    commit: Commit
    op: str
    """What it did to the path: ``added``, ``deleted`` or ``changed``."""
    old: FileInfo | None
    new: FileInfo | None
