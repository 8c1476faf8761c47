"""What the two steps decide and pack; nothing runs."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from trunkline.errors import InvalidInputError, StateError
from trunkline.sdk.client import Client
from trunkline.sdk.deploy import DeployOptions, _function, _roll_out, _write_properties, write_archive
from trunkline.sdk.job import JobContext
from trunkline.sdk.train import _check_metric


def _pack(folder: Path) -> Path:
    serialized, handler, labels = folder / "model.pt", folder / "handler.py", folder / "labels.json"
    serialized.write_bytes(b"weights")
    handler.write_text("def handle(data, context): ...\n")
    labels.write_text("{}")
    target = folder / "store" / "m.mar"
    write_archive(target, "m", "v1", serialized, handler, (labels,))
    return target


def test_an_archive_is_what_torchserve_defines(tmp_path: Path) -> None:
    with zipfile.ZipFile(_pack(tmp_path)) as archive:
        assert sorted(archive.namelist()) == [
            "MAR-INF/MANIFEST.json",
            "handler.py",
            "labels.json",
            "model.pt",
        ]
        assert archive.read("model.pt") == b"weights"
        model = json.loads(archive.read("MAR-INF/MANIFEST.json"))["model"]
    assert model == {
        "modelName": "m",
        "modelVersion": "v1",
        "serializedFile": "model.pt",
        "handler": "handler.py",
    }


def test_the_same_model_is_the_same_archive(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert _pack(tmp_path / "a").read_bytes() == _pack(tmp_path / "b").read_bytes()


def test_properties_name_the_archive_in_a_snapshot(tmp_path: Path) -> None:
    _write_properties(tmp_path / "config.properties", "m")
    lines = dict(line.split("=", 1) for line in (tmp_path / "config.properties").read_text().splitlines())
    snapshot = json.loads(lines["model_snapshot"])
    assert snapshot["models"]["m"]["1.0"]["marName"] == "m.mar"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nosuchmodule:load", "cannot import 'nosuchmodule'"),
        ("json:nosuch", "MODULE:FUNCTION"),
        ("json", "MODULE:FUNCTION"),
    ],
)
def test_a_function_that_is_not_there_is_named(name: str, says: str) -> None:
    with pytest.raises(InvalidInputError, match=says):
        _function(name, print)


class Scripted(Client):
    """A server whose service goes through given states."""

    def __init__(self, *states: tuple[str, str]) -> None:
        super().__init__(url="http://127.0.0.1:1", token="t")
        self.states = list(states)

    def call(self, method: str, path: str, **_: Any) -> Any:
        transition, ready = ("InProgress", "True") if method == "PUT" else self.states.pop(0)
        status = {
            "url": "http://d.models.example.com", "observedGeneration": 2 if transition != "early" else 1,
            "conditions": [{"type": "Ready", "status": ready, "message": "wait"}],
            "modelStatus": {"transitionStatus": transition, "lastFailureInfo": {"message": "no handler"}},
        }  # fmt: skip
        return {"metadata": {"generation": 2}, "status": status}


def _rolled_out(*states: tuple[str, str]) -> str:
    job = JobContext(project="default", pipeline="p", job_id="ab" * 16, pfs=Path("/pfs"))
    options = DeployOptions(
        name="d", namespace="models", load="m:load", example=None, handler=Path("handler.py")
    )
    return _roll_out(Scripted(*states), job, options, {"model": "m", "version": "v"}, lambda _: None)


@pytest.mark.slow
def test_a_service_whose_old_revision_is_ready_is_not_yet_rolled_out() -> None:
    """Ready stays True for the old revision all the while, also when the new one fails."""
    url = _rolled_out(
        ("early", "True"),
        ("InProgress", "Unknown"),
        ("InProgress", "True"),
        ("UpToDate", "Unknown"),
        ("UpToDate", "True"),
    )
    assert url == "http://d.models.example.com"
    with pytest.raises(StateError, match="d did not become Ready: no handler"):
        _rolled_out(("early", "True"), ("InProgress", "True"), ("BlockedByFailedLoad", "True"))


@pytest.mark.parametrize(
    ("metrics", "says"),
    [
        ({"accuracy": "NaN", "loss": 1.0}, "accuracy is NaN at step 7"),
        ({"accuracy": True}, "accuracy is True"),
        ({"acuracy": 0.5, "loss": 1.0}, "it has acuracy, loss"),
        ({}, "it has none"),
    ],
)
def test_a_checkpoint_without_a_number_to_be_the_best_by_is_no_model(
    metrics: dict[str, Any], says: str
) -> None:
    experiment = {"id": 3, "config": {"searcher": {"metric": "accuracy"}}}
    with pytest.raises(StateError, match=says):
        _check_metric(experiment, {"metrics": metrics, "steps_completed": 7})
    _check_metric(experiment, {"metrics": {"accuracy": 1}, "steps_completed": 7})
