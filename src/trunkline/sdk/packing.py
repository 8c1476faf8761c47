"""Local files into one stream for the server (``core/filestream``), at the price of a few system calls for each.

Small files are read straight into one large buffer, large ones go from the file to the socket without passing through here.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from trunkline.core import filestream
from trunkline.errors import ConflictError, InvalidInputError
from trunkline.sdk.exchange import Exchange

BUFFER_BYTES = 2**20
SMALL_BYTES_MAX = 256 * 1024
_OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # not to wait for whoever puts a pipe where a file was

Source = Path | bytes
"""A file or folder on disk, or the content of a file itself."""
Progress = Callable[[int], None]
"""Called with the number of bytes that were just sent or received."""


class LocalFile(NamedTuple):
    name: str
    """In the stream."""
    path: str
    """To be opened: relative to the folder, if there is one."""
    folder: int | None
    """An open folder; good until the next file is asked for."""


def walk(folder: str, prefix: str = "", *, at: int | None = None) -> Iterator[LocalFile]:
    """Every file below a folder, in the order in which the server keeps them. Links to files are followed.

    :raises InvalidInputError: for a device, a socket, a dangling link or a link to a folder, naming it.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=at)
    try:
        for key, name in _listed(descriptor, prefix):
            if key.endswith(b"/"):
                yield from walk(name, f"{prefix}{name}/", at=descriptor)
            else:
                yield LocalFile(prefix + name, name, descriptor)
    except FileNotFoundError as error:
        raise _changed(prefix, "went away") from error
    finally:
        os.close(descriptor)


def _listed(descriptor: int, prefix: str) -> list[tuple[bytes, str]]:
    """What is in a folder, sorted; the keys of folders end with a slash, which makes the order that of whole paths."""
    found = []
    with os.scandir(descriptor) as entries:
        for entry in entries:
            name = entry.name
            try:
                key = name.encode()
            except UnicodeEncodeError as error:
                shown = os.fsencode(name).decode("utf-8", "replace")
                raise InvalidInputError(
                    f"{prefix}{shown} has a name that is not UTF-8: rename it", kind="bad_file"
                ) from error
            if entry.is_dir(follow_symlinks=False):
                key += b"/"
            elif entry.is_dir():
                raise InvalidInputError(
                    f"{prefix}{name} is a link to a folder: put that folder itself", kind="bad_file"
                )
            elif not entry.is_file():
                raise InvalidInputError(f"{prefix}{name} is not a readable regular file", kind="bad_file")
            found.append((key, name))
    found.sort()
    return found


def local_files(files: Iterable[tuple[str, Source]]) -> Iterator[LocalFile | tuple[str, bytes]]:
    """The files behind ``(name, source)``: a folder stands for all that is below it."""
    for name, source in files:
        if isinstance(source, bytes):
            yield name, source
        elif source.is_dir():
            yield from walk(str(source), f"{name}/" if name else "")
        else:
            yield LocalFile(name, str(source), None)


def total_bytes(files: Iterable[tuple[str, Source]]) -> tuple[int, int]:
    """How many files there are, and of how many bytes: for a progress bar."""
    count = size = 0
    for found in local_files(files):
        count += 1
        if isinstance(found, LocalFile):
            size += os.stat(found.path, dir_fd=found.folder).st_size
        else:
            size += len(found[1])
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
    sender = _Sender(exchange, progress)
    for number, found in enumerate(local_files(files)):
        if number % share.of != share.number:
            continue
        if isinstance(found, LocalFile):
            sender.add(found)
        else:
            sender.add_content(*found)
    return sender.finish()


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

    def add(self, file: LocalFile) -> None:
        try:
            descriptor = os.open(file.path, _OPEN, dir_fd=file.folder)
        except FileNotFoundError as error:
            raise _changed(file.name, "went away") from error
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise InvalidInputError(f"{file.name} is not a readable regular file", kind="bad_file")
            size = found.st_size
            executable = bool(found.st_mode & stat.S_IXUSR)
            head = filestream.file_head(file.name.encode(), size, found.st_mtime_ns, executable)
            if size > SMALL_BYTES_MAX:
                self._put(head)
                self._send_large(descriptor, size, file.name)
            else:
                self._reserve(len(head) + size)
                self._put(head)
                end = self._at + size
                while self._at < end:
                    read = os.readv(descriptor, [self._buffer[self._at : end]])
                    if not read:
                        raise _changed(file.name, "became shorter")
                    self._at += read
                self._content += size
        finally:
            os.close(descriptor)
        self._count += 1

    def add_content(self, name: str, content: bytes) -> None:
        self._put(filestream.file_head(name.encode(), len(content), None, False))
        self._content += len(content)
        if len(content) > SMALL_BYTES_MAX:
            self._flush()
            self._exchange.write(content)
        else:
            self._put(content)
        self._count += 1

    def finish(self) -> int:
        self._put(filestream.end(self._count))
        self._flush()
        self._exchange.finish_body()
        return self._count

    def _send_large(self, descriptor: int, size: int, name: str) -> None:
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


def _changed(name: str, how: str) -> ConflictError:
    return ConflictError(f"{name} {how} while it was read: repeat", kind="file_changed")
