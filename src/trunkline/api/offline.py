"""What works on a data directory without its server: checking it, and making one from a backup."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trunkline.api import home
from trunkline.errors import NotFoundError, StateError
from trunkline.services import Services, build
from trunkline.settings import Settings
from trunkline.versioning import backup
from trunkline.versioning.backup import Manifest
from trunkline.versioning.fsck import FsckReport


@contextmanager
def _services(settings: Settings) -> Iterator[Services]:
    """The services over a data directory that has no server; nothing of them runs."""
    if not (settings.home / "run").is_dir():
        raise StateError(f"{settings.home} is not a data directory", kind="no_home")
    with home.locked(settings.home):
        services = build(settings)
        try:
            services.versioning.forget_crashed_work()
            yield services
        finally:
            services.db.close()


def check(settings: Settings, *, repair: bool) -> FsckReport:
    """``fsck`` of a data directory whose server is down.

    :raises StateError: ``no_home``; ``already_running``.
    """
    with _services(settings) as services:
        return services.versioning.check(repair=repair)


def restore(source: str, settings: Settings, *, backup_id: str | None = None) -> tuple[Manifest, FsckReport]:
    """Make the data directory that the settings name from a backup, and check it. There all of it, or not at all.

    :raises StateError: ``home_not_empty``. :raises NotFoundError: ``no_backup``. :raises CorruptionError: if it is damaged.
    """
    target = settings.home
    backup.check_empty(target)
    if "://" not in source and not Path(source).is_dir():
        raise NotFoundError(f"there is no folder {source}", kind="no_backup")
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.parent / f".{target.name}.restoring-{secrets.token_hex(4)}"
    part.mkdir(mode=0o700)
    try:
        manifest = backup.restore(
            backup.open_target(source, settings.options_of_objects), part, backup_id=backup_id
        )
        for folder in ("run", "logs"):
            (part / folder).mkdir()
        report = check(Settings(home=part), repair=False)
        if target.exists():
            target.rmdir()
        part.rename(target)
        _sync(target.parent)
        return manifest, report
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
