"""A stream of files into a folder. The names come from elsewhere and are not trusted: nothing is written outside, and
no link is followed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, NamedTuple

from trunkline.core.filebatches import Batch, Buffers, LargeFile, read_batches
from trunkline.core.filestream import Source, bad_stream
from trunkline.errors import InvalidInputError, LimitError, NotFoundError, UnavailableError

if TYPE_CHECKING:
    from pathlib import Path

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_NAMES = frozenset(("", ".", ".."))
FOLDERS_OPEN_MAX = 64
FILES_AT_ONCE = 16
WAITING_MAX = 2
"""Times so many files that are made wait to be filled: with those in work, 64 are open."""
PART_BYTES = 2**20
DISK_FULL = 28


def write_files(stream: Source, folder: Path | str, *, past_cache_from: int | None = None) -> int:
    """Write the files of a stream (``core/filestream.py``) below ``folder``, which is made if need be; returns how many.
    ``past_cache_from``: files of so many bytes are not left in memory.

    :raises InvalidInputError: ``bad_stream``, if a name leads out of it, or it is not such a stream.
    :raises StreamFailureError:
    """
    os.makedirs(folder, exist_ok=True)
    count, buffers = 0, Buffers()
    with _Folders(folder) as folders, _SecondWriter(buffers) as second:
        for item in read_batches(stream, buffers):
            if isinstance(item, LargeFile):
                _write_large(item, folders, past_cache_from)
                count += 1
                continue
            for made in _made(item, folders):
                if not (count and second.takes(made)):
                    _fill(made)
                count += len(made.descriptors)
    return count


class _Made(NamedTuple):
    """New files that follow each other, open and empty, and what comes into them."""

    descriptors: list[int]
    contents: list[bytes | memoryview]
    times: list[int | None]
    whole: memoryview
    """The buffer in which the contents lie."""


def _made(batch: Batch, folders: _Folders) -> Iterator[_Made]:
    names, contents, times, executables = batch[1:]
    last, at = "", folders.find("")
    for start in range(0, len(names), FILES_AT_ONCE):
        part = slice(start, start + FILES_AT_ONCE)
        descriptors: list[int] = []
        try:
            for key, executable in zip(names[part], executables[part], strict=True):
                below, base = _split(key)
                if below != last:
                    at, last = folders.find(below), below
                descriptors.append(_create(base, at, executable=executable))
        except BaseException:
            _close(descriptors)
            raise
        yield _Made(descriptors, contents[part], times[part], batch.whole)


def _create(name: str, folder: int, *, executable: bool) -> int:
    """A new file, in the place of one that may be there: that one, if it is still being filled, keeps what comes into it."""
    mode = 0o777 if executable else 0o666
    try:
        return os.open(name, _CREATE, mode, dir_fd=folder)
    except FileExistsError:
        os.unlink(name, dir_fd=folder)
        return os.open(name, _CREATE, mode, dir_fd=folder)


def _fill(made: _Made) -> None:
    write, set_times, close = os.write, os.utime, os.close
    files = zip(*made[:3], strict=True)
    try:
        for descriptor, content, modified_ns in files:
            try:
                if content and write(descriptor, content) != len(content):
                    os.lseek(descriptor, 0, os.SEEK_SET)
                    write_whole(descriptor, content)
                if modified_ns is not None:
                    set_times(descriptor, ns=(modified_ns, modified_ns))
            finally:
                close(descriptor)
    except BaseException:
        _close(descriptor for descriptor, *_ in files)
        raise


def _close(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _write_large(file: LargeFile, folders: _Folders, past_cache_from: int | None) -> None:
    below, base = _split(file.name)
    descriptor = _create(base, folders.find(below), executable=file.executable)
    try:
        buffer = memoryview(bytearray(PART_BYTES))
        parts = (buffer[:size] for size in iter(lambda: file.fill(buffer), 0))
        is_past_cache = past_cache_from is not None and file.size >= past_cache_from
        if not (is_past_cache and _write_past_cache(descriptor, parts)):
            for part in parts:
                write_whole(descriptor, part)
        if file.modified_ns is not None:
            os.utime(descriptor, ns=(file.modified_ns, file.modified_ns))
    finally:
        os.close(descriptor)


def _split(key: bytes) -> tuple[str, str]:
    """The folder and the name in it."""
    try:
        name = str(key, "utf-8")
    except UnicodeDecodeError as error:
        raise bad_stream("a name is not UTF-8") from error
    below, _, base = name.rpartition("/")
    if base in _NO_NAMES or "\0" in base or name[0] == "/":
        raise _bad_name(name)
    return below, base


class _SecondWriter:
    """A thread that fills the files which the other one makes: both is the system's work, which two can do at once, but two who
    make files in one folder wait for each other."""

    def __init__(self, buffers: Buffers) -> None:
        self._buffers = buffers
        self._waiting: SimpleQueue[_Made | None] = SimpleQueue()
        self._thread: Thread | None = None
        self._failure: BaseException | None = None

    def takes(self, made: _Made) -> bool:
        """Whether it will fill these; no, if it has enough to do.

        :raises Exception: why it could not fill earlier ones; then these are closed.
        """
        if self._failure is not None:
            _close(made.descriptors)
            raise self._failure
        if self._waiting.qsize() >= WAITING_MAX:
            return False
        if self._thread is None:
            self._thread = Thread(target=self._run, name="write", daemon=True)
            self._thread.start()
        self._buffers.hold(made.whole)
        self._waiting.put(made)
        return True

    def __enter__(self) -> _SecondWriter:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self._thread is not None:
            self._waiting.put(None)
            self._thread.join()
        if self._failure is not None and kind is None:
            raise self._failure

    def _run(self) -> None:
        while (made := self._waiting.get()) is not None:
            if self._failure is not None:
                _close(made.descriptors)
                continue
            try:
                _fill(made)
                self._buffers.release(made.whole)
            except BaseException as error:  # raised where the files come from
                self._failure = error


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

    :raises InvalidInputError: ``is_link`` or ``in_the_way``.
    """
    source, folder = os.fspath(source), os.fspath(folder)
    if os.path.isfile(source):
        _refuse_file(folder)
        os.makedirs(folder, exist_ok=True)
        _replace(source, f"{folder}/{os.path.basename(source)}", 0)
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
        _refuse_file(there)
    moved = 0
    for root, there, names in places:
        os.makedirs(there, exist_ok=True)
        for name in names:
            _replace(f"{root}/{name}", f"{there}/{name}", moved)
            moved += 1


def _refuse_file(folder: str) -> None:
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise InvalidInputError(
            f"{folder} would be a folder, but a file is there: remove it, or get into another folder",
            kind="in_the_way",
        )


def _replace(source: str, target: str, moved: int) -> None:
    """``moved``: how many files are in their places already."""
    try:
        os.replace(source, target)
    except IsADirectoryError as error:
        before = f" (of the files, {moved} are in their places already)" if moved else ""
        raise InvalidInputError(
            f"{target} would be a file, but a folder is there: remove it, or get into another folder{before}",
            kind="in_the_way",
        ) from error
