"""Folders as tar streams, made and unpacked without holding a file in memory."""

from __future__ import annotations

import os
import shutil
import stat
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

from trunkline.core import tar
from trunkline.errors import ConflictError, CorruptionError, InvalidInputError

PART_BYTES = 256 * 1024

Source = Path | bytes
"""A file on disk, or the content itself."""


def files_below(folder: Path) -> Iterator[tuple[str, Path]]:
    """Every file below a folder as ``(name relative to it, path)``, sorted. Links to files are followed.

    :raises InvalidInputError: for a device, a socket, a dangling link or a link to a folder, naming it.
    """
    for root, folders, names in os.walk(folder, followlinks=False):
        folders.sort()
        for name in sorted(folders):
            if (linked := Path(root, name)).is_symlink():
                raise InvalidInputError(
                    f"{linked} is a link to a folder: put that folder itself", kind="bad_file"
                )
        for name in sorted(names):
            path = Path(root, name)
            if not path.is_file():
                raise InvalidInputError(f"{path} is not a readable regular file", kind="bad_file")
            yield path.relative_to(folder).as_posix(), path


def tar_parts(files: Iterable[tuple[str, Source]]) -> Iterator[bytes]:
    """The bytes of a tar archive of files, given as ``(name in the archive, source)``."""
    pending: list[bytes] = []
    size = 0
    for part in _tar_blocks(files):
        pending.append(part)
        size += len(part)
        if size >= PART_BYTES:
            yield b"".join(pending)
            pending, size = [], 0
    yield b"".join(pending)


def _tar_blocks(files: Iterable[tuple[str, Source]]) -> Iterator[bytes]:
    for name, source in files:
        if isinstance(source, bytes):
            size = len(source)
            yield tar.header(name, size=size)
            yield source
        else:
            with source.open("rb") as file:
                found = os.fstat(file.fileno())
                size = found.st_size
                executable = bool(found.st_mode & stat.S_IXUSR)
                yield tar.header(name, size=size, modified_ns=found.st_mtime_ns, executable=executable)
                yield from _exactly(file, size, source)
        yield tar.padding(size)
    yield tar.END


def _exactly(file: IO[bytes], size: int, path: Path) -> Iterator[bytes]:
    left = size
    while left > 0:
        part = file.read(min(left, PART_BYTES))
        if not part:
            raise ConflictError(f"{path} became shorter while it was read: repeat", kind="file_changed")
        left -= len(part)
        yield part


def unpack(stream: Any, folder: Path) -> int:
    """Write the files of a tar stream below ``folder``; returns how many.

    :raises InvalidInputError: ``bad_archive``, if a name leads out of it or an entry is a link or a device.
    """
    count = 0
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tarfile.open(fileobj=stream, mode="r|", tarinfo=tar.TimedInfo) as archive:
            for entry in archive:
                target = folder / checked_name(entry.name)
                if entry.isdir():
                    target.mkdir(parents=True, exist_ok=True)
                    continue
                if not entry.isreg():
                    raise InvalidInputError(f"{entry.name!r} is not a plain file", kind="bad_archive")
                target.parent.mkdir(parents=True, exist_ok=True)
                _write(archive, entry, target)
                count += 1
    except tarfile.TarError as error:
        raise CorruptionError(f"the archive is damaged or cut short: {error}", kind="bad_archive") from error
    return count


def _write(archive: tarfile.TarFile, entry: tarfile.TarInfo, target: Path) -> None:
    content = archive.extractfile(entry)
    assert content is not None, "a regular file has content"
    with target.open("wb") as file:
        shutil.copyfileobj(content, file, PART_BYTES)
    if file_size := target.stat().st_size - entry.size:
        raise CorruptionError(f"{entry.name!r} is {-file_size} bytes short", kind="bad_archive")
    if entry.mode & stat.S_IXUSR:
        target.chmod(0o755)
    if isinstance(entry, tar.TimedInfo) and (at := entry.modified_ns) is not None:
        os.utime(target, ns=(at, at))


def checked_name(name: str) -> str:
    """A name in an archive as a relative path inside it."""
    pure = PurePosixPath(name.lstrip("/"))
    if ".." in pure.parts or "\0" in name or not name:
        raise InvalidInputError(f"{name!r} leads out of the archive", kind="bad_archive")
    return str(pure)


def code_files(folder: Path) -> Iterator[tuple[str, Path]]:
    """A code folder without what Python and git leave in it: it would make equal code look different."""
    for name, path in files_below(folder):
        if not {"__pycache__", ".git"} & set(name.split("/")):
            yield name, path
