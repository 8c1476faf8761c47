"""What the deployment step packs."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from trunkline.errors import InvalidInputError
from trunkline.sdk.deploy import _function, _write_properties, write_archive


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
