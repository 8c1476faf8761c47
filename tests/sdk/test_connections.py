"""Many small calls over few connections, beside a server that answers as it was told to."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from trunkline.errors import InvalidInputError, NotFoundError, UnavailableError
from trunkline.sdk.exchange import Exchange
from trunkline.sdk.transport import CONNECTIONS_KEPT_MAX, Transport

ONE = b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n1"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\n1\r\n0\r\n\r\n"
NOTHING = b"HTTP/1.1 204 No Content\r\n\r\n"
ABSENT = b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\n{}"
LAST = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 1\r\n\r\n1"
BARE = b"HTTP/1.1 200 OK\r\n\r\n1"
"""Its end is that of the connection."""
OLD = b"HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\n1"
SEVERAL = b"HTTP/1.1 200 OK\r\nconnection: Keep-Alive, close\r\ncontent-length: 1\r\n\r\n1"
HINTS = b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n" + ONE
PAGE = b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n<html>"
ZIPPED = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 4\r\n\r\n\x1f\x8b\x08\x00"
SHORT = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n1"


class Scripted:
    """Gives one answer after the other, and hangs up behind those that say so."""

    def __init__(self) -> None:
        self.answers: list[bytes] = []
        self.connections = 0
        self.is_early = False
        """Whether it answers before it has the body."""
        self.asked: list[bytes] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._open: list[socket.socket] = []
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def hang_up(self) -> None:
        for one in self._open:
            one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._accepting.join()
        for one in self._open:
            one.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(connection)
            threading.Thread(target=self._serve, args=[connection], daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        data = b""
        try:
            while part := connection.recv(65536):
                data += part
                head, found, body = data.partition(b"\r\n\r\n")
                size = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
                if not found or (len(body) < size and not self.is_early):
                    continue
                self.asked.append(body)
                data, answer = b"", self.answers.pop(0)
                connection.sendall(answer)
                while len(body) < size and (part := connection.recv(65536)):
                    body += part
                if answer in (LAST, BARE, SHORT, OLD, SEVERAL):
                    connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


@pytest.fixture
def server() -> Iterator[Scripted]:
    scripted = Scripted()
    yield scripted
    scripted.close()


@pytest.fixture
def client(server: Scripted) -> Iterator[Transport]:
    transport = Transport(server.url, "secret")
    yield transport
    transport.close()


def test_calls_follow_each_other_on_one_connection(server: Scripted, client: Transport) -> None:
    server.answers = [ONE, CHUNKED, NOTHING, ABSENT, ONE]
    assert client.call("GET", "/v1/a") == 1
    assert client.call("POST", "/v1/a", {"b": "ä" * 100_000}) == 1
    assert client.call("DELETE", "/v1/a") is None
    with pytest.raises(NotFoundError):
        client.call("GET", "/v1/nothing")
    assert client.call("POST", "/v1/a", []) == 1
    assert (server.connections, [len(body) for body in server.asked]) == (1, [0, 600_009, 0, 0, 2])


@pytest.mark.parametrize("answer", [LAST, BARE, OLD, SEVERAL])
def test_what_the_server_ends_is_not_used_again(server: Scripted, client: Transport, answer: bytes) -> None:
    server.answers = [answer, ONE]
    assert [client.call("GET", "/"), client.call("GET", "/")] == [1, 1]
    assert server.connections == 2


def test_a_server_that_has_hung_up_meanwhile_is_asked_anew(server: Scripted, client: Transport) -> None:
    server.answers = [ONE, ONE]
    client.call("GET", "/")
    server.hang_up()
    assert client.call("GET", "/") == 1
    assert server.connections == 2


def test_an_answer_that_breaks_off_is_an_error(server: Scripted, client: Transport) -> None:
    server.answers = [ONE, SHORT, ONE]
    client.call("GET", "/")
    with pytest.raises(UnavailableError, match="ended too early"):
        client.call("GET", "/")
    assert client.call("GET", "/") == 1
    assert server.connections == 2


def test_hints_are_no_answer(server: Scripted, client: Transport) -> None:
    server.answers = [HINTS, ONE]
    assert [client.call("GET", "/"), client.call("GET", "/")] == [1, 1]
    assert server.connections == 1


@pytest.mark.parametrize("answer", [PAGE, ZIPPED])
def test_what_is_no_json_comes_from_somebody_else(server: Scripted, client: Transport, answer: bytes) -> None:
    server.answers = [answer]
    with pytest.raises(UnavailableError, match="no trunkline server"):
        client.call("GET", "/")


@pytest.mark.parametrize("token", ["a\r\nx-evil: 1", "a\n", "\0"])
def test_a_token_is_one_line(server: Scripted, token: str) -> None:
    client = Transport(server.url, token)
    with pytest.raises(InvalidInputError, match="not one line"):
        client.call("GET", "/")
    assert server.asked == []


def test_a_connection_whose_request_was_not_read_is_not_used_again(
    server: Scripted, client: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who answers early takes what comes next for the rest of the body."""
    ask = Exchange.ask

    def patiently(exchange: Exchange, *args: Any, **options: Any) -> None:
        ask(exchange, *args, **options)
        exchange._is_readable(5.0)

    monkeypatch.setattr(Exchange, "ask", patiently)
    server.is_early = True
    server.answers = [ABSENT, ONE]
    with pytest.raises(NotFoundError):
        client.call("POST", "/", "x" * 100_000)
    assert client.call("GET", "/") == 1
    assert server.connections == 2


def test_a_fork_has_connections_of_its_own(
    server: Scripted, client: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answers = [ONE, ONE, ONE]
    client.call("GET", "/")
    monkeypatch.setattr(os, "getpid", lambda: -1)
    client.call("GET", "/")
    client.call("GET", "/")
    assert server.connections == 2


def test_few_are_kept(server: Scripted, client: Transport) -> None:
    calls = CONNECTIONS_KEPT_MAX + 4
    server.answers = [ONE] * calls * 2
    at_once = threading.Barrier(calls)

    def call() -> None:
        at_once.wait()
        client.call("GET", "/")

    for _ in range(2):
        threads = [threading.Thread(target=call) for _ in range(calls)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(server.asked) == calls * 2
    assert len(client._kept) <= CONNECTIONS_KEPT_MAX
    client.close()
    assert client._kept == []
