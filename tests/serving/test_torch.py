"""PyTorch models end to end: archives with handlers of their own, and plain TorchScript."""

from __future__ import annotations

import json
import threading
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.serving.conftest import Control
from trunkline.serving.replica.mar import MANIFEST

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")]

HOST = "digits-deploy.models.example.com"
PATH = "/v1/models/digits:predict"

HANDLER = """
import json
import time
import torch
from helper import SCALE
from ts.torch_handler.base_handler import BaseHandler
from ts.utils.util import PredictionException

class Digits(BaseHandler):
    def initialize(self, context):
        super().initialize(context)
        assert context.model_yaml_config.get("anything") is None
        with open("labels.json") as file:
            self.labels = json.load(file)

    def preprocess(self, data):
        if "pixels" not in data[0]:
            raise PredictionException("each instance needs 'pixels'", 400)
        time.sleep(float(data[0].get("sleep", 0)))
        if data[0].get("fail"):
            raise KeyError("secret payload")
        return torch.tensor([row["pixels"] for row in data]) * SCALE

    def postprocess(self, data):
        return [{"label": self.labels[i]} for i in data.argmax(1).tolist()][: 1 if SCALE == 0 else None]
"""


def archive(folder: Path, *, code: str = HANDLER, scale: int = 2, **model: Any) -> Path:
    """KServe's layout: model-store/NAME.mar and config/config.properties."""
    (folder / "model-store").mkdir(parents=True)
    (folder / "config").mkdir()
    weights = folder / "weights.pt"
    torch.jit.script(torch.nn.Identity()).save(str(weights))
    manifest = {"model": {"modelName": "x", "serializedFile": "m.pt", "handler": "handler.py", **model}}
    with zipfile.ZipFile(folder / "model-store" / "digits.mar", "w") as out:
        out.writestr(MANIFEST, json.dumps(manifest))
        out.writestr("handler.py", code)
        out.writestr("helper.py", f"SCALE = {scale}")
        out.writestr("labels.json", '["zero", "one", "two"]')
        out.write(weights, "m.pt")
    weights.unlink()
    snapshot = {
        "models": {"digits": {"1.0": {"defaultVersion": True, "marName": "digits.mar", "batchSize": 1}}}
    }
    (folder / "config" / "config.properties").write_text(f"model_snapshot={json.dumps(snapshot)}\n")
    return folder


def deploy(control: Control, folder: Path) -> None:
    control.apply("digits-deploy", {"pytorch": {"storageUri": folder.as_uri()}}, commit_id="cd" * 16)


def test_an_archive_answers(control: Control, tmp_path: Path) -> None:
    deploy(control, archive(tmp_path / "store"))
    service = control.wait_ready("digits-deploy")
    assert service.status["trunkline"]["probe"].startswith("its handler initialised")
    body = {"instances": [{"pixels": [0.1, 0.7, 0.2]}, {"pixels": [0.1, 0.2, 0.7]}]}
    answer = control.request("POST", PATH, HOST, body)
    assert answer.json() == {"predictions": [{"label": "one"}, {"label": "two"}]}
    assert answer.headers["x-trunkline-id"] == "cd" * 16 and len(answer.headers["x-request-id"]) >= 32
    assert control.request("GET", "/v1/models", HOST).json() == {"models": ["digits"]}

    refused = control.request("POST", PATH, HOST, {"instances": [{"other": 1}]})
    assert (refused.status, refused.json()) == (400, {"error": "each instance needs 'pixels'"})
    failed = control.request("POST", PATH, HOST, {"instances": [{"pixels": [1.0], "fail": True}]})
    assert failed.status == 500 and "KeyError" in failed.json()["error"]
    logs = control.serving.logs("models", "digits-deploy")
    assert "failed with KeyError at" in logs and "secret payload" not in logs

    done = []
    slow = {"instances": [{"pixels": [0.1, 0.7, 0.2], "sleep": 2}]}
    thread = threading.Thread(target=lambda: done.append(control.request("POST", PATH, HOST, slow).status))
    thread.start()
    time.sleep(0.3)
    start = time.monotonic()
    assert control.request("GET", "/v1/models/digits", HOST).json()["ready"] is True
    assert time.monotonic() - start < 1.0, "a long prediction holds up no health check"
    control.serving.delete("models", "digits-deploy")
    thread.join()
    assert done == [200], "a replica that is told to end finishes what it has"


def test_a_handler_that_answers_for_too_few(control: Control, tmp_path: Path) -> None:
    deploy(control, archive(tmp_path / "store", scale=0))
    control.wait_ready("digits-deploy")
    answer = control.request("POST", PATH, HOST, {"instances": [{"pixels": [1.0]}, {"pixels": [2.0]}]})
    assert answer.status == 500
    assert "returned 1 predictions for 2 instances" in answer.json()["error"]


def test_what_is_wrong_with_an_archive_is_in_the_status(control: Control, tmp_path: Path) -> None:
    cases = {
        "none": ({"handler": ""}, HANDLER, "digits.mar has no handler"),
        "module": ({}, "import nonesuch", "needs the Python module 'nonesuch', which is not installed"),
        "classes": ({}, "x = 1", "exactly one class with 'initialize' and 'handle'; found classes: none"),
        "raises": ({}, "def handle(data, context): raise ValueError('bad weights')", "ValueError: bad weights; last lines"),
    }  # fmt: skip
    for name, (model, code, words) in cases.items():
        deploy(control, archive(tmp_path / name, code=code, **model))
        control.wait("digits-deploy", lambda s, words=words: words in s.message)  # type: ignore[misc]
        service = control.wait_blocked("digits-deploy")
        assert service.ready == "False"
    deploy(control, archive(tmp_path / "function", code="def handle(data, context):\n    return data"))
    control.wait_ready("digits-deploy")


def test_plain_torchscript(control: Control, tmp_path: Path) -> None:
    folder = tmp_path / "script"
    folder.mkdir()
    torch.jit.script(torch.nn.Linear(3, 2)).save(str(folder / "model.pt"))
    (folder / "signature.json").write_text('{"dtype": "float32", "shape": [-1, 3]}')
    predictor = {"model": {"modelFormat": {"name": "pytorch"}, "storageUri": folder.as_uri()}}
    control.apply("linear", predictor)
    assert (
        control.wait_ready("linear").status["trunkline"]["probe"]
        == "a request made up from the model's signature"
    )
    host, path = "linear.models.example.com", "/v1/models/linear:predict"
    answer = control.request("POST", path, host, {"instances": [[1, 2, 3]]})
    assert answer.status == 200 and len(answer.json()["predictions"][0]) == 2
    answer = control.request("POST", path, host, {"instances": [[1, 2]]})
    assert answer.status == 400 and "shape [1, 2]; model 'linear' takes [-1, 3]" in answer.json()["error"]

    eager = tmp_path / "eager"
    eager.mkdir()
    torch.save({"weight": torch.zeros(2)}, eager / "model.pt")
    control.apply("linear", {"pytorch": {"storageUri": eager.as_uri()}})
    assert "model.pt is not TorchScript" in control.wait_blocked("linear").message
