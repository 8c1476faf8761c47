"""The Python client: ``from trunkline import Client``. Loaded when it is first used: parts of the SDK start without it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trunkline.sdk.client import Client

__all__ = ["Client"]


def __getattr__(name: str) -> Any:
    if name == "Client":
        return importlib.import_module("trunkline.sdk.client").Client
    raise AttributeError(f"module 'trunkline.sdk' has no attribute {name!r}")
