"""Work on the whole store, for its owner alone: gc, fsck, purge, backup."""

from __future__ import annotations

from trunkline import __version__
from trunkline.api.deps import Caller, Use
from trunkline.api.routes import new_router
from trunkline.core.ids import DEFAULT_PROJECT
from trunkline.versioning.backup import check_target, open_target, settings_files
from trunkline.wire.base import Page
from trunkline.wire.keeping import (
    AskBackup,
    AskFsck,
    AskGc,
    AskPurge,
    BackupReport,
    FsckReport,
    GcReport,
    Purge,
    Work,
)

router = new_router("keeping")


@router.post("/gc")
def gc(ask: AskGc, use: Use) -> GcReport:
    grace = use.settings.gc_grace_hours * 3600 if ask.grace_seconds is None else ask.grace_seconds
    return GcReport.model_validate(use.versioning.gc(grace_seconds=grace, dry_run=ask.dry_run))


@router.post("/fsck")
def fsck(ask: AskFsck, use: Use) -> FsckReport:
    return FsckReport.model_validate(use.versioning.check(repair=ask.repair))


@router.get("/work")
def work(use: Use) -> Work:
    return Work.model_validate(use.versioning.progress)


@router.post("/purges")
def purge(ask: AskPurge, use: Use, caller: Caller, project: str = DEFAULT_PROJECT) -> Purge:
    done = use.versioning.purge(
        project, ask.address, everywhere=ask.everywhere, force=ask.force, dry_run=ask.dry_run, why=ask.why,
        who=caller.subject, lineage=use.lineage,
    )  # fmt: skip
    return Purge.model_validate(done)


@router.get("/purges")
def list_purges(use: Use) -> Page[Purge]:
    return Page(items=[Purge.model_validate(one) for one in use.versioning.list_purges()])


@router.post("/backups", status_code=201)
def backup(ask: AskBackup, use: Use) -> BackupReport:
    settings = use.settings
    check_target(ask.target, settings.home, settings.place_of_objects)
    done = use.versioning.backup(
        open_target(ask.target, settings.options_of_objects), folder=settings.home, release=__version__,
        files=settings_files(settings.home), keep=ask.keep,
    )  # fmt: skip
    return BackupReport.model_validate(done)
