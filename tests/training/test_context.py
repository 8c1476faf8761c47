"""The context by hand (no worker), and what it costs to import."""

from __future__ import annotations

import json
import random
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trunkline import training
from trunkline.errors import ConflictError, InvalidInputError, StateError, UnavailableError
from trunkline.training.context import SOCKET_VARIABLE
from trunkline.training.link import WorkerLink


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(SOCKET_VARIABLE, raising=False)
    return tmp_path


def test_importing_it_costs_nothing_but_the_standard_library() -> None:
    code = (
        "import sys; from trunkline import training; training.init; "
        "print(sorted({n.split('.')[0] for n in sys.modules} & {'pydantic', 'sqlalchemy', 'yaml', 'urllib3', 'fastapi'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_script_by_hand(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "data").mkdir()
    (here / "data" / "a.txt").write_text("a")
    context = training.init(hparams={"lr": 0.1}, data_path="data")
    assert context.hparams == {"lr": 0.1}
    assert context.new_files == [here / "data" / "a.txt"]
    assert (context.latest_checkpoint, context.warm_start, context.steps_completed) == (None, False, 0)
    assert (context.experiment_id, context.trial_id, context.run_id, context.config) == (0, 0, 1, {})
    context.report({"loss": 0.5}, steps=1)
    context.progress(0.5)
    context.progress(float("nan"))
    assert not context.should_stop()
    for _ in range(2):
        with context.checkpoint(1, {"note": "x"}) as folder:
            (folder / "model").write_text("weights")
    kept = here / "checkpoints" / "step-1"
    assert (kept / "model").read_text() == "weights"
    assert json.loads((kept / "metadata.json").read_text()) == {"note": "x", "steps_completed": 1}
    assert [path.name for path in (here / "checkpoints").iterdir()] == ["step-1"]
    assert "[validation] step 1: loss 0.5" in capsys.readouterr().out


def test_a_checkpoint_whose_making_fails_is_not_kept(here: Path) -> None:
    context = training.init()
    with pytest.raises(ZeroDivisionError), context.checkpoint(1) as folder:
        (folder / "half").write_text("x")
        _ = 1 / 0
    assert not list(here.rglob("half"))


def test_what_is_wrong_is_said_at_once(here: Path) -> None:
    context = training.init()
    for steps in (-1, 1.5, "1", True):
        with pytest.raises(InvalidInputError, match="steps must be a whole number"):
            context.report({}, steps=steps)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="group"):
        context.report({}, steps=1, group=" ")
    with pytest.raises(InvalidInputError, match="must be JSON"), context.checkpoint(1, {"a": object()}):
        pass


def test_seeding(here: Path) -> None:
    context = training.init()
    assert context.seed_all() == context.seed
    first = random.random()
    context.seed_all()
    assert random.random() == first
    context.seed_all(extra=1)
    assert random.random() != first


class Worker:
    """The other end of the socket: answers with what it is given, and keeps what it was asked."""

    def __init__(self, folder: Path, hello: dict[str, Any]) -> None:
        self.path = folder / "s"
        self.hello = hello
        self.asked: list[dict[str, Any]] = []
        self.answer: dict[str, Any] = {}
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        connection, _ = self._listener.accept()
        with connection, connection.makefile("rb") as lines:
            for line in lines:
                asked = json.loads(line)
                self.asked.append(asked)
                if asked["do"] == "hang up":
                    return
                connection.sendall(
                    json.dumps(self.hello if asked["do"] == "hello" else self.answer).encode() + b"\n"
                )

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    (tmp_path / "data").mkdir()
    made = Worker(
        tmp_path,
        {
            "experiment_id": 1, "trial_id": 2, "run_id": 3, "seed": 4, "hparams": {"lr": 1}, "config": {"name": "n"},
            "data_path": None, "new_files": None, "latest_checkpoint": "/somewhere", "warm_start": True,
            "steps_completed": 0, "checkpoints_path": str(tmp_path / "c"), "stop_file": str(tmp_path / "stop"),
        },
    )  # fmt: skip
    monkeypatch.setenv(SOCKET_VARIABLE, str(made.path))
    yield made
    made.close()


@pytest.fixture
def context(worker: Worker) -> Iterator[training.Context]:
    link = WorkerLink(str(worker.path))
    yield training.Context(link)
    link.close()


def test_with_a_worker(context: training.Context, worker: Worker, tmp_path: Path) -> None:
    assert (context.experiment_id, context.trial_id, context.run_id, context.seed) == (1, 2, 3, 4)
    assert (context.hparams, context.config) == ({"lr": 1}, {"name": "n"})
    assert (context.latest_checkpoint, context.warm_start) == (Path("/somewhere"), True)
    with pytest.raises(StateError, match="this experiment has no data: put 'repo'"):
        _ = context.data_path
    assert not context.should_stop()
    (tmp_path / "stop").touch()
    assert context.should_stop()
    (tmp_path / "stop").unlink()
    assert context.should_stop(), "it stays so"
    assert [asked["do"] for asked in worker.asked] == ["hello", "stopping"]
    worker.answer = {"error": {"class": "ConflictError", "kind": "lease_lost", "message": "gone"}}
    with pytest.raises(ConflictError, match="gone") as caught:
        context.report({"a": 1}, steps=1)
    assert caught.value.kind == "lease_lost"


def test_numbers_of_any_kind_are_numbers(context: training.Context, worker: Worker) -> None:
    numpy = pytest.importorskip("numpy")
    context.report(
        {
            "a": numpy.float32(0.5),
            "b": numpy.int64(3),
            "c": numpy.array(2.0),
            "d": numpy.zeros(2),
            "e": {"f": [numpy.float64(1)]},
        },
        steps=numpy.int64(7),
    )
    asked = worker.asked[-1]
    assert asked["steps"] == 7
    assert asked["metrics"] == {"a": 0.5, "b": 3, "c": 2.0, "d": "[0. 0.]", "e": {"f": [1.0]}}


def test_a_worker_that_is_gone(
    context: training.Context, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UnavailableError, match="the worker of this trial is gone"):
        context._link.call("hang up")
    monkeypatch.setenv(SOCKET_VARIABLE, str(worker.path) + "-not-there")
    with pytest.raises(UnavailableError):
        training.init()
