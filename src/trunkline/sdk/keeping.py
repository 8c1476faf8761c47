"""Keeping data: collection, checks, purges, backups."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trunkline.sdk.live import LiveMethods
from trunkline.sdk.transport import path_of
from trunkline.wire.keeping import BackupReport, FsckReport, GcReport, Purge, Work

WORK_SECONDS = 7 * 24 * 3600.0
"""How long such a work may take; what it did so far is kept if the connection breaks."""


class KeepingMethods(LiveMethods):
    """The part of the client that speaks of the whole store. For the owner's token alone."""

    def gc(self, *, grace_seconds: float | None = None, dry_run: bool = False) -> GcReport:
        """Delete what nothing refers to; without ``grace_seconds`` the server's setting counts.

        >>> client.gc(dry_run=True).reclaimable_bytes
        """
        body = {"grace_seconds": grace_seconds, "dry_run": dry_run}
        return GcReport.model_validate(self._work("gc", body))

    def fsck(self, *, repair: bool = False) -> FsckReport:
        """Verify every stored byte; what is lost or damaged, and what needs it. ``repair`` mends what can be mended.

        >>> client.fsck().problems
        []
        """
        return FsckReport.model_validate(self._work("fsck", {"repair": repair}))

    def purge_file(
        self,
        address: str,
        *,
        everywhere: bool = False,
        force: bool = False,
        dry_run: bool = False,
        why: str = "",
        project: str | None = None,
    ) -> Purge:
        """Remove ``[project/]repo:/path`` from all history, and its bytes from the disk.

        >>> client.purge_file("people:/1.png", everywhere=True, why="asked by the person").contents
        """
        body = {"address": address, "everywhere": everywhere, "force": force, "dry_run": dry_run, "why": why}
        return Purge.model_validate(self._work("purges", body, {"project": project or self.project}))

    def list_purges(self) -> list[Purge]:
        """What was purged, oldest first.

        >>> [purge.path for purge in client.list_purges()]
        """
        return [Purge.model_validate(one) for one in self._items(path_of("purges"))]

    def backup(self, target: str | Path, *, keep: int | None = None) -> BackupReport:
        """Copy everything to a folder of the server's machine, or to a bucket; only what is new since the last time.

        >>> client.backup("/mnt/backups/trunkline", keep=7).bytes_copied
        """
        return BackupReport.model_validate(self._work("backups", {"target": str(target), "keep": keep}))

    def work(self) -> Work:
        """How far the work on the whole store is that goes on right now.

        >>> client.work().step
        """
        return Work.model_validate(self.call("GET", path_of("work")))

    def _work(self, noun: str, body: dict[str, Any], query: dict[str, Any] | None = None) -> Any:
        return self.call("POST", path_of(noun), json=body, query=query, read_seconds=WORK_SECONDS)
