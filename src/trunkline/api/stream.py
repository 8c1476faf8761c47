"""Everything that waits: bodies as they arrive, answers as they are made, long polls and followed logs.

The only module of the API with async endpoints' work in it. A long poll or a tail in a thread of its own would exhaust
the thread pool; here it is a task that looks now and then.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from itertools import chain
from typing import Any, Generic, TypeVar

from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from trunkline.api.direct import EXTENSION, PIECES_MAX, Connection, DirectAnswer, DirectBody, Piece
from trunkline.api.middleware import BODY_LIMIT_KEY
from trunkline.errors import TrunklineError, UnavailableError
from trunkline.storage.db.engine import Changes

PART_BYTES = 1024 * 1024
"""How much changes hands between the event loop and a thread at once: each time costs two switches of threads."""
WHOLE_BYTES_MAX = 64 * 1024
"""An answer that is no longer than that needs no thread that writes it."""
DRAIN_BYTES_MAX = 64 * 2**20
WAIT_SECONDS_MAX = 60.0
LOOK_SECONDS = 0.05
LOOK_AGAIN_SECONDS = 0.01
"""A long poll looks at once when the database changes, but not more often than that."""
STOP_LOOK_SECONDS = 0.5
LOOK_ANYWAY_SECONDS = 1.0
FOLLOW_SECONDS = 0.25
SILENCE_SECONDS_MAX = 15.0
"""A followed log that is silent for longer sends an empty line, so that nobody on the way takes it for dead."""

T = TypeVar("T", bound=BaseModel)


class BodyReader(io.RawIOBase):
    """A request's body as a file for a thread. The event loop reads one part ahead while the thread works on the last."""

    def __init__(self, request: Request, *, idle_seconds: float | None = None) -> None:
        """``idle_seconds``: how long the client may send nothing; None: as long as it likes."""
        self._idle_seconds = idle_seconds
        self._parts = request.stream()
        self._loop = asyncio.get_running_loop()
        self._rest = memoryview(b"")
        self._ahead: Future[bytes] | None = None
        self._ended = False
        self._stopping: threading.Event = request.app.state.stopping

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._rest and not self._ended:
            self._rest = memoryview(self._wait_for_next())
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size

    def read(self, size: int = -1) -> bytes:
        """Exactly ``size`` bytes unless the body ends (a tar reader relies on it); all of them for -1."""
        parts = []
        left = size if size >= 0 else None
        while left is None or left > 0:
            part = super().read(PART_BYTES if left is None else left)
            if not part:
                break
            parts.append(part)
            left = None if left is None else left - len(part)
        return b"".join(parts)

    def fill(self, buffer: memoryview) -> int:
        """The same as ``readinto``."""
        return self.readinto(buffer)

    def _wait_for_next(self) -> bytes:
        future = self._ahead or asyncio.run_coroutine_threadsafe(self._next(), self._loop)
        self._ahead = None
        deadline = None if self._idle_seconds is None else time.monotonic() + self._idle_seconds
        while True:
            try:
                part = future.result(timeout=STOP_LOOK_SECONDS)
                if part:
                    self._ahead = asyncio.run_coroutine_threadsafe(self._next(), self._loop)
                else:
                    self._ended = True
                return part
            except TimeoutError:
                if self._stopping.is_set():  # a client that stalls must not keep the server from ending
                    future.cancel()
                    self._ended = True
                    raise UnavailableError("the server is stopping: repeat later", kind="stopping") from None
                if deadline is not None and time.monotonic() > deadline:
                    future.cancel()
                    self._ended = True
                    raise UnavailableError(
                        f"nothing of the request came for {self._idle_seconds:.0f} s: repeat it",
                        kind="client_stalled",
                    ) from None

    def parts(self) -> Iterator[bytes]:
        """The body, part by part."""
        while part := self.read(PART_BYTES):
            yield part

    async def drain(self) -> None:
        """Read what is left (up to a bound) before an error is answered: closing the socket on unread bytes would reset
        the connection, and the client would never see why."""
        size = 0
        while not self._ended and size < DRAIN_BYTES_MAX:
            ahead, self._ahead = self._ahead, None
            part = await (asyncio.wrap_future(ahead) if ahead is not None else self._next())
            size += len(part)
            self._ended = not part

    async def _next(self) -> bytes:
        """The next part; empty at the end."""
        gathered: list[bytes] = []
        size = 0
        try:
            async for part in self._parts:
                gathered.append(part)
                size += len(part)
                if size >= PART_BYTES:
                    break
        except ClientDisconnect as error:
            self._ended = True
            raise UnavailableError(
                "the client went away in the middle of its request", kind="client_gone"
            ) from error
        return b"".join(gathered)


StreamedBody = BodyReader | DirectBody


async def body_of(request: Request) -> AsyncIterator[StreamedBody]:
    """Dependency: the body, unbounded, for endpoints that stream it to disk; straight from the socket where that goes."""
    request.scope[BODY_LIMIT_KEY] = None
    connection = connection_of(request.scope)
    direct = connection.take_body(request.app.state.stopping) if connection is not None else None
    if direct is None:
        reader = BodyReader(request)
        try:
            yield reader
        except Exception:
            with contextlib.suppress(UnavailableError):
                await reader.drain()
            raise
        return
    try:
        yield direct
    finally:
        await run_in_threadpool(direct.drain)
        direct.close()


def connection_of(scope: Scope) -> Connection | None:
    """The connection of a request, where the server that runs us hands it over."""
    found: Connection | None = scope.get("extensions", {}).get(EXTENSION)
    return found


class Streamed(StreamingResponse):
    """An answer made while it is sent, by one thread, straight into the socket where that goes."""

    def __init__(
        self,
        batches: Iterator[Sequence[Piece]],
        *,
        media_type: str,
        headers: dict[str, str] | None,
        status: int,
    ) -> None:
        parts = (b"".join(batch) for batch in batches)
        super().__init__(parts, status_code=status, media_type=media_type, headers=headers)
        self._batches = batches

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        connection = connection_of(scope)
        if connection is None or scope["method"] == "HEAD" or not connection.can_answer():
            await super().__call__(scope, receive, send)
            return
        is_chunked = "content-length" not in self.headers
        headers = [*self.raw_headers, *([(b"transfer-encoding", b"chunked")] if is_chunked else [])]
        connection.prepare_answer()
        await send({"type": "http.response.start", "status": self.status_code, "headers": headers})
        while not (connection.head_is_out() or connection.is_gone()):
            await asyncio.sleep(0.001)
        answer = connection.take_answer(scope["app"].state.stopping, chunked=is_chunked)
        is_whole = False
        try:
            is_whole = await run_in_threadpool(self._write, answer)
        finally:
            connection.end_answer(whole=is_whole)

    def _write(self, answer: DirectAnswer) -> bool:
        """Returns whether all of it was taken. (What goes wrong on our side is raised, and ends in the log.)"""
        try:
            for batch in self._batches:
                answer.write(batch)
            answer.end()
            return True
        except UnavailableError as error:
            if error.kind not in ("client_gone", "stopping"):
                raise
            return False
        finally:
            answer.close()


def streamed(
    parts: Iterable[Piece], *, media_type: str, headers: dict[str, str] | None = None, status: int = 200
) -> Response:
    """An answer made while it is sent. The first part is made at once, so that what fails early gets its own status."""
    return streamed_batches(batched(parts), media_type=media_type, headers=headers, status=status)


def streamed_batches(
    batches: Iterator[Sequence[Piece]],
    *,
    media_type: str,
    headers: dict[str, str] | None = None,
    status: int = 200,
) -> Response:
    """The same, of pieces that come in batches, each good until the next one is asked for. What is short goes out whole."""
    first = next(batches, [])
    if sum(map(len, first)) <= WHOLE_BYTES_MAX:
        whole = b"".join(first)
        second = next(batches, None)
        if second is None:
            return Response(whole, status_code=status, media_type=media_type, headers=headers)
        batches = chain([second], batches)
        first = [whole]
    return Streamed(chain([first], batches), media_type=media_type, headers=headers, status=status)


def batched(parts: Iterable[Piece]) -> Iterator[list[Piece]]:
    """Small parts gathered to larger batches: each costs a system call, or a switch of threads."""
    pending: list[Piece] = []
    size = 0
    for part in parts:
        pending.append(part)
        size += len(part)
        if size >= PART_BYTES or len(pending) >= PIECES_MAX:
            yield pending
            pending, size = [], 0
    if pending:
        yield pending


class LongPoll(Response, Generic[T]):
    """Looks (in a thread, whenever the database has changed) until the answer is settled, the time is over or the client
    is gone; then sends what it saw last."""

    def __init__(
        self, look: Callable[[], T], *, is_settled: Callable[[T], bool], wait_seconds: float, changes: Changes
    ) -> None:
        super().__init__()
        self._look = look
        self._is_settled = is_settled
        self._wait_seconds = min(wait_seconds, WAIT_SECONDS_MAX)
        self._changes = changes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gone = asyncio.create_task(_disconnected(receive))
        try:
            seen = await self._poll(gone)
        finally:
            gone.cancel()
        if seen is not None:
            await Response(seen.model_dump_json(), media_type="application/json")(scope, receive, send)

    async def _poll(self, gone: asyncio.Task[None]) -> T | None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._wait_seconds
        changed = asyncio.Event()
        gone.add_done_callback(lambda _: changed.set())
        with self._changes.told_to(lambda: loop.call_soon_threadsafe(changed.set)):
            while not gone.done():
                changed.clear()
                looked_at = loop.time()
                seen = await run_in_threadpool(self._look)
                if self._is_settled(seen) or loop.time() >= deadline:
                    return seen
                with contextlib.suppress(TimeoutError):
                    wait_seconds = min(deadline - loop.time(), LOOK_ANYWAY_SECONDS)
                    await asyncio.wait_for(changed.wait(), wait_seconds)
                await asyncio.sleep(looked_at + LOOK_AGAIN_SECONDS - loop.time())
        return None


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


Tail = Callable[[int], tuple[list[dict[str, Any]], int, bool]]
"""``offset -> (lines, next offset, whether no more will come)``."""


def ndjson(tail: Tail, *, offset: int, follow: bool) -> StreamingResponse:
    """Log lines as newline-delimited JSON: what is there, and with ``follow`` also what comes, until the end."""
    first = tail(offset)  # here, in the endpoint's thread, so that a wrong name is a 404

    async def lines() -> AsyncIterator[bytes]:
        found, at, done = first
        loop = asyncio.get_running_loop()
        spoke_at = loop.time()
        while True:
            if not found and loop.time() - spoke_at > SILENCE_SECONDS_MAX:
                spoke_at = loop.time()
                yield b"\n"
            if found:
                spoke_at = loop.time()
                yield b"".join(json.dumps(line, ensure_ascii=False).encode() + b"\n" for line in found)
            if done or (not follow and not found):
                return
            if not found:
                await asyncio.sleep(FOLLOW_SECONDS)
            found, at, done = await run_in_threadpool(tail, at)

    return StreamingResponse(lines(), media_type="application/x-ndjson")


def followed(
    look: Callable[[], Sequence[BaseModel]], *, changes: Changes, stopping: threading.Event
) -> StreamingResponse:
    """What comes, as newline-delimited JSON, until the client goes or the server stops. ``look`` gives each thing once."""
    count = changes.count
    first = look()  # here, in the endpoint's thread, so that what fails early gets its own status

    async def lines() -> AsyncIterator[bytes]:
        found, seen = first, count
        loop = asyncio.get_running_loop()
        spoke_at = loop.time()
        while not stopping.is_set():
            if found:
                spoke_at = loop.time()
                yield b"".join(one.model_dump_json().encode() + b"\n" for one in found)
            elif changes.count == seen:
                if loop.time() - spoke_at > SILENCE_SECONDS_MAX:
                    spoke_at = loop.time()
                    yield b"\n"
                await asyncio.sleep(LOOK_SECONDS)
                continue
            seen = changes.count
            try:
                found = await run_in_threadpool(look)
            except TrunklineError:
                return  # what was followed is gone; whoever asks again is told so

    return StreamingResponse(lines(), media_type="application/x-ndjson")
