"""Backups: a copy of everything in another object store, made while the server runs; each later one copies only what is new.

A backup is a snapshot of the database and every pack that it names. The manifest is written last: a backup that was
interrupted has none, and those before it are as they were. The caller holds the store, so that nothing is collected meanwhile.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from blake3 import blake3

from trunkline.core.clock import Clock
from trunkline.errors import (
    CorruptionError,
    InvalidInputError,
    NotFoundError,
    StateError,
    UnavailableError,
)
from trunkline.storage.db.engine import Database
from trunkline.storage.db.schema import SCHEMA_VERSION
from trunkline.storage.db.transfer import OF_THIS_MACHINE
from trunkline.storage.objects import open_store
from trunkline.storage.objects.base import ObjectStore
from trunkline.storage.objects.local import LocalStore
from trunkline.versioning.maintenance import Progress
from trunkline.versioning.packs import is_intact, object_key

FORMAT = "trunkline-backup"
VERSION = 1
COPIERS = 4
PART_BYTES = 4 * 2**20
MANIFESTS = "backups/"
MARK = "trunkline-backups"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a backup consists of."""

    format: str
    version: int
    id: str
    created_at: float
    trunkline: str
    schema: int
    database_size: int
    database_hash: str
    packs: int
    pack_bytes: int
    files: dict[str, str]
    """Small files of the data directory: the settings. Never the token."""


@dataclass(frozen=True, kw_only=True)
class BackupReport:
    """What a backup did."""

    manifest: Manifest
    packs_copied: int
    bytes_copied: int
    """Packs and database."""
    backups_deleted: int


def open_target(url: str, options: Mapping[str, str] | None = None) -> ObjectStore:
    """The store behind a folder's path or a bucket's URL; ``options`` are the bucket's, as ``open_store`` takes them."""
    if "://" in url and not url.startswith("file://"):
        return open_store(url, options)
    folder = Path(url.removeprefix("file://")).expanduser().absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if (folder / MARK).exists() or not any(folder.iterdir()):  # else it is somebody's
            folder.chmod(0o700)  # secrets are in the database
    except OSError as error:
        raise UnavailableError(f"cannot use {folder}: {error.strerror}", kind="disk_error") from error
    return LocalStore(folder)


def check_target(url: str, home: Path, objects: str) -> None:
    """:raises InvalidInputError: ``bad_target``, for a folder that is not absolute, or a place inside the data itself."""
    if "://" in url and not url.startswith("file://"):
        here, there = objects.rstrip("/") + "/", url.rstrip("/") + "/"
        is_inside = here.startswith(there) or there.startswith(here)
    else:
        folder = Path(url.removeprefix("file://"))
        places = [home.resolve(), *([] if "://" in objects else [Path(objects).resolve()])]
        is_inside = not folder.is_absolute() or any(
            folder.resolve().is_relative_to(place) for place in places
        )
    if is_inside or not url:
        raise InvalidInputError(
            f"cannot back up to {url or 'nowhere'}: name an absolute folder, or a bucket's prefix, outside of the data itself",
            kind="bad_target",
        )


def list_backups(target: ObjectStore) -> list[Manifest]:
    """The backups that are whole, oldest first.

    :raises CorruptionError: ``bad_manifest``.
    """
    keys = [info.key for info in target.list(MANIFESTS) if info.key.endswith(".json")]
    found = [_manifest(target, key) for key in keys]
    return sorted(found, key=lambda one: (one.created_at, one.id))  # IDs tell seconds apart, not more


def _manifest(target: ObjectStore, key: str) -> Manifest:
    try:
        manifest = Manifest(**json.loads(target.get(key)))
    except (ValueError, TypeError) as error:
        raise CorruptionError(f"{key} is no manifest of a backup: {error}", kind="bad_manifest") from error
    if manifest.format != FORMAT or manifest.version > VERSION:
        raise CorruptionError(
            f"{key} has version {manifest.version}, this trunkline knows up to {VERSION}: upgrade trunkline",
            kind="unknown_format",
        )
    return manifest


class BackupMaker:
    """Copies to one target."""

    def __init__(
        self, *, db: Database, objects: ObjectStore, target: ObjectStore, clock: Clock, progress: Progress
    ) -> None:
        self._db = db
        self._objects = objects
        self._target = target
        self._clock = clock
        self._progress = progress

    def run(
        self, snapshot: Path, *, release: str, files: Mapping[str, str], keep: int | None = None
    ) -> BackupReport:
        """``snapshot``: where the copy of the database may lie meanwhile; ``keep``: so many backups stay."""
        self._claim()
        self._db.snapshot(snapshot)
        _forget_this_machine(snapshot)
        names = packs_of(snapshot)
        there = {info.key: info.size for info in self._target.list("packs/")}
        missing = [(name, size) for name, size in names if there.get(object_key(name)) != size]
        self._progress.begin("copying packs", len(missing))
        with ThreadPoolExecutor(COPIERS, thread_name_prefix="backup") as pool:
            for _ in pool.map(lambda pack: self._copy(pack[0]), missing):
                self._progress.more()
        now = self._clock.now()
        stamp = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dt%H%M%Sz")
        backup_id = f"{stamp}-{secrets.token_hex(3)}"
        self._progress.begin("copying the database", 1)
        hasher, size = blake3(), 0
        for part in _parts(snapshot):
            hasher.update(part)
            size += len(part)
        self._target.put(f"databases/{backup_id}.db", _parts(snapshot))
        self._target.put(f"lists/{backup_id}.txt", [f"{name}\n".encode() for name, _ in names])
        manifest = Manifest(
            format=FORMAT, version=VERSION, id=backup_id, created_at=now, trunkline=release, schema=SCHEMA_VERSION,
            database_size=size, database_hash=hasher.hexdigest(), packs=len(names),
            pack_bytes=sum(size for _, size in names), files=dict(files),
        )  # fmt: skip
        self._target.put(f"{MANIFESTS}{backup_id}.json", [json.dumps(asdict(manifest), indent=1).encode()])
        deleted = self._prune(keep) if keep is not None else 0
        copied = sum(size for _, size in missing) + size
        return BackupReport(
            manifest=manifest, packs_copied=len(missing), bytes_copied=copied, backups_deleted=deleted
        )

    def _claim(self) -> None:
        """Only a place for backups may be written to and pruned: what is there without our mark is somebody's data."""
        if next(iter(self._target.list(MARK)), None) is None:
            found = next(iter(self._target.list()), None)
            if found is not None:
                raise InvalidInputError(
                    f"that place holds something else than backups ({found.key}): name an empty or a new one",
                    kind="bad_target",
                )
            self._target.put(MARK, [b"trunkline backups: see docs/guides/keeping.md\n"])

    def _copy(self, name: str) -> None:
        data = _checked(self._objects, name, "the store", "run 'trunkline fsck --repair'")
        self._target.put(object_key(name), [data])

    def _prune(self, keep: int) -> int:
        """Delete all but the newest backups, and the packs that only they needed: manifests first."""
        found = list_backups(self._target)
        going = found[: max(0, len(found) - max(1, keep))]
        for manifest in going:
            self._target.delete(f"{MANIFESTS}{manifest.id}.json")
        kept = {manifest.id for manifest in found} - {manifest.id for manifest in going}
        needed: set[str] = set()
        for backup_id in kept:
            needed.update(self._target.get(f"lists/{backup_id}.txt").decode().split())
        for prefix, suffix in (("databases/", ".db"), ("lists/", ".txt")):
            for info in list(self._target.list(prefix)):
                if info.key.removeprefix(prefix).removesuffix(suffix) not in kept:
                    self._target.delete(info.key)
        for info in list(self._target.list("packs/")):
            if info.key.rpartition("/")[2] not in needed:
                self._target.delete(info.key)
        return len(going)


def _forget_this_machine(database: Path) -> None:
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
        connection.execute("PRAGMA secure_delete=ON")
        for table in OF_THIS_MACHINE:
            connection.execute(f"DELETE FROM {table.name}")


def packs_of(database: Path) -> list[tuple[str, int]]:
    """The packs that a copy of the database names, with their sizes."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        return list(connection.execute("SELECT name, size FROM packs ORDER BY id"))


def _parts(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while part := file.read(PART_BYTES):
            yield part


def _checked(objects: ObjectStore, name: str, where: str, advice: str) -> bytes:
    """A pack's bytes, verified."""
    try:
        data = objects.get(object_key(name))
    except NotFoundError as error:
        raise CorruptionError(f"pack {name} is lost in {where}: {advice}", kind="lost_pack") from error
    if not is_intact(name, data):
        raise CorruptionError(f"pack {name} is damaged in {where}: {advice}", kind="damaged_pack")
    return data


def restore(
    target: ObjectStore,
    folder: Path,
    *,
    objects: ObjectStore | None = None,
    backup_id: str | None = None,
    progress: Progress | None = None,
) -> Manifest:
    """Write a backup into an empty folder, as a data directory; every byte is verified on the way. ``objects``: where its
    packs shall lie, if not in that folder.

    :raises NotFoundError: ``no_backup``. :raises CorruptionError: if anything is lost or damaged in the backup.
    """
    progress = progress or Progress()
    found = list_backups(target)
    chosen = [one for one in found if one.id == backup_id] if backup_id else found
    if not chosen:
        what = f"no backup {backup_id}" if backup_id else "no finished backup"
        raise NotFoundError(f"there is {what} in that place", kind="no_backup")
    manifest = chosen[-1]
    database = folder / "trunkline.db"
    hasher = blake3()
    with database.open("xb") as file:
        database.chmod(0o600)
        for part in _ranges(target, f"databases/{manifest.id}.db", manifest.database_size):
            hasher.update(part)
            file.write(part)
    if hasher.hexdigest() != manifest.database_hash:
        raise CorruptionError(f"the database of backup {manifest.id} is damaged", kind="damaged_backup")
    objects = objects or LocalStore(folder / "objects")
    names = packs_of(database)
    if len(names) != manifest.packs:
        raise CorruptionError(
            f"backup {manifest.id} does not hold what its manifest says", kind="damaged_backup"
        )
    progress.begin("copying packs", len(names))

    advice = "back up to the same place again, where the data still is, or restore an older backup with --id"

    def copy(name: str) -> None:
        objects.put(object_key(name), [_checked(target, name, "the backup", advice)])

    with ThreadPoolExecutor(COPIERS, thread_name_prefix="restore") as pool:
        for _ in pool.map(copy, [name for name, _ in names]):
            progress.more()
    for name, text in manifest.files.items():
        if name not in SETTINGS_FILES:
            raise CorruptionError(
                f"backup {manifest.id} names an unknown file {name!r}", kind="damaged_backup"
            )
        has_others = (folder / name).exists() or names_other_stores(text)
        path = folder / (f"{name}.old" if has_others else name)
        path.write_text(text)
        path.chmod(0o600)
    return manifest


SETTINGS_FILES = ("trunkline.toml",)
"""What a backup takes along of the data directory, besides the database and the packs."""


def names_other_stores(settings: str) -> bool:
    """Whether settings lead to a database or bucket elsewhere: two servers on one bucket would delete each other's data, so
    a restored data directory does not take such settings over by itself."""
    try:
        found = tomllib.loads(settings)
    except tomllib.TOMLDecodeError:
        return True
    return "database_url" in found or "objects" in found


def _ranges(target: ObjectStore, key: str, size: int) -> Iterable[bytes]:
    for offset in range(0, size, PART_BYTES):
        yield target.get(key, offset=offset, length=PART_BYTES)


def check_empty(home: Path) -> None:
    """Settings may be there already: they say where to restore to.

    :raises StateError: ``home_not_empty``.
    """
    if home.exists() and (
        not home.is_dir() or any(found.name not in SETTINGS_FILES for found in home.iterdir())
    ):
        raise StateError(
            f"{home} is not empty: restore into a new folder, or move that away first", kind="home_not_empty"
        )


def settings_files(home: Path) -> dict[str, str]:
    """The small files that a backup takes along."""
    return {name: (home / name).read_text() for name in SETTINGS_FILES if (home / name).is_file()}


def as_json(manifest: Manifest) -> dict[str, Any]:
    """A manifest for people: without the text of the files."""
    return {**asdict(manifest), "files": sorted(manifest.files)}
