"""A stream of files into a folder. The names come from elsewhere and are not trusted: nothing is written outside, and
no link is followed."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from pathlib import Path

from trunkline.core.filestream import StreamedFile
from trunkline.errors import InvalidInputError, LimitError, NotFoundError, UnavailableError

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
FOLDERS_OPEN_MAX = 64
DISK_FULL = 28


def write_files(files: Iterable[StreamedFile], folder: Path) -> int:
    """Write the files of a stream below ``folder``, which is made if need be; returns how many.

    :raises InvalidInputError: ``bad_stream``, if a name leads out of it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    count = 0
    with _Folders(folder) as folders:
        for name, size, modified_ns, executable, content, parts in files:
            below, _, base = name.rpartition("/")
            if base in ("", ".", "..") or "\0" in base or name[0] == "/":
                raise _bad_name(name)
            descriptor = os.open(base, _CREATE, 0o777 if executable else 0o666, dir_fd=folders.find(below))
            try:
                if content is not None:
                    written = os.write(descriptor, content) if size else 0
                    while written < size:
                        written += os.write(descriptor, content[written:])
                else:
                    for part in parts:
                        write_whole(descriptor, part)
                if modified_ns is not None:
                    os.utime(descriptor, ns=(modified_ns, modified_ns))
            finally:
                os.close(descriptor)
            count += 1
    return count


def write_whole(descriptor: int, data: bytes | memoryview) -> None:
    """Write all of it."""
    written = os.write(descriptor, data)
    if written < len(data):
        view = memoryview(data)
        while written < len(view):
            written += os.write(descriptor, view[written:])


class _Folders:
    """Folders below one, made and opened as names ask for them, never through a link."""

    def __init__(self, top: Path) -> None:
        self._top = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._open: OrderedDict[str, int] = OrderedDict()
        self._last: tuple[str, int] = ("", self._top)

    def __enter__(self) -> _Folders:
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in (*self._open.values(), self._top):
            os.close(descriptor)

    def find(self, name: str) -> int:
        """An open folder, good until the next one is asked for."""
        if name == self._last[0]:
            return self._last[1]
        descriptor = self._open.get(name)
        if descriptor is None:
            descriptor = self._make(name)
        else:
            self._open.move_to_end(name)
        self._last = (name, descriptor)
        return descriptor

    def _make(self, name: str) -> int:
        at = self._top
        if name:
            above, _, base = name.rpartition("/")
            if base in ("", ".", "..") or "\0" in base:
                raise _bad_name(name)
            parent = self.find(above)
            with contextlib.suppress(FileExistsError):
                os.mkdir(base, dir_fd=parent)
            try:
                at = os.open(base, _FOLDER, dir_fd=parent)
            except NotADirectoryError as error:
                raise InvalidInputError(
                    f"{name!r} would be a folder, but a file or a link is there", kind="bad_stream"
                ) from error
            self._open[name] = at
            while len(self._open) > FOLDERS_OPEN_MAX:
                os.close(self._open.popitem(last=False)[1])
        return at


def _bad_name(name: str) -> InvalidInputError:
    return InvalidInputError(f"{name!r} leads out of the folder", kind="bad_stream")


@contextlib.contextmanager
def scratch_beside(target: Path) -> Iterator[Path]:
    """A new name beside ``target``, for what is not complete yet; what is left of it goes away at the end."""
    scratch = target.with_name(f".{target.name}.part-{uuid.uuid4().hex[:8]}")
    try:
        yield scratch
    except OSError as error:
        kind = LimitError if error.errno == DISK_FULL else UnavailableError
        raise kind(f"cannot write {target}: {error.strerror or error}", kind="not_written") from error
    finally:
        if scratch.is_dir():
            shutil.rmtree(scratch, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                scratch.unlink()


def move_into_place(source: Path, folder: Path) -> None:
    """Make what is in ``source`` appear below ``folder``: at once if that is not there yet, else file by file, each
    replacing what has its name. A link in the place of a folder is not followed.

    :raises InvalidInputError: ``is_link``.
    """
    if source.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        source.replace(folder / source.name)
        return
    if not source.is_dir():
        raise NotFoundError(f"there are no files to write below {folder}", kind="no_file")
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        source.replace(folder)
        return
    places = [(root, folder / Path(root).relative_to(source), names) for root, _, names in os.walk(source)]
    for _, there, _ in places:
        if there != folder and there.is_symlink():
            raise InvalidInputError(
                f"{there} is a link: remove it, or get into another folder", kind="is_link"
            )
    for root, there, names in places:
        there.mkdir(exist_ok=True)
        for name in names:
            os.replace(f"{root}/{name}", there / name)  # noqa: PTH105 (many)
