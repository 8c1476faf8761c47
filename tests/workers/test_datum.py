"""Datums in real worker processes under a real control server: from commit to output, and what can go wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from tests.quick import app_over
from tests.workers.processes import running
from trunkline.api import home
from trunkline.core.status import Status
from trunkline.pipelines.model import Job
from trunkline.sdk import Client
from trunkline.services import Services, build
from trunkline.settings import Settings
from trunkline.versioning.model import PutFile

pytestmark = pytest.mark.slow

WAIT_SECONDS = 40.0


class Server:
    """A control server in this process, whose workers are real processes."""

    def __init__(self, folder: Path, **settings_given: Any) -> None:
        settings = Settings(
            home=folder,
            port=0,
            lease_seconds=4.0,
            worker_idle_seconds=1.0,
            **{"standby_workers": 0, **settings_given},
        )
        home.prepare(settings)
        listener = home.bind(settings)
        settings = settings.model_copy(update={"port": listener.getsockname()[1]})
        self.services: Services = build(settings)
        home.write_down(settings, started_at=self.services.started_at)
        config = uvicorn.Config(app_over(self.services), log_config=None, lifespan="off", ws="none")
        self._http = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._http.run, kwargs={"sockets": [listener]}, daemon=True)
        self._thread.start()
        self.services.jobs.start()

    def close(self) -> None:
        self.services.stop_work()
        self._http.should_exit = True
        self._thread.join()
        self.services.db.close()

    def pipeline(
        self, script: str, *, code: dict[str, str] | None = None, glob: str = "/*", **more: Any
    ) -> None:
        """A pipeline ``edges`` over repo ``images`` that runs a shell script on each datum."""
        transform = {"cmd": ["sh", "-e"], "stdin": script.splitlines(), **more.pop("transform", {})}
        code_root = None
        if code is not None:
            transform["code"] = "src"
            changes = [PutFile(path=f"/{name}", parts=[text.encode()]) for name, text in code.items()]
            code_root = self.services.versioning.stage(changes).root
        spec = {
            "pipeline": {"name": "edges"}, "input": {"pfs": {"repo": "images", "glob": glob}},
            "transform": transform, "datum_tries": 1, **more,
        }  # fmt: skip
        self.services.pipelines.create("default", spec, code_root=code_root)

    def put(self, files: dict[str, str]) -> str:
        changes = [PutFile(path=path, parts=[text.encode()]) for path, text in files.items()]
        return self.services.versioning.modify("default", "images@master", changes).id

    def job(self, commit: str) -> Job:
        return self.services.pipelines.inspect_job("default", "edges", commit)

    def log(self, commit: str) -> list[str]:
        if not self.services.pipelines.jobs_of(commit):  # the event of its commit is not handled yet
            return []
        return [line.text for line in self.services.pipelines.logs("default", "edges", commit)[0]]

    def wait(self, commit: str, condition: Callable[[], object] | None = None) -> Job:
        """Until the job has ended, or the condition holds."""
        wanted = condition or (lambda: self._ended(commit))
        deadline = time.monotonic() + WAIT_SECONDS
        while not wanted():
            assert time.monotonic() < deadline, f"{self.job(commit)} {self.log(commit)}"
            time.sleep(0.02)
        return self.job(commit)

    def _ended(self, commit: str) -> bool:
        jobs = self.services.pipelines.jobs_of(commit)
        return any(job.pipeline == "edges" and job.status.is_final for job in jobs)

    def output(self, address: str = "edges@master") -> dict[str, str]:
        versioning = self.services.versioning
        _, root, _ = versioning.resolve("default", address)
        return {
            info.path: b"".join(versioning.read(root, info.path)).decode()
            for info in versioning.walk(root)
            if not info.is_dir
        }


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path / "home")
    made.services.versioning.create_repo("default", "images")
    yield made
    made.close()


LOOK = """
echo "hello $(cat $images)" && echo oops >&2
cat $images > /pfs/out/$(basename $images).txt
python tool.py
pwd; ls /pfs; echo "vars $PACH_JOB_ID $PPS_PIPELINE_NAME $COLOUR $WHO $(cat /opt/login/user)"
env | grep -c TRUNKLINE_WORKER_TOKEN || true
find $TRUNKLINE_HOME -type f
"""
TOOL = """
import json, os, urllib.request
def get(path):
    request = urllib.request.Request(os.environ["TRUNKLINE_URL"] + path)
    request.add_header("authorization", "Bearer " + os.environ["TRUNKLINE_TOKEN"])
    try:
        return len(json.load(urllib.request.urlopen(request))["items"])
    except urllib.error.HTTPError as error:
        return error.code
print("api", get("/v1/repos"), get("/v1/namespaces/default/secrets"))
open("/pfs/out/from-python", "w").write("x")
"""


def test_the_whole_way(server: Server) -> None:
    server.services.secrets.apply("default", "login", "Opaque", {}, {"user": "ann"})
    secrets = [
        {"name": "login", "key": "user", "env_var": "WHO"},
        {"name": "login", "mount_path": "/opt/login"},
    ]
    server.pipeline(LOOK, code={"tool.py": TOOL}, transform={"env": {"COLOUR": "red"}, "secrets": secrets})
    commit = server.put({"/a": "AAA"})
    job = server.wait(commit)
    assert job.status == Status.SUCCEEDED, job.reason
    assert server.output() == {"/a.txt": "AAA", "/from-python": "x"}
    log = server.log(commit)
    assert "hello AAA" in log and "oops" in log and "api 2 403" in log
    assert f"vars {commit} edges red ann ann" in log
    assert [line for line in log if line.endswith(("token", ".db"))] == []
    assert "0" in log  # the worker's token is not there
    assert job.stats["download_bytes"] == 3
    assert not Path("/pfs").exists() and not Path("/opt/login").exists()


CANARY = "canary-in-the-coal-mine"


def test_tokens_and_secrets_are_in_no_log_no_reason_and_no_arguments(server: Server) -> None:
    server.services.secrets.apply("default", "mine", "Opaque", {}, {"bird": f"{CANARY}\nsecond-{CANARY}"})
    secrets = [
        {"name": "mine", "key": "bird", "env_var": "BIRD"}, {"name": "mine", "mount_path": "/opt/mine"},
    ]  # fmt: skip
    script = 'env; cat /opt/mine/bird; env >&2; echo "token $TRUNKLINE_TOKEN" >&2; sleep 2; exit 3'
    server.pipeline(script, transform={"secrets": secrets})
    commit = server.put({"/a": "1"})
    server.wait(commit, lambda: "token ***" in server.log(commit))
    told = [CANARY.encode()]
    for worker in server.services.table.running("worker"):
        environment = Path(f"/proc/{(worker.handle or {})['pid']}/environ").read_bytes().split(b"\0")
        told += [one.partition(b"=")[2] for one in environment if one.startswith(b"TRUNKLINE_WORKER_TOKEN=")]
    assert len(told) == 2
    arguments = [file.read_bytes() for file in Path("/proc").glob("[0-9]*/cmdline") if file.exists()]
    assert not [line for line in arguments for secret in told if secret in line]
    job = server.wait(commit)
    assert job.reason.endswith("token ***")
    log = server.log(commit)
    assert "BIRD=***" in log and "TRUNKLINE_TOKEN=***" in log and f"PACH_JOB_ID={commit}" in log
    home = server.services.settings.home
    written = [
        file for file in home.rglob("*") if file.is_file() and file.name not in ("trunkline.db", "token")
    ]
    assert any(file.suffix == ".jsonl" for file in written)
    assert [file for file in written for secret in told if secret in file.read_bytes()] == []


def test_many_datums_by_several_workers(server: Server) -> None:
    server.pipeline("cp $images /pfs/out/", parallelism_spec={"constant": 2})
    files = {f"/{n:02}": str(n) for n in range(20)}
    commit = server.put(files)
    job = server.wait(commit)
    assert (job.status, job.processed) == (Status.SUCCEEDED, 20)
    assert server.output() == files


@pytest.mark.parametrize(
    ("script", "more", "reason"),
    [
        ("echo first >&2; echo 'no such colour' >&2; exit 3", {}, "exit code 3: first | no such colour"),
        ("x", {"transform": {"cmd": ["nosuchprogram"]}}, "command not found: nosuchprogram"),
        ("x", {"transform": {"working_dir": "/nosuchfolder"}}, "cannot be entered"),
        ("sleep 60", {"datum_timeout": "500ms"}, "ran past its datum_timeout of 0.5 s"),
        ("mkfifo /pfs/out/pipe", {}, "/pfs/out/pipe is a named pipe"),
        ("kill -9 $$", {}, "killed by SIGKILL"),
        ("ln -s $TRUNKLINE_HOME/token /pfs/out/x", {}, "a link that leads nowhere"),
        ("ln -s /proc/self/environ /pfs/out/x", {}, "which cannot be stored"),
        ("echo x > $images", {}, "Read-only file system"),
        ("ln -s . /pfs/out/d", {}, "… is nested too deeply, or a link leads back to a folder above it"),
    ],
)  # fmt: skip
def test_failures_say_why(server: Server, script: str, more: dict[str, Any], reason: str) -> None:
    server.pipeline(script, **more)
    job = server.wait(server.put({"/a": "1"}))
    assert job.status == Status.FAILED
    assert reason in job.reason
    assert server.services.versioning.inspect_commit("default", "edges@master").error == job.reason
    log = server.log(job.id)
    is_its_own = job.reason.partition("failed: ")[2].startswith("exit code")
    assert any(line.startswith("attempt 1 of 1 failed: ") and reason in line for line in log) != is_its_own


def test_accepted_codes_and_err_cmd(server: Server) -> None:
    recover = {"err_cmd": ["sh"], "err_stdin": ["echo recovering", "test $(basename $images) = b"]}
    server.pipeline(
        "case $images in */a) exit 7;; esac; exit 1", transform={"accept_return_code": [7], **recover}
    )
    job = server.wait(server.put({"/a": "1", "/b": "2"}))
    assert (job.status, job.processed, job.recovered) == (Status.SUCCEEDED, 1, 1)
    job = server.wait(server.put({"/c": "3"}))
    assert job.status == Status.FAILED
    assert "exit code 1; and err_cmd failed: exit code 1" in job.reason


def test_logs_come_while_it_runs_and_stop_kills_all_of_it(server: Server, tmp_path: Path) -> None:
    marker = str(tmp_path / "marker")
    server.pipeline(f"echo begun; setsid sh -c 'sleep 60; touch {marker}' & sleep 61.5")
    commit = server.put({"/a": "1"})
    server.wait(commit, lambda: "begun" in server.log(commit))
    assert server.job(commit).status == Status.RUNNING
    assert running("sleep", "61.5") == 1
    server.services.pipelines.stop_job("default", "edges", commit)
    deadline = time.monotonic() + 10
    while running("sleep", "61.5") or running("sleep", "60"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert server.job(commit).status == Status.CANCELLED


def test_a_worker_that_is_killed_loses_only_time(server: Server) -> None:
    server.pipeline("echo begun; sleep 1.7; echo done > /pfs/out/x", datum_tries=3)
    commit = server.put({"/a": "1"})
    server.wait(commit, lambda: "begun" in server.log(commit))
    [worker] = server.services.table.running("worker")
    assert worker.handle is not None
    os.kill(worker.handle["pid"], signal.SIGKILL)
    server.wait(commit, lambda: running("sleep", "1.7") == 0)
    job = server.wait(commit)
    assert job.status == Status.SUCCEEDED
    [datum] = server.services.pipelines.list_datums("default", "edges", commit)
    assert datum.attempts == 1  # the loss of a worker is not the datum's, the first time
    server.wait(commit, lambda: not server.services.table.running("worker") or _all_gone(server))
    scratch = server.services.settings.run_dir / "scratch"
    assert len(list(scratch.iterdir())) <= 1  # the dead worker's was swept by the next


def _all_gone(server: Server) -> bool:
    return not any(server.services.table.is_alive(one) for one in server.services.table.running("worker"))


def test_a_worker_asked_to_leave_gives_its_datum_back(server: Server) -> None:
    server.pipeline("echo begun; sleep 1.8; echo done > /pfs/out/x")
    commit = server.put({"/a": "1"})
    server.wait(commit, lambda: "begun" in server.log(commit))
    [worker] = server.services.table.running("worker")
    server.services.table.stop(worker, grace_seconds=5.0)
    job = server.wait(commit)
    assert job.status == Status.SUCCEEDED  # though datum_tries is 1
    scratch = server.services.settings.run_dir / "scratch"
    assert not any(one.name == worker.id for one in scratch.iterdir())


def test_paths_mode_runs_the_same_spec_with_a_warning(tmp_path: Path) -> None:
    server = Server(tmp_path / "home", sandbox="paths")
    try:
        server.services.versioning.create_repo("default", "images")
        server.pipeline("cat /pfs/images/a > /pfs/out/b; ln -s $images /pfs/out/l; echo at $PFS_ROOT")
        commit = server.put({"/a": "1"})
        job = server.wait(commit)
        assert job.status == Status.SUCCEEDED, job.reason
        assert server.output() == {"/b": "1", "/l": "1"}
        assert any("not isolated" in line for line in server.log(commit))
    finally:
        server.close()


# --- the control server dies ---


def start_control(folder: Path) -> subprocess.Popen[bytes]:
    (folder / "run").mkdir(parents=True, exist_ok=True)
    (folder / "run" / "server.json").unlink(missing_ok=True)
    process = subprocess.Popen([sys.executable, "-m", "tests.workers.control", str(folder)])
    deadline = time.monotonic() + 20
    while not (folder / "run" / "server.json").exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    return process


def test_work_goes_on_while_the_server_is_down_and_ends_once(tmp_path: Path) -> None:
    """``kill -9`` in the midst of a datum; the next server has another port, and gets the result of the first try."""
    folder = tmp_path / "home"
    settings = Settings(home=folder)
    control = start_control(folder)
    try:
        services = build(settings)  # a second handle on the same database, to look and to give orders
        services.versioning.create_repo("default", "images")
        script = [
            "echo begun >> $HOME/tries",
            "for i in 1 2 3 4 5 6; do echo line $i; sleep 0.5; done",
            "echo x > /pfs/out/x",
        ]
        services.pipelines.create(
            "default",
            {
                "pipeline": {"name": "edges"}, "input": {"pfs": {"repo": "images", "glob": "/"}},
                "transform": {"cmd": ["sh"], "stdin": script, "env": {"HOME": str(tmp_path)}}, "datum_tries": 1,
            },
        )  # fmt: skip
        commit = services.versioning.modify("default", "images@master", [PutFile(path="/a", parts=[b"1"])]).id
        _until(lambda: (tmp_path / "tries").exists())
        control.kill()
        control.wait()
        time.sleep(1.0)
        control = start_control(folder)
        _until(lambda: services.pipelines.inspect_job("default", "edges", commit).status.is_final)
        job = services.pipelines.inspect_job("default", "edges", commit)
        assert (job.status, job.reason) == (Status.SUCCEEDED, "")
        assert (tmp_path / "tries").read_text() == "begun\n"
        lines = [line.text for line in services.pipelines.logs("default", "edges", commit)[0]]
        assert lines == [f"line {n}" for n in range(1, 7)]
        _until(lambda: not list((folder / "run" / "scratch").iterdir()))  # the worker has left
    finally:
        control.kill()
        control.wait()


def _until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_client_is_the_sdk(server: Server) -> None:
    """What a person sees of a failed job comes through the API as it is here."""
    server.pipeline("exit 4")
    commit = server.put({"/a": "1"})
    server.wait(commit)
    token = server.services.settings.token_file
    admin = server.services.access.admin_token(token)
    client = Client(url=server.services.settings.url, token=admin)
    job = client.call("GET", f"/v1/projects/default/pipelines/edges/jobs/{commit}")
    assert job["status"] == "failed" and job["reason"].endswith("exit code 4")
