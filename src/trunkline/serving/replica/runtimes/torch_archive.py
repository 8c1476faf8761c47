"""``.mar`` archives with their own handlers, as TorchServe runs them under KServe, without TorchServe.

The folder is KServe's: archives anywhere below it, ``config/config.properties`` optional. A request's instances reach the handler
as TorchServe's ``kserve`` envelope passes them: the list as it is, one row per instance.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import re
import sys
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from trunkline.errors import InvalidInputError
from trunkline.serving.replica.config import ReplicaConfig
from trunkline.serving.replica.mar import Snapshot, extract, read_properties
from trunkline.serving.replica.runtimes.base import ModelError, Runtime

COMPATIBILITY = Path(__file__).parent.parent / "ts_compat"
BUILT_IN = ("image_classifier", "object_detector", "base_handler")
"""Handlers that an archive may name without bringing them, as far as our ``ts`` package has them."""


class ArchiveRuntime(Runtime):
    def __init__(self, config: ReplicaConfig) -> None:
        self._config = config
        file, self._snapshot = _chosen(config.model_dir)
        self._archive = extract(file, config.work_dir / "model")
        self.model_name = self._snapshot.name or self._archive.model_name
        self._handle: Callable[[Any, Any], Any] | None = None
        self._context: Any = None

    def load(self) -> None:
        folder = self._archive.folder
        # Handlers open their own files by relative names, and import modules that lie beside them.
        os.chdir(folder)
        sys.path.insert(0, str(folder))
        if importlib.util.find_spec("ts") is None:
            sys.path.append(str(COMPATIBILITY))
        self._context = self._make_context()
        self._handle = self._entry_point()

    def predict(self, instances: list[Any]) -> Sequence[Any]:
        assert self._handle is not None
        self._context.request_ids = {0: uuid.uuid4().hex}
        self._context.metrics.request_ids = self._context.request_ids
        try:
            result = self._handle(instances, self._context)
        except Exception as error:
            # TorchServe's PredictionException carries a status meant for the client.
            code = getattr(error, "error_code", None)
            if isinstance(code, int) and 400 <= code < 600:
                raise ModelError(str(getattr(error, "message", error)), status=code) from error
            raise
        if not isinstance(result, list | tuple):
            raise ModelError(
                f"the handler returned a {type(result).__name__}; it must return a list, one entry per instance"
            )
        return list(result)

    def _make_context(self) -> Any:
        context = importlib.import_module("ts.context")
        metrics_module = importlib.import_module("trunkline.serving.replica.ts_compat.ts.metrics")
        has_cuda = importlib.util.find_spec("torch") and importlib.import_module("torch").cuda.is_available()
        made = context.Context(
            self.model_name, str(self._archive.folder), self._archive.manifest, self._snapshot.batch_size,
            0 if has_cuda else None, "0.12.0", limit_max_image_pixels=True,
        )  # fmt: skip
        made.metrics = metrics_module.Metrics(self.model_name)
        made.model_yaml_config = (
            self._archive.yaml_config
        )  # handlers call .get() on it: a dict also where there is none
        return made

    def _entry_point(self) -> Callable[[Any, Any], Any]:
        name, _, function = self._archive.handler.partition(":")
        module = self._import(name)
        found = getattr(module, function or "handle", None)
        if inspect.isfunction(found):
            found(None, self._context)  # TorchServe's way to have a module's function load its model
            return cast(Callable[[Any, Any], Any], found)
        if function:
            raise InvalidInputError(f"handler {name} has no function {function!r}", kind="bad_model")
        service = self._one_class(module)()
        service.initialize(self._context)
        handle: Callable[[Any, Any], Any] = service.handle
        return handle

    def _import(self, name: str) -> ModuleType:
        if name.removesuffix(".py") in BUILT_IN and not (self._archive.folder / name).exists():
            return importlib.import_module(f"ts.torch_handler.{name.removesuffix('.py')}")
        return importlib.import_module(re.sub(r"\.py$", "", name).replace("/", "."))

    def _one_class(self, module: ModuleType) -> Any:
        classes = [
            item
            for _, item in inspect.getmembers(module, inspect.isclass)
            if item.__module__ == module.__name__ and hasattr(item, "initialize") and hasattr(item, "handle")
        ]
        if len(classes) != 1:
            found = ", ".join(c.__name__ for c in classes) or "none"
            raise InvalidInputError(
                f"handler {self._archive.handler} must have a function 'handle' or exactly one class with 'initialize' and "
                f"'handle'; found classes: {found}",
                kind="bad_model",
            )
        return classes[0]


def _chosen(folder: Path) -> tuple[Path, Snapshot]:
    """The one archive that is to be served, with what ``config.properties`` says of it."""
    archives = {f.name: f for f in sorted(folder.rglob("*.mar"))}
    snapshots = [s for file in sorted(folder.rglob("config.properties"))[:1] for s in read_properties(file)]
    if not snapshots:
        snapshots = [Snapshot(name="", file=name) for name in archives]
    if len(snapshots) != 1:
        names = ", ".join(s.name or s.file for s in snapshots)
        raise InvalidInputError(
            f"the model store holds {len(snapshots)} models ({names}); a service here serves one: make one InferenceService each",
            kind="unsupported",
        )
    if snapshots[0].file not in archives:
        raise InvalidInputError(
            f"config.properties names {snapshots[0].file!r}, which is not in the model store; there is: {', '.join(archives)}",
            kind="bad_model",
        )
    return archives[snapshots[0].file], snapshots[0]
