"""The guide's check of a serving environment: scikit-learn's iris through the gateway."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.serving.conftest import Control, manifest
from trunkline.errors import InvalidInputError, NotFoundError

HOST = "sklearn-iris.models.example.com"
FLOWERS = {"instances": [[6.8, 2.8, 4.8, 1.4], [6.0, 3.4, 4.5, 1.6]]}


@pytest.mark.slow
def test_two_flowers_are_predicted(control: Control, iris: Path) -> None:
    service = control.apply("sklearn-iris", {"sklearn": {"storageUri": iris.as_uri()}}, commit_id="ab" * 16)
    assert service.ready == "Unknown"
    service = control.wait_ready("sklearn-iris")
    assert service.url == f"http://{HOST}"
    assert service.status["trunkline"]["probe"] == "a request made up from the model's signature"

    path = "/v1/models/sklearn-iris:predict"
    answer = control.request("POST", path, HOST, FLOWERS, {"x-request-id": "my-own"})
    assert (answer.status, answer.json()) == (200, {"predictions": [1, 1]})
    assert answer.headers["x-trunkline-id"] == "ab" * 16
    assert answer.headers["x-request-id"] == "my-own"
    assert control.request("GET", "/", f"{HOST}:8081").json() == {"status": "alive"}
    assert control.request("GET", "/v1/models/sklearn-iris", HOST).json() == {
        "name": "sklearn-iris",
        "ready": True,
    }

    wrong = control.request("POST", path, HOST, {"instances": [[1.0, 2.0]]})
    assert wrong.status == 400 and "instances[0] has 2 features" in wrong.json()["error"]
    wrong = control.request("POST", path, HOST, {"instances": [[1.0, 2.0, "x", 1.0]]})
    assert wrong.status == 400 and "instances[0][2] is not a number" in wrong.json()["error"]
    wrong = control.request("POST", path, HOST, {"rows": []})
    assert wrong.status == 400 and "'instances' is missing" in wrong.json()["error"]
    assert control.request("POST", "/v1/models/other:predict", HOST, FLOWERS).status == 404
    nobody = control.request("GET", "/", "nobody.models.example.com")
    assert nobody.status == 404 and "no inference service" in nobody.json()["error"]

    times = []
    for _ in range(20):
        start = time.monotonic()
        control.request("POST", path, HOST, FLOWERS)
        times.append(time.monotonic() - start)
    assert min(times) < 0.03, "an answer in two packets must not wait 40 ms for an acknowledgement"

    again = manifest("sklearn-iris", {"sklearn": {"storageUri": iris.as_uri()}}, commit_id="ab" * 16)
    assert control.serving.apply("models", again)[1] == "unchanged"
    again["metadata"]["labels"] = {"team": "flowers"}
    changed, verdict = control.serving.apply("models", again)
    assert (verdict, changed.generation, changed.ready) == ("configured", 1, "True")

    control.jobs.stop()
    control.serving.stop_all()
    assert list((control.settings.run_dir / "replicas").iterdir()) == []


@pytest.mark.slow
def test_the_second_protocol(control: Control, iris: Path) -> None:
    predictor = {
        "model": {"modelFormat": {"name": "sklearn"}, "protocolVersion": "v2", "storageUri": iris.as_uri()}
    }
    control.apply("sklearn-iris", predictor)
    control.wait_ready("sklearn-iris")
    assert control.request("GET", "/v2/health/ready", HOST).json() == {"ready": True}
    described = control.request("GET", "/v2/models/sklearn-iris", HOST).json()
    assert described["inputs"] == [{"name": "input-0", "datatype": "FP64", "shape": [-1, 4]}]
    tensor = {"name": "x", "shape": [2, 4], "datatype": "FP32", "data": FLOWERS["instances"]}
    path = "/v2/models/sklearn-iris/infer"
    answer = control.request("POST", path, HOST, {"id": "7", "inputs": [tensor]})
    assert answer.json()["id"] == "7"
    assert answer.json()["outputs"] == [
        {"name": "output-0", "shape": [2], "datatype": "INT64", "data": [1, 1]}
    ]
    wrong = control.request("POST", path, HOST, {"inputs": [{**tensor, "shape": [2, 3]}]})
    assert wrong.status == 400 and "data has 8 numbers, but shape [2, 3] needs 6" in wrong.json()["error"]
    wrong = control.request("POST", path, HOST, {"inputs": [{**tensor, "shape": [4, 2]}]})
    assert wrong.status == 400 and "takes [-1, 4]" in wrong.json()["error"]
    assert control.request("GET", "/v2/models/other", HOST).status == 404


@pytest.mark.slow
def test_what_apply_refuses(control: Control, iris: Path) -> None:
    good = manifest("iris", {"sklearn": {"storageUri": iris.as_uri()}})
    with pytest.raises(NotFoundError, match="namespace 'nowhere' does not exist: create it with"):
        control.serving.apply("nowhere", good)
    with pytest.raises(NotFoundError, match="there is no file or folder /no/such"):
        control.apply("iris", {"sklearn": {"storageUri": "file:///no/such"}})
    with pytest.raises(InvalidInputError, match="storageUri 'gs://x' is not supported"):
        control.apply("iris", {"sklearn": {"storageUri": "gs://x"}})
    good["metadata"]["namespace"] = "default"
    with pytest.raises(InvalidInputError, match=r"metadata\.namespace is 'default', but namespace 'models'"):
        control.serving.apply("models", good)
    with pytest.raises(NotFoundError, match="inference service 'iris' does not exist"):
        control.serving.get("models", "iris")
    assert control.serving.list() == []
