"""Files in and out, at the speed of the disk: the part of the client that commands use to move data.

Imports nothing beyond the standard library that it need not: ``put file`` starts with this module and little else.
"""

from __future__ import annotations

import io
import json
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from typing import IO, TYPE_CHECKING, Any, TypeVar

from trunkline.core import filestream
from trunkline.core.filestream import StreamFailureError
from trunkline.core.paths import parse_address
from trunkline.errors import InternalError, InvalidInputError, NotFoundError, UnavailableError
from trunkline.sdk.endpoint import (
    BACKOFF_SECONDS_MAX,
    Endpoint,
    Query,
    encode_query,
    error_named,
    path_of,
    value_of,
)
from trunkline.sdk.exchange import READ_SECONDS, AnsweredEarlyError, Download, Exchange
from trunkline.sdk.packing import ALL, Share, send_files, send_runs

if TYPE_CHECKING:
    from pathlib import Path

    from trunkline.sdk.packing import Progress, Source

PART_BYTES = 256 * 1024
WRITE_BYTES = 32 * 1024
"""For a larger write the page cache asks for larger blocks of memory, and those are what a virtual machine has given back to its
host: two gigabytes of them took the processor 2.7 to 4.3 seconds, in small ones 0.6 to 2.5."""

LARGE_BYTES = 64 * 2**20
"""What people get may be used much later; files from this size on need not push everything else out of memory."""

Body = bytes | Iterable[bytes] | IO[bytes]
T = TypeVar("T")


class Transfers(Endpoint):
    """Uploads and downloads. Each has a connection of its own."""

    def upload_files(
        self,
        path: str,
        files: Iterable[tuple[str, Source]],
        *,
        method: str | None = None,
        query: Query | None = None,
        progress: Progress | None = None,
        share: Share = ALL,
    ) -> Any:
        """Send files as one stream, given as ``(name, file, folder or content)``; the server's answer.

        POST for filesets, PUT for a directory of a repo, unless told otherwise. ``progress`` gets the size of each part.

        :raises InvalidInputError: ``no_file``, if there is none in the folders that were named.
        """
        named = files if isinstance(files, list | tuple) else list(files)
        verb = method or ("POST" if path.startswith("/v1/filesets") else "PUT")

        def send(exchange: Exchange) -> None:
            if not send_files(exchange, named, progress, share) and named and share is ALL:
                raise InvalidInputError("there is no file in the folders that were named", kind="no_file")

        return self._upload(verb, path, query, filestream.MEDIA_TYPE, None, lambda: send)

    def upload(
        self,
        path: str,
        stream: Body,
        *,
        method: str = "PUT",
        query: Query | None = None,
        media_type: str = "application/octet-stream",
    ) -> Any:
        """Send bytes, an iterable of bytes or an open binary file; retried only if it can be read again."""
        size = len(stream) if isinstance(stream, bytes) else None
        return self._upload(method, path, query, media_type, size, _replayable(stream))

    def _upload(
        self,
        method: str,
        path: str,
        query: Query | None,
        media_type: str,
        size: int | None,
        sender: Callable[[], Callable[[Exchange], None]],
    ) -> Any:
        headers = {"content-type": media_type, "expect": "100-continue", **self._gathering()}

        def attempt() -> Any:
            send = sender()
            exchange = Exchange(self.url)
            try:
                exchange.ask(method, path + encode_query(query), self.token, headers, size)
                try:
                    exchange.wait_until_welcome()
                    send(exchange)
                except AnsweredEarlyError:
                    pass  # the answer says why
                exchange.answer()
                data = exchange.read_all()
            finally:
                exchange.close()
            return value_of(data)

        return self._patiently(attempt)

    def download(
        self,
        path: str,
        *,
        query: Query | None = None,
        headers: Mapping[str, str] | None = None,
        read_seconds: float = READ_SECONDS,
        ask: Any = None,
    ) -> Download:
        """Open a body for reading: file-like, closed by ``with``. ``read_seconds``: how long it may stay silent. ``ask``: JSON
        that is sent with a POST, for questions that are too long for an address."""
        body = None if ask is None else json.dumps(ask).encode()
        given = {**self._gathering(), **(headers or {})}
        if body is not None:
            given["content-type"] = "application/json"

        def attempt() -> Download:
            exchange = Exchange(self.url, read_seconds)
            try:
                if body is None:
                    exchange.ask("GET", path + encode_query(query), self.token, given)
                else:
                    exchange.ask("POST", path + encode_query(query), self.token, given, len(body))
                    exchange.write(body)
                exchange.answer()
            except BaseException:
                exchange.close()
                raise
            return Download(exchange)

        return self._patiently(attempt)

    def download_folder(
        self, path: str, folder: Path | str, *, query: Query | None = None, ask: Any = None,
        past_cache_from: int | None = None,
    ) -> int:  # fmt: skip
        """Write the files of an answer below ``folder``, anew if the connection breaks; returns how many. ``past_cache_from``:
        files of so many bytes are not left in memory."""
        from trunkline.sdk.unpacking import write_files  # noqa: PLC0415 (puts do not need it)

        deadline = time.monotonic() + self.retry_seconds
        while True:
            try:
                with self.download(
                    path, query=query, headers={"accept": filestream.MEDIA_TYPE}, ask=ask
                ) as stream:
                    return write_files(stream, folder, past_cache_from=past_cache_from)
            except StreamFailureError as error:
                said = error.said
                raise error_named(said.get("class"), InternalError)(
                    str(error), kind=said.get("kind")
                ) from error
            except UnavailableError:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(BACKOFF_SECONDS_MAX)

    # --- files of a repo ---

    def send_files(
        self,
        address: str,
        files: Path | Iterable[tuple[str, Source]],
        *,
        append: bool = False,
        project: str | None = None,
        progress: Progress | None = None,
        streams: int = 1,
    ) -> dict[str, Any]:
        """As ``put_files``; the commit as it came.

        >>> client.send_files("images@master:/cats", Path("cats/"))["id"]
        """
        found: list[tuple[str, Source]] = [("", files)] if isinstance(files, os.PathLike) else list(files)
        if streams > 1 and not append:  # what is appended has an order
            return self._send_in_streams(address, found, project, progress, streams)
        query = {"at": address, "append": append or None}
        answer: dict[str, Any] = self.upload_files(
            self._in(project, "archive"), found, query=query, progress=progress
        )
        return answer

    def send_changed_files(
        self, address: str, files: Path | Iterable[tuple[str, Source]], *, project: str | None = None,
        progress: Progress | None = None,
    ) -> dict[str, Any] | None:  # fmt: skip
        """As ``put_changed_files``; the commit as it came.

        >>> client.send_changed_files("images@master:/cats", Path("cats/"))
        """
        from trunkline.sdk.comparing import changed  # noqa: PLC0415 (only this needs it)

        found: list[tuple[str, Source]] = [("", files)] if isinstance(files, os.PathLike) else list(files)
        where, _, into = address.partition(":")

        def heads(path: str) -> Iterator[tuple[bytes, int, int | None, bool]]:
            query, accept = {"at": f"{where}:/{path}"}, {"accept": filestream.HEADS_MEDIA_TYPE}
            with self.download(self._in(project, "archive"), query=query, headers=accept) as stream:
                yield from filestream.read_heads(stream)

        chosen = changed(found, into, heads)
        first = next(chosen, None)
        if first is None:
            return None
        begun = [chain([first], chosen)]

        def send(exchange: Exchange) -> None:
            send_runs(exchange, begun.pop() if begun else changed(found, into, heads), progress)

        path, query = self._in(project, "archive"), {"at": address}
        answer: dict[str, Any] = self._upload("PUT", path, query, filestream.MEDIA_TYPE, None, lambda: send)
        return answer

    def _send_in_streams(
        self,
        address: str,
        files: list[tuple[str, Source]],
        project: str | None,
        progress: Progress | None,
        streams: int,
    ) -> dict[str, Any]:
        """Each stream stores its share apart; then one commit takes them all, or none."""
        import threading  # noqa: PLC0415 (neither this nor the next for those who need one stream)
        from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415

        lock = threading.Lock()

        def count(size: int) -> None:
            if progress is not None:
                with lock:
                    progress(size)

        def send(number: int) -> str:
            share = Share(number, streams)
            made = self.upload_files(path_of("filesets"), files, progress=count, share=share)
            return str(made["root"]) if made["file_count"] else ""

        with ThreadPoolExecutor(streams, thread_name_prefix="stream") as pool:
            roots = [root for root in pool.map(send, range(streams)) if root]
        if not roots:
            raise InvalidInputError("there is no file in the folders that were named", kind="no_file")
        where, _, into = address.partition(":")
        takes = [{"op": "take", "root": root, "path": into or "/"} for root in roots]
        answer: dict[str, Any] = self.upload(
            self._in(project, "files", "change"),
            json.dumps({"at": where, "changes": takes}).encode(),
            method="POST",
            media_type="application/json",
        )
        return answer

    def send_file(
        self, address: str, content: Body, *, append: bool = False, modified_at: float | None = None,
        modified_ns: int | None = None, executable: bool = False, project: str | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """As ``put_file``; the commit as it came.

        >>> client.send_file("images@master:/notes.txt", b"hello")["id"]
        """
        query = {
            "at": address, "append": append, "mtime": modified_at, "mtime_ns": modified_ns, "executable": executable,
        }  # fmt: skip
        answer: dict[str, Any] = self.upload(self._in(project, "files"), content, query=query)
        return answer

    def get_file(
        self, address: str, *, offset: int = 0, length: int | None = None, project: str | None = None
    ) -> Download:
        """Open one file for reading, as a stream.

        >>> with client.get_file("images@master:/notes.txt") as stream: stream.read()
        """
        if offset < 0 or (length is not None and length < 1):
            raise InvalidInputError("an offset is not negative, and a length is at least 1", kind="bad_range")
        headers = {}
        if offset or length is not None:
            last = "" if length is None else str(offset + length - 1)
            headers["range"] = f"bytes={offset}-{last}"
        return self.download(self._in(project, "files"), query={"at": address}, headers=headers)

    def get_files(
        self, address: str, folder: Path | str, *, glob: str | None = None, project: str | None = None
    ) -> int:
        """Write the files of a directory below a local folder; returns how many. Nothing appears there before all has
        come.

        >>> client.get_files("images@master:/cats", Path("cats/"))
        """
        from trunkline.sdk.unpacking import move_into_place, scratch_beside  # noqa: PLC0415

        where = parse_address(address, project or self.project)
        top = (where.path or "/").strip("/") if glob is None else ""
        target = os.path.abspath(folder)  # no link is to be followed
        with scratch_beside(target) as scratch:
            query = {"at": address, "glob": glob}
            archive = self._in(project, "archive")
            count = self.download_folder(archive, scratch, query=query, past_cache_from=LARGE_BYTES)
            if not count:
                why = "holds no files" if glob is None else f"holds no file that matches {glob}"
                raise NotFoundError(f"{address} {why}", kind="no_file")
            move_into_place(f"{scratch}/{top}" if top else scratch, target)
        return count


def path_of_archive(project: str) -> str:
    """Where whole directories of a project go in and out."""
    return path_of("projects", project, "archive")


def _replayable(stream: Body) -> Callable[[], Callable[[Exchange], None]]:
    """Makes the body again for every attempt, as long as that is possible."""
    if isinstance(stream, bytes):
        return lambda: lambda exchange: exchange.write(stream)
    source: Any = stream
    started = False
    seekable = hasattr(source, "seekable") and source.seekable()
    start = source.tell() if seekable else 0

    def body() -> Callable[[Exchange], None]:
        nonlocal started
        if started:
            if not seekable:
                raise UnavailableError(
                    "the connection broke while a stream was sent: repeat", kind="not_replayable"
                )
            source.seek(start)
        started = True
        return lambda exchange: _send_parts(
            exchange, _parts_of(source) if hasattr(source, "read") else source
        )

    return body


def _send_parts(exchange: Exchange, parts: Iterable[bytes]) -> None:
    gathered = bytearray()
    for part in parts:
        gathered += part
        if len(gathered) >= PART_BYTES:
            exchange.write(gathered)
            gathered.clear()
    exchange.write(gathered)
    exchange.finish_body()


def _parts_of(file: Any) -> Iterator[bytes]:
    while part := file.read(PART_BYTES):
        yield part


def copied(
    source: Download,
    target: IO[bytes],
    progress: Progress | None = None,
    *,
    past_cache_from: int | None = None,
) -> int:
    """Copy a stream part by part; returns the number of bytes. ``past_cache_from``: so many bytes are not left in memory, if the
    target is a file; it is a new one then."""
    target.flush()
    try:
        descriptor = target.fileno()
    except (OSError, io.UnsupportedOperation):
        descriptor = None
    first: Iterable[int] = ()
    if descriptor is not None:
        is_large = past_cache_from is not None and source.size >= past_cache_from
        is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
        direct = _past_cache(source, descriptor) if is_large and is_file else None
        first = source.spliced(descriptor) if direct is None else direct
    size = 0
    for read in chain(first, _written(source, target, descriptor)):
        size += read
        if progress is not None:
            progress(read)
    return size


def _past_cache(source: Download, descriptor: int) -> Iterator[int] | None:
    """None if the file system does not let."""
    from trunkline import directio  # noqa: PLC0415 (most bodies are small)

    if not directio.turn_direct(descriptor, on=True):
        return None
    buffer = memoryview(bytearray(2 * PART_BYTES))
    sizes = iter(lambda: source.readinto(buffer), 0)
    return directio.write_parts(descriptor, (buffer[:size] for size in sizes))


def _written(source: Download, target: IO[bytes], descriptor: int | None) -> Iterator[int]:
    buffer = memoryview(bytearray(2 * PART_BYTES))
    while read := source.readinto(buffer):
        if descriptor is None:
            target.write(buffer[:read])
        else:
            for at in range(0, read, WRITE_BYTES):
                part = buffer[at : min(at + WRITE_BYTES, read)]
                while part := part[os.write(descriptor, part) :]:
                    pass
        yield read
