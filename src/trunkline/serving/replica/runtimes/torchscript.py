"""TorchScript: exactly one ``*.pt`` or ``*.pth`` file made by ``torch.jit.save``, and beside it, if wanted, ``signature.json``:
``{"dtype": "float32", "shape": [-1, 3, 64, 64]}``.

The contract is small: all instances of a request become one tensor (float32, or the signature's dtype), the module is called with
it, and returns one tensor with a row for each.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch

from trunkline.errors import InvalidInputError
from trunkline.serving.replica.config import ReplicaConfig
from trunkline.serving.replica.runtimes.base import ModelError, Runtime

SIGNATURE = "signature.json"
DTYPES = ("float32", "float64", "float16", "int64", "int32", "uint8", "bool")


class TorchScriptRuntime(Runtime):
    def __init__(self, config: ReplicaConfig) -> None:
        self.model_name = config.model_name
        self._folder = config.model_dir
        self._module: Any = None
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._dtype = torch.float32
        self._shape: list[int] | None = None

    def load(self) -> None:
        files = sorted(f for f in self._folder.rglob("*") if f.suffix in (".pt", ".pth") and f.is_file())
        if len(files) != 1:
            found = ", ".join(f.name for f in files) or "none"
            raise InvalidInputError(
                f"a PyTorch model's folder must hold .mar archives or exactly one TorchScript *.pt file; found: {found}",
                kind="bad_model",
            )
        try:
            self._module = torch.jit.load(str(files[0]), map_location=self._device).eval()
        except RuntimeError as error:
            raise InvalidInputError(
                f"{files[0].name} is not TorchScript: save it with torch.jit.save, or pack it as a .mar with its handler",
                kind="bad_model",
            ) from error
        self._read_signature()

    def predict(self, instances: list[Any]) -> Sequence[Any]:
        try:
            rows = torch.tensor(instances, dtype=self._dtype, device=self._device)
        except (ValueError, TypeError) as error:
            raise InvalidInputError(f"instances do not make one tensor of numbers: {error}") from error
        if self._shape is not None and not _fits(list(rows.shape), self._shape):
            raise InvalidInputError(
                f"instances have the shape {list(rows.shape)}; model {self.model_name!r} takes {self._shape}"
            )
        with torch.inference_mode():
            result = self._module(rows)
        if not isinstance(result, torch.Tensor):
            raise ModelError(f"the module returned a {type(result).__name__}; it must return one tensor")
        listed: list[Any] = result.cpu().tolist()
        return listed

    def example(self) -> list[Any] | None:
        if self._shape is None:
            return None
        zeros: list[Any] = torch.zeros([1, *(max(n, 1) for n in self._shape[1:])], dtype=self._dtype).tolist()
        return zeros

    def _read_signature(self) -> None:
        for file in self._folder.rglob(SIGNATURE):
            try:
                signature = json.loads(file.read_bytes())
                dtype, shape = signature.get("dtype", "float32"), signature.get("shape")
            except (ValueError, AttributeError) as error:
                raise InvalidInputError(f"{SIGNATURE} is not a JSON object", kind="bad_model") from error
            if dtype not in DTYPES:
                raise InvalidInputError(
                    f"{SIGNATURE}: dtype {dtype!r} is not one of {', '.join(DTYPES)}", kind="bad_model"
                )
            if shape is not None and not (
                isinstance(shape, list) and all(isinstance(n, int) for n in shape) and shape
            ):
                raise InvalidInputError(
                    f"{SIGNATURE}: shape must be a list of integers, -1 for any", kind="bad_model"
                )
            self._dtype, self._shape = getattr(torch, dtype), shape
            return


def _fits(shape: list[int], wanted: list[int]) -> bool:
    return len(shape) == len(wanted) and all(w in (-1, s) for s, w in zip(shape, wanted, strict=True))
