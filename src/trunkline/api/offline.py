"""What works on a data directory without its server: checking it, and making one from a backup."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import SecretStr

from trunkline.api import home
from trunkline.errors import InvalidInputError, NotFoundError, StateError, TrunklineError
from trunkline.services import Services, build
from trunkline.settings import Settings
from trunkline.storage.db.engine import Database
from trunkline.storage.objects import ObjectStore, open_store
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
    """Make the data directory that the settings name from a backup, and fill the database and the place of objects that they
    name, of whatever kind. All of it is checked before it appears; there is all of it then, or nothing.

    :raises StateError: ``home_not_empty``; ``database_not_empty``; ``objects_not_empty``; ``already_running``.
    :raises NotFoundError: ``no_backup``. :raises CorruptionError: if it is damaged.
    """
    target = settings.home
    backup.check_empty(target)
    if "://" not in source and not Path(source).is_dir():
        raise NotFoundError(f"there is no folder {source}", kind="no_backup")
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.parent / f".{target.name}.restoring-{secrets.token_hex(4)}"
    part.mkdir(mode=0o700)
    try:
        with _empty_database(settings) as database:
            objects = _empty_objects(settings, part)
            try:
                return _restore_to(part, source, settings, database, objects, backup_id)
            except BaseException:
                if not _may_be_filled(database):
                    _empty(part, objects)
                raise
    except BaseException:
        with suppress(OSError):
            part.rmdir()  # no more than that was made
        raise


def _restore_to(
    part: Path,
    source: str,
    settings: Settings,
    database: Database | None,
    objects: ObjectStore,
    backup_id: str | None,
) -> tuple[Manifest, FsckReport]:
    target = settings.home
    for name in backup.SETTINGS_FILES:
        if (target / name).exists():
            shutil.copy2(target / name, part / name)
    place = backup.open_target(source, settings.options_of_objects)
    manifest = backup.restore(place, part, objects=objects, backup_id=backup_id)
    for folder in ("run", "logs"):
        (part / folder).mkdir()
    report = check(_of_part(settings, part), repair=False)
    if database is not None:
        database.fill_from(part / "trunkline.db")
        (part / "trunkline.db").unlink()
    _take_place(part, target)
    return manifest, report


def _take_place(part: Path, target: Path) -> None:
    """Instead of a folder that has no more than settings."""
    before = part.with_name(f"{part.name}.before")
    if target.exists():
        target.rename(before)
    try:
        part.rename(target)
    except OSError:
        if before.exists():
            before.rename(target)
        raise
    shutil.rmtree(before, ignore_errors=True)
    _sync(target.parent)


def _of_part(settings: Settings, part: Path) -> Settings:
    """Where everything lies while it is checked: the database as SQLite, the objects where they will stay."""
    nothing = {"database_password": None, "database_password_file": None}
    url = SecretStr(f"sqlite:///{part / 'trunkline.db'}")
    place = _place_of_objects(settings, part)
    return settings.model_copy(update={"home": part, "database_url": url, "objects": place, **nothing})


def _place_of_objects(settings: Settings, part: Path) -> str:
    """What lies in the data directory is not there yet, but in ``part``."""
    place = settings.place_of_objects
    if "://" not in place and Path(place).is_relative_to(settings.home):
        return str(part / Path(place).relative_to(settings.home))
    return place


@contextmanager
def _empty_database(settings: Settings) -> Iterator[Database | None]:
    """The database that the settings name, which nobody else uses; None for the file in the data directory."""
    if settings.database_url is None:
        yield None
        return
    database = Database(settings.url_of_database)
    try:
        if database.file is not None:
            raise InvalidInputError(
                "a backup is restored into PostgreSQL, or into the data directory: name no file of SQLite in 'database_url'",
                kind="bad_database_url",
            )
        with database.only_server():
            database.check_unused()
            yield database
    finally:
        database.close()


def _empty_objects(settings: Settings, part: Path) -> ObjectStore:
    """The place of objects that the settings name."""
    place = _place_of_objects(settings, part)
    objects = open_store(place, settings.options_of_objects)
    if next(iter(objects.list()), None) is not None:
        raise StateError(
            f"{place} is not empty: name a new place, or delete what is there first",
            kind="objects_not_empty",
        )
    return objects


def _may_be_filled(database: Database | None) -> bool:
    """Whether a database needs what was made for it: a commit whose answer was lost may have happened."""
    try:
        if database is not None:
            database.check_unused()
    except TrunklineError:
        return True
    return False


def _empty(part: Path, objects: ObjectStore) -> None:
    for info in list(objects.list("packs/")):
        objects.delete(info.key)
    shutil.rmtree(part, ignore_errors=True)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
