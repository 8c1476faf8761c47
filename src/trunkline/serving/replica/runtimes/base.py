"""The interface of a runtime."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any


class ModelError(Exception):
    """The model, not the client, did something wrong; ``status`` is the HTTP status of the answer."""

    def __init__(self, message: str, *, status: int = 500) -> None:
        super().__init__(message)
        self.status = status


class Runtime(ABC):
    """Loads one model and asks it. All methods are called in one thread, one at a time."""

    model_name: str
    """The name in ``/v1/models/NAME``."""

    @abstractmethod
    def load(self) -> None:
        """Load the model.

        :raises InvalidInputError: ``bad_model``, one line on what is wrong with it; whatever the libraries raise.
        """

    @abstractmethod
    def predict(self, instances: list[Any]) -> Sequence[Any]:
        """One prediction for each instance, as JSON can hold it.

        :raises InvalidInputError: naming the row and the shape, if the model cannot take it.
        """

    def example(self) -> list[Any] | None:
        """Instances made up from the model's signature, for a probe; None if the signature is not known."""
        return None
