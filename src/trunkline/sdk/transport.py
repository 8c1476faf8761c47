"""HTTP with the control server: one connection pool, errors as our own classes, patience where asked for."""

from __future__ import annotations

import io
import json as jsonlib
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote, urlencode

import urllib3
from urllib3.exceptions import HTTPError

from trunkline import errors
from trunkline.errors import TrunklineError, UnavailableError
from trunkline.sdk import config
from trunkline.sdk.tar import PART_BYTES, Source, tar_parts, unpack
from trunkline.wire.transactions import TRANSACTION_HEADER

CONNECT_SECONDS = 5.0
READ_SECONDS = 120.0
BACKOFF_SECONDS_MIN = 0.1
BACKOFF_SECONDS_MAX = 3.0
ERROR_HEADER = "x-trunkline-error"
"""Response header that names the error's class: one HTTP status can stand for several."""

CLASS_OF_STATUS: dict[int, type[TrunklineError]] = {
    400: errors.InvalidInputError, 401: errors.UnauthenticatedError, 403: errors.PermissionDeniedError,
    404: errors.NotFoundError, 409: errors.ConflictError, 413: errors.LimitError,
    422: errors.InvalidInputError, 429: errors.LimitError, 503: errors.UnavailableError,
}  # fmt: skip
"""For answers without the header: something between us and the server made them."""

Body = bytes | Iterable[bytes] | IO[bytes]
Query = Mapping[str, Any]


def path_of(*parts: str | int) -> str:
    """``/v1/`` and the parts, each quoted whole: ``path_of("projects", "a/b")`` is ``/v1/projects/a%2Fb``."""
    return "/v1/" + "/".join(quote(str(part), safe="") for part in parts)


class Transport:
    """Sends requests and raises what the server says. Safe to share between threads."""

    def __init__(self, url: str | None = None, token: str | None = None, retry_seconds: float = 0) -> None:
        self._url = url.rstrip("/") if url is not None else None
        self._may_move = url is None or config.home_is_named()
        self._token = token
        self.retry_seconds = retry_seconds
        self.transaction: str | None = None
        """The transaction that gathers what is changed through this client; None: it happens at once."""
        self._pool = urllib3.PoolManager(maxsize=8, retries=False)

    @property
    def url(self) -> str:
        """The server's address, e.g. ``http://127.0.0.1:8900``."""
        if self._url is None:
            self._url = config.find_url().rstrip("/")
        return self._url

    @property
    def token(self) -> str:
        """What the calls are signed with."""
        if self._token is None:
            self._token = config.find_token()
        return self._token

    def close(self) -> None:
        """Close idle connections."""
        self._pool.clear()

    # --- the verbs ---

    def call(
        self,
        method: str,
        path: str,
        json: Any = None,
        query: Query | None = None,
        *,
        read_seconds: float = READ_SECONDS,
    ) -> Any:
        """Send JSON, get JSON (None where the answer is empty). ``read_seconds``: how long the answer may take.

        >>> client.call("GET", "/v1/repos")["items"]
        """
        body = None if json is None else jsonlib.dumps(json).encode()
        headers = {"content-type": "application/json"} if body is not None else {}
        with self._send(
            method, path, query, (lambda: body) if body is not None else None, headers, read_seconds
        ) as response:
            return _parsed(response)

    def upload_tar(
        self,
        path: str,
        file_iter: Iterable[tuple[str, Source]],
        *,
        method: str | None = None,
        query: Query | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Any:
        """Send files as one tar stream; ``file_iter`` gives ``(name in the archive, Path or bytes)``.

        ``sdk.tar.files_below(folder)`` makes such an iterator. POST for filesets, PUT for a directory of a repo,
        unless told otherwise. Only the names are held in memory. ``progress`` gets the size of each part sent.
        """
        files = list(file_iter)
        verb = method or ("POST" if path.startswith("/v1/filesets") else "PUT")
        headers = {"content-type": "application/x-tar"}
        with self._send(verb, path, query, lambda: _counted(tar_parts(files), progress), headers) as response:
            return _parsed(response)

    def upload(self, path: str, stream: Body, *, method: str = "PUT", query: Query | None = None) -> Any:
        """Send bytes, an iterable of bytes or an open binary file; retried only if it can be read again."""
        headers = {"content-type": "application/octet-stream"}
        with self._send(method, path, query, _replayable(stream), headers) as response:
            return _parsed(response)

    def download(
        self,
        path: str,
        *,
        query: Query | None = None,
        headers: Mapping[str, str] | None = None,
        read_seconds: float = READ_SECONDS,
    ) -> Download:
        """Open a body for reading: file-like, closed by ``with``. ``read_seconds``: how long it may stay silent."""
        return Download(self._send("GET", path, query, None, dict(headers or {}), read_seconds))

    def download_tar(self, path: str, *, query: Query | None = None) -> Download:
        """A readable stream for ``tarfile.open(fileobj=…, mode="r|")`` or ``sdk.tar.unpack``."""
        return self.download(path, query=query)

    def download_folder(self, path: str, folder: Path, *, query: Query | None = None) -> int:
        """Unpack a tar answer below ``folder``, anew if the connection breaks; returns the number of files."""
        deadline = time.monotonic() + self.retry_seconds
        while True:
            try:
                with self.download_tar(path, query=query) as stream:
                    return unpack(stream, folder)
            except UnavailableError:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(BACKOFF_SECONDS_MAX)

    def lines(self, path: str, *, query: Query | None = None) -> Iterator[Any]:
        """The values of a newline-delimited JSON answer, as they come."""
        with self.download(path, query=query) as stream:
            for line in stream.text_lines():
                if line.strip():
                    yield jsonlib.loads(line)

    # --- how ---

    def _send(
        self,
        method: str,
        path: str,
        query: Query | None,
        body: Callable[[], Body] | None,
        headers: dict[str, str],
        read_seconds: float = READ_SECONDS,
    ) -> urllib3.BaseHTTPResponse:
        deadline = time.monotonic() + self.retry_seconds
        pause = BACKOFF_SECONDS_MIN
        while True:
            try:
                made = body() if body is not None else None
                return self._send_once(method, path, query, made, headers, read_seconds)
            except UnavailableError as error:
                if time.monotonic() + pause >= deadline or error.kind == "not_replayable":
                    raise
            time.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(pause * 2, BACKOFF_SECONDS_MAX)
            self._follow_the_server()

    def _send_once(
        self,
        method: str,
        path: str,
        query: Query | None,
        body: Body | None,
        headers: dict[str, str],
        read_seconds: float,
    ) -> urllib3.BaseHTTPResponse:
        target = self.url + path + encode_query(query)
        headers = {"authorization": f"Bearer {self.token}", **headers}
        if self.transaction is not None:
            headers[TRANSACTION_HEADER] = self.transaction
        try:
            response = self._pool.request(
                method, target, body=body, headers=headers, preload_content=False, redirect=False,
                timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=read_seconds),
            )  # fmt: skip
        except HTTPError as error:
            raise self._unreachable(error) from error
        if response.status >= 300:
            raise _error_of(response)
        return response

    def _follow_the_server(self) -> None:
        """A server that was restarted may be at another port; its data directory says where. Not for an address that a
        person gave: what is written there speaks of another server."""
        if self._may_move and (found := config.recorded_url()) is not None:
            self._url = found.rstrip("/")

    def _unreachable(self, error: HTTPError) -> UnavailableError:
        reason = "did not answer in time" if "timed out" in str(error) else "does not answer"
        return UnavailableError(
            f"the server at {self.url} {reason}: see 'trunkline status', or start it with 'trunkline up'",
            kind="unreachable",
        )


class Download(io.RawIOBase):
    """A response body as a file. A connection that breaks is an ``UnavailableError``, never a short read."""

    def __init__(self, response: urllib3.BaseHTTPResponse) -> None:
        self._response = response
        self.headers = response.headers

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def read(self, size: int | None = -1) -> bytes:
        try:
            return self._response.read(size if size is not None and size >= 0 else None)
        except HTTPError as error:
            raise _broken(error) from error

    def readall(self) -> bytes:
        return self.read()

    def parts(self) -> Iterator[bytes]:
        """The content, part by part."""
        while part := self.read(PART_BYTES):
            yield part

    def text_lines(self) -> Iterator[str]:
        """Lines as soon as they are complete."""
        rest = b""
        try:
            for part in self._response.stream(PART_BYTES):
                *whole, rest = (rest + part).split(b"\n")
                yield from (line.decode("utf-8", "replace") for line in whole)
        except HTTPError as error:
            raise _broken(error) from error
        if rest:
            yield rest.decode("utf-8", "replace")

    def close(self) -> None:
        if not self.closed:
            # Not release_conn(): what is left of the body would have to be read first.
            self._response.close()
        super().close()


def encode_query(query: Query | None) -> str:
    """``?a=1&b=true``; None is left out, lists are repeated."""
    pairs = []
    for name, value in (query or {}).items():
        for one in value if isinstance(value, list | tuple) else [value]:
            if one is not None:
                pairs.append((name, str(one).lower() if isinstance(one, bool) else str(one)))
    return "?" + urlencode(pairs) if pairs else ""


def _parsed(response: urllib3.BaseHTTPResponse) -> Any:
    try:
        data = response.read()
    except HTTPError as error:
        raise _broken(error) from error
    response.release_conn()
    return jsonlib.loads(data) if data else None


def _broken(error: HTTPError) -> UnavailableError:
    return UnavailableError(
        f"the connection broke while the answer was read: {type(error).__name__}", kind="unreachable"
    )


def _error_of(response: urllib3.BaseHTTPResponse) -> TrunklineError:
    """The very error that the server raised."""
    try:
        data = response.read()
        body = jsonlib.loads(data)["error"]
        message, kind, details = str(body["message"]), str(body["kind"]), dict(body.get("details") or {})
        if body.get("request_id"):
            details.setdefault("request_id", body["request_id"])
    except (HTTPError, ValueError, KeyError, TypeError):
        message, kind, details = (
            f"the server answered {response.status} {response.reason}",
            "unexpected_answer",
            {},
        )
    finally:
        response.release_conn()
    named = getattr(errors, response.headers.get(ERROR_HEADER) or "", None)
    if not (isinstance(named, type) and issubclass(named, TrunklineError)):
        named = CLASS_OF_STATUS.get(response.status, errors.InternalError)
    return named(message, kind=kind, details=details)


def _replayable(stream: Body) -> Callable[[], Body]:
    """Makes the body again for every attempt, as long as that is possible."""
    if isinstance(stream, bytes):
        return lambda: stream
    source: Any = stream
    started = False
    seekable = hasattr(source, "seekable") and source.seekable()
    start = source.tell() if seekable else 0

    def body() -> Body:
        nonlocal started
        if started:
            if not seekable:
                raise UnavailableError(
                    "the connection broke while a stream was sent: repeat", kind="not_replayable"
                )
            source.seek(start)
        started = True
        return _parts_of(source) if hasattr(source, "read") else source

    return body


def _counted(parts: Iterable[bytes], progress: Callable[[int], None] | None) -> Iterator[bytes]:
    for part in parts:
        yield part
        if progress is not None:
            progress(len(part))


def _parts_of(file: Any) -> Iterator[bytes]:
    while part := file.read(PART_BYTES):
        yield part
