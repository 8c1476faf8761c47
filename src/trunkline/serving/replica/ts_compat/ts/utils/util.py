"""Label mappings and the exception that carries a status to the client."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any


class PredictionException(Exception):  # noqa: N818 -- TorchServe's name
    """Raised by a handler to answer with ``error_code`` and ``message``."""

    def __init__(self, message: str, error_code: int = 500) -> None:
        super().__init__(message)
        self.message = message
        self.error_code = error_code

    def __str__(self) -> str:
        return f"{self.message} : {self.error_code}"


def list_classes_from_module(module: ModuleType, parent_class: type | None = None) -> list[type]:
    """Classes defined in the module itself, optionally only those below ``parent_class``."""
    found = [c for _, c in inspect.getmembers(module, inspect.isclass) if c.__module__ == module.__name__]
    return [c for c in found if parent_class is None or issubclass(c, parent_class)]


def load_label_mapping(mapping_file_path: str) -> dict[str, Any] | None:
    """``index_to_name.json``: index -> name, or -> list of names; None if there is none.

    :raises ValueError: if it is not a JSON object of those.
    """
    path = Path(mapping_file_path)
    if not path.is_file():
        return None
    mapping = json.loads(path.read_text())
    if not isinstance(mapping, dict):
        raise ValueError('index_to_name mapping should be in "class":"label" json format')
    # Older object detectors wrap the mapping once more.
    if isinstance(mapping.get("object_type_names"), list):
        mapping = {str(k): v for k, v in enumerate(mapping["object_type_names"])}
    for value in mapping.values():
        if not isinstance(value, str | list):
            raise ValueError("labels in index_to_name must be either str or List[str]")
    return mapping


def map_class_to_label(
    probs: Sequence[Sequence[float]],
    mapping: dict[str, Any] | None = None,
    lbl_classes: Sequence[Sequence[int]] | None = None,
) -> list[dict[str, float]]:
    """Per row: label -> probability; without a mapping the labels are the class numbers."""
    classes = lbl_classes if lbl_classes is not None else [list(range(len(row))) for row in probs]
    results = []
    for row, numbers in zip(probs, classes, strict=False):
        labels = [mapping[str(n)] if mapping is not None else str(n) for n in numbers]
        names = [label[-1] if isinstance(label, list) else label for label in labels]
        results.append(dict(zip(names, row, strict=False)))
    return results
