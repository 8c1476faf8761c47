"""InferenceService manifests: both styles come to one form; mistakes are named."""

from __future__ import annotations

from typing import Any

import pytest

from tests.serving.conftest import manifest
from trunkline.errors import InvalidInputError
from trunkline.serving.model import EnvVar
from trunkline.serving.spec import parse

URI = "digits-model@master:/store"


def error_of(given: dict[str, Any]) -> InvalidInputError:
    with pytest.raises(InvalidInputError) as caught:
        parse(given)
    assert "\n" not in str(caught.value)
    return caught.value


def test_old_and_new_style_are_the_same() -> None:
    old = parse(manifest("iris", {"sklearn": {"storageUri": URI, "protocolVersion": "v1"}}))
    new = parse(
        manifest(
            "iris",
            {
                "minReplicas": 1,
                "timeout": 60,
                "model": {
                    "modelFormat": {"name": "sklearn", "version": "1"},
                    "storageUri": URI,
                    "runtime": "kserve-sklearnserver",
                },
            },
        )
    )
    assert old.predictor == new.predictor
    assert old.predictor.model_name == "iris"
    assert (old.predictor.format, old.predictor.protocol, old.predictor.replicas) == ("sklearn", "v1", 1)


def test_the_guides_own_manifest_parses() -> None:
    given = manifest("dogcat-deploy", {})
    given["metadata"] |= {
        "namespace": "models",
        "labels": {"trunkline.dev/id": "ab" * 16},
        "creationTimestamp": None,
    }
    given["metadata"]["annotations"] = {"serving.kserve.io/deploymentMode": "RawDeployment"}
    given["spec"]["predictor"] = {
        "serviceAccountName": "pach-deploy",
        "nodeSelector": {"pool": "cpu"},
        "tolerations": [{"key": "dedicated", "operator": "Exists"}],
        "containerConcurrency": 4,
        "pytorch": {
            "protocolVersion": "v1",
            "storageUri": URI,
            "resources": {"requests": {"cpu": "1"}, "limits": {"memory": "2Gi"}},
            "args": [
                "--model-store=/mnt/models/model-store",
                "--ts-config=/mnt/models/config/config.properties",
            ],
            "env": [
                {"name": "A", "value": "1"},
                {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
            ],
        },
    }
    parsed = parse(given)
    assert parsed.commit_id == "ab" * 16
    assert parsed.namespace == "models"
    assert parsed.predictor.env == (EnvVar(name="A", value="1"), EnvVar(name="B", secret="s", key="k"))
    assert parsed.kept["spec"] == given["spec"]


@pytest.mark.parametrize(
    ("predictor", "words"),
    [
        ({"sklearn": {"storageURI": URI}}, "storageURI: unknown field 'storageURI'; did you mean 'storageUri'?"),
        ({"sklearn": {"storageUri": URI}, "minReplica": 1}, "unknown field 'minReplica'; did you mean 'minReplicas'?"),
        ({"model": {"modelFormat": {"nam": "x"}, "storageUri": URI}}, "spec.predictor.model.modelFormat"),
        ({"sklearn": {"storageUri": URI, "env": [{"name": "A", "vlaue": "x"}]}}, "env[0].vlaue: unknown field 'vlaue'"),
        ({"sklearn": {}}, "spec.predictor.sklearn.storageUri is missing"),
        ({}, "exactly one of model, sklearn"),
        ({"sklearn": {"storageUri": URI}, "pytorch": {"storageUri": URI}}, "found sklearn and pytorch"),
        ({"xgboost": {"storageUri": URI}}, "no runtime for format 'xgboost' here; formats with one: sklearn"),
        ({"model": {"modelFormat": {"name": "sklern"}, "storageUri": URI}}, "did you mean 'sklearn'?"),
        ({"model": {"modelFormat": {"name": "sklearn"}, "storageUri": URI, "runtime": "x"}}, "there is: kserve-sklearnserver"),
        ({"pytorch": {"storageUri": URI, "protocolVersion": "v2"}}, "protocolVersion 'v2' for pytorch is not supported yet"),
        ({"sklearn": {"storageUri": URI}, "minReplicas": 0}, "scale to zero"),
        ({"sklearn": {"storageUri": URI}, "minReplicas": "many"}, "spec.predictor.minReplicas"),
        ({"sklearn": {"storageUri": URI}, "canaryTrafficPercent": 10}, "canaryTrafficPercent is not supported yet"),
        ({"sklearn": {"storageUri": URI}, "batcher": {}}, "spec.predictor.batcher is not supported yet"),
        ({"model": {"modelFormat": "sklearn", "storageUri": URI}}, "model.modelFormat must be a mapping of fields"),
        ({"containers": [{"image": "x"}]}, "spec.predictor.containers is not supported yet"),
        ({"sklearn": {"storageUri": URI, "env": [{"name": "1 x"}]}}, "env[0].name '1 x'"),
    ],
)  # fmt: skip
def test_mistakes_in_the_predictor(predictor: dict[str, Any], words: str) -> None:
    assert words in str(error_of(manifest("iris", predictor)))


def test_mistakes_around_it() -> None:
    good = manifest("iris", {"sklearn": {"storageUri": URI}})
    assert "kind is 'Service'" in str(error_of({**good, "kind": "Service"}))
    assert "apiVersion is 'v1'" in str(error_of({**good, "apiVersion": "v1"}))
    assert "did you mean 'spec'?" in str(error_of({**good, "sepc": {}}))
    assert "inference service name 'Iris'" in str(
        error_of(manifest("Iris", {"sklearn": {"storageUri": URI}}))
    )
    assert error_of({**good, "spec": {**good["spec"], "transformer": {}}}).kind == "unsupported"
    assert "spec must be a mapping of fields" in str(error_of({**good, "spec": "x"}))
    for wrong in ("two words", "a\r\nset-cookie: b", "ü", "x" * 129):
        error = error_of({**good, "metadata": {"name": "iris", "annotations": {"trunkline.dev/id": wrong}}})
        assert "must be 1 to 128 visible ASCII characters" in str(error)


def test_the_model_name_can_be_given_as_kserve_takes_it() -> None:
    for args in (["--model_name=flowers"], ["--model_name", "flowers"]):
        assert (
            parse(manifest("iris", {"sklearn": {"storageUri": URI, "args": args}})).predictor.model_name
            == "flowers"
        )
