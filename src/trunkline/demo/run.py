"""The demo: everything it does goes through the commands and the HTTP doors that a user has."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trunkline.demo.pictures import write_pictures
from trunkline.demo.predict import Predictor, steady_traffic
from trunkline.demo.screen import Screen, Step
from trunkline.errors import InternalError, StateError, UnavailableError
from trunkline.sdk.client import Client
from trunkline.sdk.transport import path_of

SPECS = Path(__file__).parent / "digits"
NAMESPACE, SERVICE, MODEL = "models", "digits-deploy", "digits"
STEP_SECONDS_MAX = 300.0
POLL_SECONDS = 0.2


class Demo:
    """One run, in a data directory of its own on free ports."""

    def __init__(self, home: Path, screen: Screen) -> None:
        self.home = home
        self.screen = screen
        self.env = {**os.environ, "TRUNKLINE_HOME": str(home)}
        for name in ("TRUNKLINE_URL", "TRUNKLINE_TOKEN"):
            self.env.pop(name, None)
        self._client: Client | None = None

    def cli(self, *words: str) -> str:
        """Run one ``trunkline`` command as a user would; returns what it printed."""
        done = subprocess.run(
            [sys.executable, "-m", "trunkline.cli.main", *words],
            env=self.env,
            text=True,
            capture_output=True,
            check=False,
        )
        if done.returncode != 0:
            raise InternalError(
                f"'trunkline {' '.join(words)}' failed: {done.stderr.strip() or done.stdout.strip()}"
            )
        return done.stdout

    @property
    def client(self) -> Client:
        if self._client is None:
            status = self.status()
            self._client = Client(
                url=status["url"], token=(self.home / "token").read_text().strip(), retry_seconds=30
            )
        return self._client

    def status(self) -> dict[str, Any]:
        """Where the server and the gateway are."""
        found: dict[str, Any] = json.loads((self.home / "run" / "server.json").read_text())
        return found

    def wait_for_training(self, commit_id: str, step: Step) -> None:
        """Until the training job of a commit is done; says the model version and its accuracy."""

        def look() -> bool:
            for experiment in self.client.call("GET", path_of("experiments"), query={"label": commit_id})[
                "items"
            ]:
                step.advance_to(experiment["progress"])
            return self._job_is_done("digits-model", commit_id)

        _until("the training", look)
        version = self.client.call("GET", path_of("models", MODEL, "versions", commit_id))
        step.say(
            f"version {commit_id}: accuracy {version['metrics']['accuracy']:.3f} on its own held-out tenth"
        )

    def wait_for_service(self, commit_id: str) -> str:
        """Until the deployment job of a commit is done; returns the service's URL."""
        _until("the deployment", lambda: self._job_is_done("digits-deploy", commit_id))
        service = self.client.call("GET", path_of("namespaces", NAMESPACE, "inferenceservices", SERVICE))
        return str(service["status"]["url"])

    def _job_is_done(self, pipeline: str, commit_id: str) -> bool:
        jobs = self.client.call("GET", path_of("projects", "default", "pipelines", pipeline, "jobs"))["items"]
        job = next((job for job in jobs if job["id"] == commit_id), None)
        if job is None or job["status"] in ("queued", "running"):
            return False
        if job["status"] != "succeeded":
            raise StateError(
                f"job {pipeline}@{commit_id} {job['status']}: {job['reason']}", kind="demo_failed"
            )
        return True

    def head(self) -> str:
        """The newest commit of the pictures."""
        return str(
            self.client.call("GET", path_of("projects", "default", "commits"), query={"at": "digits@master"})[
                "id"
            ]
        )


def _until(what: str, is_done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + STEP_SECONDS_MAX
    while not is_done():
        if time.monotonic() > deadline:
            raise UnavailableError(f"{what} took longer than {STEP_SECONDS_MAX:.0f} s", kind="demo_failed")
        time.sleep(POLL_SECONDS)


def run_demo(*, keep: bool) -> None:
    """Run the main job from an empty data directory to a model that has learnt twice.

    :raises TrunklineError: with the reason, if any step fails; the server is stopped then too.
    """
    screen = Screen()
    home = Path(tempfile.mkdtemp(prefix="trunkline-demo-"))
    demo = Demo(home, screen)
    finished = False
    try:
        _run(demo, screen, home)
        finished = True
    finally:
        if not (keep and finished):
            if (home / "run").exists():
                demo.cli("down")
            shutil.rmtree(home, ignore_errors=True)
    if keep:
        _say_what_next(demo, screen)


def _run(demo: Demo, screen: Screen, home: Path) -> None:
    with screen.step("write 1,797 scanned digits as PNG files"):
        pictures = write_pictures(home / "pictures")
    with screen.step("trunkline up --detach") as step:
        demo.cli("up", "--detach", "--port", "0", "--gateway-port", "0")
        step.say(demo.status()["url"])
    with screen.step("create repo digits, two pipelines"):
        demo.cli("create", "namespace", NAMESPACE)
        demo.cli("create", "repo", "digits")
        demo.cli("create", "pipeline", "-f", str(SPECS / "training-pipeline.json"))
        demo.cli("create", "pipeline", "-f", str(SPECS / "deployment-pipeline.json"))
    with screen.step("put file -r: the first 900 pictures") as step:
        demo.cli("put", "file", "digits@master:/", "-r", "-f", str(pictures.first))
        first = demo.head()
        step.say(f"commit {first}")
    with screen.step("the training pipeline trains by itself") as step:
        demo.wait_for_training(first, step)
    with screen.step("the deployment pipeline goes live by itself") as step:
        url = demo.wait_for_service(first)
        step.say(url)
    predictor = Predictor(demo.status()["gateway_url"], url.removeprefix("http://"), MODEL)
    held_out = sorted(pictures.held_out.iterdir())
    _measure(screen, predictor, held_out)
    with steady_traffic(predictor, held_out) as traffic:
        with screen.step("put file -r: 597 more, while a client predicts") as step:
            demo.cli("put", "file", "digits@master:/", "-r", "-f", str(pictures.second))
            second = demo.head()
            step.say(f"commit {second}")
        with screen.step("training goes on from the last checkpoint") as step:
            demo.wait_for_training(second, step)
        with screen.step("the service rolls over to the new version") as step:
            demo.wait_for_service(second)
            _until("the new version", lambda: traffic.answered_by[second] > 0)
            step.say(f"{traffic.answered_by[first]} answers by the first version, then the second")
    _measure(screen, predictor, held_out)
    screen.line()
    screen.line(f"    {traffic.total} requests during the change, [bold]{traffic.failed} failed[/bold]")
    screen.line(f"    one ID explains it all: trunkline inspect {second}")
    screen.line(f"    {screen.elapsed_seconds:.0f} s in all")
    if traffic.failed:
        raise StateError(
            f"{traffic.failed} requests failed while the service rolled over", kind="demo_failed"
        )


def _measure(screen: Screen, predictor: Predictor, held_out: list[Path]) -> None:
    with screen.step(f"predict {len(held_out)} pictures it has never seen") as step:
        done = 0

        def count() -> None:
            nonlocal done
            done += 1
            step.advance_to(done / len(held_out))

        accuracy = predictor.accuracy(held_out, count)
        step.say(f"accuracy {100 * accuracy:.1f} %")


def _say_what_next(demo: Demo, screen: Screen) -> None:
    status = demo.status()
    screen.line()
    screen.line(demo.cli("status").rstrip())
    screen.line()
    screen.line("It goes on running. Try next:")
    screen.line(f"    export TRUNKLINE_HOME={demo.home}")
    for command in (
        "trunkline list jobs",
        f"trunkline inspect {demo.head()}",
        "trunkline list models",
        f"trunkline get inferenceservices -n {NAMESPACE}",
        "trunkline logs -p digits-model",
        f"curl -H 'Host: {SERVICE}.{NAMESPACE}.example.com' {status['gateway_url']}/v1/models/{MODEL}",
        "trunkline down",
    ):
        screen.line(f"    {command}")
