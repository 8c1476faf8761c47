"""Services and spouts: what stays, what replaces it, what ends it. With a real server, real workers, real ports."""

from __future__ import annotations

import json
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.pipelines.conftest import World, only, spec
from trunkline.core.status import Status
from trunkline.errors import ConflictError, InvalidInputError, StateError, TrunklineError
from trunkline.sdk.client import Client
from trunkline.testing.programs import free_ports
from trunkline.testing.server import ServerHarness, running_server

T = TypeVar("T")
SECONDS = 40.0

SERVE = (
    "import http.server, os\n"
    "class H(http.server.BaseHTTPRequestHandler):\n"
    " def do_GET(self):\n"
    "  if self.path == '/die': os._exit(3)\n"
    "  names = '\\n'.join(sorted(os.listdir('/pfs/images'))) + f'\\n{os.getpid()}'\n"
    "  self.send_response(200); self.end_headers(); self.wfile.write(names.encode())\n"
    "print('listening', flush=True)\n"
    "http.server.HTTPServer(('127.0.0.1', int(os.environ['TRUNKLINE_SERVICE_PORT'])), H).serve_forever()\n"
)


def service(ports: tuple[int, int], name: str = "web", glob: str = "/", **more: Any) -> dict[str, Any]:
    transform = {"cmd": ["python3", "-c", SERVE], "stdin": []}
    return spec(
        name, glob=glob, transform=transform, service={"internal_port": ports[0], "external_port": ports[1]}, **more
    )  # fmt: skip


def eventually(look: Callable[[], T | None], what: str) -> T:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"never: {what}")


def fetch(port: int, path: str = "/") -> list[str] | None:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return str(answer.read().decode()).split("\n")
    except OSError:
        return None


def serves(port: int, *files: str) -> str:
    """Wait until the service sees just these; its process."""

    def look() -> str | None:
        found = fetch(port)
        return found[-1] if found is not None and found[:-1] == list(files) else None

    return eventually(look, f"{files} at {port}")


@pytest.fixture
def server(shared_server: ServerHarness) -> Iterator[ServerHarness]:
    client = shared_server.client()
    client.create_repo("images")
    yield shared_server
    for pipeline in client.list_pipelines()[::-1]:
        client.delete_pipeline(pipeline.name, force=True)
    client.delete_repo("images", force=True)


@pytest.fixture
def ports() -> tuple[int, int]:
    one, other = free_ports(2)
    return one, other


# --- services, planned ---------------------------------------------------------------------------------------------


def test_the_next_commit_replaces_the_process_and_ends_the_job(world: World) -> None:
    world.pipelines.create("default", service((1111, 2222)))
    world.put("images@master", {"/a": "1"})
    [(task, payload)] = world.claim("web")
    assert (payload["stays"], payload["service"]["external_port"]) == (True, 2222)
    first = world.pipelines.list_jobs("default", "web")[0]
    assert only(payload)["files"][0][1] == "/"
    world.put("images@master", {"/b": "1"})
    _, cancelled = world.jobs.queue.keep_alive([world.lease(task)])
    assert cancelled == [task.id]
    assert world.pipelines.inspect_job("default", "web", first.id).status == Status.SUCCEEDED
    world.report(task, Status.CANCELLED)
    [(_, payload)] = world.claim("web")
    assert payload["job"]["id"] != first.id


def test_a_commit_that_changes_nothing_runs_it_anew(world: World) -> None:
    world.pipelines.create("default", service((1111, 0)))
    world.put("images@master", {"/a": "1"})
    [(task, first)] = world.claim("web")
    world.put("images@master", {"/a": "1"})
    world.report(task, Status.CANCELLED)
    [(_, second)] = world.claim("web")
    assert first["job"]["id"] != second["job"]["id"]


def test_a_service_outlives_any_number_of_workers(world: World) -> None:
    world.pipelines.create("default", service((1111, 0)))
    world.put("images@master", {"/a": "1"})
    for _ in range(6):
        [(_, payload)] = world.claim("web")
        assert not payload["careful"]
        world.clock.advance(1000)
        world.jobs.reap()
        world.clock.advance(2)
    assert world.pipelines.list_jobs("default", "web")[0].status == Status.RUNNING


def test_stop_and_start_keep_the_job(world: World) -> None:
    world.pipelines.create("default", service((1111, 0)))
    world.put("images@master", {"/a": "1"})
    [(task, first)] = world.claim("web")
    world.pipelines.stop("default", "web")
    assert world.jobs.queue.keep_alive([world.lease(task)])[1] == [task.id]
    world.report(task, Status.CANCELLED)
    assert world.claim("web") == []
    assert world.pipelines.inspect("default", "web").details["service"]["state"] == "stopped"
    world.pipelines.start("default", "web")
    world.settle()
    [(_, second)] = world.claim("web")
    assert first["job"]["id"] == second["job"]["id"]
    assert world.pipelines.inspect("default", "web").details["service"] == {
        "ip": "127.0.0.1", "internal_port": 1111, "external_port": 1111, "type": "NodePort",
        "url": "http://127.0.0.1:1111", "state": "running",
    }  # fmt: skip


def test_stop_and_start_at_once(world: World) -> None:
    world.pipelines.create("default", service((1111, 0)))
    world.put("images@master", {"/a": "1"})
    [(task, _)] = world.claim("web")
    world.pipelines.stop("default", "web")
    world.pipelines.start("default", "web")
    world.report(task, Status.CANCELLED)
    [(task, _)] = world.claim("web")
    assert world.jobs.queue.keep_alive([world.lease(task)]) == ([], [])


def test_a_service_has_one_datum(world: World) -> None:
    world.pipelines.create("default", service((1111, 0), glob="/*"))
    world.put("images@master", {"/a": "1", "/b": "2"})
    job = world.pipelines.list_jobs("default", "web")[0]
    assert job.status == Status.FAILED and "use the glob '/'" in job.reason


def test_ports_that_are_taken(world: World) -> None:
    world.pipelines.create("default", service((1111, 2222)))
    with pytest.raises(ConflictError, match="port 2222 is taken by pipeline default/web"):
        world.pipelines.create("default", service((2222, 0), name="other"))
    with pytest.raises(ConflictError, match="taken by trunkline itself"):
        world.pipelines.create("default", service((world.settings.port, 0), name="other"))
    world.pipelines.create("default", service((1111, 3333)), update=True)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"service": {"external_port": 5}}, "service.internal_port: missing"),
        ({"service": {"internal_port": 5}, "egress": {"URL": "s3://x"}}, "egress: a service has no output"),
        ({"service": {"internal_port": 5}, "transform": {"network": False}}, "transform.network: a service"),
        ({"spout": {}}, "input: a spout has none"),
    ],
)
def test_specs_that_make_no_sense(world: World, more: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInputError, match=said):
        world.pipelines.create("default", spec(**more))


# --- services, for real --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_service_from_its_start_to_its_end(server: ServerHarness, ports: tuple[int, int]) -> None:
    client, (internal, external) = server.client(), ports
    client.create_pipeline(service(ports))
    client.put_file("images@master:/a", b"1")
    first = serves(external, "a")
    assert fetch(internal) == ["a", first]
    found = json.loads(server.cli("inspect", "pipeline", "web", "-o", "json").stdout)
    assert found["details"]["service"]["ip"] == "127.0.0.1"
    assert found["details"]["service"]["state"] == "running"
    client.put_file("images@master:/b", b"1")  # new input
    second = serves(external, "a", "b")
    jobs = client.list_jobs("web")
    assert [job.status for job in jobs[:2]] == ["running", "succeeded"]
    fetch(external, "/die")  # a crash
    serves(external, "a", "b")
    text = "".join(line["text"] for line in _log(client))
    assert "listening" in text and "exit code 3" in text
    client.stop_pipeline("web")
    eventually(lambda: fetch(external) is None and fetch(internal) is None, "it is gone")
    client.start_pipeline("web")
    third = serves(external, "a", "b")
    assert len({first, second, third}) == 3 or third
    client.delete_pipeline("web")
    eventually(lambda: fetch(external) is None and fetch(internal) is None, "it is gone")


def _log(client: Client, name: str = "web") -> list[Any]:
    found: list[Any] = []
    for line in client.pipeline_logs(name):
        found.append(line)
    return found


@pytest.mark.slow
def test_a_port_of_another_program(server: ServerHarness, ports: tuple[int, int]) -> None:
    client = server.client()
    with socket.socket() as other:
        other.bind(("127.0.0.1", ports[1]))
        other.listen()
        client.create_pipeline(service(ports))
        client.put_file("images@master:/a", b"1")
        job = eventually(
            lambda: next((job for job in client.list_jobs("web") if job.status == "failed"), None), "it fails"
        )
    assert f"port {ports[1]} of 127.0.0.1 is taken by another program" in job.reason


@pytest.mark.slow
def test_a_service_survives_the_server_and_ends_with_down(tmp_path: Path, ports: tuple[int, int]) -> None:
    with running_server(tmp_path / "t") as server:
        client = server.client()
        client.create_repo("images")
        client.put_file("images@master:/a", b"1")
        client.create_pipeline(service(ports))
        before = serves(ports[1], "a")
        server.kill()
        assert fetch(ports[1]) == ["a", before]
        server.start()
        assert serves(ports[1], "a") == before
        server.client(retry_seconds=20).put_file("images@master:/b", b"1")
        serves(ports[1], "a", "b")
    assert fetch(ports[0]) is None and fetch(ports[1]) is None


# --- spouts --------------------------------------------------------------------------------------------------------


def spout(script: str, name: str = "ticks", **more: Any) -> dict[str, Any]:
    return {"pipeline": {"name": name}, "transform": {"cmd": ["sh"], "stdin": [script]}, "spout": {}, **more}


@pytest.mark.slow
def test_a_spout_commits_and_what_follows_runs(server: ServerHarness) -> None:
    client = server.client()
    script = (
        'echo run >> "$TRUNKLINE_HOME/x"; '
        "echo one > /pfs/out/f && trunkline put file ticks@master:/one -f /pfs/out/f && "
        "echo two | trunkline put file ticks@master:/two -f - && echo done"
    )
    client.create_pipeline(spout(script))
    client.create_pipeline(spec("after", repo="ticks", transform={"stdin": ["cp /pfs/ticks/* /pfs/out/"]}))

    def files() -> list[str] | None:
        try:
            found = [file.path for file in client.list_files("after@master")]
        except TrunklineError:
            return None
        return found if len(found) == 2 else None

    assert eventually(files, "both files") == ["/one", "/two"]
    assert client.list_jobs("ticks") == []
    lines = eventually(
        lambda: [
            line
            for line in client.pipeline_logs("ticks", follow=False)
            if "it is started again" in line["text"]
        ],
        "it is started again",
    )
    assert "the spout has ended (exit code 0)" in lines[0]["text"]


@pytest.mark.slow
def test_a_spout_may_write_nowhere_else(server: ServerHarness) -> None:
    client = server.client()
    script = (
        "echo x > /pfs/out/f; "
        "for at in images@master:/f ticks@other:/f; do trunkline put file $at -f /pfs/out/f; done; "
        "trunkline put file ticks@master:/f -f file:///etc/passwd; "
        "trunkline put file ticks@master:/f --link -f /etc/hostname; "
        "trunkline create repo mine; trunkline list repo; echo asked; sleep 1000"
    )
    before = {repo.name for repo in client.list_repos()}
    client.create_pipeline(spout(script))
    eventually(
        lambda: [x for x in client.pipeline_logs("ticks", follow=False) if x["text"] == "asked"], "asked"
    )
    text = "\n".join(line["text"] for line in client.pipeline_logs("ticks", follow=False))
    assert text.count("may not write to") == 2, text
    assert {repo.name for repo in client.list_repos()} == before | {"ticks"}
    assert client.list_commits("images@master") == []
    assert client.list_commits("ticks@master") == []


@pytest.mark.slow
def test_a_spout_is_updated_stopped_and_started(server: ServerHarness) -> None:
    client = server.client()

    def commits(text: str) -> bool:
        try:
            return client.get_file("ticks@master:/f").read() == text.encode()
        except TrunklineError:
            return False

    script = "while :; do printf {} | trunkline put file ticks@master:/f -f -; sleep 0.2; done"
    client.create_pipeline(spout(script.replace("{}", "one")))
    eventually(lambda: commits("one"), "the first version commits")
    client.create_pipeline(spout(script.replace("{}", "two")), update=True)
    eventually(lambda: commits("two"), "the second version commits")
    client.stop_pipeline("ticks")
    eventually(lambda: not _workers_with_children(server), "it has ended")
    head = client.inspect_branch("ticks@master").head
    client.start_pipeline("ticks")
    eventually(lambda: client.inspect_branch("ticks@master").head != head, "it commits again")
    with pytest.raises(StateError, match="has no jobs"):
        client.rerun_pipeline("ticks")


def _workers_with_children(server: ServerHarness) -> bool:
    """Whether the spout's loop still runs anywhere."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if b"put file ticks@master" in (entry / "cmdline").read_bytes().replace(b"\0", b" "):
                    return True
            except OSError:
                continue
    return False


@pytest.mark.slow
def test_a_job_may_still_not_write(server: ServerHarness) -> None:
    client = server.client()
    client.put_file("images@master:/a", b"1")
    script = "trunkline put file images@master:/b -f /pfs/images/a && exit 1; echo fine > /pfs/out/x"
    client.create_pipeline(spec(transform={"stdin": [script]}))
    job = eventually(lambda: next(iter(client.list_jobs("edges")), None), "a job")
    assert client.wait_job(f"edges@{job.id}").status == "succeeded"
