"""Keeping data: collection, checks, purges, backups."""

from __future__ import annotations

from typing import Any

from trunkline.wire.base import Ask, Wire


class AskGc(Ask):
    """``grace_seconds``: packs that are younger are left alone; None: what the server's settings say."""

    grace_seconds: float | None = None
    dry_run: bool = False


class GcReport(Wire):
    """What a collection found and did; bytes are as stored."""

    dry_run: bool
    packs: int
    pack_bytes: int
    live_bytes: int
    dead_bytes: int
    young_bytes: int
    reclaimable_bytes: int
    orphans: int
    orphan_bytes: int
    temporary_files: int
    temporary_bytes: int
    packs_deleted: int
    packs_rewritten: int
    freed_bytes: int


class Problem(Wire):
    """Something stored that is lost or damaged, and what refers to it."""

    kind: str
    what: str
    message: str
    referred_by: tuple[str, ...]


class AskFsck(Ask):
    repair: bool = False


class FsckReport(Wire):
    """What a check looked at and found."""

    problems: list[Problem]
    problems_more: int
    packs: int
    pack_bytes: int
    roots: int
    orphans: int
    orphan_bytes: int
    repaired: list[str]
    advice: list[str]


class AskPurge(Ask):
    """``address``: ``[project/]repo:/path``."""

    address: str
    everywhere: bool = False
    force: bool = False
    dry_run: bool = False
    why: str = ""


class PurgedContent(Wire):
    path: str
    hash: str
    size: int


class Purge(Wire):
    """A purge: what it was, where it was, and what was built from it."""

    id: int | None
    project: str
    repo: str
    path: str
    everywhere: bool
    who: str
    why: str
    state: str
    contents: list[PurgedContent]
    report: dict[str, Any]
    created_at: float


class AskBackup(Ask):
    """``target``: a folder on the server's machine, or a bucket's URL; ``keep``: so many backups stay there."""

    target: str
    keep: int | None = None


class Backup(Wire):
    """What a backup consists of."""

    id: str
    created_at: float
    trunkline: str
    database_size: int
    packs: int
    pack_bytes: int


class BackupReport(Wire):
    """What a backup did."""

    manifest: Backup
    packs_copied: int
    bytes_copied: int
    backups_deleted: int


class Work(Wire):
    """What goes on in the whole store right now; ``what`` is empty if nothing does."""

    what: str
    step: str
    done: int
    total: int
