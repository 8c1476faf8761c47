"""`kill -9` of the control server at ten random moments of the loop: it finishes by itself, nothing is lost or done twice, and
predictions never stop."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from trunkline.demo.pictures import Pictures, write_pictures
from trunkline.demo.predict import Predictor, Traffic, steady_traffic
from trunkline.demo.run import SPECS, Demo
from trunkline.demo.screen import Screen
from trunkline.errors import TrunklineError, UnavailableError
from trunkline.jobs.engines.process import started_at
from trunkline.sdk.client import Client
from trunkline.sdk.transport import path_of

pytestmark = pytest.mark.slow

KILLS = 10
PAUSE_SECONDS = (0.2, 5.0)


class Killer(threading.Thread):
    """Kills the control server without warning, and starts it again, at random moments until it has done so often enough."""

    def __init__(self, demo: Demo, seed: int) -> None:
        super().__init__(name="killer")
        self.demo = demo
        self.random = random.Random(seed)
        self.kills = 0
        self.error = ""
        self.enough = threading.Event()

    def run(self) -> None:
        while self.kills < KILLS and not self.enough.is_set():
            time.sleep(self.random.uniform(*PAUSE_SECONDS))
            os.kill(int(self.demo.status()["pid"]), signal.SIGKILL)
            self.kills += 1
            time.sleep(self.random.uniform(0, 1.0))
            up = subprocess.run(
                [sys.executable, "-m", "trunkline.cli.main", "up", "--detach"],
                env=self.demo.env, text=True, capture_output=True, check=False,
            )  # fmt: skip
            if up.returncode != 0:
                self.error = up.stderr
                return


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    return write_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    demo = Demo(tmp_path / "home", Screen())
    demo.home.mkdir()
    demo.cli("up", "--detach", "--port", "0", "--gateway-port", "0")
    yield demo
    demo.cli("down")


def _patiently(action: Callable[[], Any], is_done: Callable[[], bool], seconds: float = 60) -> None:
    """A user's way through an outage: try, look whether it happened, try again."""
    deadline = time.monotonic() + seconds
    while not is_done():
        try:
            action()
        except TrunklineError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.3)


def _commits(client: Client) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = client.call(
        "GET", path_of("projects", "default", "repos", "digits", "commits")
    )["items"]
    return sorted(
        (commit for commit in listed if commit["origin"] == "user"),
        key=lambda commit: float(commit["created_at"]),
    )


def _create(demo: Demo) -> None:
    client = demo.client
    _patiently(
        lambda: demo.cli("create", "namespace", "models"),
        lambda: any(item["name"] == "models" for item in client.call("GET", "/v1/namespaces")["items"]),
    )
    _patiently(
        lambda: demo.cli("create", "repo", "digits"),
        lambda: any(item["name"] == "digits" for item in client.call("GET", "/v1/repos")["items"]),
    )
    for name, spec in (("digits-model", "training"), ("digits-deploy", "deployment")):
        _patiently(
            lambda spec=spec: demo.cli("create", "pipeline", "-f", str(SPECS / f"{spec}-pipeline.json")),  # type: ignore[misc]
            lambda name=name: any(
                item["name"] == name for item in client.call("GET", "/v1/pipelines")["items"]
            ),  # type: ignore[misc]
        )


def _put(demo: Demo, folder: Path, count: int) -> str:
    _patiently(
        lambda: demo.cli("put", "file", "digits@master:/", "-r", "-f", str(folder)),
        lambda: len(_commits(demo.client)) >= count,
    )
    return str(_commits(demo.client)[count - 1]["id"])


def _wait_for(demo: Demo, killer: Killer, commit_id: str) -> None:
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        assert not killer.error, killer.error
        try:
            if all(demo._job_is_done(pipeline, commit_id) for pipeline in ("digits-model", "digits-deploy")):
                return
        except UnavailableError:
            pass
        time.sleep(0.3)
    pytest.fail(f"{commit_id} was not finished in time")


def _check_nothing_twice(client: Client, ids: list[str]) -> None:
    for pipeline in ("digits-model", "digits-deploy"):
        jobs = client.call("GET", path_of("projects", "default", "pipelines", pipeline, "jobs"))["items"]
        assert sorted(job["status"] for job in jobs) == ["succeeded"] * len(jobs)
        assert [job["id"] for job in jobs if job["id"] in ids] in (ids, ids[::-1])
        assert all(job["processed"] == (1 if job["id"] in ids else 0) for job in jobs)
    experiments = client.call("GET", "/v1/experiments")["items"]
    assert sorted(experiment["label"] for experiment in experiments) == sorted(ids)
    assert {experiment["status"] for experiment in experiments} == {"succeeded"}
    for experiment in experiments:
        rows = client.call(
            "GET", path_of("experiments", experiment["id"], "metrics"), query={"group": "validation"}
        )["items"]
        steps = [row["steps_completed"] for row in rows]
        assert steps == sorted(set(steps))
    versions = client.call("GET", path_of("models", "digits", "versions"))["items"]
    assert sorted((version["number"], version["name"]) for version in versions) == list(
        enumerate(ids, start=1)
    )


def _children(home: Path) -> list[str]:
    """Processes of this data directory, whoever started them: `PID command line`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                environment = (entry / "environ").read_bytes()
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if str(home).encode() in environment and started_at(int(entry.name)) is not None:
                found.append(f"{entry.name} {command}")
    return found


@pytest.mark.timeout(600)
def test_kill_nine_at_ten_random_moments(demo: Demo, pictures: Pictures) -> None:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    killer = Killer(demo, seed)
    killer.start()
    client = demo.client
    try:
        _create(demo)
        first = _put(demo, pictures.first, 1)
        _wait_for(demo, killer, first)
        predictor = Predictor(demo.status()["gateway_url"], "digits-deploy.models.example.com", "digits")
        held_out = sorted(pictures.held_out.iterdir())
        with steady_traffic(predictor, held_out) as traffic:
            second = _put(demo, pictures.second, 2)
            _wait_for(demo, killer, second)
            _finish(killer, traffic)
    finally:
        killer.enough.set()
        killer.join()
    assert not killer.error, killer.error
    assert traffic.failed == 0, traffic
    assert set(traffic.answered_by) == {first, second}
    assert predictor.accuracy(held_out) >= 0.98
    _check_nothing_twice(client, [first, second])
    service = client.call("GET", path_of("namespaces", "models", "inferenceservices", "digits-deploy"))
    assert service["metadata"]["annotations"]["trunkline.dev/id"] == second
    demo.cli("down")
    assert _children(demo.home) == []


def _finish(killer: Killer, traffic: Traffic) -> None:
    """Whatever kills are left fall on the loop at rest; the traffic goes on."""
    killer.join(KILLS * (PAUSE_SECONDS[1] + 10))
    assert killer.kills == KILLS, killer.error
    seen = traffic.total
    time.sleep(1)
    assert traffic.total > seen


def test_down_without_a_server_ends_what_it_left(demo: Demo, pictures: Pictures) -> None:
    demo.cli("create", "namespace", "models")
    demo.cli("create", "repo", "digits")
    demo.cli("create", "pipeline", "-f", str(SPECS / "training-pipeline.json"))
    demo.cli("put", "file", "digits@master:/", "-r", "-f", str(pictures.first))
    deadline = time.monotonic() + 60
    while not demo.client.call("GET", "/v1/experiments")["items"]:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    os.kill(int(json.loads((demo.home / "run" / "server.json").read_text())["pid"]), signal.SIGKILL)
    demo.cli("down")
    time.sleep(0.5)
    assert _children(demo.home) == []
