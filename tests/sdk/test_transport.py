from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest

from trunkline import errors
from trunkline.errors import AlreadyExistsError, InvalidInputError, NotFoundError, UnavailableError
from trunkline.sdk.client import Client
from trunkline.sdk.transport import encode_query, path_of
from trunkline.testing.server import ServerHarness, running_server


@pytest.fixture(scope="module")
def server(shared_server: ServerHarness) -> ServerHarness:
    return shared_server


def test_paths_and_queries_are_quoted() -> None:
    assert path_of("projects", "a/b", "x y", 3) == "/v1/projects/a%2Fb/x%20y/3"
    assert encode_query({"a": None, "b": True, "c": ["1", "&"], "d": 0}) == "?b=true&c=1&c=%26&d=0"
    assert encode_query({}) == ""


@pytest.mark.slow
def test_the_server_s_own_errors_are_raised(server: ServerHarness) -> None:
    client = server.client()
    client.create_repo("twice")
    with pytest.raises(AlreadyExistsError) as caught:
        client.create_repo("twice")
    assert caught.value.details["request_id"]
    with pytest.raises(NotFoundError):
        client.inspect_repo("nope")
    with pytest.raises(errors.UnauthenticatedError):
        Client(url=client.url, token="wrong").list_repos()


@pytest.mark.slow
def test_an_error_reaches_whoever_still_sends(server: ServerHarness) -> None:
    client = server.client()
    client.create_repo("refused")
    files = [("a//bad", b"x"), *((f"{n}", b"x" * 1_000_000) for n in range(20))]
    with pytest.raises(InvalidInputError, match="a//bad"):
        client.put_files("refused@master:/", files)
    assert client.list_commits("refused") == []


@pytest.mark.slow
def test_a_stream_of_unknown_length(server: ServerHarness) -> None:
    client = server.client()
    client.create_repo("streams")
    client.put_file("streams@master:/big", (b"%07d\n" % n for n in range(500_000)))
    with client.get_file("streams@master:/big", offset=8, length=16) as stream:
        assert stream.read() == b"0000001\n0000002\n"
    assert client.inspect_file("streams@master:/big").size == 4_000_000


@pytest.mark.slow
def test_get_files_replaces_what_is_there(server: ServerHarness, tmp_path: Path) -> None:
    client = server.client()
    client.create_repo("copies")
    client.put_files("copies@master:/d", [("a", b"new"), ("s/b", b"2")])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a").write_text("old")
    assert client.get_files("copies@master:/d", tmp_path / "out") == 2
    assert ((tmp_path / "out" / "a").read_text(), (tmp_path / "out" / "s" / "b").read_text()) == ("new", "2")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


@pytest.mark.slow
def test_everything_that_waits_waits(server: ServerHarness) -> None:
    client = server.client()
    client.create_repo("waits")
    commit = client.start_commit("waits@master")
    threading.Timer(0.3, lambda: server.client().finish_commit("waits@master")).start()
    begun = time.monotonic()
    assert client.wait_commit(f"waits@{commit.id}").is_finished
    assert time.monotonic() - begun < 5
    assert client.fsck().problems == []


@pytest.mark.slow
def test_a_call_survives_a_restart_at_another_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUNKLINE_HOME", str(tmp_path / "t"))
    with running_server(tmp_path / "t") as server:
        client = server.client(retry_seconds=60)
        client.create_repo("r")
        old = client.url
        server.kill()
        written = server.home / "run" / "server.json"
        content = json.loads(written.read_text())
        written.write_text(json.dumps({**content, "port": None}))  # so that the next one picks another
        restart = threading.Timer(1.0, server.start)
        restart.start()
        assert client.put_file("r@master:/x", b"1").is_finished
        restart.join()
        assert client.url == json.loads(written.read_text())["url"]
        assert old != client.url or client.list_repos()
        client.retry_seconds = 0
    with pytest.raises(UnavailableError):
        client.list_repos()
