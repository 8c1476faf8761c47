"""How models of each format are loaded and asked. One runtime per file; each is a ``Runtime``."""

from __future__ import annotations

import importlib

from trunkline.errors import InvalidInputError
from trunkline.serving.replica.config import ReplicaConfig
from trunkline.serving.replica.runtimes.base import Runtime

_PACKAGE = "trunkline.serving.replica.runtimes"


def open_runtime(config: ReplicaConfig) -> Runtime:
    """The runtime for what is in the model's folder; imports nothing that another format needs.

    :raises InvalidInputError: ``bad_model``, if no runtime fits.
    """
    if config.format == "sklearn":
        module, name = "sklearn", "SklearnRuntime"
    elif config.format == "pytorch":
        has_archive = any(config.model_dir.rglob("*.mar"))
        module, name = (
            ("torch_archive", "ArchiveRuntime") if has_archive else ("torchscript", "TorchScriptRuntime")
        )
    else:
        raise InvalidInputError(f"there is no runtime for format {config.format!r}", kind="no_runtime")
    runtime = getattr(importlib.import_module(f"{_PACKAGE}.{module}"), name)(config)
    assert isinstance(runtime, Runtime)
    return runtime
