"""The replica's program, driven as the gateway drives it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from trunkline.errors import InvalidInputError
from trunkline.serving.replica.app import App
from trunkline.serving.replica.config import ReplicaConfig
from trunkline.serving.replica.probe import WARM_REQUESTS, probe
from trunkline.serving.replica.runtimes.base import Runtime
from trunkline.serving.replica.runtimes.sklearn import SklearnRuntime
from trunkline.serving.replica.whole import Gathering


def config_of(folder: Path) -> ReplicaConfig:
    return ReplicaConfig(
        id="r", status_file=folder / "status.json", model_dir=folder, work_dir=folder, format="sklearn", protocol="v1",
        model_name="m", revision="m-00001", commit_id="ab", body_bytes_max=1000, drain_seconds=1.0,
    )  # fmt: skip


class Slow(Runtime):
    """Answers after a while; counts what it was asked."""

    def __init__(self) -> None:
        self.model_name = "m"
        self.asked: list[Any] = []
        self.go_on = threading.Event()

    def load(self) -> None: ...

    def predict(self, instances: list[Any]) -> Sequence[Any]:
        self.asked += instances
        if instances == ["exit"]:
            sys.exit(3)
        self.go_on.wait(10)
        return instances


def app_of(runtime: Runtime, tmp_path: Path) -> App:
    app = App(config_of(tmp_path))
    app.runtime, app.is_ready = runtime, True
    return app


async def ask(
    app: App, instances: list[Any], gone: asyncio.Event | None = None
) -> tuple[int, Any, dict[str, str]]:
    """One request; its client gives up when ``gone`` is set."""
    messages = [{"type": "http.request", "body": json.dumps({"instances": instances}).encode()}]
    sent: list[Any] = []

    async def receive() -> Any:
        if messages:
            return messages.pop()
        await (gone or asyncio.Event()).wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/models/m:predict", "headers": []}
    await app(scope, receive, send)
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], json.loads(sent[1]["body"]), headers


def test_what_nobody_waits_for_any_more_is_not_asked(tmp_path: Path) -> None:
    runtime = Slow()
    app = app_of(runtime, tmp_path)

    async def story() -> None:
        first = asyncio.create_task(ask(app, ["first"]))
        await asyncio.sleep(0.05)
        gone = asyncio.Event()
        left = [asyncio.create_task(ask(app, [f"left {n}"], gone)) for n in range(3)]
        stays = asyncio.create_task(ask(app, ["stays"]))
        await asyncio.sleep(0.05)
        gone.set()
        assert {status for status, _, _ in await asyncio.gather(*left)} == {503}
        runtime.go_on.set()
        assert (await first)[:2] == (200, {"predictions": ["first"]})
        assert (await stays)[:2] == (200, {"predictions": ["stays"]})

    asyncio.run(story())
    app.model_thread.shutdown()
    assert runtime.asked == ["first", "stays"]


def test_a_handler_that_exits_is_an_error_like_any_other(tmp_path: Path) -> None:
    runtime = Slow()
    runtime.go_on.set()
    app = app_of(runtime, tmp_path)
    status, body, headers = asyncio.run(ask(app, ["exit"]))
    assert (status, body) == (500, {"error": "the model failed: SystemExit: 3"})
    assert headers["x-trunkline-id"] == "ab" and headers["x-request-id"]
    assert asyncio.run(ask(app, ["next"]))[0] == 200
    app.model_thread.shutdown()


def test_head_and_body_go_out_in_one_piece() -> None:
    class Transport:
        def __init__(self) -> None:
            self.pieces: list[bytes] = []
            self.closed = False

        def write(self, data: bytes) -> None:
            self.pieces.append(data)

        def is_closing(self) -> bool:
            return self.closed

        def close(self) -> None:
            self.closed = True

    async def story() -> list[bytes]:
        transport = Transport()
        gathering = Gathering(transport)  # type: ignore[arg-type]
        gathering.write(b"head ")
        gathering.write(b"body")
        await asyncio.sleep(0)
        gathering.write(b"last")
        gathering.close()
        await asyncio.sleep(0)
        assert gathering.is_closing()
        return transport.pieces

    assert asyncio.run(story()) == [b"head body", b"last"]


def sklearn_runtime(model: Any, folder: Path) -> SklearnRuntime:
    import joblib  # which takes seconds, as what follows does

    joblib.dump(model, folder / "model.joblib")
    runtime = SklearnRuntime(config_of(folder))
    runtime.load()
    return runtime


@pytest.mark.slow
@pytest.mark.parametrize(
    ("instances", "says"),
    [
        ([[1, 2], [3, None]], r"instances\[1\]\[1\] is null, and model 'm' does not take missing values"),
        ([[1, "2"]], r"instances\[0\]\[1\] is not a number"),
        ([[None, "2"]], r"instances\[0\]\[1\] is not a number"),
        ([[[1], [2]]], r"instances\[0\]\[0\] is not a number"),
        ([[1, [2, 3]]], r"instances\[0\]\[1\] is not a number"),
        ([[1, {}]], r"instances\[0\]\[1\] is not a number"),
        ([[1, 10**400]], "one of the values is not a number"),
        ([[1, 2], [1]], r"instances\[1\] has 1 features"),
        ([1], r"instances\[0\] must be a list of 2 numbers"),
    ],
)
def test_rows_that_a_matrix_of_numbers_cannot_hold(tmp_path: Path, instances: list[Any], says: str) -> None:
    from sklearn.svm import SVC

    runtime = sklearn_runtime(SVC().fit([[0, 0], [1, 1]], [0, 1]), tmp_path)
    with pytest.raises(InvalidInputError, match=says):
        runtime.predict(instances)
    assert runtime.predict([[1, True], [0.0, 10**30]])[0] == 1


@pytest.mark.slow
def test_a_model_that_takes_missing_values_gets_them(tmp_path: Path) -> None:
    import numpy as np
    from sklearn.ensemble import HistGradientBoostingClassifier

    rows = np.array([[0.0, 0.0], [1.0, 1.0]] * 30)
    runtime = sklearn_runtime(HistGradientBoostingClassifier(max_iter=2).fit(rows, [0, 1] * 30), tmp_path)
    assert len(runtime.predict([[None, 1.0]])) == 1


def test_what_was_probed_is_asked_again_until_it_is_warm(tmp_path: Path) -> None:
    runtime = Slow()
    runtime.go_on.set()
    (tmp_path / "golden.json").write_text(json.dumps([{"request": {"instances": [n]}} for n in (1, 2)]))
    assert probe(config_of(tmp_path), runtime) == "2 golden requests"
    assert runtime.asked == [1, 2, *[1] * WARM_REQUESTS]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="mount namespaces are Linux's")
def test_where_nothing_can_be_hidden_the_setting_decides(tmp_path: Path) -> None:
    """``/proc`` as the place to build the view: no mount succeeds there, whoever we are."""
    hide = Path(__file__).parents[2] / "src" / "trunkline" / "serving" / "replica" / "hide.py"
    for sandbox, code, word in (("namespace", 125, b"error"), ("auto", 1, b"warning"), ("paths", 1, b"")):
        config = {
            "sandbox": sandbox, "home": str(tmp_path), "view": "/proc/nothing", "work_dir": str(tmp_path),
            "model_dir": str(tmp_path), "keep": [],
        }  # fmt: skip
        (tmp_path / "config.json").write_text(json.dumps(config))
        started = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-I", "-S", str(hide), str(tmp_path / "config.json")],
            capture_output=True,
            check=False,
        )
        assert time.monotonic() - started < 30
        assert done.returncode == code, done.stderr
        assert done.stderr.startswith(word + b": the data directory is not hidden") or not word
