"""A commit as a folder: read-only, through FUSE. What is mounted is one commit; a branch that moves on does not change it."""

from __future__ import annotations

import errno
import itertools
import os
import stat
import threading
import warnings
from pathlib import Path
from typing import Any

from trunkline.errors import (
    InvalidInputError,
    NotFoundError,
    TrunklineError,
    UnavailableError,
)
from trunkline.readers.commit import CommitFiles
from trunkline.readers.mountpoints import check_mountpoint
from trunkline.wire.files import FileInfo

CACHED_SECONDS = 3600
"""How long the kernel may keep names and attributes: they never change."""
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_TRUNC


def mount(files: CommitFiles, folder: Path) -> None:
    """Serve the commit's files below ``folder`` until it is unmounted.

    :raises InvalidInputError: ``bad_mountpoint``. :raises UnavailableError: ``no_fuse`` or ``not_mounted``.
    """
    check(files, folder)
    fuse = _library()
    try:
        fuse.FUSE(
            _operations(fuse, files), str(folder), foreground=True, ro=True, kernel_cache=True, use_ino=False,
            attr_timeout=CACHED_SECONDS, entry_timeout=CACHED_SECONDS, fsname=f"trunkline-{files.commit.id}",
        )  # fmt: skip
    except RuntimeError as error:
        raise UnavailableError(
            f"{folder} could not be mounted: FUSE ended with status {error}; it says why above",
            kind="not_mounted",
        ) from error


def check(files: CommitFiles, folder: Path) -> None:
    """Whether ``mount`` can do it, as far as can be known before; it raises the same."""
    check_mountpoint(folder)
    if not files.top.is_dir:
        raise InvalidInputError(
            f"{files.top.path} is a file: mount the directory it is in", kind="bad_address"
        )
    _library()


def _library() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import mfusepy  # noqa: PLC0415  the extra is optional
    except ImportError as error:
        raise UnavailableError(
            "mounting needs one more package: pip install 'trunkline[mount]'", kind="missing_extra"
        ) from error
    except OSError as error:
        raise UnavailableError(
            f"mounting needs the system's FUSE library (package fuse3 or libfuse2): {error}", kind="no_fuse"
        ) from error
    if not Path("/dev/fuse").exists():
        raise UnavailableError("this machine has no /dev/fuse, so nothing can be mounted", kind="no_fuse")
    return mfusepy


def _operations(fuse: Any, files: CommitFiles) -> Any:
    """The file system's answers; made here, because its base class comes with the optional library."""
    numbers = itertools.count(1)
    opened: dict[int, FileInfo] = {}
    lock = threading.Lock()
    uid, gid = os.getuid(), os.getgid()

    def found(path: str) -> FileInfo:
        try:
            return files.stat(path)
        except NotFoundError as error:
            raise fuse.FuseOSError(errno.ENOENT) from error
        except InvalidInputError as error:  # a name that no file can have
            raise fuse.FuseOSError(errno.ENOENT) from error
        except TrunklineError as error:
            raise fuse.FuseOSError(errno.EIO) from error

    class ReadOnly(fuse.Operations):  # type: ignore[misc]
        use_ns = True

        def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
            info = found(path)
            mode = (
                stat.S_IFDIR | 0o555 if info.is_dir else stat.S_IFREG | (0o555 if info.executable else 0o444)
            )
            time = round((info.modified_at or files.commit.created_at) * 10**9)
            return {
                "st_mode": mode, "st_nlink": 2 if info.is_dir else 1, "st_uid": uid, "st_gid": gid,
                "st_size": 0 if info.is_dir else info.size, "st_blocks": -(-info.size // 512),
                "st_mtime": time, "st_ctime": time, "st_atime": time,
            }  # fmt: skip

        def readdir(self, path: str, fh: int) -> list[str]:
            try:
                return [".", "..", *files.list(path)]
            except TrunklineError as error:
                raise fuse.FuseOSError(errno.EIO) from error

        def open(self, path: str, flags: int) -> int:
            if flags & _WRITING:
                raise fuse.FuseOSError(errno.EROFS)
            info = found(path)
            with lock:
                number = next(numbers)
                opened[number] = info
            return number

        def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
            try:
                return files.read(path, opened[fh], offset, size)
            except TrunklineError as error:
                raise fuse.FuseOSError(errno.EIO) from error

        def release(self, path: str, fh: int) -> int:
            with lock:
                opened.pop(fh, None)
            return 0

        def statfs(self, path: str) -> dict[str, int]:
            blocks = -(-files.top.size // 4096)
            return {"f_bsize": 4096, "f_frsize": 4096, "f_blocks": blocks, "f_namemax": 255}

    return ReadOnly()
