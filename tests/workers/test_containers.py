"""The same pipelines in containers, with podman or docker where one of them works; an image is made of this machine's files."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.workers.test_environments import kill_workers
from trunkline.sdk import Client
from trunkline.sdk.work import FINAL
from trunkline.testing.server import ServerHarness, running_server

pytestmark = pytest.mark.slow

WAIT_SECONDS = 90.0
PROGRAMS = ("sh", "cat", "env", "id", "ls", "sleep", "head", "mkdir", "ln", "tr", "tail")
IMAGE = "localhost/trunkline-test-image:1"
TRIED = (
    ("podman", []),
    ("podman --runtime runc", ["--ulimit=nofile=1024:4096", "--ulimit=nproc=2000:4000"]),
    ("docker", []),
)
"""Where the machine is itself a container, podman needs help."""


def _image_file(folder: Path) -> Path:
    """A root file system of a few programs and the libraries that they need."""
    target = folder / "image.tar"
    with tarfile.open(target, "w", dereference=True) as archive:
        added = set()
        for program in PROGRAMS:
            path = shutil.which(program, path="/bin:/usr/bin")
            assert path is not None, program
            shown = subprocess.run(["ldd", path], capture_output=True, text=True, check=False).stdout
            for one in [path, *re.findall(r"(/\S+) \(0x", shown)]:
                name = f"/bin/{program}" if one == path else one
                if name not in added:
                    added.add(name)
                    archive.add(os.path.realpath(one), arcname=name)
        for text, name in (("root:x:0:0::/root:/bin/sh\nworker:x:1234:1234::/:/bin/sh\n", "etc/passwd"),):
            (folder / "text").write_text(text)
            archive.add(folder / "text", arcname=name)
        (folder / "empty").mkdir()
        for name in ("tmp", "proc", "sys", "dev", "pfs"):
            archive.add(folder / "empty", arcname=name)
    return target


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[str]]:
    folder = tmp_path_factory.mktemp("image")
    said = ["neither podman nor docker is here"]
    file = None
    for command, options in TRIED:
        words = command.split()
        if shutil.which(words[0]) is None or (len(words) > 1 and shutil.which(words[-1]) is None):
            continue
        file = file or _image_file(folder)
        made = subprocess.run(
            [*words, "import", str(file), IMAGE], capture_output=True, text=True, check=False
        )
        if made.returncode == 0:
            run = [*words, "run", "--rm", *options, "--network=none", IMAGE, "/bin/sh", "-c", "echo works"]
            made = subprocess.run(run, capture_output=True, text=True, check=False)
            if made.stdout.strip() == "works":
                return command, options
        said.append(f"{command}: {made.stderr.strip().splitlines()[-1:]}")
    pytest.skip("; ".join(said[1:] or said))


@pytest.fixture
def server(tmp_path: Path, engine: tuple[str, list[str]]) -> Iterator[ServerHarness]:
    command, options = engine
    (tmp_path / "home").mkdir(mode=0o700)
    (tmp_path / "home" / "trunkline.toml").write_text(
        f"container_engine = {command!r}\ncontainer_options = {options!r}\n"
        f'[environments."my/image"]\ncontainer = "{IMAGE}"\nenv = {{ FROM_SETTINGS = "yes" }}\n'
    )
    with running_server(tmp_path / "home", settings={"TRUNKLINE_WORKER_IDLE_SECONDS": "2"}) as harness:
        harness.client().create_repo("texts")
        yield harness
    assert containers(engine) == [], "a container is left over"


def containers(engine: tuple[str, list[str]]) -> list[str]:
    listed = [*engine[0].split(), "ps", "-a", "--filter", "name=trunkline-", "--format", "{{.Names}}"]
    for _ in range(100):
        names = subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split()
        if not names:
            break
        time.sleep(0.1)
    return names


def create(client: Client, script: str, **more: Any) -> None:
    transform = {
        "image": "my/image",
        "cmd": ["/bin/sh", "-e"],
        "stdin": script.splitlines(),
        **more.pop("transform", {}),
    }
    spec = {
        "pipeline": {"name": "shouts"}, "input": {"pfs": {"repo": "texts", "glob": "/*"}}, "datum_tries": 1,
        "transform": transform, **more,
    }  # fmt: skip
    client.create_pipeline(spec, folder=more.pop("folder", None))


def run_one(client: Client) -> tuple[Any, list[str], str]:
    commit = client.put_files("texts@master", [("a", b"ah")]).id
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        log = (
            [line["text"] for line in client.pipeline_logs("shouts", job=commit)]
            if client.list_jobs("shouts")
            else []
        )
        if client.list_jobs("shouts") and (job := client.inspect_job(f"shouts@{commit}")).status in FINAL:
            return job, log, commit
        assert time.monotonic() < deadline, log
        time.sleep(0.1)


def output(client: Client, commit: str, name: str) -> str:
    with client.get_file(f"shouts@{commit}:/{name}") as stream:
        return stream.read().decode()


def reason_of(client: Client, commit: str) -> str:
    return str(client.list_datums(f"shouts@{commit}")[0].reason)


def test_the_whole_way(server: ServerHarness) -> None:
    client = server.client()
    script = """
    cat $texts > /pfs/out/copy
    echo "$PACH_JOB_ID $FROM_SETTINGS $OWN $texts $PATH" > /pfs/out/said
    ls / > /pfs/out/root
    echo to the log
    ln -s /pfs/texts/a /pfs/out/link
    if echo x > /pfs/texts/new; then exit 9; fi
    """
    create(client, script, transform={"env": {"OWN": "mine, 'really'"}})
    job, log, commit = run_one(client)
    assert job.status == "succeeded", (log, reason_of(client, commit))
    assert output(client, commit, "copy") == output(client, commit, "link") == "ah"
    job_id, settings, own, texts, path = re.match(
        r"(\S+) (\S+) (.*) (\S+) (\S+)$", output(client, commit, "said")
    ).groups()  # type: ignore[union-attr]
    assert (job_id, settings, own, texts) == (commit, "yes", "mine, 'really'", "/pfs/texts/a")
    assert str(Path.home()) not in path
    assert not {"work", "home", "opt"} & set(output(client, commit, "root").split()) - {server.home.parts[1]}
    assert "to the log" in log


@pytest.mark.parametrize(
    ("script", "more", "reason"),
    [
        ("echo bad >&2; exit 7", {}, "exit code 7: bad"),
        ("sleep 60", {"datum_timeout": "2s"}, "ran past its datum_timeout of 2 s"),
        ("ln -s /etc/passwd /pfs/out/x", {}, "is a link that leads nowhere"),
        (
            "",
            {"transform": {"cmd": ["/bin/nothing"]}},
            "command not found in image localhost/trunkline-test-image:1",
        ),
        (
            "head -c 500000000 /dev/zero | tail > /dev/null; exit 137",
            {"resource_limits": {"memory": "32Mi"}},
            "out of memory: ",
        ),
    ],
)
def test_failures_say_why(server: ServerHarness, script: str, more: dict[str, Any], reason: str) -> None:
    client = server.client()
    create(client, script, **more)
    job, log, commit = run_one(client)
    assert job.status == "failed", log
    assert reason in reason_of(client, commit)


def test_batching_makes_one_container_for_all(server: ServerHarness) -> None:
    """The protocol is spoken by a program that the image has; here a shell can only show that the socket is there."""
    client = server.client()
    create(
        client,
        "test -S $TRUNKLINE_DATUM_SOCKET && echo it is there; exit 5",
        transform={"datum_batching": True},
    )
    job, log, _ = run_one(client)
    assert job.status == "failed"
    assert "it is there" in log


def test_no_network_and_a_user(server: ServerHarness) -> None:
    client = server.client()
    script = "id -u > /pfs/out/id; cat /proc/net/route | tail -n +2 > /pfs/out/routes"
    create(client, script, transform={"user": "worker", "network": False})
    job, log, commit = run_one(client)
    assert job.status == "succeeded", (log, reason_of(client, commit))
    assert output(client, commit, "id") == "1234\n"
    assert output(client, commit, "routes") == ""


def test_an_image_that_is_nowhere(server: ServerHarness) -> None:
    client = server.client()
    with (server.home / "trunkline.toml").open("a") as file:
        file.write('[environments.gone]\ncontainer = "localhost/trunkline-no-such-image:9"\n')
    server.stop()
    server.start()
    client = server.client()
    create(client, "true", transform={"image": "gone"})
    job, _, commit = run_one(client)
    assert job.status == "failed"
    assert "image localhost/trunkline-no-such-image:9 is not here, and cannot be pulled: " in reason_of(
        client, commit
    )


def test_nothing_is_left_of_a_worker_that_is_killed(
    server: ServerHarness, engine: tuple[str, list[str]], tmp_path: Path
) -> None:
    client = server.client()
    create(client, "test -e $TRUNKLINE_HOME/x || true; echo begun; sleep 600")
    commit = client.put_files("texts@master", [("a", b"ah")]).id
    deadline = time.monotonic() + WAIT_SECONDS
    while not client.list_jobs("shouts") or "begun" not in [
        line["text"] for line in client.pipeline_logs("shouts", job=commit)
    ]:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    client.stop_pipeline("shouts")
    assert kill_workers(server) >= 1
    client.stop_job(f"shouts@{commit}")
    assert containers(engine) == []
