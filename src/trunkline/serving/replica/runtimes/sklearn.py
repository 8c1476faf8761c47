"""scikit-learn: one ``*.joblib``, ``*.pkl`` or ``*.pickle`` file in the folder.

Unpickling runs code of whoever made the file; that is how this format is. Deploy only models that you trust.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import joblib
import numpy as np

from trunkline.errors import InvalidInputError
from trunkline.serving.replica.config import ReplicaConfig
from trunkline.serving.replica.runtimes.base import Runtime

SUFFIXES = (".joblib", ".pkl", ".pickle")


class SklearnRuntime(Runtime):
    def __init__(self, config: ReplicaConfig) -> None:
        self.model_name = config.model_name
        self._folder = config.model_dir
        self._estimator: Any = None
        self._method: Any = None
        self._features: int | None = None
        self._names: list[str] | None = None

    def load(self) -> None:
        estimator = self._read()
        wants_probabilities = os.environ.get("PREDICT_PROBA", "").lower() == "true"
        method = "predict_proba" if wants_probabilities else "predict"
        if not hasattr(estimator, method):
            raise InvalidInputError(
                f"the model is a {type(estimator).__name__}, which has no {method}()", kind="bad_model"
            )
        self._estimator = estimator
        self._method = getattr(estimator, method)
        features = getattr(estimator, "n_features_in_", None)
        self._features = int(features) if features is not None else None
        names = getattr(estimator, "feature_names_in_", None)
        self._names = [str(n) for n in names] if names is not None else None

    @property
    def features(self) -> int | None:
        """How many numbers a row has; None if the model takes something else than rows of numbers."""
        return self._features

    def predict(self, instances: list[Any]) -> Sequence[Any]:
        if self._features is None:
            return self._as_list(self._method(instances))
        rows = self._array(instances)
        try:
            return self._as_list(self.predict_array(rows))
        except ValueError as error:
            # Some models take missing values; of those that do not, each says so in words of its own.
            if (place := _first_missing(rows)) is not None:
                raise InvalidInputError(
                    f"{place} is null, and model {self.model_name!r} does not take missing values"
                ) from error
            raise

    def predict_array(self, rows: Any) -> Any:
        """As the estimator's own method; named columns are put in place for models that were trained with names."""
        if self._names is not None:
            # The order of the columns was checked or made here, so scikit-learn's warning about lost names would be noise.
            rows = _named(rows, self._names)
        return self._method(rows)

    def example(self) -> list[Any] | None:
        return [[0.0] * self._features] if self._features is not None else None

    def _read(self) -> Any:
        file = self._file()
        try:
            return joblib.load(file)
        except ModuleNotFoundError:
            raise
        except Exception as error:
            # Unpickling can raise anything at all.
            raise InvalidInputError(
                f"{file.name} cannot be loaded ({type(error).__name__}: {error}): write it with joblib.dump, with the "
                "scikit-learn version that is installed here",
                kind="bad_model",
            ) from error

    def _file(self) -> Path:
        files = sorted(f for f in self._folder.rglob("*") if f.suffix in SUFFIXES and f.is_file())
        if len(files) == 1:
            return files[0]
        found = ", ".join(f.name for f in files) or "none"
        raise InvalidInputError(
            f"a scikit-learn model's folder must hold exactly one *.joblib, *.pkl or *.pickle file; found: {found}",
            kind="bad_model",
        )

    def _array(self, instances: list[Any]) -> Any:
        """Rows of numbers as one matrix, each row checked for the model's number of features."""
        for index, row in enumerate(instances):
            if isinstance(row, dict):
                instances[index] = self._ordered(index, row)
            elif not isinstance(row, list):
                raise InvalidInputError(f"instances[{index}] must be a list of {self._features} numbers")
            elif len(row) != self._features:
                raise InvalidInputError(
                    f"instances[{index}] has {len(row)} features; model {self.model_name!r} takes {self._features}"
                )
        try:
            found = np.asarray(instances)
            if found.ndim == 2 and found.dtype.kind in "iufb":
                return found.astype(np.float64)
            if (place := _not_a_number(instances)) is None:
                return np.asarray(instances, dtype=np.float64)
        except (ValueError, TypeError, OverflowError):
            place = _not_a_number(instances)
        raise InvalidInputError(f"{place or 'one of the values'} is not a number")

    def _ordered(self, index: int, row: dict[str, Any]) -> list[Any]:
        if self._names is None:
            raise InvalidInputError(
                f"instances[{index}] is an object, but the model knows no feature names: send a list of "
                f"{self._features} numbers"
            )
        for name in self._names:
            if name not in row:
                raise InvalidInputError(f"instances[{index}] has no feature {name!r}")
        if unknown := sorted(row.keys() - set(self._names)):
            raise InvalidInputError(f"instances[{index}] has an unknown feature {unknown[0]!r}")
        return [row[name] for name in self._names]

    @staticmethod
    def _as_list(predictions: Any) -> Sequence[Any]:
        listed: Sequence[Any] = predictions.tolist() if hasattr(predictions, "tolist") else list(predictions)
        return listed


def _named(rows: Any, names: list[str]) -> Any:
    # pandas is optional; models that were trained with names mostly come with it.
    if importlib.util.find_spec("pandas") is None:
        return rows
    return importlib.import_module("pandas").DataFrame(rows, columns=names)


def _not_a_number(instances: list[Any]) -> str | None:
    """Where the first value is that is neither a number nor null."""
    for row, values in enumerate(instances):
        for column, value in enumerate(values):
            if value is not None and not isinstance(value, int | float):
                return f"instances[{row}][{column}]"
    return None


def _first_missing(rows: Any) -> str | None:
    missing = np.argwhere(np.isnan(rows))
    return f"instances[{missing[0][0]}][{missing[0][1]}]" if len(missing) else None
