"""A stream of files into a folder. The names come from elsewhere and are not trusted: nothing is written outside, and
no link is followed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from trunkline.core.filestream import StreamedFile
from trunkline.errors import InvalidInputError, LimitError, NotFoundError, UnavailableError

if TYPE_CHECKING:
    from pathlib import Path

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_NAMES = frozenset(("", ".", ".."))
FOLDERS_OPEN_MAX = 64
DISK_FULL = 28


def write_files(
    files: Iterable[StreamedFile], folder: Path | str, *, past_cache_from: int | None = None
) -> int:
    """Write the files of a stream below ``folder``, which is made if need be; returns how many. ``past_cache_from``: files of so
    many bytes are not left in memory.

    :raises InvalidInputError: ``bad_stream``, if a name leads out of it.
    """
    os.makedirs(folder, exist_ok=True)
    create, write, set_times, close = os.open, os.write, os.utime, os.close
    count, last = 0, ""
    with _Folders(folder) as folders:
        at = folders.find(last)
        for name, size, modified_ns, executable, content, parts in files:
            below, _, base = name.rpartition("/")
            if base in _NO_NAMES or "\0" in base or name[0] == "/":
                raise _bad_name(name)
            if below != last:
                at, last = folders.find(below), below
            descriptor = create(base, _CREATE, 0o777 if executable else 0o666, dir_fd=at)
            try:
                if content is None:
                    is_large = past_cache_from is not None and size >= past_cache_from
                    if not (is_large and _write_past_cache(descriptor, parts)):
                        for part in parts:
                            write_whole(descriptor, part)
                elif size and write(descriptor, content) != size:
                    os.lseek(descriptor, 0, os.SEEK_SET)
                    write_whole(descriptor, content)
                if modified_ns is not None:
                    set_times(descriptor, ns=(modified_ns, modified_ns))
            finally:
                close(descriptor)
            count += 1
    return count


def _write_past_cache(descriptor: int, parts: Iterable[bytes | memoryview]) -> bool:
    """False if the file system does not let; nothing is written then."""
    from trunkline import directio  # noqa: PLC0415 (small files do not need it)

    if not directio.turn_direct(descriptor, on=True):
        return False
    for _ in directio.write_parts(descriptor, parts):
        pass
    return True


def write_whole(descriptor: int, data: bytes | memoryview) -> None:
    """Write all of it."""
    written = os.write(descriptor, data)
    if written < len(data):
        view = memoryview(data)
        while written < len(view):
            written += os.write(descriptor, view[written:])


class _Folders:
    """Folders below one, made and opened as names ask for them, never through a link."""

    def __init__(self, top: Path | str) -> None:
        self._top = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._open: dict[str, int] = {}
        """The one asked for last comes last."""
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
        descriptor = self._open.pop(name, None)
        if descriptor is None:
            descriptor = self._make(name)
        else:
            self._open[name] = descriptor
        self._last = (name, descriptor)
        return descriptor

    def _make(self, name: str) -> int:
        at = self._top
        if name:
            above, _, base = name.rpartition("/")
            if base in _NO_NAMES or "\0" in base:
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
                os.close(self._open.pop(next(iter(self._open))))
        return at


def _bad_name(name: str) -> InvalidInputError:
    return InvalidInputError(f"{name!r} leads out of the folder", kind="bad_stream")


@contextlib.contextmanager
def scratch_beside(target: str) -> Iterator[str]:
    """A new name beside ``target``, for what is not complete yet; what is left of it goes away at the end."""
    above, name = os.path.split(target)
    scratch = os.path.join(above, f".{name}.part-{os.urandom(4).hex()}")
    try:
        yield scratch
    except OSError as error:
        kind = LimitError if error.errno == DISK_FULL else UnavailableError
        raise kind(f"cannot write {target}: {error.strerror or error}", kind="not_written") from error
    finally:
        _remove(scratch)


def _remove(path: str) -> None:
    try:
        os.rmdir(path)  # all that is left where everything went well
    except FileNotFoundError:
        return
    except NotADirectoryError:
        with contextlib.suppress(OSError):
            os.unlink(path)
    except OSError:
        import shutil  # noqa: PLC0415

        shutil.rmtree(path, ignore_errors=True)


def move_into_place(source: Path | str, folder: Path | str) -> None:
    """Make what is in ``source`` appear below ``folder``: at once if that is not there yet, else file by file, each
    replacing what has its name. A link in the place of a folder is not followed.

    :raises InvalidInputError: ``is_link``.
    """
    source, folder = os.fspath(source), os.fspath(folder)
    if os.path.isfile(source):
        os.makedirs(folder, exist_ok=True)
        os.replace(source, f"{folder}/{os.path.basename(source)}")
        return
    if not os.path.isdir(source):
        raise NotFoundError(f"there are no files to write below {folder}", kind="no_file")
    if not os.path.exists(folder):
        os.makedirs(os.path.dirname(folder), exist_ok=True)
        os.replace(source, folder)
        return
    places = [(root, folder + root[len(source) :], names) for root, _, names in os.walk(source)]
    for _, there, _ in places:
        if there != folder and os.path.islink(there):
            raise InvalidInputError(
                f"{there} is a link: remove it, or get into another folder", kind="is_link"
            )
    for root, there, names in places:
        os.makedirs(there, exist_ok=True)
        for name in names:
            os.replace(f"{root}/{name}", f"{there}/{name}")
