"""Objects as files below a folder, durable once ``put`` returns."""

from __future__ import annotations

import builtins
import errno
import fcntl
import os
import re
import secrets
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from trunkline import directio
from trunkline.errors import InvalidInputError, LimitError, NotFoundError, UnavailableError
from trunkline.storage.objects import reading, writing
from trunkline.storage.objects.aligned import Buffers
from trunkline.storage.objects.base import ObjectInfo, ObjectStore

TEMPORARY_PREFIX = ".tmp-"

_COMPONENT = re.compile(r"[a-z0-9-][a-z0-9.-]*")
_FULL = (errno.ENOSPC, errno.EDQUOT)


def check_key(key: str) -> str:
    """:raises InvalidInputError: if ``key`` is not a relative path of ``[a-z0-9./-]`` whose parts start with no dot."""
    if not all(_COMPONENT.fullmatch(part) for part in key.split("/")):
        raise InvalidInputError(f"object key {key!r} is not allowed", kind="bad_key")
    return key


class LocalStore(ObjectStore):
    """A folder on a local disk. Several processes may share it."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._known_folders: set[Path] = set()
        self._buffers = Buffers(directio.BUFFER_BYTES, kept_max=writing.BUFFERS_KEPT_MAX)
        self._firsts = reading.FirstReads()
        with _translated(root):
            _make_folder(root)

    def get(self, key: str, *, offset: int = 0, length: int | None = None) -> bytes:
        path = self._path(key)
        with _translated(path):
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except (FileNotFoundError, NotADirectoryError) as error:
                raise _absent(key) from error
            try:
                if length is None:
                    length = max(0, os.fstat(descriptor).st_size - offset)
                return _read_fully(descriptor, offset, length)
            finally:
                os.close(descriptor)

    def get_into(self, key: str, buffer: memoryview, *, offset: int, length: int) -> memoryview:
        path = self._path(key)
        with _translated(path):
            try:
                return reading.read_into(str(path), buffer, offset, length, self._firsts)
            except (FileNotFoundError, NotADirectoryError) as error:
                raise _absent(key) from error

    def put(self, key: str, parts: Iterable[bytes]) -> None:
        path = self._path(key)
        with _translated(path):
            self._ensure_folder(path.parent)
            temporary = path.parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}"
            try:
                with open(temporary, "xb", buffering=0) as file:
                    writing.write_all(file.fileno(), parts, self._buffers)
                    os.fsync(file.fileno())
                temporary.replace(path)
            except BaseException:
                with suppress(OSError):
                    temporary.unlink()
                raise
            _sync_folder(path.parent)

    def put_if(self, key: str, data: bytes, *, expected: bytes | None) -> bool:
        with self._exclusively():
            try:
                present: bytes | None = self.get(key)
            except NotFoundError:
                present = None
            if present != expected:
                return False
            self.put(key, [data])
            return True

    def head(self, key: str) -> ObjectInfo:
        path = self._path(key)
        with _translated(path):
            try:
                stat = path.stat()
            except (FileNotFoundError, NotADirectoryError) as error:
                raise _absent(key) from error
        return ObjectInfo(key=key, size=stat.st_size, modified_at=stat.st_mtime)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        start = self._root / prefix.rpartition("/")[0]
        for folder, _, names in os.walk(start):
            for name in names:
                path = Path(folder) / name
                key = path.relative_to(self._root).as_posix()
                if name.startswith(".") or not key.startswith(prefix):
                    continue
                with suppress(NotFoundError):  # deleted since it was listed
                    yield self.head(key)

    def delete(self, key: str) -> None:
        path = self._path(key)
        with _translated(path), suppress(FileNotFoundError, NotADirectoryError):
            path.unlink()
            _sync_folder(path.parent)

    def sweep_temporary(self, before: float, *, dry_run: bool) -> tuple[int, int]:
        count = size = 0
        for folder, _, names in os.walk(self._root):
            for name in names:
                if not name.startswith(TEMPORARY_PREFIX):
                    continue
                path = Path(folder) / name
                with _translated(path), suppress(FileNotFoundError):
                    stat = path.stat()
                    if stat.st_mtime <= before:
                        count, size = count + 1, size + stat.st_size
                        if not dry_run:
                            path.unlink()
        return count, size

    def _path(self, key: str) -> Path:
        return self._root / check_key(key)

    def _ensure_folder(self, folder: Path) -> None:
        if folder in self._known_folders and folder.is_dir():
            return
        _make_folder(folder)
        self._known_folders.add(folder)

    @contextmanager
    def _exclusively(self) -> Iterator[None]:
        """Between threads by a lock, between processes by a file lock (which the system drops if the holder dies)."""
        path = self._root / ".lock"
        with self._lock, _translated(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                yield
            finally:
                os.close(descriptor)


def _read_fully(descriptor: int, offset: int, length: int) -> bytes:
    data = os.pread(descriptor, length, offset)
    if len(data) in (0, length):
        return data
    parts = builtins.list([data])
    got = len(data)
    while got < length and (data := os.pread(descriptor, length - got, offset + got)):
        parts.append(data)
        got += len(data)
    return b"".join(parts)


def _make_folder(folder: Path) -> None:
    """Make a folder and those above it; each is durable in its parent before anything is written into it."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _absent(key: str) -> NotFoundError:
    return NotFoundError(f"there is no object {key!r}", kind="no_object", details={"key": key})


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise LimitError(
                f"the disk is full: {path} could not be written; free some space, then try again",
                kind="disk_full",
            ) from error
        raise UnavailableError(f"{path}: {error.strerror or error}", kind="disk_error") from error
