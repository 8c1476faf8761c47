"""The two steps that pipelines run, against a real server: a trial worker that trains, a replica that answers."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3
import yaml

from trunkline.errors import InvalidInputError, StateError
from trunkline.sdk.client import Client
from trunkline.sdk.deploy import DeployOptions, deploy
from trunkline.sdk.job import JobContext
from trunkline.sdk.train import INFO_FILE, Trained, train
from trunkline.testing.server import ServerHarness, running_server

SCRIPT = """
import json, sys
from trunkline import training

context = training.init()
wanted = (context.data_path / "wanted").read_text().strip()
print("new:", *(path.name for path in context.new_files), "warm:", context.warm_start, flush=True)
seen = json.loads((context.latest_checkpoint / "model.json").read_text()) if context.latest_checkpoint else []
if wanted == "crash":
    sys.exit("the loss exploded")
value = {"nan": float("nan"), "silent": None}.get(wanted, 0.5)
context.report({"accuracy": value} if value is not None else {"acuracy": 0.5}, steps=1)
if wanted != "no checkpoint":
    with context.checkpoint(1) as folder:
        (folder / "model.json").write_text(json.dumps([*seen, wanted]))
"""
CONFIG = """
name: words
entrypoint: python train.py
searcher: {name: single, metric: accuracy, smaller_is_better: false}
max_restarts: 0
resources: {slots_per_trial: 0}
"""
MODEL = """
import torch

class Twice(torch.nn.Module):
    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return rows * 2

class Unscriptable(torch.nn.Module):
    def forward(self, rows):
        return globals()["Twice"]()(rows)

def load(folder): return Twice()
def load_unscriptable(folder): return Unscriptable()
def load_broken(folder): raise KeyError("no weights")
def load_nothing(folder): return None
def example(): return torch.zeros(1, 2)
"""
HANDLER = """
class Handler:
    def initialize(self, context):
        self.word = {word!r}
    def handle(self, data, context):
        return [self.word for _ in data]
"""

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")]


class Bench:
    """A server, a code folder, and jobs that a test starts by hand."""

    def __init__(self, server: ServerHarness, folder: Path) -> None:
        self.server = server
        self.client: Client = server.client(retry_seconds=30)
        self.folder = folder
        self.code = folder / "code"
        self.code.mkdir()
        (self.code / "train.py").write_text(SCRIPT)
        (self.code / "const.yaml").write_text(CONFIG)
        (self.code / "served.py").write_text(MODEL)
        self.repo = f"words-{uuid.uuid4().hex[:8]}"
        self.talk: list[str] = []
        self.client.create_repo(self.repo)

    def commit(self, wanted: str, **files: str) -> JobContext:
        """Commit files; the context of a job on that commit."""
        for name, text in files.items():
            self._put(name, text)
        pfs = self.folder / uuid.uuid4().hex
        (pfs / "out").mkdir(parents=True)
        return JobContext(project="default", pipeline="by-hand", job_id=self._put("wanted", wanted), pfs=pfs)

    def _put(self, name: str, text: str) -> str:
        done = self.server.cli("put", "file", f"{self.repo}@master:/{name}", "-f", "-", stdin=text.encode())
        assert done.returncode == 0, done.stderr
        return str(
            self.client.call("GET", "/v1/projects/default/commits", query={"at": f"{self.repo}@master"})["id"]
        )

    def train(self, job: JobContext) -> Trained:
        return train(
            self.client, job, config=self.code / "const.yaml", code=self.code, repo=self.repo, model=self.repo,
            talk=self.talk.append,
        )  # fmt: skip

    def versions(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.client.call("GET", f"/v1/models/{self.repo}/versions")["items"]
        return found

    def next_step(self, job: JobContext) -> JobContext:
        """The context of the deployment job that follows a training job."""
        pfs = self.folder / uuid.uuid4().hex
        pfs.mkdir()
        (job.out).rename(pfs / "data")
        (pfs / "out").mkdir()
        return JobContext(project="default", pipeline="by-hand-too", job_id=job.job_id, pfs=pfs)

    def deploy(self, job: JobContext, word: str, *, load: str = "served:load", **more: Any) -> str:
        handler = self.code / "handler.py"
        handler.write_text(HANDLER.format(word=word) if word else "nothing = True\n")
        options = DeployOptions(
            name=self.repo, namespace="models", load=load, handler=Path(more.pop("handler", handler)),
            **{"example": None, **more},
        )  # fmt: skip
        return deploy(self.client, job, options, talk=self.talk.append)

    def predict(self) -> tuple[int, Any, str]:
        answer = urllib3.request(
            "POST", f"{self.server.gateway_url}/v1/models/{self.repo}:predict", json={"instances": [1, 2]},
            headers={"Host": f"{self.repo}.models.example.com"}, retries=False, timeout=30.0,
        )  # fmt: skip
        return answer.status, answer.json(), answer.headers.get("x-trunkline-id", "")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerHarness]:
    with running_server(tmp_path_factory.mktemp("home") / "t") as server:
        assert server.cli("create", "namespace", "models").returncode == 0
        yield server


@pytest.fixture
def bench(server: ServerHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    made = Bench(server, tmp_path)
    monkeypatch.chdir(made.code)  # a job's working directory is its code folder
    return made


def test_each_training_goes_on_from_the_last_one_and_is_told_what_is_new(bench: Bench) -> None:
    jobs = [bench.commit("one"), bench.commit("two", extra="x"), bench.commit("three")]
    trained = [bench.train(job) for job in jobs]
    assert [one.version for one in trained] == [job.job_id for job in jobs]
    assert [version["name"] for version in bench.versions()] == [job.job_id for job in reversed(jobs)]
    model = json.loads((jobs[-1].out / "checkpoint" / "model.json").read_text())
    assert model == ["one", "two", "three"]
    info = yaml.safe_load((jobs[-1].out / INFO_FILE).read_text())
    assert (info["model"], info["version"], info["metrics"]) == (
        bench.repo,
        jobs[-1].job_id,
        {"accuracy": 0.5},
    )
    logs = bench.server.cli("logs", "--experiment", str(trained[1].experiment)).stdout.decode()
    assert "new: extra wanted warm: True" in logs
    logs = bench.server.cli("logs", "--experiment", str(trained[2].experiment)).stdout.decode()
    assert "new: wanted warm: True" in logs

    # A datum that is tried again finds what its first try made.
    assert bench.train(jobs[1]) == trained[1]
    assert len(bench.versions()) == 3


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ("crash", r"experiment \d+ failed: exit code 1: the loss exploded"),
        ("no checkpoint", r"experiment \d+ succeeded: no checkpoint was saved"),
        ("nan", r"no checkpoint has a number for searcher.metric 'accuracy' \(accuracy is NaN at step 1\)"),
        ("silent", r"no checkpoint has a number for searcher.metric 'accuracy' \(it has acuracy at step 1\)"),
    ],
)
def test_a_training_that_comes_to_nothing_leaves_the_model_as_it_was(
    bench: Bench, wanted: str, says: str
) -> None:
    good = bench.train(bench.commit("one"))
    bad = bench.commit(wanted)
    with pytest.raises(StateError, match=says):
        bench.train(bad)
    assert [version["name"] for version in bench.versions()] == [good.version]
    assert list(bad.out.iterdir()) == []

    again = bench.commit("two")
    bench.train(again)
    assert json.loads((again.out / "checkpoint" / "model.json").read_text()) == ["one", "two"]


def test_a_config_that_is_wrong_is_an_error_before_anything_runs(bench: Bench) -> None:
    job = bench.commit("one")
    for text, says in (
        (CONFIG + "max_restart: 1\n", "unknown field 'max_restart'; did you mean 'max_restarts'"),
        ("name: [", "is not YAML"),
        ("just text", "must be a mapping"),
    ):
        (bench.code / "const.yaml").write_text(text)
        with pytest.raises(InvalidInputError, match=says):
            bench.train(job)
    (bench.code / "const.yaml").unlink()
    with pytest.raises(InvalidInputError, match="cannot read"):
        bench.train(job)
    assert bench.client.call("GET", "/v1/experiments", query={"label": job.job_id})["items"] == []


def test_a_model_goes_live_and_what_fails_to_is_an_error(bench: Bench) -> None:
    pytest.importorskip("torch", reason="needs the train extra")
    first, second = bench.commit("one"), bench.commit("two")
    for job in (first, second):
        bench.train(job)
    step, later = bench.next_step(first), bench.next_step(second)
    assert bench.deploy(step, "first") == f"http://{bench.repo}.models.example.com"
    assert bench.predict() == (200, {"predictions": ["first", "first"]}, first.job_id)
    assert sorted(path.name for path in step.out.iterdir()) == ["config", "model-store"]

    # The service's Ready stays True, for the old revision; the step must fail all the same.
    with pytest.raises(
        StateError, match=r"did not become Ready: handler handler.py must have a function 'handle'"
    ):
        bench.deploy(later, "")
    assert bench.predict() == (200, {"predictions": ["first", "first"]}, first.job_id)

    golden = later.pfs / "data" / "checkpoint" / "golden.json"
    golden.write_text(json.dumps([{"request": {"instances": [1]}, "expected": {"predictions": ["second"]}}]))
    with pytest.raises(StateError, match=r'case 0 expects \["second"\], but the model answers \["other"\]'):
        bench.deploy(later, "other")
    assert bench.predict()[1:] == ({"predictions": ["first", "first"]}, first.job_id)
    bench.deploy(later, "second", load="served:load_unscriptable", example="served:example")
    assert bench.predict() == (200, {"predictions": ["second", "second"]}, second.job_id)

    # Back to the old one, as `trunkline apply` of its manifest does it.
    bench.deploy(step, "first")
    assert bench.predict() == (200, {"predictions": ["first", "first"]}, first.job_id)


def test_mistakes_in_a_users_code_are_named_as_such(bench: Bench) -> None:
    pytest.importorskip("torch", reason="needs the train extra")
    job = bench.commit("one")
    bench.train(job)
    step = bench.next_step(job)
    (bench.code / "broken.py").write_text("oh no(\n")
    for arguments, says in (
        ({"load": "served:load_broken"}, r"served:load_broken\(.*\) failed: KeyError: 'no weights'"),
        ({"load": "served:load_nothing"}, "returned a NoneType; it must return a torch.nn.Module"),
        ({"load": "served:load_unscriptable"}, r"torch.jit.script of the model .* failed"),
        ({"load": "broken:load"}, "importing 'broken' failed: SyntaxError"),
        ({"example": "served:nothing"}, "'served:nothing' is not a function"),
        ({"handler": "nothing.py"}, "there is no handler 'nothing.py'"),
        ({"extra_files": (Path("nothing.txt"),)}, "there is no file 'nothing.txt'"),
        ({"extra_files": (Path("handler.py"),)}, "the archive holds a 'handler.py' already"),
    ):
        with pytest.raises(InvalidInputError, match=says):
            bench.deploy(step, "word", **arguments)
    assert any("Traceback" in line and "no weights" in line for line in bench.talk)
    (step.pfs / "data" / INFO_FILE).write_text("text")
    with pytest.raises(InvalidInputError, match="does not name a model"):
        bench.deploy(step, "word")
    (step.pfs / "data" / INFO_FILE).unlink()
    with pytest.raises(InvalidInputError, match="must be the output of 'trunkline train'"):
        bench.deploy(step, "word")


def test_outside_of_a_job_the_steps_say_where_they_belong(server: ServerHarness) -> None:
    for words in (
        ("train", "--config", "c.yaml", "--repo", "r", "--model", "m"),
        ("deploy", "--deployment-name", "d", "--load", "m:load", "--handler", "h.py"),
    ):
        done = server.cli(*words)
        assert (done.returncode, done.stderr.decode()) == (
            5,
            "error: this command runs inside a pipeline's job: put it into the spec's transform\n",
        )
