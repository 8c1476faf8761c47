"""Egress to a folder of this machine: ``file:///PATH``, below folders that the setting ``egress_folders`` names.

A file appears under its name when it is whole and on the disk. Links in the target are never followed.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

from trunkline.errors import (
    InvalidInputError,
    LimitError,
    PermissionDeniedError,
    StateError,
    UnavailableError,
)
from trunkline.pipelines.egress.base import Parcel, Target
from trunkline.versioning.model import FileInfo

FOLDERS_OPEN_MAX = 200
"""So many folders share the time at which their entries are flushed."""
TEMPORARY = ".trunkline-egress.part"


def allowed_path(url: str, folders: Sequence[Path], data_dir: Path) -> Path:
    """The path behind a ``file:`` or ``sqlite:`` URL.

    :raises InvalidInputError: ``bad_egress``. :raises PermissionDeniedError: ``egress_folder``.
    """
    parts = urlsplit(url)
    path = Path(os.path.normpath(unquote(parts.path)))
    if parts.netloc not in ("", "localhost") or not path.is_absolute() or "\0" in unquote(parts.path):
        raise InvalidInputError(
            f"egress to {url[:200]!r} is not usable: write {parts.scheme}:///ABSOLUTE/PATH", kind="bad_egress"
        )
    real = Path(os.path.realpath(path))
    if not any(real.is_relative_to(os.path.realpath(folder)) for folder in folders):
        allowed = ", ".join(map(str, folders)) or "none"
        raise PermissionDeniedError(
            f"egress to {path} is not allowed: the setting egress_folders names the folders that pipelines may write to "
            f"(now: {allowed})",
            kind="egress_folder",
        )
    home = Path(os.path.realpath(data_dir))
    if real.is_relative_to(home) or home.is_relative_to(real):
        raise PermissionDeniedError(
            f"egress to {path} is not allowed: the data directory is there", kind="egress_folder"
        )
    return real


class FolderTarget(Target):
    """A folder; it is made if it is not there."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def name(self) -> str:
        return self._path.as_uri()

    def send(self, parcel: Parcel) -> None:
        with _translated(self._path):
            self._path.mkdir(parents=True, exist_ok=True)
            top = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                self._make_way(parcel, top)
                self._write(parcel, top)
                self._delete(parcel, top)
                os.fsync(top)
            finally:
                os.close(top)

    def _make_way(self, parcel: Parcel, top: int) -> None:
        """Files where folders are to be, and folders where files are to be, go first; they are deleted in any case."""
        for path in parcel.deleted():
            folders = path.split("/")[:-1]
            above = ("/".join(folders[:n]) for n in range(1, len(folders) + 1))
            if parcel.has_folder(path) or any(parcel.is_file(one) for one in above):
                self._delete_one(parcel, top, path)

    def _write(self, parcel: Parcel, top: int) -> None:
        folders: dict[str, int] = {}
        try:
            for info, parts in parcel.contents():
                folder, _, name = info.path[1:].rpartition("/")
                if folder not in folders:
                    if len(folders) >= FOLDERS_OPEN_MAX:
                        _close(folders)
                    folders[folder] = _descend(top, folder, make=True)
                _write_file(folders[folder], name, info, parts)
                parcel.written.files_written += 1
                parcel.written.bytes_written += info.size
        finally:
            _close(folders)

    def _delete(self, parcel: Parcel, top: int) -> None:
        for path in parcel.deleted():
            self._delete_one(parcel, top, path)

    def _delete_one(self, parcel: Parcel, top: int, path: str) -> None:
        """The file, and the folders above it that are empty then and not in the output."""
        folder, _, name = path.rpartition("/")
        try:
            place = _descend(top, folder, make=False)
        except (FileNotFoundError, NotADirectoryError):
            return
        try:
            os.unlink(name, dir_fd=place)
            os.fsync(place)
            parcel.written.files_deleted += 1
        except (FileNotFoundError, IsADirectoryError):  # somebody else has taken it away
            pass
        finally:
            os.close(place)
        while folder and not parcel.has_folder(folder):
            above, _, name = folder.rpartition("/")
            try:
                place = _descend(top, above, make=False)
            except (FileNotFoundError, NotADirectoryError):
                return
            try:
                os.rmdir(name, dir_fd=place)
            except OSError:  # not empty: other people's files
                return
            finally:
                os.close(place)
            folder = above


def _descend(top: int, folder: str, *, make: bool) -> int:
    """Open a folder below ``top``, one step after the other, through no link."""
    at = os.dup(top)
    try:
        for name in folder.split("/") if folder else ():
            if make:
                with suppress(FileExistsError):
                    os.mkdir(name, dir_fd=at)
            below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=at)
            os.close(at)
            at = below
    except BaseException:
        os.close(at)
        raise
    return at


def _write_file(folder: int, name: str, info: FileInfo, parts: Iterator[bytes]) -> None:
    with suppress(FileNotFoundError):
        os.unlink(TEMPORARY, dir_fd=folder)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    handle = os.open(TEMPORARY, flags, 0o755 if info.executable else 0o644, dir_fd=folder)
    try:
        for part in parts:
            view = memoryview(part)
            while view:
                view = view[os.write(handle, view) :]
        if info.modified_ns is not None:
            os.utime(handle, ns=(info.modified_ns, info.modified_ns))
        os.fsync(handle)
    except BaseException:
        os.unlink(TEMPORARY, dir_fd=folder)
        raise
    finally:
        os.close(handle)
    with suppress(FileNotFoundError):
        if stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
            os.unlink(TEMPORARY, dir_fd=folder)
            raise StateError(
                f"there is a folder where {info.path} is to be, with files that egress did not write",
                kind="egress_in_the_way",
            )
    os.replace(TEMPORARY, name, src_dir_fd=folder, dst_dir_fd=folder)


def _close(folders: dict[str, int]) -> None:
    for place in folders.values():
        os.fsync(place)
        os.close(place)
    folders.clear()


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        at = error.filename if isinstance(error.filename, str) else ""
        said = f"{path} cannot be written{f' at {at}' if at else ''}: {error.strerror}"
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise PermissionDeniedError(said, kind="egress_refused") from error
        if error.errno in (errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG):
            raise StateError(f"{said}: a file or a link is in the way", kind="egress_in_the_way") from error
        if error.errno == errno.EFBIG:
            raise LimitError(said, kind="egress_refused") from error
        raise UnavailableError(said, kind="egress_failed") from error
