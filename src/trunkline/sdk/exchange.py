"""Requests and their answers over a connection of our own, with bodies that go straight between the socket and a file.

HTTP/1.1 as far as our server and what may stand before it need it: lengths and chunks both ways, and ``100 Continue``, so
that a refused upload costs nothing. Small calls (``transport``) use a connection for one request after the other.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import select
import socket
from collections.abc import Iterator, Mapping
from typing import Any

from trunkline.errors import InvalidInputError, TrunklineError, UnavailableError
from trunkline.sdk import splicing
from trunkline.sdk.endpoint import ERROR_HEADER, error_of, unreachable
from trunkline.sdk.splicing import CannotSpliceError, Splice

CONNECT_SECONDS = 5.0
READ_SECONDS = 120.0
GO_AHEAD_SECONDS = 5.0
"""So long an upload waits to be let in; who does not say '100 Continue' gets it unasked."""
HEAD_BYTES_MAX = 128 * 1024
ERROR_BYTES_MAX = 2**20
LINE_BYTES_MAX = 256
READ_AHEAD_BYTES = 4096
PART_BYTES = 2**20

Piece = bytes | bytearray | memoryview


class AnsweredEarlyError(Exception):
    """The server has answered before it had everything: there is no use in sending more."""


class Exchange:
    """A connection for a request, or for one after the other; to be closed."""

    def __init__(self, url: str, read_seconds: float = READ_SECONDS) -> None:
        self._url = url
        try:
            secure, name, port, self._host, self._prefix = _place(url)
            # As bytes: for text, Python imports all it knows of names in other scripts.
            host: Any = name.encode() if name.isascii() else name
            self._socket = socket.create_connection((host, port), CONNECT_SECONDS)
        except (OSError, ValueError) as error:
            raise self._unreachable(error) from error
        try:
            if secure:
                import ssl  # noqa: PLC0415 (a hundredth of a second that most commands need not spend)

                self._socket = ssl.create_default_context().wrap_socket(self._socket, server_hostname=name)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket.settimeout(read_seconds)
        except OSError as error:
            self._socket.close()
            raise self._unreachable(error) from error
        self._is_plain = not secure
        self._begin()

    def _begin(self) -> None:
        self._ready = memoryview(b"")
        """Read already, but not used."""
        self._left: int | None = None
        """Bytes of the answer's body, or of its chunk, to come; None: all until the connection ends."""
        self._status: tuple[int, str] | None = None
        self._chunked = False
        self._is_first_chunk = True
        self._ended = False
        self._is_kept = False
        """Whether the server keeps the connection when it has answered."""
        self.headers: Mapping[str, str] = {}

    @property
    def is_over(self) -> bool:
        """Whether the answer was read to its end, and the server waits for more to ask."""
        return self._ended and self._left is not None and not self._ready and self._is_kept

    def again(self, read_seconds: float) -> bool:
        """Make ready for another request; False if the server has hung up, or that never was possible. (Over TLS, something to
        read may mean nothing, but a new connection is always right.)"""
        if not self.is_over or self._is_readable(0):
            return False
        self._socket.settimeout(read_seconds)
        self._begin()
        return True

    def close(self) -> None:
        self._socket.close()

    # --- the request ---

    def ask(
        self, method: str, target: str, token: str, headers: Mapping[str, str], size: int | None = 0, *, last: bool = True
    ) -> None:  # fmt: skip
        """Send the head. ``size``: of the body that follows; None if it is not known, and sent in chunks. ``last``: nothing
        will be asked ``again``."""
        if not token.isprintable():
            raise InvalidInputError("the token is not one line of text", kind="bad_token")
        framing = {"transfer-encoding": "chunked"} if size is None else {"content-length": str(size)}
        self._sends_chunks = size is None
        every = {
            "host": self._host, "authorization": f"Bearer {token}", "accept-encoding": "identity",
            "connection": "close" if last else "keep-alive", **headers, **(framing if size != 0 or method != "GET" else {}),
        }  # fmt: skip
        lines = [
            f"{method} {self._prefix}{target} HTTP/1.1",
            *(f"{k}: {v}" for k, v in every.items()),
            "",
            "",
        ]
        try:
            self._socket.sendall("\r\n".join(lines).encode())
        except OSError as error:
            raise self._unreachable(error) from error

    def wait_until_welcome(self) -> None:
        """After a head with ``expect: 100-continue``.

        :raises AnsweredEarlyError: if the answer is there already.
        """
        if not self._is_readable(GO_AHEAD_SECONDS):
            return
        seconds = self._socket.gettimeout()
        if not self._is_plain:  # what there is to read may be TLS's own
            self._socket.settimeout(GO_AHEAD_SECONDS)
        try:
            status, _ = self._read_head()
        except TimeoutError:
            return
        except (OSError, ValueError) as error:
            raise self._unreachable(error) from error
        finally:
            self._socket.settimeout(seconds)
        if status >= 200:
            raise AnsweredEarlyError

    def write(self, *pieces: Piece) -> None:
        """Send a part of the body.

        :raises AnsweredEarlyError: if the server has answered, or hung up.
        """
        size = sum(map(len, pieces))
        if size:
            self._open_part(size)
            for piece in pieces:
                self._send(piece)
            self._close_part()

    def write_file(self, descriptor: int, size: int) -> Iterator[int]:
        """Send ``size`` bytes of an open file, from where it stands; yields how many are sent, as they are.

        Ends early where the file does: then the connection is of no use any more.
        """
        self._open_part(size)
        left = size
        while left:
            part = min(left, 4 * PART_BYTES)
            self._check_for_answer()
            if self._is_plain:
                sent = self._sendfile(descriptor, part)
            else:
                data = os.read(descriptor, min(part, PART_BYTES))
                self._send(data)
                sent = len(data)
            if not sent:
                return
            left -= sent
            yield sent
        self._close_part()

    def finish_body(self) -> None:
        """Say that this was all."""
        if self._sends_chunks:
            self._send(b"0\r\n\r\n")

    def _open_part(self, size: int) -> None:
        self._check_for_answer()
        if self._sends_chunks:
            self._send(b"%x\r\n" % size)

    def _close_part(self) -> None:
        if self._sends_chunks:
            self._send(b"\r\n")

    def _check_for_answer(self) -> None:
        if self._is_plain and self._is_readable(0):  # over TLS, what there is to read may be TLS's own
            raise AnsweredEarlyError

    def _is_readable(self, seconds: float) -> bool:
        return self._wait_for(select.POLLIN, seconds)

    def _wait_for(self, event: int, seconds: float) -> bool:
        poll = select.poll()
        poll.register(self._socket, event)
        return bool(poll.poll(seconds * 1000))

    def _send(self, data: Piece) -> None:
        try:
            self._socket.sendall(data)
        except TimeoutError as error:
            raise self._unreachable(error) from error
        except OSError as error:
            raise AnsweredEarlyError from error

    def _sendfile(self, descriptor: int, size: int) -> int:
        while True:
            try:
                return os.sendfile(self._socket.fileno(), descriptor, None, size)
            except BlockingIOError:
                if not self._wait_for(select.POLLOUT, self._socket.gettimeout() or READ_SECONDS):
                    raise self._unreachable(TimeoutError()) from None
            except OSError as error:
                raise AnsweredEarlyError from error

    # --- the answer ---

    def answer(self) -> None:
        """Read the head of the answer; the body is read with ``readinto`` or ``read_part``.

        :raises TrunklineError: the error that the server raised.
        """
        with self._reading():
            status, reason = self._status if self._status else self._read_head()
            while status < 200:
                status, reason = self._read_head()
        if status >= 300:
            raise self._error(status, reason)

    _sends_chunks = False

    def _read_head(self) -> tuple[int, str]:
        head = bytes(self._ready)
        while (end := head.find(b"\r\n\r\n")) < 0:
            part = self._socket.recv(16 * 1024)
            if not part or len(head) > HEAD_BYTES_MAX:
                raise OSError("no HTTP answer came")
            head += part
        self._ready = memoryview(head)[end + 4 :]
        first, *lines = head[:end].decode("latin-1").split("\r\n")
        version, _, rest = first.partition(" ")
        code, _, reason = rest.partition(" ")
        if not version.startswith("HTTP/1.") or not code.isdigit():
            raise OSError("what came is not an HTTP answer")
        if int(code) < 200:
            return int(code), reason
        pairs = (line.partition(":") for line in lines)
        self.headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        self._is_kept = version == "HTTP/1.1" and "close" not in self.headers.get("connection", "").lower()
        length = self.headers.get("content-length", "")
        self._chunked = self.headers.get("transfer-encoding", "").lower() == "chunked"
        self._left = 0 if self._chunked else int(length) if length.isdigit() else None
        if int(code) in (204, 304):
            self._left, self._ended = 0, True
        self._status = int(code), reason
        return self._status

    def _error(self, status: int, reason: str) -> TrunklineError:
        data = b""
        with contextlib.suppress(TrunklineError):
            while len(data) < ERROR_BYTES_MAX and (part := self.read_part(PART_BYTES)):
                data += part
        return error_of(status, reason, self.headers.get(ERROR_HEADER), data)

    def readinto(self, buffer: memoryview) -> int:
        """Fill some of the buffer with the body; 0 at its end."""
        wanted = self._available(len(buffer))
        if not wanted:
            return 0
        if self._ready:
            size = min(wanted, len(self._ready))
            buffer[:size], self._ready = self._ready[:size], self._ready[size:]
        else:
            with self._reading():
                size = self._socket.recv_into(buffer, wanted)
        return self._count(size)

    @property
    def can_splice(self) -> bool:
        """Whether what comes from the socket is the body itself."""
        return self._is_plain and splicing.IS_THERE

    def splice(self, pipe: Splice) -> int:
        """The same as ``readinto``, into a pipe's target."""
        wanted = self._available(splicing.PIPE_BYTES)
        if wanted and not self._ready:
            with self._reading():
                size = self._fill(pipe, wanted)
            pipe.empty(size)
            return self._count(size)
        data = self.read_part(wanted)
        pipe.write(data)
        return len(data)

    def _fill(self, pipe: Splice, size: int) -> int:
        while True:
            try:
                return pipe.fill(self._socket.fileno(), size)
            except BlockingIOError:
                if not self._wait_for(select.POLLIN, self._socket.gettimeout() or READ_SECONDS):
                    raise TimeoutError from None

    def read_part(self, size: int) -> bytes:
        """At most ``size`` bytes of the body, as many as have come; empty at its end."""
        wanted = self._available(size)
        if not wanted:
            return b""
        if self._ready:
            data, self._ready = bytes(self._ready[:wanted]), self._ready[wanted:]
        else:
            with self._reading():
                data = self._socket.recv(wanted)
        self._count(len(data))
        return data

    def read_all(self) -> bytes:
        return b"".join(iter(lambda: self.read_part(PART_BYTES), b""))

    def _available(self, size: int) -> int:
        if self._ended:
            return 0
        if self._left == 0:
            if self._chunked:
                with self._reading():
                    self._next_chunk()
            self._ended = not self._left
        return size if self._left is None else min(size, self._left)

    def _count(self, size: int) -> int:
        if self._left is not None:
            if not size:
                raise _broken("it ended too early")
            self._left -= size
        elif not size:
            self._ended = True
        return size

    def _next_chunk(self) -> None:
        if not self._is_first_chunk and self._line():
            raise OSError("a chunk does not end where it should")
        self._is_first_chunk = False
        self._left = int(self._line().partition(b";")[0], 16)
        while not self._left and self._line():
            pass

    def _line(self) -> bytes:
        line = bytes(self._ready)
        while (end := line.find(b"\r\n")) < 0:
            part = self._socket.recv(READ_AHEAD_BYTES)
            if not part or len(line) > LINE_BYTES_MAX + READ_AHEAD_BYTES:
                raise OSError("it ended too early")
            line += part
        self._ready = memoryview(line)[end + 2 :]
        return line[:end]

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except TimeoutError as error:
            raise self._unreachable(error) from error
        except (OSError, ValueError) as error:
            raise (_broken(type(error).__name__) if self._status else self._unreachable(error)) from error

    def _unreachable(self, error: Exception) -> UnavailableError:
        return unreachable(self._url, timed_out=isinstance(error, TimeoutError))


def _place(url: str) -> tuple[bool, str, int, str, str]:
    """Whether it is https, the host's name, the port, both as a header has them, and what comes before every path.

    :raises ValueError: if the URL has no good port.
    """
    plain = _PLAIN_URL.fullmatch(url)
    if (
        plain is not None
    ):  # our own server's; urllib.parse takes longer to import than such a command's own work
        return False, plain[2], int(plain[3]), plain[1], ""
    from urllib.parse import urlsplit  # noqa: PLC0415

    where = urlsplit(url)
    secure = where.scheme == "https"
    port = where.port or (443 if secure else 80)
    return secure, where.hostname or "", port, where.netloc.rpartition("@")[2], where.path.rstrip("/")


_PLAIN_URL = re.compile(r"http://(([0-9.]+|localhost):([0-9]{1,5}))/?")


def _broken(why: str) -> UnavailableError:
    return UnavailableError(f"the connection broke while the answer was read: {why}", kind="unreachable")


class Download(io.RawIOBase):
    """A response body as a file. A connection that breaks is an ``UnavailableError``, never a short read."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self.headers = exchange.headers

    @property
    def size(self) -> int:
        """Of the whole body; 0 if it is not known."""
        return int(self.headers.get("content-length") or 0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._exchange.readinto(memoryview(buffer))

    fill = readinto

    def spliced(self, target: int) -> Iterator[int]:
        """Move what comes to an open file, as long as that goes; yields how many bytes, as they are moved. The rest, if any, is
        to be read."""
        if not self._exchange.can_splice:
            return
        try:
            pipe = Splice(target)
        except OSError:  # no descriptor is left
            return
        try:
            while pipe.is_taken and (size := self._exchange.splice(pipe)):
                yield size
        except CannotSpliceError:
            return
        finally:
            pipe.close()

    def read_part(self, size: int) -> bytes:
        """At most ``size`` bytes, as many as have come; empty at the end."""
        return self._exchange.read_part(size)

    def read(self, size: int | None = -1) -> bytes:
        if size is None or size < 0:
            return self._exchange.read_all()
        parts = []
        while size and (part := self._exchange.read_part(size)):
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def readall(self) -> bytes:
        return self.read()

    def parts(self) -> Iterator[bytes]:
        """The content, part by part."""
        while part := self.read_part(PART_BYTES):
            yield part

    def text_lines(self) -> Iterator[str]:
        """Lines as soon as they are complete."""
        rest = b""
        for part in self.parts():
            *whole, rest = (rest + part).split(b"\n")
            yield from (line.decode("utf-8", "replace") for line in whole)
        if rest:
            yield rest.decode("utf-8", "replace")

    def close(self) -> None:
        if not self.closed:
            self._exchange.close()
        super().close()
