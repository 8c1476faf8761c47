"""trunkline: commit data, and get a tested, live model, with one ID that explains, replays or undoes it all.

The public names are loaded when they are first used, so that ``import trunkline`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trunkline import training
    from trunkline.batching import datums
    from trunkline.errors import TrunklineError
    from trunkline.functions import pipeline
    from trunkline.sdk.client import Client

__version__ = "0.1.0"

__all__ = ["Client", "TrunklineError", "__version__", "datums", "pipeline", "training"]

_HOMES = {
    "Client": "trunkline.sdk.client", "TrunklineError": "trunkline.errors", "datums": "trunkline.batching",
    "pipeline": "trunkline.functions",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name == "training":
        return importlib.import_module("trunkline.training")
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'trunkline' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
