"""Bodies that a thread moves by itself, over real sockets: what comes in, what goes out, and what goes wrong."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from trunkline.core import filestream
from trunkline.errors import CorruptionError, InvalidInputError, NotFoundError, UnavailableError
from trunkline.testing.server import ServerHarness, running_server

FILES = "/v1/projects/default/files"
ARCHIVE = "/v1/projects/default/archive"


@pytest.fixture(scope="module")
def server(shared_server: ServerHarness) -> ServerHarness:
    shared_server.client().create_repo("direct")
    return shared_server


class Line:
    """A connection that says exactly what a test wants it to."""

    def __init__(self, server: ServerHarness, token: str | None = None) -> None:
        client = server.client()
        where = urlsplit(client.url)
        self.socket = socket.create_connection((where.hostname or "", where.port or 0), 20)
        self._host = where.netloc
        self._token = token or client.token
        self.read = b""

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def ask(self, method: str, target: str, *headers: str) -> None:
        lines = [f"{method} {target} HTTP/1.1", f"host: {self._host}", f"authorization: Bearer {self._token}"]
        self.socket.sendall("\r\n".join([*lines, *headers, "", ""]).encode())

    def head(self) -> str:
        """The next head of an answer."""
        while b"\r\n\r\n" not in self.read:
            part = self.socket.recv(65536)
            assert part, "the connection ended before an answer"
            self.read += part
        head, _, self.read = self.read.partition(b"\r\n\r\n")
        return head.decode()

    def rest(self) -> bytes:
        while part := self.socket.recv(65536):
            self.read += part
        return self.read

    def error_kind(self) -> str:
        return str(json.loads(self.rest())["error"]["kind"])


def content(server: ServerHarness, path: str) -> bytes:
    with server.client().get_file(f"direct@master:{path}") as stream:
        return stream.read()


@pytest.mark.slow
def test_a_body_in_chunks_of_all_sizes(server: ServerHarness) -> None:
    chunks = [b"a", b"b" * 70_000, b"c" * 3_000_000, b"\r\n", b"d" * 5]
    with Line(server) as line:
        line.ask(
            "PUT", f"{FILES}?at=direct@master:/chunks", "transfer-encoding: chunked", "expect: 100-continue"
        )
        assert line.head().startswith("HTTP/1.1 100")
        for chunk in chunks:
            line.socket.sendall(b"%X;why=not\r\n" % len(chunk) + chunk + b"\r\n")
        line.socket.sendall(b"0\r\nA-Trailer: x\r\n\r\n")
        head = line.head()
        assert head.startswith("HTTP/1.1 200") and "connection: close" in head.lower()
        assert json.loads(line.rest())["status"] == "finished"
    assert content(server, "/chunks") == b"".join(chunks)


@pytest.mark.slow
def test_a_body_of_known_length_that_comes_in_pieces(server: ServerHarness) -> None:
    data = bytes(range(256)) * 9000
    with Line(server) as line:
        line.ask("PUT", f"{FILES}?at=direct@master:/pieces", f"content-length: {len(data)}")
        for start in range(0, len(data), 700_001):
            line.socket.sendall(data[start : start + 700_001])
            time.sleep(0.01)
        assert line.head().startswith("HTTP/1.1 200")
    assert content(server, "/pieces") == data


@pytest.mark.slow
def test_chunks_that_nobody_announced_go_the_long_way(server: ServerHarness) -> None:
    with Line(server) as line:
        line.ask("PUT", f"{FILES}?at=direct@master:/long", "transfer-encoding: chunked")
        line.socket.sendall(b"3\r\nabc\r\n0\r\n\r\n")
        assert line.head().startswith("HTTP/1.1 200")
    assert content(server, "/long") == b"abc"


@pytest.mark.slow
@pytest.mark.parametrize("waits", [False, True])
def test_chunks_count_more_than_a_length_beside_them(server: ServerHarness, waits: bool) -> None:
    with Line(server) as line:
        framing = [
            "content-length: 4",
            "transfer-encoding: chunked",
            *(["expect: 100-continue"] if waits else []),
        ]
        line.ask("PUT", f"{FILES}?at=direct@master:/both", *framing)
        if waits:
            assert line.head().startswith("HTTP/1.1 100")
        line.socket.sendall(b"5\r\nhello\r\n0\r\n\r\n")
        assert line.head().startswith("HTTP/1.1 200")
    assert content(server, "/both") == b"hello"


@pytest.mark.slow
def test_what_is_refused_is_refused_before_a_byte_is_sent(server: ServerHarness) -> None:
    framing = ("transfer-encoding: chunked", "expect: 100-continue")
    with Line(server, token="wrong") as line:
        line.ask("PUT", f"{ARCHIVE}?at=direct@master", *framing)
        assert line.head().startswith("HTTP/1.1 401")
    with Line(server) as line:
        line.ask("PUT", f"{ARCHIVE}?at=nope@master", *framing, f"content-type: {filestream.MEDIA_TYPE}")
        assert line.head().startswith("HTTP/1.1 404")
        assert line.error_kind() == "no_repo"
    with Line(server) as line:
        line.ask("PUT", f"{ARCHIVE}?at=direct@master&append=perhaps", *framing)
        assert line.head().startswith("HTTP/1.1 422")
        assert line.error_kind() == "bad_field"
    with pytest.raises(NotFoundError):
        server.client().put_files("nope@master:/", [("a", b"x" * 10_000_000)])


@pytest.mark.slow
@pytest.mark.parametrize("target", ["/v1/nothing", f"{FILES}?at=direct@master:/f"])
def test_a_refusal_in_place_of_continue_ends_the_connection(server: ServerHarness, target: str) -> None:
    with Line(server, token="wrong") as line:
        line.ask("PUT", target, "content-length: 40", "expect: 100-continue")
        head = line.head()
        assert head.startswith("HTTP/1.1 401") and "connection: close" in head.lower()
        line.rest()  # the next request would be taken for the body


@pytest.mark.slow
@pytest.mark.parametrize(
    "body", [b"5\r\nabc", b"zz\r\n", b"3\r\nabcd\r\n0\r\n\r\n", b"-1\r\n", b"1" * 100, b"\r\n", b"ffffffffffffffff\r\n"]
)  # fmt: skip
def test_a_body_that_is_cut_or_malformed_changes_nothing(server: ServerHarness, body: bytes) -> None:
    before = len(server.client().list_commits("direct"))
    with Line(server) as line:
        line.ask(
            "PUT", f"{FILES}?at=direct@master:/cut", "transfer-encoding: chunked", "expect: 100-continue"
        )
        line.head()
        line.socket.sendall(body)
        line.socket.shutdown(socket.SHUT_WR)
        assert line.head().split()[1] in ("400", "422", "503")
    with Line(server) as line:
        line.ask("PUT", f"{FILES}?at=direct@master:/cut", "content-length: 1000000")
        line.socket.sendall(body)
    assert len(server.client().list_commits("direct")) == before


@pytest.mark.slow
def test_an_error_in_the_middle_reaches_whoever_still_sends(server: ServerHarness) -> None:
    files = [("ok", b"1"), ("a//bad", b"x"), *((f"{n}", b"x" * 1_000_000) for n in range(100))]
    before = len(server.client().list_commits("direct"))
    with pytest.raises(InvalidInputError, match="a//bad"):
        server.client().put_files("direct@master:/", files)
    assert len(server.client().list_commits("direct")) == before


@pytest.mark.slow
def test_an_answer_that_breaks_off_is_noticed(tmp_path: Path) -> None:
    with running_server(tmp_path / "t") as server:
        client = server.client()
        client.create_repo("direct")
        client.put_files("direct@master:/", [("a", b"1" * 1000), ("b", os.urandom(5_000_000)), ("c", b"3")])
        packs = [path for path in (server.home / "objects" / "packs").rglob("*") if path.is_file()]
        pack = max(packs, key=lambda path: path.stat().st_size)
        data = bytearray(pack.read_bytes())
        data[len(data) // 2] ^= 1
        pack.write_bytes(data)
        with pytest.raises((UnavailableError, CorruptionError)):
            client.get_files("direct@master:/", tmp_path / "out")
        with (
            pytest.raises((UnavailableError, CorruptionError)),
            client.get_file("direct@master:/b") as stream,
        ):
            stream.read()
        pack.unlink()
        with pytest.raises(CorruptionError, match="lost"):
            client.get_files("direct@master:/", tmp_path / "out")
        assert [path.name for path in tmp_path.iterdir()] == ["t"]


@pytest.mark.slow
def test_many_files_there_and_back(server: ServerHarness, tmp_path: Path) -> None:
    source = tmp_path / "in"
    for n in range(300):
        path = source / f"d{n % 7}" / f"f{n}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([n % 256]) * (n * 37))
    (source / "big").write_bytes(bytes(range(256)) * 12_000)
    (source / "big").chmod(0o755)
    server.client().create_repo("many")
    assert server.client().put_files("many@master:/x", source).file_count == 301
    assert server.client().get_files("many@master:/x", tmp_path / "out") == 301
    for path in [one for one in source.rglob("*") if one.is_file()]:
        other = tmp_path / "out" / path.relative_to(source)
        assert path.read_bytes() == other.read_bytes()
        assert path.stat().st_mtime_ns == other.stat().st_mtime_ns
        assert path.stat().st_mode & 0o100 == other.stat().st_mode & 0o100


@pytest.mark.slow
def test_streams_side_by_side_are_one_commit(server: ServerHarness) -> None:
    client = server.client()
    client.create_repo("side")
    client.put_files("side@master:/", [("old", b"0")])
    files = [(f"f{n}", b"%d" % n) for n in range(50)]
    client.send_files("side@master:/sub", files, streams=4)
    assert len(client.list_commits("side")) == 2
    assert len(client.list_files("side@master:/sub")) == 50
    with client.get_file("side@master:/sub/f33") as stream:
        assert stream.read() == b"33"
    with pytest.raises(InvalidInputError, match="a//bad"):
        client.send_files("side@master:/", [*files, ("a//bad", b"")], streams=3)
    assert len(client.list_commits("side")) == 2


@pytest.mark.slow
def test_who_goes_away_leaves_the_server_well(server: ServerHarness) -> None:
    server.client().put_file("direct@master:/large", b"x" * 20_000_000)
    for _ in range(50):  # more than there are threads
        with Line(server) as line:
            line.ask("GET", f"{FILES}?at=direct@master:/large")
            line.head()
    for _ in range(50):
        with Line(server) as line:
            line.ask("PUT", f"{FILES}?at=direct@master:/gone", "content-length: 5000000")
            line.socket.sendall(b"x" * 10_000)
    assert len(content(server, "/large")) == 20_000_000
    with pytest.raises(NotFoundError):
        content(server, "/gone")


@pytest.mark.slow
def test_who_stalls_does_not_keep_the_server_from_stopping(tmp_path: Path) -> None:
    with running_server(tmp_path / "t") as server:
        server.client().create_repo("direct")
        server.client().put_file("direct@master:/large", b"x" * 30_000_000)
        with Line(server) as sending, Line(server) as taking:
            sending.ask("PUT", f"{FILES}?at=direct@master:/stalled", "content-length: 5000000")
            sending.socket.sendall(b"x" * 10_000)
            taking.ask("GET", f"{FILES}?at=direct@master:/large")
            taking.head()
            stopped = threading.Thread(target=server.stop)
            begun = time.monotonic()
            stopped.start()
            stopped.join(60)
            assert not stopped.is_alive()
            assert time.monotonic() - begun < 30
