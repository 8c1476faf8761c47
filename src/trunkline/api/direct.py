"""Large bodies straight between a socket and the thread that works on them.

Through the event loop a body costs an event, two switches of threads and several copies for every 64 KiB; a gigabyte takes
seconds. An endpoint that streams may take over the connection instead: the event loop leaves the socket alone until it is
given back, and the thread reads or writes it by itself. Only what was checked gets this far: the guard and the route have
let the request in before the first byte of its body is taken.

A connection that was taken over is closed after its answer: the HTTP machine of uvicorn has not seen the bytes.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from starlette.types import Message, Receive, Scope, Send
from uvicorn.protocols.http.flow_control import CLOSE_HEADER
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from trunkline.errors import InvalidInputError, UnavailableError

EXTENSION = "trunkline.direct"
"""In the ASGI scope's ``extensions``: the ``Connection``, where the server can hand one over."""
LOOK_SECONDS = 0.5
SILENCE_SECONDS_MAX = 120.0
"""A peer that neither sends nor takes anything for so long is gone."""
STOPPING_SECONDS_MAX = 2.0
"""What is under way when the server is told to stop has so long to end."""
CHUNK_LINE_BYTES_MAX = 64
PIECES_MAX = 512
"""At most this many buffers go into one system call; the system's own limit is 1,024."""
RECEIVE_BYTES = 2**20

Piece = bytes | bytearray | memoryview


class DirectProtocol(H11Protocol):
    """uvicorn's HTTP/1.1, with the extension in every scope."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        app = self.app

        async def with_extension(scope: Scope, receive: Receive, send: Send) -> None:
            connection = Connection(self, self.cycle)
            scope.setdefault("extensions", {})[EXTENSION] = connection

            async def send_checked(message: Message) -> None:
                if message["type"] == "http.response.start":
                    connection.close_if_unasked()
                await send(message)

            await app(scope, receive, send_checked)

        self.app = with_extension


class Connection:
    """One request's connection. All methods are for the event loop's thread."""

    def __init__(self, protocol: H11Protocol, cycle: RequestResponseCycle) -> None:
        self._protocol = protocol
        self._cycle = cycle

    def take_body(self, stopping: threading.Event) -> DirectBody | None:
        """What is left of the request's body, for a thread; None where it has arrived already or cannot be taken."""
        cycle = self._cycle
        is_chunked = self._is_chunked()
        length = None if is_chunked else _content_length(self._protocol.headers)
        if not self._is_plain() or not cycle.more_body or cycle.disconnected:
            return None
        if length is None and not (is_chunked and self._nothing_has_come()):
            return None
        cycle.flow.pause_reading()
        is_awaited, cycle.waiting_for_100_continue = cycle.waiting_for_100_continue, False
        begun, cycle.body = bytes(cycle.body), bytearray()
        self._close_afterwards()
        left = None if length is None else length - len(begun)
        return DirectBody(self._own_socket(), begun, left, stopping, is_awaited=is_awaited)

    def close_if_unasked(self) -> None:
        """A client that waits for a '100 Continue' and gets its answer instead may send the body or not (RFC 9110, section
        10.1.1): what comes next on the connection is its next request or that body, and nobody can tell."""
        if self._cycle.waiting_for_100_continue:
            self._close_afterwards()

    def can_answer(self) -> bool:
        """Whether the body of the answer may be written directly."""
        return self._is_plain() and self._cycle.scope["http_version"] == "1.1"

    def prepare_answer(self) -> None:
        """To be called before the head of the answer is sent."""
        self._cycle.flow.pause_reading()
        self._close_afterwards()

    def head_is_out(self) -> bool:
        """Whether all that went through the event loop has reached the socket."""
        return self._protocol.transport.get_write_buffer_size() == 0  # type: ignore[no-any-return, unused-ignore]

    def is_gone(self) -> bool:
        return self._cycle.disconnected or self._protocol.transport.is_closing()

    def take_answer(self, stopping: threading.Event, *, chunked: bool) -> DirectAnswer:
        """The rest of the answer, for a thread."""
        return DirectAnswer(self._own_socket(), stopping, chunked=chunked)

    def end_answer(self, *, whole: bool) -> None:
        """The thread is done; an answer that is not whole ends without its end marker, and the client notices."""
        self._cycle.response_complete = True
        self._cycle.message_event.set()
        if whole:
            self._protocol.transport.close()
        else:
            self._protocol.transport.abort()
        self._cycle.on_response()

    def _is_plain(self) -> bool:
        found: socket.socket | None = self._protocol.transport.get_extra_info("socket")
        return self._protocol.scheme == "http" and found is not None

    def _own_socket(self) -> socket.socket:
        """A handle of our own, so that neither side can close the other's. Reads and writes block, but not for long: the
        thread wants to look whether the server is stopping."""
        found: socket.socket = self._protocol.transport.get_extra_info("socket")
        own = socket.socket(fileno=os.dup(found.fileno()))
        own.setblocking(True)
        pause = struct.pack("@ll", int(LOOK_SECONDS), int(LOOK_SECONDS % 1 * 1e6))
        own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, pause)
        own.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, pause)
        return own

    def _close_afterwards(self) -> None:
        if CLOSE_HEADER not in self._cycle.scope["headers"]:
            self._cycle.scope["headers"].append(CLOSE_HEADER)  # type: ignore[attr-defined]

    def _is_chunked(self) -> bool:
        """If so, a length beside it counts for nothing (RFC 9112, section 6.3), and the HTTP machine has gone by that."""
        return any(
            name == b"transfer-encoding" and value.lower() == b"chunked"
            for name, value in self._protocol.headers
        )

    def _nothing_has_come(self) -> bool:
        """So that the first byte in the socket is the first of the first chunk: true of who waits for a '100 Continue'."""
        return self._cycle.waiting_for_100_continue and not (
            self._cycle.body or self._protocol.conn.trailing_data[0]
        )


def _content_length(headers: Sequence[tuple[bytes, bytes]]) -> int | None:
    return next((int(value) for name, value in headers if name == b"content-length"), None)


class _Owned:
    """A socket that a thread has to itself for a while, with patience that ends."""

    def __init__(self, own: socket.socket, stopping: threading.Event) -> None:
        self._socket = own
        self._stopping = stopping
        self._stop_at: float | None = None
        self._is_closed = False

    def close(self) -> None:
        """Give the socket back."""
        if not self._is_closed:
            self._is_closed = True
            self._socket.setblocking(False)  # the event loop's handle shares this mode
            self._socket.close()

    def _check_stopping(self) -> None:
        if self._stopping.is_set():
            self._stop_at = self._stop_at or time.monotonic() + STOPPING_SECONDS_MAX
            if time.monotonic() > self._stop_at:
                raise UnavailableError("the server is stopping: repeat later", kind="stopping")

    def _silent_since(self, begun: float) -> None:
        """Nothing happened for a while: is it time to give up?"""
        if self._stopping.is_set():  # a client that stalls must not keep the server from ending
            raise UnavailableError("the server is stopping: repeat later", kind="stopping")
        if time.monotonic() - begun > SILENCE_SECONDS_MAX:
            raise UnavailableError(
                f"the client was silent for {SILENCE_SECONDS_MAX:.0f} seconds", kind="client_gone"
            )


class DirectBody(_Owned):
    """A request's body, read from the socket by a thread."""

    def __init__(
        self,
        own: socket.socket,
        begun: bytes,
        left: int | None,
        stopping: threading.Event,
        *,
        is_awaited: bool,
    ) -> None:
        super().__init__(own, stopping)
        self._is_awaited = is_awaited
        """The client waits for a sign before it sends. It is given when the first byte is wanted, so that what is refused
        before that costs nobody a transfer."""
        self._begun = memoryview(begun)
        self._chunked = left is None
        self._left = left or 0
        """Bytes of the body, or of the chunk, that are still in the socket."""
        self._ended = left == 0
        self._is_first_chunk = True

    def readinto(self, buffer: memoryview, flags: int = 0) -> int:
        """Fill some of the buffer; 0 at the end of the body."""
        if self._begun:
            size = min(len(buffer), len(self._begun))
            buffer[:size] = self._begun[:size]
            self._begun = self._begun[size:]
            return size
        wanted = min(len(buffer), self._in_socket())
        if not wanted:
            self.close()
            return 0
        return self._count(self._receive(lambda: self._socket.recv_into(buffer, wanted, flags)))

    def fill(self, buffer: memoryview) -> int:
        """The same, but less than all only where the body or a chunk of it ends, or the sender pauses."""
        return self.readinto(buffer, socket.MSG_WAITALL)

    def read(self, size: int = -1) -> bytes:
        """Exactly ``size`` bytes unless the body ends (a tar reader relies on it); all of them for -1."""
        if size < 0:
            return b"".join(map(bytes, self.parts()))
        data = bytearray(size)
        view = memoryview(data)
        at = 0
        while at < size and (read := self.fill(view[at:])):
            at += read
        return bytes(view[:at])

    def parts(self) -> Iterator[memoryview]:
        """The body, part by part; each is good until the next one."""
        buffer = memoryview(bytearray(RECEIVE_BYTES))
        while read := self.fill(buffer):
            yield buffer[:read]

    def drain(self) -> None:
        """Read what is left before an error is answered: closing the socket on unread bytes would reset the connection,
        and the client would never see why."""
        if self._is_awaited:
            self._left, self._ended = 0, True  # it will not be sent
        with contextlib.suppress(UnavailableError, InvalidInputError):
            scrap = memoryview(bytearray(2**20))
            while self.readinto(scrap):
                pass

    def _in_socket(self) -> int:
        """How much of the body may be read next; 0 at its end."""
        if self._is_awaited and not self._ended:
            self._is_awaited = False
            self._socket.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        if not self._left and self._chunked and not self._ended:
            self._next_chunk()
        return self._left

    def _count(self, size: int) -> int:
        self._left -= size
        self._ended = self._ended or (not self._left and not self._chunked)
        return size

    def _receive(self, receive: Callable[[], int]) -> int:
        self._check_stopping()
        begun = 0.0
        while True:
            try:
                size = receive()
                break
            except BlockingIOError:
                begun = begun or time.monotonic()
                self._silent_since(begun)
            except OSError as error:
                raise self._client_gone() from error
        if not size:
            raise self._client_gone()
        return size

    def _client_gone(self) -> UnavailableError:
        self._left, self._ended = 0, True
        return UnavailableError("the client went away in the middle of its request", kind="client_gone")

    def _next_chunk(self) -> None:
        """Read the line that says how long the next chunk is (RFC 9112, section 7.1)."""
        if not self._is_first_chunk and self._line():
            raise self._bad_chunk()
        self._is_first_chunk = False
        text = self._line().partition(b";")[0].strip()
        if not 0 < len(text) <= 15 or text.strip(b"0123456789abcdefABCDEF"):
            raise self._bad_chunk()
        self._left = int(text, 16)
        if not self._left:
            self._ended = True
            while self._line():  # trailers
                pass

    def _line(self) -> bytes:
        """One line without its end. It is looked at before it is taken: what follows belongs to somebody else."""
        line = b""
        while len(line) < CHUNK_LINE_BYTES_MAX:
            seen = b""

            def look() -> int:
                nonlocal seen
                seen = self._socket.recv(CHUNK_LINE_BYTES_MAX, socket.MSG_PEEK)
                return len(seen)

            self._receive(look)
            end = (line + seen).find(b"\r\n")
            size = len(seen) if end < 0 else end + 2 - len(line)
            line += self._socket.recv(size)
            if end >= 0:
                return line[:-2]
        raise self._bad_chunk()

    def _bad_chunk(self) -> InvalidInputError:
        self._left, self._ended = 0, True
        with contextlib.suppress(
            OSError
        ):  # what has come already would reset the connection when it is closed
            for _ in range(64):
                if not self._socket.recv(2**20, socket.MSG_DONTWAIT):
                    break
        return InvalidInputError("the request's chunked body is malformed", kind="bad_request")


class DirectAnswer(_Owned):
    """The body of an answer, written to the socket by a thread."""

    def __init__(self, own: socket.socket, stopping: threading.Event, *, chunked: bool) -> None:
        super().__init__(own, stopping)
        self._chunked = chunked

    def write(self, pieces: Sequence[Piece]) -> None:
        """Send pieces, one after the other; several in one system call."""
        size = sum(map(len, pieces))
        if size:
            self._send([b"%x\r\n" % size, *pieces, b"\r\n"] if self._chunked else pieces)

    def end(self) -> None:
        """Send the end marker, if the framing has one."""
        if self._chunked:
            self._send([b"0\r\n\r\n"])

    def _send(self, pieces: Sequence[Piece]) -> None:
        at = 0
        waiting: list[Piece] = []
        while at < len(pieces) or waiting:
            if not waiting:
                waiting = list(pieces[at : at + PIECES_MAX])
                at += PIECES_MAX
            sent = self._send_some(waiting)
            while waiting and sent >= len(waiting[0]):
                sent -= len(waiting.pop(0))
            if sent:
                waiting[0] = memoryview(waiting[0])[sent:]

    def _send_some(self, pieces: Sequence[Piece]) -> int:
        self._check_stopping()
        begun = 0.0
        while True:
            try:
                return self._socket.sendmsg(pieces)
            except BlockingIOError:
                begun = begun or time.monotonic()
                self._silent_since(begun)
            except OSError as error:
                raise UnavailableError("the client went away", kind="client_gone") from error
