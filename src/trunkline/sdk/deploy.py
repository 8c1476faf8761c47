"""The deployment step of a pipeline: checkpoint -> ScriptModule -> ``.mar`` -> model store -> InferenceService, Ready.

Runs in the job's own process, the only place where torch is imported for it. What it makes is the same, byte for byte, when
it is repeated, so a retried datum does not make another revision.
"""

from __future__ import annotations

import importlib
import json
import shutil
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from trunkline.errors import InvalidInputError, StateError
from trunkline.sdk.client import Client
from trunkline.sdk.job import JobContext
from trunkline.sdk.tar import files_below
from trunkline.sdk.train import CHECKPOINT_FOLDER, INFO_FILE, Talk
from trunkline.sdk.transport import path_of

POLL_SECONDS = 0.25
ZIP_TIME = (1980, 1, 1, 0, 0, 0)
SERIALIZED_FILE = "model.pt"
GOLDEN_FILE = "golden.json"
ID_ANNOTATION = "trunkline.dev/id"


@dataclass(frozen=True, kw_only=True)
class DeployOptions:
    """What ``trunkline deploy`` is told."""

    name: str
    namespace: str
    load: str
    """``module:function`` in the code folder, ``function(checkpoint folder) -> torch.nn.Module``."""
    example: str | None
    """``module:function`` that returns an input: the module is then traced; without it, it is scripted."""
    handler: Path
    extra_files: tuple[Path, ...] = ()
    replicas: int = 1
    timeout_seconds: float = 300.0


def deploy(client: Client, job: JobContext, options: DeployOptions, *, talk: Talk) -> str:
    """Roll the service over to the model in this job's input; returns its URL once it is Ready.

    :raises InvalidInputError: if the input holds no model, or the module, function or handler is not there.
    :raises StateError: ``not_ready``, with the service's own reason.
    """
    source = job.only_input()
    info = _read_info(source)
    if not options.handler.is_file():
        raise InvalidInputError(
            f"there is no handler {str(options.handler)!r} in the code folder", kind="no_handler"
        )
    with tempfile.TemporaryDirectory() as scratch:
        package = Path(scratch) / "package"
        serialized = Path(scratch) / SERIALIZED_FILE
        _serialize(options, source / CHECKPOINT_FOLDER, serialized)
        archive = package / "model-store" / f"{info['model']}.mar"
        write_archive(
            archive, info["model"], info["version"], serialized, options.handler, options.extra_files
        )
        _write_properties(package / "config" / "config.properties", info["model"])
        golden = source / CHECKPOINT_FOLDER / GOLDEN_FILE
        if golden.is_file():
            shutil.copy(golden, package / GOLDEN_FILE)
        talk(f"packed {archive.name}, {archive.stat().st_size / 2**20:.1f} MiB")
        tree = client.upload_tar(path_of("filesets"), files_below(package))
        shutil.copytree(package, job.out, dirs_exist_ok=True)
    version = path_of("models", info["model"], "versions", info["version"])
    client.call("PUT", f"{version}/package", json={"root": tree["root"]})
    return _roll_out(client, job, options, info, talk)


def _read_info(source: Path) -> dict[str, Any]:
    try:
        info: dict[str, Any] = yaml.safe_load((source / INFO_FILE).read_text())
    except OSError as error:
        raise InvalidInputError(
            f"{source} holds no {INFO_FILE}: the input must be the output of 'trunkline train'",
            kind="no_model",
        ) from error
    return info


def _function(name: str) -> Callable[..., Any]:
    """``module:function`` from the working directory."""
    module_name, _, function_name = name.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        found = getattr(importlib.import_module(module_name), function_name, None)
    except ModuleNotFoundError as error:
        raise InvalidInputError(
            f"cannot import {module_name!r} for {name!r}: {error}", kind="bad_function"
        ) from error
    finally:
        sys.path.pop(0)
    if not callable(found):
        raise InvalidInputError(f"{name!r} is not a function: write MODULE:FUNCTION", kind="bad_function")
    return found  # type: ignore[no-any-return]


def _serialize(options: DeployOptions, checkpoint: Path, target: Path) -> None:
    torch: Any = importlib.import_module("torch")
    module = _function(options.load)(checkpoint).eval()
    with torch.no_grad():
        if options.example is not None:
            scripted = torch.jit.trace(module, _function(options.example)())
        else:
            scripted = torch.jit.script(module)
    torch.jit.save(scripted, str(target))


def write_archive(
    target: Path, model: str, version: str, serialized: Path, handler: Path, extra_files: tuple[Path, ...]
) -> None:
    """A model archive as TorchServe defines it: a zip with its manifest in ``MAR-INF/MANIFEST.json``."""
    manifest = {
        "createdOn": "01/01/1980 00:00:00",  # fixed, so that the same model is the same archive
        "runtime": "python",
        "model": {
            "modelName": model, "modelVersion": version, "serializedFile": serialized.name, "handler": handler.name,
        },
        "archiverVersion": "0.12.0",
    }  # fmt: skip
    target.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo("MAR-INF/MANIFEST.json", ZIP_TIME), json.dumps(manifest, indent=2))
        for path in (serialized, handler, *extra_files):
            with (
                archive.open(zipfile.ZipInfo(path.name, ZIP_TIME), "w", force_zip64=True) as out,
                path.open("rb") as file,
            ):
                shutil.copyfileobj(file, out)


def _write_properties(target: Path, model: str) -> None:
    """``config.properties`` for a model store with one model."""
    settings = {
        "marName": f"{model}.mar",
        "minWorkers": 1,
        "maxWorkers": 1,
        "batchSize": 1,
        "responseTimeout": 120,
    }
    snapshot = {
        "name": "startup.cfg",
        "modelCount": 1,
        "models": {model: {"1.0": {"defaultVersion": True, **settings}}},
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(
        "inference_address=http://127.0.0.1:8085\n"
        "management_address=http://127.0.0.1:8085\n"
        "enable_envvars_config=true\n"
        "install_py_dep_per_model=false\n"
        "model_store=/mnt/models/model-store\n"
        f"model_snapshot={json.dumps(snapshot, separators=(',', ':'))}\n"
    )


def _roll_out(
    client: Client, job: JobContext, options: DeployOptions, info: dict[str, Any], talk: Talk
) -> str:
    manifest = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {
            "name": options.name, "namespace": options.namespace, "annotations": {ID_ANNOTATION: job.job_id},
        },
        "spec": {
            "predictor": {
                "minReplicas": options.replicas,
                "model": {"modelFormat": {"name": "pytorch"}, "storageUri": f"model://{info['model']}/{info['version']}"},
            }
        },
    }  # fmt: skip
    path = path_of("namespaces", options.namespace, "inferenceservices", options.name)
    applied = client.call("PUT", path, json=manifest)
    generation = applied["metadata"]["generation"]
    talk(f"inference service {options.namespace}/{options.name} generation {generation}")
    deadline = time.monotonic() + options.timeout_seconds
    while True:
        service = client.call("GET", path)
        status = service.get("status") or {}
        if service["metadata"]["generation"] != generation:
            raise StateError(
                f"{options.name} was changed by somebody else while it rolled out", kind="superseded"
            )
        observed = status.get("observedGeneration") == generation
        ready = next((c for c in status.get("conditions", []) if c["type"] == "Ready"), None)
        if observed and ready is not None and ready["status"] == "True":
            talk(f"{options.name} is Ready at {status['url']}")
            return str(status["url"])
        failed = status.get("modelStatus", {}).get("transitionStatus") in (
            "BlockedByFailedLoad",
            "InvalidSpec",
        )
        if (observed and failed) or time.monotonic() > deadline:
            why = status.get("modelStatus", {}).get("lastFailureInfo", {}).get("message") or (
                ready or {}
            ).get("message")
            raise StateError(
                f"{options.name} did not become Ready: {why or 'no reason given'}", kind="not_ready"
            )
        time.sleep(POLL_SECONDS)
