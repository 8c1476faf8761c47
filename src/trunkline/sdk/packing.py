"""Local files into one stream for the server (``core/filestream``), at the price of a few system calls for each.

Small files are read straight into one large buffer, large ones go from the file to the socket without passing through here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from trunkline.core import filestream
from trunkline.core.filestream import EXECUTABLE, FILE, HEAD, TIMED
from trunkline.errors import ConflictError, InvalidInputError
from trunkline.sdk.exchange import Exchange

if TYPE_CHECKING:
    from pathlib import Path

    Source = Path | str | bytes
    """A file or folder on disk, or the content of a file itself."""
    Progress = Callable[[int], None]
    """Called with the number of bytes that were just sent or received."""

BUFFER_BYTES = 2**20
SMALL_BYTES_MAX = 256 * 1024
_OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # not to wait for whoever puts a pipe where a file was
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_KIND, _REGULAR, _MAY_RUN = 0o170000, 0o100000, 0o100
"""Of a mode. (The module ``stat`` has them as calls, at a cost that is felt at so many files.)"""


class Run(NamedTuple):
    """Files of one folder that follow each other in the stream."""

    folder: int | None
    """Open, and good until the next run is asked for; None: the names are paths."""
    prefix: bytes
    """What comes before each name in the stream."""
    names: Sequence[bytes]
    local: bytes = b""
    """What comes before each name on this machine: an error names the file as whoever put it would find it."""


class Content(NamedTuple):
    """A file that is on no disk."""

    name: bytes
    data: bytes


def walk(folder: str, prefix: bytes = b"") -> Iterator[Run]:
    """Every file below a folder, in the order in which the server keeps them. Links to files are followed.

    :raises InvalidInputError: for a device, a socket, a dangling link or a link to a folder, naming it.
    """
    local = os.fsencode(folder)
    return _walk(local, prefix, local if local.endswith(b"/") else local + b"/", None)


def _walk(folder: bytes, prefix: bytes, local: bytes, at: int | None) -> Iterator[Run]:
    try:
        descriptor = os.open(folder, _FOLDER, dir_fd=at)
    except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
        raise _unopened(local.rstrip(b"/"), error) from error
    try:
        names: list[bytes] = []
        for key in _listed(descriptor, local):
            if key[-1] != 0x2F:
                names.append(key)
                continue
            if names:
                yield Run(descriptor, prefix, names, local)
                names = []
            yield from _walk(key[:-1], prefix + key, local + key, descriptor)
        if names:
            yield Run(descriptor, prefix, names, local)
    except FileNotFoundError as error:
        raise _changed(local.rstrip(b"/"), "went away") from error
    finally:
        os.close(descriptor)


def _listed(descriptor: int, local: bytes) -> list[bytes]:
    """What is in a folder, sorted; folders end with a slash, which makes the order that of whole paths."""
    found = []
    with os.scandir(descriptor) as entries:
        for entry in entries:
            try:
                key = entry.name.encode()
            except UnicodeEncodeError as error:
                raise _not_utf8(_shown(local + os.fsencode(entry.name))) from error
            try:
                if entry.is_dir(follow_symlinks=False):
                    key += b"/"
                elif not entry.is_file():
                    raise _unfit(entry, _shown(local + key))
            except OSError as error:
                raise _bad_file(f"{_shown(local + key)} cannot be read: {error.strerror}") from error
            found.append(key)
    found.sort()
    return found


def _unfit(entry: os.DirEntry[str], shown: str) -> InvalidInputError:
    """Why what is neither a folder nor a file cannot be put."""
    if entry.is_dir():
        return _bad_file(f"{shown} is a link to a folder: put that folder itself")
    try:
        entry.stat()
    except FileNotFoundError:
        return _bad_file(f"{shown} is a link to what is not there")
    return _bad_file(f"{shown} is not a readable regular file")


def runs(files: Iterable[tuple[str, Source]]) -> Iterator[Run | Content]:
    """The files behind ``(name, source)``: a folder stands for all that is below it."""
    for name, source in files:
        if isinstance(source, bytes):
            yield Content(encoded(name, name), source)
        elif os.path.isdir(source):
            yield from walk(os.fspath(source), encoded(name, source) + b"/" if name else b"")
        else:
            yield Run(None, encoded(name, source), [os.fsencode(source)])


def encoded(name: str, source: str | Path) -> bytes:
    """The name in the stream of what is found as ``source``.

    :raises InvalidInputError: ``bad_file``, if it is not UTF-8.
    """
    try:
        return name.encode()
    except UnicodeEncodeError as error:
        local = os.fspath(source)
        shown = _clean(local)
        raise _not_utf8(shown if shown != local else _clean(name)) from error  # a link may have a better name


def names_of(files: Iterable[tuple[str, Source]]) -> Iterator[str]:
    """Each file's name in the stream."""
    for run in runs(files):
        if isinstance(run, Content):
            yield run.name.decode()
        else:
            yield from (_name_of(run, name) for name in run.names)


def total_bytes(files: Iterable[tuple[str, Source]]) -> tuple[int, int]:
    """How many files there are, and of how many bytes: for a progress bar."""
    count = size = 0
    for run in runs(files):
        if isinstance(run, Content):
            count, size = count + 1, size + len(run.data)
        else:
            count += len(run.names)
            try:
                size += sum(os.stat(name, dir_fd=run.folder).st_size for name in run.names)
            except FileNotFoundError as error:
                raise _changed(run.local + error.filename, "went away") from error
    return count, size


class Share(NamedTuple):
    """Every ``of``-th file, beginning with number ``number``."""

    number: int
    of: int


ALL = Share(0, 1)


def send_files(
    exchange: Exchange,
    files: Iterable[tuple[str, Source]],
    progress: Progress | None = None,
    share: Share = ALL,
) -> int:
    """Send files, and the end marker; returns how many.

    :raises ConflictError: ``file_changed``. :raises AnsweredEarlyError:
    """
    return send_runs(exchange, runs(files) if share is ALL else _shared(runs(files), share), progress)


def send_runs(exchange: Exchange, files: Iterable[Run | Content], progress: Progress | None = None) -> int:
    """The same, for runs that somebody has chosen."""
    sender = _Sender(exchange, progress)
    for run in files:
        if isinstance(run, Content):
            sender.add_content(*run)
        else:
            sender.add(run)
    return sender.finish()


def _shared(files: Iterable[Run | Content], share: Share) -> Iterator[Run | Content]:
    number = 0  # of the next file
    for run in files:
        first = (share.number - number) % share.of
        if isinstance(run, Content):
            number += 1
            if not first:
                yield run
        else:
            number += len(run.names)
            yield Run(run.folder, run.prefix, run.names[first :: share.of], run.local)


class _Sender:
    def __init__(self, exchange: Exchange, progress: Progress | None) -> None:
        self._exchange = exchange
        self._progress = progress
        self._buffer = memoryview(bytearray(BUFFER_BYTES))
        self._count = 0
        self._content = 0
        magic = filestream.MAGIC
        self._buffer[: len(magic)] = magic
        self._at = len(magic)

    def add(self, run: Run) -> None:
        """All files of a run. One loop without a call of ours in it: a call costs as much as a system call."""
        folder, prefix, names, _ = run
        prefix_bytes, is_whole = len(prefix), folder is None
        buffer, at = self._buffer, self._at
        open_file, look, read, close, pack = os.open, os.fstat, os.readv, os.close, HEAD.pack
        for name in names:
            try:
                descriptor = open_file(name, _OPEN, dir_fd=folder)
            except (FileNotFoundError, PermissionError) as error:
                raise _unopened(run.local + name, error) from error
            try:
                found = look(descriptor)
                mode, size = found.st_mode, found.st_size
                if mode & _KIND != _REGULAR:
                    raise _bad_file(f"{_shown(run.local + name)} is not a readable regular file")
                flags = TIMED | EXECUTABLE if mode & _MAY_RUN else TIMED
                if is_whole:
                    head = pack(FILE, flags, prefix_bytes, found.st_mtime_ns, size) + prefix
                else:
                    head = (
                        pack(FILE, flags, prefix_bytes + len(name), found.st_mtime_ns, size) + prefix + name
                    )
                if at + len(head) + size > BUFFER_BYTES or size > SMALL_BYTES_MAX:
                    self._at = at
                    self._flush()
                    at = 0
                start = at + len(head)
                buffer[at:start] = head
                if size > SMALL_BYTES_MAX:
                    self._at = start
                    self._send_large(descriptor, size, run.local + name)
                    at = 0
                    continue
                at = start + size
                if size and read(descriptor, [buffer[start:at]]) != size:
                    self._read_again(descriptor, buffer[start:at], run.local + name)
                self._content += size
            finally:
                close(descriptor)
        self._at = at
        self._count += len(names)

    def _read_again(self, descriptor: int, target: memoryview, name: bytes) -> None:
        """A read that was not answered whole: piece by piece, from the start."""
        at = 0
        while at < len(target):
            got = os.preadv(descriptor, [target[at:]], at)
            if not got:
                raise _changed(name, "became shorter")
            at += got

    def add_content(self, name: bytes, data: bytes) -> None:
        self._put(filestream.file_head(name, len(data), None, False))
        self._content += len(data)
        if len(data) > SMALL_BYTES_MAX:
            self._flush()
            self._exchange.write(data)
        else:
            self._put(data)
        self._count += 1

    def finish(self) -> int:
        self._put(filestream.end(self._count))
        self._flush()
        self._exchange.finish_body()
        return self._count

    def _send_large(self, descriptor: int, size: int, name: bytes) -> None:
        self._flush()
        left = size
        for sent in self._exchange.write_file(descriptor, size):
            left -= sent
            if self._progress is not None:
                self._progress(sent)
        if left:
            raise _changed(name, "became shorter")

    def _put(self, data: bytes) -> None:
        self._reserve(len(data))
        end = self._at + len(data)
        self._buffer[self._at : end] = data
        self._at = end

    def _reserve(self, size: int) -> None:
        if self._at + size > BUFFER_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._at:
            self._exchange.write(self._buffer[: self._at])
            self._at = 0
        if self._progress is not None and self._content:
            self._progress(self._content)
            self._content = 0


def _name_of(run: Run, name: bytes) -> str:
    return (run.prefix if run.folder is None else run.prefix + name).decode()


def _clean(name: str) -> str:
    """Fit to be printed: Python keeps bytes that are not UTF-8 as halves of surrogate pairs."""
    return name.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _shown(local: bytes) -> str:
    return local.decode("utf-8", "replace")


def _changed(local: bytes, how: str) -> ConflictError:
    return ConflictError(f"{_shown(local)} {how} while it was read: repeat", kind="file_changed")


def _unopened(local: bytes, error: OSError) -> ConflictError | InvalidInputError:
    if isinstance(error, PermissionError):
        return _bad_file(f"{_shown(local)} cannot be read: {error.strerror}")
    return _changed(local, "went away")


def _bad_file(why: str) -> InvalidInputError:
    return InvalidInputError(why, kind="bad_file")


def _not_utf8(shown: str) -> InvalidInputError:
    return _bad_file(f"{shown} has a name that is not UTF-8: rename it")
