"""Inference services over the API."""

from __future__ import annotations

from pathlib import Path

from starlette.testclient import TestClient

PATH = "/v1/namespaces/models/inferenceservices/iris"


def test_what_was_got_can_be_applied_again(owner: TestClient, tmp_path: Path) -> None:
    """A rollback is to apply the manifest that was got before."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "m.joblib").write_bytes(b"x")
    owner.post("/v1/namespaces", json={"name": "models"})
    manifest = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": "iris"},
        "spec": {"predictor": {"sklearn": {"storageUri": (tmp_path / "model").as_uri()}}},
    }
    made = owner.put(PATH, json=manifest)
    assert made.json()["change"] == "created", made.text
    got = owner.get(PATH).json()
    assert "change" not in got and got["status"]["url"] == "http://iris.models.example.com"
    assert all("change" not in one for one in owner.get("/v1/inferenceservices").json()["items"])
    assert owner.put(PATH, json=got).json()["change"] == "unchanged"
