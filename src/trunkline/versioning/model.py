"""The nouns of versioned data. All frozen; mutable state is in rows that only ``store.py`` touches."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from trunkline.core.ids import BranchName, CommitId, ProjectName, RepoName, TreeHash


class CommitStatus(StrEnum):
    OPEN = "open"
    FINISHED = "finished"


class Origin(StrEnum):
    USER = "user"
    AUTO = "auto"


@dataclass(frozen=True, kw_only=True)
class Project:
    name: ProjectName
    description: str
    created_at: float


@dataclass(frozen=True, kw_only=True)
class Repo:
    project: ProjectName
    name: RepoName
    description: str
    owner: str | None
    """What it belongs to, e.g. ``pipeline:digits-model``; None for a person's repo."""
    branches: tuple[BranchName, ...]
    size: int
    """Bytes at the head of ``master`` (0 if there is none)."""
    created_at: float


@dataclass(frozen=True, kw_only=True)
class Branch:
    project: ProjectName
    repo: RepoName
    name: BranchName
    head: CommitId | None
    provenance: tuple[str, ...]
    """Upstream branches as ``project/repo@branch``."""
    created_at: float


@dataclass(frozen=True, kw_only=True)
class Commit:
    project: ProjectName
    repo: RepoName
    branch: BranchName
    id: CommitId
    parent: CommitId | None
    origin: Origin
    status: CommitStatus
    description: str
    error: str | None
    """Why its job failed; such a commit is not read as anybody's base."""
    root: TreeHash | None
    size: int
    file_count: int
    provenance: tuple[str, ...]
    """Direct upstream commits as ``project/repo@ID``."""
    created_at: float
    finished_at: float | None

    @property
    def address(self) -> str:
        return f"{self.project}/{self.repo}@{self.id}"


@dataclass(frozen=True, kw_only=True)
class CommitSet:
    """All commits that share one ID."""

    id: CommitId
    commits: tuple[Commit, ...]
    created_at: float


@dataclass(frozen=True, kw_only=True)
class FileInfo:
    path: str
    """Absolute inside the commit: ``/a/b``. A directory's ends with ``/``; the root is ``/``."""
    is_dir: bool
    size: int
    """Of a directory: of all files below it."""
    hash: str
    """64 hex digits that change exactly when the content (for a directory: names and contents below) changes."""
    modified_at: float | None
    executable: bool = False
    modified_ns: int | None = None
    """The same time as ``modified_at``, exactly: nanoseconds since the epoch."""
    groups: tuple[str, ...] | None = None
    """What the brackets ``( )`` of a glob have captured; None outside of globs."""
    linked: str | None = None
    """Where the content lies, if it was linked and never copied in."""


@dataclass(frozen=True, kw_only=True)
class TreeInfo:
    """A stored directory tree that may or may not belong to a commit."""

    root: TreeHash
    size: int
    file_count: int


@dataclass(frozen=True, kw_only=True)
class PutFile:
    """Write a file; overwrites unless ``append``. ``parts`` is consumed once, as it is stored."""

    path: str
    parts: Iterable[bytes | memoryview]
    modified_at: float | None = None
    executable: bool = False
    append: bool = False
    modified_ns: int | None = None
    """Nanoseconds since the epoch; goes before ``modified_at``, which is not exact."""


@dataclass(frozen=True, kw_only=True)
class PutContent:
    """Write a file whose content is known to the store already: stored, or linked."""

    path: str
    size: int
    hash: bytes
    level: int
    modified_ns: int | None = None
    executable: bool = False
    append: bool = False


@dataclass(frozen=True, kw_only=True)
class DeletePath:
    """Delete a file, or a directory with all that is below it. Not an error if it is absent."""

    path: str


@dataclass(frozen=True, kw_only=True)
class CopyTree:
    """Make ``path`` the file or directory ``source_path`` of another tree; shares content, so it is free."""

    path: str
    root: TreeHash
    source_path: str = "/"
    append: bool = False
    """Add the content of each file to the one that is there, instead of replacing what is at ``path``."""
    merge: bool = False
    """Put each file of a directory beside what is below ``path``, instead of replacing that directory."""


Change = PutFile | PutContent | DeletePath | CopyTree


@dataclass(frozen=True, kw_only=True)
class DiffEntry:
    op: str
    """``added``, ``deleted`` or ``changed``."""
    old: FileInfo | None
    new: FileInfo | None
