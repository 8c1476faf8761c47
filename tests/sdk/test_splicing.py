"""Downloads that the kernel moves from the socket to the file: the same bytes, whatever the target is and however they come."""

from __future__ import annotations

import errno
import os
import pty
import random
import socket
import threading
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from trunkline.errors import UnavailableError
from trunkline.sdk import splicing
from trunkline.sdk.exchange import Download, Exchange
from trunkline.sdk.transfer import copied

BODY = random.Random(1).randbytes(3 * splicing.PIPE_BYTES + 12_345)
HEAD = f"HTTP/1.1 200 OK\r\ncontent-length: {len(BODY)}\r\n\r\n".encode()

pytestmark = pytest.mark.skipif(not splicing.IS_THERE, reason="Linux only")


@contextmanager
def _answering(*parts: bytes) -> Iterator[Download]:
    """What a server sends, in these parts."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        line, _ = listener.accept()
        with line, suppress(ConnectionError):  # a client that has failed hangs up
            line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            line.recv(65536)
            for part in parts:
                line.sendall(part)

    thread = threading.Thread(target=serve)
    thread.start()
    exchange = Exchange(f"http://127.0.0.1:{listener.getsockname()[1]}")
    try:
        exchange.ask("GET", "/", "token", {})
        exchange.answer()
        yield Download(exchange)
    finally:
        exchange.close()
        thread.join()
        listener.close()


def _in_chunks() -> list[bytes]:
    sizes = [1, 100_000, 5, len(BODY) - 100_006]
    parts = [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"]
    at = 0
    for size in sizes:
        parts.append(b"%x\r\n%s\r\n" % (size, BODY[at : at + size]))
        at += size
    return [*parts, b"0\r\n\r\n"]


@pytest.fixture
def moves(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes that the kernel has moved into a target."""
    found: list[int] = []
    real = os.splice

    def splice(source: int, target: int, count: int, **more: int) -> int:
        size = real(source, target, count, **more)
        if "flags" in more and not more["flags"] & os.SPLICE_F_NONBLOCK:
            found.append(size)
        return size

    monkeypatch.setattr(os, "splice", splice)
    return found


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param(lambda: [HEAD, BODY], id="of known length"),
        pytest.param(
            lambda: [HEAD + BODY[:10], *(BODY[at : at + 9999] for at in range(10, len(BODY), 9999))],
            id="in pieces",
        ),
        pytest.param(_in_chunks, id="in chunks"),
        pytest.param(lambda: [b"HTTP/1.1 200 OK\r\n\r\n", BODY], id="until it ends"),
    ],
)
def test_a_file_gets_what_the_server_sends(
    parts: Callable[[], list[bytes]], tmp_path: Path, moves: list[int]
) -> None:
    counted: list[int] = []
    with _answering(*parts()) as download, (tmp_path / "file").open("wb") as file:
        file.write(b"before")
        assert copied(download, file, counted.append) == len(BODY) == sum(counted)
    assert (tmp_path / "file").read_bytes() == b"before" + BODY
    assert sum(moves) > len(BODY) - 70_000, "what came with the head is written, the rest is moved"


def test_a_file_that_is_appended_to_and_a_terminal_get_the_same(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"before")
    with _answering(HEAD, BODY) as download, path.open("ab") as file:
        assert copied(download, file) == len(BODY)
    assert path.read_bytes() == b"before" + BODY

    ours, theirs = pty.openpty()
    tty.setraw(theirs)
    seen = bytearray()

    def read() -> None:
        while len(seen) < len(BODY):
            seen.extend(os.read(ours, 65536))

    thread = threading.Thread(target=read)
    thread.start()
    with _answering(HEAD, BODY) as download, os.fdopen(theirs, "wb", buffering=0) as terminal:
        assert copied(download, terminal) == len(BODY)
        thread.join()
    os.close(ours)
    assert bytes(seen) == BODY


def test_a_connection_that_breaks_is_an_error(tmp_path: Path) -> None:
    broken = pytest.raises(UnavailableError, match="ended too early")
    with _answering(HEAD, BODY[:-1]) as download, (tmp_path / "file").open("wb") as file, broken:
        copied(download, file)


def test_a_full_disk_is_the_disks_error() -> None:
    full = pytest.raises(OSError, match=os.strerror(errno.ENOSPC))
    with _answering(HEAD, BODY) as download, Path("/dev/full").open("wb", buffering=0) as file, full:
        copied(download, file)


def test_where_the_kernel_does_not_let_it_is_read_and_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> int:
        raise OSError(errno.EPERM, "no")

    monkeypatch.setattr(os, "splice", refused)
    with _answering(HEAD, BODY) as download, (tmp_path / "file").open("wb") as file:
        assert copied(download, file) == len(BODY)
    assert (tmp_path / "file").read_bytes() == BODY


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        with _answering(HEAD, BODY) as download, (tmp_path / "file").open("wb") as file:
            copied(download, file)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
