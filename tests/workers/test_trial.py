"""Trials in real worker processes under a real control server: the whole way from experiment to checkpoint."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
import yaml

from tests.quick import app_over
from tests.training.test_guide import block
from tests.workers.processes import running
from trunkline.api import home
from trunkline.core.status import Status
from trunkline.services import Services, build
from trunkline.settings import Settings
from trunkline.training.model import Experiment, Trial
from trunkline.versioning.model import PutFile

WAIT_SECONDS = 30.0

HEADER = """
import json, os, pathlib, sys, time
from trunkline import training
context = training.init()
here = context.latest_checkpoint
"""

TRAIN = """
step = context.steps_completed
print("run", context.run_id, "from", step, flush=True)
while step < 6:
    step += 1
    context.report({"loss": 1 / step}, steps=step)
    context.progress(step / 6)
    if step % 2 == 0:
        with context.checkpoint(step, {"note": "even"}) as folder:
            (folder / "sub").mkdir()
            (folder / "sub" / "state.json").write_text(json.dumps({"step": step}))
    if step == 3 and context.run_id == 1:
        CRASH
"""


class Server:
    """A control server in this process, whose workers are real processes."""

    def __init__(self, folder: Path) -> None:
        settings = Settings(home=folder, port=0, lease_seconds=3.0, trials_max=2)
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

    @property
    def training(self) -> Any:
        return self.services.training

    def create(self, script: str, *, header: str = HEADER, **arguments: Any) -> Experiment:
        code = self.services.versioning.stage([PutFile(path="/train.py", parts=[(header + script).encode()])])
        config = {
            "entrypoint": "python3 train.py",
            "searcher": {"metric": "loss"},
            **arguments.pop("config", {}),
        }
        found: Experiment = self.training.create_experiment(config, code_root=code.root, **arguments)
        return found

    def trial(self, experiment: Experiment) -> Trial:
        (found,) = self.training.list_trials(experiment.id)
        return found  # type: ignore[no-any-return]

    def log(self, experiment: Experiment) -> list[str]:
        lines, _, _ = self.training.trial_logs(self.trial(experiment).id)
        return [line.text for line in lines]

    def wait(self, condition: Callable[[], object], experiment: Experiment) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while not condition():
            if time.monotonic() > deadline:
                found = self.training.get_experiment(experiment.id)
                raise AssertionError(
                    f"{found.status} {found.reason} {self.trial(experiment)} {self.log(experiment)}"
                )
            time.sleep(0.02)

    def wait_for(self, experiment: Experiment, status: Status) -> None:
        self.wait(lambda: self.training.get_experiment(experiment.id).status is status, experiment)

    def wait_for_line(self, experiment: Experiment, text: str) -> None:
        self.wait(lambda: any(text in line for line in self.log(experiment)), experiment)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path / "home")
    yield made
    made.close()


@pytest.mark.slow
def test_a_trial_that_crashes_goes_on_from_its_checkpoint(server: Server) -> None:
    """Data, metrics, checkpoints, a crash, logs, secrets kept: all in one, because each start costs a second."""
    versioning = server.services.versioning
    versioning.create_repo("default", "pictures")
    first = versioning.modify("default", "pictures@master", [PutFile(path="/old.txt", parts=[b"1"])])
    versioning.modify("default", "pictures@master", [PutFile(path="/new/a.txt", parts=[b"2"])])
    script = (
        TRAIN.replace("CRASH", "os.kill(os.getpid(), 9)")
        + """
assert here is None or json.loads((here / "sub" / "state.json").read_text()) == {"step": context.steps_completed}
print("data", sorted(str(p.relative_to(context.data_path)) for p in context.data_path.rglob("*.txt")))
print("new", [str(p.relative_to(context.data_path)) for p in context.new_files])
print("hparams", context.hparams, context.config["searcher"]["metric"], os.environ["DET_HPARAMS"])
print("secrets", [name for name, value in os.environ.items() if "TOKEN" in name], os.environ["MY_OWN"])
print("warm", context.warm_start, context.seed == int(os.environ["DET_TRIAL_SEED"]))
sys.stderr.write("to stderr\\n")
"""
    )
    experiment = server.create(
        script,
        config={
            "data": {"repo": "pictures", "previous_commit": first.id},
            "hyperparameters": {"lr": 0.5},
            "environment": {"environment_variables": ["MY_OWN=x"]},
        },
    )
    server.wait_for(experiment, Status.SUCCEEDED)
    trial = server.trial(experiment)
    assert (trial.restarts, trial.run_id, trial.steps_completed, trial.progress) == (1, 2, 6, 1.0)
    rows = server.training.list_metrics(experiment.id)
    assert [row.steps_completed for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row.run_id for row in rows] == [1, 1, 2, 2, 2, 2]
    checkpoints = server.training.list_checkpoints(experiment.id)
    assert sorted((c.steps_completed, c.state.value) for c in checkpoints) == [
        (2, "deleted"), (4, "deleted"), (6, "completed")
    ]  # fmt: skip
    best = server.training.best_checkpoint(experiment.id)
    assert b"".join(versioning.read(best.root, "/sub/state.json")) == b'{"step": 6}'
    assert best.metadata == {"note": "even", "steps_completed": 6}
    log = server.log(experiment)
    assert log[0] == "run 1 from 0"
    for line in (
        "run 2 from 2", "data ['new/a.txt', 'old.txt']", "new ['new/a.txt']", "hparams {'lr': 0.5} loss {\"lr\": 0.5}",
        "secrets [] x", "warm False True", "to stderr",
    ):  # fmt: skip
        assert line in log
    assert not list((server.services.settings.run_dir / "scratch").glob("*/trial-*"))


@pytest.fixture
def short_home() -> Iterator[Path]:
    """A data directory with a short path: only there does a socket's path fit."""
    with tempfile.TemporaryDirectory(prefix="tl-") as folder:
        yield Path(folder) / "home"


@pytest.mark.slow
def test_the_data_directory_is_out_of_reach(short_home: Path) -> None:
    server = Server(short_home)
    try:
        _look_around(server)
    finally:
        server.close()


def _look_around(server: Server) -> None:
    server.services.access.admin_token(server.services.settings.token_file)
    experiment = server.create(
        f"""
home = pathlib.Path({str(server.services.settings.home)!r})
print("seen", sorted(path.name for path in home.iterdir()))
def is_worker(pid):
    try:
        return b"WORKER_TOKEN" in pathlib.Path(f"/proc/{{pid}}/environ").read_bytes()
    except OSError:
        return False
print("workers", [pid for pid in os.listdir("/proc") if pid.isdigit() and is_worker(pid)])
"""
    )
    server.wait_for(experiment, Status.SUCCEEDED)
    assert server.log(experiment) == ["seen ['checkpoints', 'code', 'run', 'socket', 'tmp']", "workers []"]


@pytest.mark.slow
def test_pause_saves_and_activate_goes_on(server: Server) -> None:
    experiment = server.create(
        """
step = context.steps_completed
print("from", step, flush=True)
while step == 0:
    time.sleep(0.01)
    if context.should_stop():
        with context.checkpoint(7) as folder:
            (folder / "x").write_text("7")
        sys.exit(0)
print("went on with", (here / "x").read_text())
"""
    )
    server.wait_for_line(experiment, "from 0")
    server.training.pause(experiment.id)
    server.wait(lambda: server.trial(experiment).status is Status.PAUSED, experiment)
    server.training.activate(experiment.id)
    server.wait_for(experiment, Status.SUCCEEDED)
    assert "went on with 7" in server.log(experiment)
    assert (server.trial(experiment).restarts, server.trial(experiment).run_id) == (0, 2)


@pytest.mark.slow
def test_a_trial_that_does_not_stop_in_time_is_killed(server: Server) -> None:
    experiment = server.create("print('up', flush=True)\ntime.sleep(60)", config={"preemption_timeout": 0})
    server.wait_for_line(experiment, "up")
    server.training.cancel(experiment.id)
    server.wait_for(experiment, Status.CANCELLED)
    assert any(line.startswith("killed: it did not stop within 0 s") for line in server.log(experiment))


@pytest.mark.slow
def test_kill_ends_the_process_with_all_that_it_started(server: Server) -> None:
    experiment = server.create(
        """
import subprocess
child = subprocess.Popen(["sleep", "600.25"], start_new_session=True)
print("up", flush=True)
time.sleep(600)
"""
    )
    server.wait_for_line(experiment, "up")
    assert running("sleep", "600.25") == 1
    server.training.kill(experiment.id)
    assert server.training.get_experiment(experiment.id).status is Status.CANCELLED
    server.wait(lambda: not running("sleep", "600.25"), experiment)


@pytest.mark.slow
def test_a_worker_that_is_killed_takes_its_trial_along_and_another_goes_on(server: Server) -> None:
    experiment = server.create(TRAIN.replace("CRASH", "time.sleep(600)"))
    server.wait(lambda: server.trial(experiment).steps_completed == 3, experiment)
    (worker,) = server.services.table.running("worker")
    assert worker.handle is not None
    os.kill(worker.handle["pid"], signal.SIGKILL)
    server.wait_for(experiment, Status.SUCCEEDED)
    assert (server.trial(experiment).restarts, server.trial(experiment).run_id) == (0, 2)
    assert [row.steps_completed for row in server.training.list_metrics(experiment.id)] == [1, 2, 3, 4, 5, 6]
    assert "run 2 from 2" in server.log(experiment)


@pytest.mark.slow
def test_a_worker_that_is_asked_to_end_lets_the_trial_save(server: Server) -> None:
    experiment = server.create(
        """
print("from", context.steps_completed, flush=True)
while context.steps_completed == 0:
    time.sleep(0.01)
    if context.should_stop():
        context.report({"loss": 1}, steps=5)
        with context.checkpoint(5) as folder:
            (folder / "x").write_text("5")
        sys.exit(0)
"""
    )
    server.wait_for_line(experiment, "from 0")
    (worker,) = server.services.table.running("worker")
    assert worker.handle is not None
    os.kill(worker.handle["pid"], signal.SIGTERM)
    server.wait_for(experiment, Status.SUCCEEDED)
    assert "from 5" in server.log(experiment)
    assert server.trial(experiment).restarts == 0


@pytest.mark.slow
def test_the_guide_works_on_a_server(server: Server) -> None:
    experiment = server.create(block("train.py"), header="", config=yaml.safe_load(block("config")))
    server.wait_for(experiment, Status.SUCCEEDED)
    best = server.training.best_checkpoint(experiment.id)
    assert best.metrics["error"] < 0.5
    again = server.create(
        block("train.py"), header="", config=yaml.safe_load(block("config")), source_checkpoint=best.uuid
    )
    server.wait_for(again, Status.SUCCEEDED)
    first = server.training.list_metrics(again.id)[0]
    assert (first.steps_completed, first.values["error"] < 0.2) == (50, True)


@pytest.mark.slow
def test_failures_say_why(server: Server) -> None:
    experiment = server.create("raise ValueError('no luck')", config={"max_restarts": 0})
    server.wait_for(experiment, Status.FAILED)
    assert "ValueError: no luck" in server.training.get_experiment(experiment.id).reason
    experiment = server.create("", config={"max_restarts": 0, "entrypoint": ["no-such-program"]})
    server.wait_for(experiment, Status.FAILED)
    assert "command not found: no-such-program" in server.training.get_experiment(experiment.id).reason


@pytest.mark.slow
def test_what_the_code_does_wrong_is_an_error_there(server: Server) -> None:
    experiment = server.create(
        """
from trunkline.errors import InvalidInputError
def refused(action):
    try:
        action()
    except InvalidInputError as error:
        print("refused:", error.kind)
def link():
    with context.checkpoint(1) as folder:
        (folder / "link").symlink_to("/etc/passwd")
def broken():
    with context.checkpoint(1) as folder:
        (folder / "half").write_text("x")
        raise InvalidInputError("mine", kind="mine")
refused(link)
refused(broken)
refused(lambda: context.report({"a": 1}, steps=-1))
refused(lambda: context.report({"a": 1}, steps=1, group=""))
context.progress(2)
context.report({"nan": float("nan"), "odd": object}, steps=1)
with context.checkpoint(2):
    pass
"""
    )
    server.wait_for(experiment, Status.SUCCEEDED)
    kinds = [line.split()[1] for line in server.log(experiment) if line.startswith("refused")]
    assert kinds == ["bad_file", "mine", "bad_steps", "bad_name"]
    (row,) = server.training.list_metrics(experiment.id)
    assert row.values == {"nan": "NaN", "odd": "<class 'object'>"}
    (checkpoint,) = server.training.list_checkpoints(experiment.id)
    assert (checkpoint.steps_completed, checkpoint.size) == (2, 0)


@pytest.mark.slow
def test_the_control_server_may_die_at_any_moment(tmp_path: Path) -> None:
    """Its trials go on meanwhile, in the same run, and nothing is lost or stored twice."""
    folder = tmp_path / "home"
    seed = random.randrange(10**6)
    print("seed", seed)
    moments = random.Random(seed)
    child = _start_server(folder)
    services = build(Settings(home=folder))
    try:
        script = (
            TRAIN.replace("< 6", "< 40")
            .replace("CRASH", "pass")
            .replace("step += 1", "step += 1; time.sleep(0.2)")
        )
        code = services.versioning.stage([PutFile(path="/train.py", parts=[(HEADER + script).encode()])])
        config = {
            "entrypoint": "python3 train.py", "searcher": {"metric": "loss"},
            "checkpoint_storage": {"save_trial_latest": 100},
        }  # fmt: skip
        experiment = services.training.create_experiment(config, code_root=code.root, idempotency_key="k")
        for _ in range(5):
            time.sleep(moments.uniform(0.5, 2.5))
            child.kill()
            child.wait()
            time.sleep(moments.uniform(0, 0.3))
            child = _start_server(folder)
        deadline = time.monotonic() + WAIT_SECONDS
        while not services.training.get_experiment(experiment.id).status.is_final:
            assert time.monotonic() < deadline, services.training.list_trials(experiment.id)
            time.sleep(0.05)
        (trial,) = services.training.list_trials(experiment.id)
        assert (trial.status, trial.restarts, trial.steps_completed) == (Status.SUCCEEDED, 0, 40)
        assert [row.steps_completed for row in services.training.list_metrics(experiment.id)] == list(
            range(1, 41)
        )
        checkpoints = services.training.list_checkpoints(experiment.id)
        assert [one.steps_completed for one in checkpoints] == list(range(40, 0, -2))
        assert trial.run_id == 1
        lines, _, _ = services.training.trial_logs(trial.id)
        assert [line.text for line in lines] == ["run 1 from 0"]
    finally:
        child.kill()
        child.wait()
        services.jobs.pool.stop_all()
        services.db.close()


def _start_server(folder: Path) -> subprocess.Popen[str]:
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.workers.trial_server", str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    with child.stdout:
        assert child.stdout.readline() == "ready\n"
    return child
