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
import traceback
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from trunkline.errors import InvalidInputError, StateError, TrunklineError
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

    :raises InvalidInputError: if the input holds no model, the module, function or handler is not there, or the user's
        own code fails.
    :raises StateError: ``not_ready``, with the service's own reason.
    """
    source = job.only_input()
    info = _read_info(source)
    _check_files(options)
    with tempfile.TemporaryDirectory() as scratch:
        package = Path(scratch) / "package"
        serialized = Path(scratch) / SERIALIZED_FILE
        _serialize(options, source / CHECKPOINT_FOLDER, serialized, talk)
        archive = package / "model-store" / f"{info['model']}.mar"
        write_archive(
            archive, info["model"], info["version"], serialized, options.handler, options.extra_files
        )
        _write_properties(package / "config" / "config.properties", info["model"])
        golden = source / CHECKPOINT_FOLDER / GOLDEN_FILE
        if golden.is_file():
            shutil.copy(golden, package / GOLDEN_FILE)
        talk(f"packed {archive.name}, {archive.stat().st_size / 2**20:.1f} MiB")
        tree = client.upload_files(path_of("filesets"), files_below(package))
        shutil.copytree(package, job.out, dirs_exist_ok=True)
    version = path_of("models", info["model"], "versions", info["version"])
    client.call("PUT", f"{version}/package", json={"root": tree["root"]})
    return _roll_out(client, job, options, info, talk)


def _read_info(source: Path) -> dict[str, Any]:
    try:
        info = yaml.safe_load((source / INFO_FILE).read_text())
    except OSError as error:
        raise InvalidInputError(
            f"{source} holds no {INFO_FILE}: the input must be the output of 'trunkline train'",
            kind="no_model",
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError):
        info = None
    if not isinstance(info, dict) or not all(isinstance(info.get(key), str) for key in ("model", "version")):
        raise InvalidInputError(
            f"{source / INFO_FILE} does not name a model and its version: the input must be the output of 'trunkline train'",
            kind="no_model",
        )
    return info


def _check_files(options: DeployOptions) -> None:
    if not options.handler.is_file():
        raise InvalidInputError(
            f"there is no handler {str(options.handler)!r} in the code folder", kind="no_handler"
        )
    names = {SERIALIZED_FILE, options.handler.name}
    for file in options.extra_files:
        if not file.is_file():
            raise InvalidInputError(
                f"there is no file {str(file)!r} in the code folder (--extra-file)", kind="no_extra_file"
            )
        if file.name in names:
            raise InvalidInputError(
                f"--extra-file {str(file)!r}: the archive holds a {file.name!r} already",
                kind="bad_extra_file",
            )
        names.add(file.name)


@contextmanager
def _users_code(what: str, talk: Talk) -> Iterator[None]:
    """What goes wrong inside is the user's own: where it did goes to the log, and one line is the error."""
    try:
        yield
    except TrunklineError:
        raise
    except Exception as error:
        talk("".join(traceback.format_exception(error)).rstrip())
        text = " ".join(str(error).split())[:300]
        raise InvalidInputError(
            f"{what} failed: {type(error).__name__}: {text}", kind="user_code_failed"
        ) from error


def _function(name: str, talk: Talk) -> Callable[..., Any]:
    """``module:function`` from the working directory."""
    module_name, _, function_name = name.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        with _users_code(f"importing {module_name!r}", talk):
            found = getattr(_imported(module_name, name), function_name, None)
    finally:
        sys.path.pop(0)
    if not callable(found):
        raise InvalidInputError(f"{name!r} is not a function: write MODULE:FUNCTION", kind="bad_function")
    return found  # type: ignore[no-any-return]


def _imported(module_name: str, name: str) -> Any:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise InvalidInputError(
            f"cannot import {module_name!r} for {name!r}: {error}", kind="bad_function"
        ) from error


def _serialize(options: DeployOptions, checkpoint: Path, target: Path, talk: Talk) -> None:
    torch: Any = importlib.import_module("torch")
    load = _function(options.load, talk)
    with _users_code(f"{options.load}({str(checkpoint)!r})", talk):
        module = load(checkpoint)
    if not isinstance(module, torch.nn.Module):
        raise InvalidInputError(
            f"{options.load} returned a {type(module).__name__}; it must return a torch.nn.Module",
            kind="bad_function",
        )
    module.eval()
    with torch.no_grad():
        if options.example is not None:
            example = _function(options.example, talk)
            with _users_code(f"tracing the model with {options.example}", talk):
                scripted = torch.jit.trace(module, example())
        else:
            with _users_code("torch.jit.script of the model (--example traces it instead)", talk):
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
        if status.get("observedGeneration") == generation:
            # Ready alone would not do: it stays True for the revision before, also when this one fails.
            transition = status.get("modelStatus", {}).get("transitionStatus")
            if transition in ("BlockedByFailedLoad", "InvalidSpec"):
                raise _not_ready(options, status)
            if transition == "UpToDate" and _ready(status).get("status") == "True":
                talk(f"{options.name} is Ready at {status['url']}")
                return str(status["url"])
        if time.monotonic() > deadline:
            raise _not_ready(options, status)
        time.sleep(POLL_SECONDS)


def _ready(status: dict[str, Any]) -> dict[str, str]:
    return next((dict(c) for c in status.get("conditions", []) if c["type"] == "Ready"), {})


def _not_ready(options: DeployOptions, status: dict[str, Any]) -> StateError:
    why = status.get("modelStatus", {}).get("lastFailureInfo", {}).get("message")
    why = why or _ready(status).get("message") or f"it takes longer than {options.timeout_seconds:g} s"
    return StateError(f"{options.name} did not become Ready: {why}", kind="not_ready")
