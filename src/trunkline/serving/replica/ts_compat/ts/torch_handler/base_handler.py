"""The handler that most archives' handlers are subclasses of."""

from __future__ import annotations

import importlib
import logging
import time
from pathlib import Path
from typing import Any

import torch

from ..utils.util import list_classes_from_module, load_label_mapping

logger = logging.getLogger(__name__)


class BaseHandler:
    """Loads TorchScript, or a state dict with its model file; then preprocess -> inference -> postprocess."""

    def __init__(self) -> None:
        self.model: Any = None
        self.mapping: dict[str, Any] | None = None
        self.device: Any = None
        self.initialized = False
        self.context: Any = None
        self.model_pt_path: str | None = None
        self.manifest: dict[str, Any] | None = None
        self.map_location: str | None = None
        self.explain = False
        self.target = 0

    def initialize(self, context: Any) -> None:
        """Load the model that the manifest names onto the device that the context names."""
        properties = context.system_properties
        has_gpu = torch.cuda.is_available() and properties.get("gpu_id") is not None
        self.map_location = "cuda" if has_gpu else "cpu"
        self.device = torch.device(f"cuda:{properties['gpu_id']}" if has_gpu else "cpu")
        self.context = context
        manifest = self.manifest = context.manifest
        model_dir = properties["model_dir"]
        model = manifest["model"]
        if model.get("serializedFile"):
            self.model_pt_path = str(Path(model_dir) / model["serializedFile"])
        if model.get("modelFile"):
            self.model = self._load_pickled_model(model_dir, model["modelFile"], self.model_pt_path)
            self.model.to(self.device)
            self.model.eval()
        elif self.model_pt_path is not None and self.model_pt_path.endswith((".pt", ".pth")):
            self.model = self._load_torchscript_model(self.model_pt_path)
            self.model.eval()
        else:
            raise RuntimeError("the archive has neither a modelFile nor a TorchScript serializedFile")
        self.mapping = load_label_mapping(str(Path(model_dir) / "index_to_name.json"))
        self.initialized = True

    def _load_torchscript_model(self, model_pt_path: str) -> Any:
        return torch.jit.load(model_pt_path, map_location=self.device)

    def _load_pickled_model(self, model_dir: str, model_file: str, model_pt_path: str | None) -> Any:
        if not (Path(model_dir) / model_file).is_file():
            raise RuntimeError(f"Missing the {model_file} file")
        module = importlib.import_module(model_file.removesuffix(".py"))
        classes = list_classes_from_module(module, torch.nn.Module) or list_classes_from_module(module)
        if len(classes) != 1:
            raise ValueError(f"Expected only one class as model definition. {[c.__name__ for c in classes]}")
        model = classes[0]()
        if model_pt_path:
            # Weights only, without a way round it: anything else in the file could run code.
            state = torch.load(model_pt_path, map_location=self.device, weights_only=True)
            model.load_state_dict(state)
        return model

    def preprocess(self, data: Any) -> Any:
        return torch.as_tensor(data, device=self.device)

    def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        with torch.inference_mode():
            return self.model(data.to(self.device), *args, **kwargs)

    def postprocess(self, data: Any) -> Any:
        return data.tolist()

    def handle(self, data: Any, context: Any) -> Any:
        """One list in, one list of the same length out."""
        start = time.monotonic()
        self.context = context
        output = self.postprocess(self.inference(self.preprocess(data)))
        if context.metrics is not None:
            context.metrics.add_time("HandlerTime", round((time.monotonic() - start) * 1000, 2), None, "ms")
        return output

    def describe_handle(self) -> Any:
        return None
