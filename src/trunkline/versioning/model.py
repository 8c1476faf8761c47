"""The nouns of versioned data. All frozen; mutable state is in rows that only ``store.py`` touches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

from trunkline.core.filestream import Source
from trunkline.core.ids import BranchName, CommitId, ProjectName, RepoName, TagName, TreeHash


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
class Trigger:
    """When a branch moves to the head of another one by itself: at the next commit that meets the conditions."""

    branch: BranchName
    """The watched branch, of the same repo."""
    size: str | None = None
    """The new head has so many bytes more than the old one, e.g. ``100MB``."""
    commits: int | None = None
    """There are so many commits since the old head."""
    rate_limit: str | None = None
    """The next time of this schedule after the old head has passed, e.g. ``@every 1h``."""
    cron: str | None = None
    """At the times of this schedule, whatever happened; stands alone."""
    all: bool = False
    """All conditions must be met, not just one of them."""


@dataclass(frozen=True, kw_only=True)
class Branch:
    project: ProjectName
    repo: RepoName
    name: BranchName
    head: CommitId | None
    provenance: tuple[str, ...]
    """What it follows directly, as ``project/repo@branch``."""
    subvenance: tuple[str, ...]
    """What follows it directly."""
    trigger: Trigger | None
    created_at: float


@dataclass(frozen=True, kw_only=True)
class BranchDetails(Branch):
    """A branch with all that it follows and all that follows it, directly or not."""

    all_provenance: tuple[str, ...]
    all_subvenance: tuple[str, ...]


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
class CommitDetails(Commit):
    """A commit with all that it was made from and what was made from it, directly or not."""

    all_provenance: tuple[str, ...]
    all_subvenance: tuple[str, ...]
    """The first thousand, by their beginning."""
    has_more_subvenance: bool


@dataclass(frozen=True, kw_only=True)
class CommitSet:
    """All commits that share one ID."""

    id: CommitId
    commits: tuple[Commit, ...]
    created_at: float


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One step of a transaction: the name of a use case, and its arguments as plain values."""

    kind: str
    arguments: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Transaction:
    """Operations that wait to be applied together."""

    id: CommitId
    """That of the commit set that it will make."""
    operations: tuple[Operation, ...]
    created_at: float


@dataclass(frozen=True, kw_only=True)
class FinishedTransaction:
    """What a transaction did: each operation with what it gave."""

    id: CommitId
    operations: tuple[Operation, ...]
    answers: tuple[Any, ...]


@dataclass(slots=True, kw_only=True)
class FileInfo:
    """A file or a directory of a tree. (Not frozen: there may be millions, and to make one would take much longer.)"""

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


class TreePart(NamedTuple):
    """Part of a stored tree, to be part of another one: all that is below ``prefix``, by the paths below that."""

    label: str
    """Whose it is, for a person to read."""
    root: TreeHash
    prefix: str
    """``/folder``; empty: the whole tree."""


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
    parts: Iterable[bytes | memoryview] = ()
    modified_at: float | None = None
    executable: bool = False
    append: bool = False
    modified_ns: int | None = None
    """Nanoseconds since the epoch; goes before ``modified_at``, which is not exact."""
    source: Source | None = None
    """Where the content comes from instead, if it can be received straight into the store's buffers."""


@dataclass(frozen=True, kw_only=True)
class PutStream:
    """Write all files of a stream of ours below ``into``, as ``PutFile`` would one after the other."""

    source: Source
    into: str = "/"
    append: bool = False


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


@dataclass(frozen=True, kw_only=True)
class JoinFiles:
    """Write a file of other trees' files, one behind the other; overwrites. Their chunks are used again, so it costs little
    more than their number."""

    path: str
    sources: Sequence[tuple[TreeHash, str]]
    """Trees, and the path of a file in each."""
    modified_at: float | None = None


Change = PutFile | PutStream | PutContent | DeletePath | CopyTree | JoinFiles


@dataclass(frozen=True, kw_only=True)
class DiffEntry:
    op: str
    """``added``, ``deleted`` or ``changed``."""
    old: FileInfo | None
    new: FileInfo | None


@dataclass(frozen=True, kw_only=True)
class Upload:
    """A file that arrives in numbered parts; nothing of it is in any commit until it is completed."""

    id: str
    address: str
    """Where it will be written: ``project/repo@branch`` or ``project/repo@branch=ID``."""
    path: str
    modified_at: float | None
    created_at: float


@dataclass(frozen=True, kw_only=True)
class UploadPart:
    number: int
    root: TreeHash
    """A tree that holds the part as its only file."""
    hash: str
    size: int
    created_at: float


# --- history ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Tag:
    """A name for one commit, which protects it."""

    project: ProjectName
    repo: RepoName
    name: TagName
    commit: CommitId
    description: str
    created_at: float


@dataclass(frozen=True, kw_only=True)
class Removed:
    """What a squash or drop took away, and what it began."""

    commits: tuple[Commit, ...]
    """As they were."""
    opened: tuple[Commit, ...] = ()
    """New AUTO commits on branches that follow others, so that they follow the heads that these have now."""


@dataclass(frozen=True, kw_only=True)
class MergeConflict:
    path: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Merge:
    """What a merge did, or would do."""

    commit: Commit | None
    """None for a dry run, and where the target has all of the source already."""
    base: CommitId | None
    """The nearest common ancestor; None where the target had no commits."""
    is_up_to_date: bool
    added: int
    deleted: int
    changed: int
    conflicts: tuple[MergeConflict, ...] = ()
    """Those that a strategy has settled, the first of them."""
    conflict_count: int = 0


@dataclass(frozen=True, kw_only=True)
class FoundCommit:
    """A commit that touched a path."""

    commit: Commit
    op: str
    """What it did to the path: ``added``, ``deleted`` or ``changed``."""
    old: FileInfo | None
    new: FileInfo | None
