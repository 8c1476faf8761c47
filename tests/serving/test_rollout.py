"""Rollouts as they are seen from outside: real replicas, a real gateway, constant traffic."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import joblib
import pytest
import urllib3
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from tests.serving.conftest import Control, Load, message
from trunkline.serving.model import Phase

pytestmark = pytest.mark.slow

HOST = "iris.models.example.com"
PATH = "/v1/models/iris:predict"
FLOWERS = {"instances": [[6.8, 2.8, 4.8, 1.4], [6.0, 3.4, 4.5, 1.6]]}
FIRST, SECOND = "aa" * 16, "bb" * 16


def predictor(folder: Path, **more: Any) -> dict[str, Any]:
    return {"sklearn": {"storageUri": folder.as_uri()}, **more}


def only_replica(control: Control) -> int:
    """The process ID of the one replica that runs."""
    (process,) = control.table.running("replica")
    assert process.handle is not None
    return int(process.handle["pid"])


@pytest.fixture
def other_iris(tmp_path: Path) -> Path:
    folder = tmp_path / "other"
    folder.mkdir()
    features, target = load_iris(return_X_y=True)
    joblib.dump(LogisticRegression(max_iter=1000).fit(features, target), folder / "model.joblib")
    return folder


def test_a_new_revision_takes_over_without_a_failed_request(
    control: Control, iris: Path, other_iris: Path
) -> None:
    control.apply("iris", predictor(iris), commit_id=FIRST)
    control.wait_ready("iris")
    with Load(control, HOST, PATH, FLOWERS) as load:
        time.sleep(0.5)
        for folder, commit_id in ((other_iris, SECOND), (iris, FIRST), (other_iris, SECOND)):
            assert control.apply("iris", predictor(folder), commit_id=commit_id).ready == "Unknown"
            service = control.wait_ready("iris")
            assert service.status["trunkline"]["id"] == commit_id
        settled = [Phase.STOPPED, Phase.STOPPED, Phase.STOPPED, Phase.LIVE]
        control.wait(
            "iris", lambda _: [r.phase for r in control.serving.revisions("models", "iris")] == settled
        )
        time.sleep(0.5)
    assert load.failures == []
    assert load.count > 100
    assert {FIRST, SECOND} == set(load.ids)
    assert load.ids[-1] == SECOND
    assert [r.number for r in control.serving.services_of(SECOND)] == [2, 4]


def test_a_broken_revision_never_takes_traffic(control: Control, iris: Path, tmp_path: Path) -> None:
    control.apply("iris", predictor(iris), commit_id=FIRST)
    control.wait_ready("iris")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "model.joblib").write_bytes(b"this is no model")
    with Load(control, HOST, PATH, FLOWERS) as load:
        control.apply("iris", predictor(broken), commit_id=SECOND)
        service = control.wait_blocked("iris")
        time.sleep(0.5)
    assert load.failures == [] and set(load.ids) == {FIRST}
    assert service.ready == "True"
    assert service.status["modelStatus"]["states"] == {
        "activeModelState": "Loaded",
        "targetModelState": "FailedToLoad",
    }
    failure = service.status["modelStatus"]["lastFailureInfo"]
    assert "model.joblib cannot be loaded (IndexError" in failure["message"]
    assert failure["modelRevisionName"] == "iris-00002"
    assert control.apply("iris", predictor(broken), commit_id=SECOND).generation == 3, (
        "applying again tries again"
    )
    control.wait_blocked("iris")
    control.apply("iris", predictor(iris), commit_id=FIRST)
    control.wait_ready("iris")


def test_a_golden_request_decides(control: Control, iris: Path, tmp_path: Path) -> None:
    for name, expected in (("good", [1, 1]), ("bad", [2, 2])):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "model.joblib").write_bytes((iris / "model.joblib").read_bytes())
        cases = f'[{{"request": {{"instances": {FLOWERS["instances"]}}}, "expected": {{"predictions": {expected}}}}}]'
        (folder / "golden.json").write_text(cases)
    control.apply("iris", predictor(tmp_path / "good"))
    assert control.wait_ready("iris").status["trunkline"]["probe"] == "1 golden request"
    control.apply("iris", predictor(tmp_path / "bad"))
    assert "case 0 expects [2, 2], but the model answers [1, 1]" in control.wait_blocked("iris").message


def test_the_only_replica_is_killed_under_load(control: Control, iris: Path) -> None:
    control.apply("iris", predictor(iris))
    control.wait_ready("iris")
    with Load(control, HOST, PATH, FLOWERS) as load:
        time.sleep(0.3)
        old = only_replica(control)
        os.kill(old, signal.SIGKILL)
        control.wait("iris", lambda s: s.ready != "True")
        control.wait_ready("iris")
        assert only_replica(control) != old
        time.sleep(0.5)
    assert load.failures == []


def test_one_of_two_replicas_is_killed_under_load(control: Control, iris: Path) -> None:
    control.apply("iris", predictor(iris, minReplicas=2))
    control.wait_ready("iris")
    with Load(control, HOST, PATH, FLOWERS) as load:
        time.sleep(0.3)
        process = control.table.running("replica")[0]
        assert process.handle is not None
        os.kill(int(process.handle["pid"]), signal.SIGKILL)
        control.wait("iris", lambda s: s.status["modelStatus"]["copies"]["totalCopies"] == 1)
        control.wait("iris", lambda s: s.status["modelStatus"]["copies"]["totalCopies"] == 2)
    assert load.failures == []


def test_all_replicas_are_killed_under_load(control: Control, iris: Path) -> None:
    """Requests are held until one is there again, as those of a service with a single replica are."""
    control.apply("iris", predictor(iris, minReplicas=2))
    control.wait_ready("iris")
    with Load(control, HOST, PATH, FLOWERS) as load:
        time.sleep(0.5)
        for process in control.table.running("replica"):
            assert process.handle is not None
            os.kill(int(process.handle["pid"]), signal.SIGKILL)
        control.wait("iris", lambda s: s.ready != "True")
        control.wait_ready("iris")
        time.sleep(0.5)
    assert load.failures == []


def test_a_death_is_noticed_at_once_although_looks_are_rare(control: Control, iris: Path) -> None:
    control.apply("iris", predictor(iris))
    control.wait_ready("iris")
    time.sleep(1)
    killed = time.monotonic()
    os.kill(only_replica(control), signal.SIGKILL)
    control.wait("iris", lambda s: s.ready == "False")
    assert time.monotonic() - killed < 2
    control.wait_ready("iris")
    (gateway,) = control.table.running("gateway")
    assert gateway.handle is not None
    os.kill(int(gateway.handle["pid"]), signal.SIGKILL)
    killed = time.monotonic()
    while time.monotonic() - killed < 5:
        with contextlib.suppress(urllib3.exceptions.HTTPError):
            if control.request("POST", PATH, HOST, FLOWERS).status == 200:
                break
        time.sleep(0.02)
    assert time.monotonic() - killed < 3


def test_a_new_control_server_goes_on_where_the_old_one_ended(
    tmp_path: Path, iris: Path, other_iris: Path
) -> None:
    home = tmp_path / "home"
    control = Control(home)
    try:
        control.apply("iris", predictor(iris), commit_id=FIRST)
        control.wait_ready("iris")
        before = only_replica(control)
        gateway = control.table.running("gateway")[0].handle
        with Load(control, HOST, PATH, FLOWERS) as load:
            control.stop()
            time.sleep(0.3)
            control = Control(home, control)
            time.sleep(1.5)
            assert only_replica(control) == before
            assert control.table.running("gateway")[0].handle == gateway
            control.apply("iris", predictor(other_iris), commit_id=SECOND)
            for pause in (0.0, 0.1, 0.3, 0.7):  # ends at four places of the rollout
                time.sleep(pause)
                control.stop()
                control = Control(home, control)
            assert control.wait_ready("iris").status["trunkline"]["id"] == SECOND
            control.wait("iris", lambda _: len(control.table.running("replica")) == 1)
            time.sleep(0.3)
        assert load.failures == []
        assert [r.number for r in control.serving.revisions("models", "iris")] == [1, 2]
    finally:
        control.end()


def test_the_control_server_is_killed_at_random_moments(tmp_path: Path, iris: Path, other_iris: Path) -> None:
    home = tmp_path / "home"
    seed = random.randrange(2**32)
    moments = random.Random(seed)
    # Only to ask and to look: all work is done by the processes that are killed.
    view = Control(home, run=False)
    assert view.serving.gateway.port
    driver = start_driver(home)
    try:
        view.apply("iris", predictor(iris), commit_id=FIRST)
        view.wait_ready("iris")
        with Load(view, HOST, PATH, FLOWERS) as load:
            for round_number in range(4):
                folder, commit_id = ((other_iris, SECOND), (iris, FIRST))[round_number % 2]
                view.apply("iris", predictor(folder), commit_id=commit_id)
                for _ in range(2):
                    time.sleep(moments.uniform(0.0, 1.2))
                    driver.kill()
                    driver.wait()
                    driver = start_driver(home)
                assert view.wait_ready("iris").status["trunkline"]["id"] == commit_id
        assert load.failures == [], f"seed {seed}"
        settled = [Phase.STOPPED] * 4 + [Phase.LIVE]
        view.wait("iris", lambda _: [r.phase for r in view.serving.revisions("models", "iris")] == settled)
        assert replica_processes(home) == 1
    finally:
        driver.kill()
        driver.wait()
        view.end()
    assert replica_processes(home) == 0


def start_driver(home: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.serving.driver", str(home)],
        stdout=subprocess.DEVNULL,
        cwd=Path(__file__).parents[2],
    )


def replica_processes(home: Path) -> int:
    """Replicas of this home that run, whether or not a row knows of them."""
    commands = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            commands.append(file.read_text())
    return sum("trunkline.serving.replica.main" in c and str(home) in c for c in commands)


def test_a_deleted_service_is_gone(control: Control, iris: Path) -> None:
    control.apply("iris", predictor(iris))
    control.wait_ready("iris")
    control.serving.delete("models", "iris")
    assert control.serving.list() == []
    deadline = time.monotonic() + 30
    while control.table.running("replica") or control.serving.revisions("models", "iris"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert control.request("POST", PATH, HOST, FLOWERS).status == 404
    assert list((control.settings.run_dir / "replicas").iterdir()) == []


def test_secrets_reach_the_replica_and_nothing_of_the_server_does(
    control: Control, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRUNKLINE_TOKEN", "hidden")
    folder = tmp_path / "spy"
    folder.mkdir()
    joblib.dump(LogisticRegression().fit([[0.0], [1.0]], ["no", "yes"]), folder / "model.pkl")
    env = [{"name": "WORD", "valueFrom": {"secretKeyRef": {"name": "access", "key": "word"}}}]
    control.apply("iris", {"sklearn": {"storageUri": folder.as_uri(), "env": env}})
    control.wait_ready("iris")
    process = Path(f"/proc/{only_replica(control)}")
    environment = (process / "environ").read_text()
    assert "WORD=open sesame" in environment
    assert "TRUNKLINE" not in environment
    (control.settings.token_file).write_text("the owner's")
    if "the data directory is not hidden" not in control.serving.logs("models", "iris"):
        seen = process / "root" / control.settings.home.relative_to("/")
        assert [entry.name for entry in seen.iterdir()] == ["run"]
        assert sorted(entry.name for entry in (seen / "run").iterdir()) == ["models", "replicas"]
        assert len(list((seen / "run" / "replicas").iterdir())) == 1
    assert message(control.serving.get("models", "iris"), "PredictorReady").startswith("iris-00001 answered")
