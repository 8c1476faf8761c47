"""Experiments, trials, metrics and checkpoints; and, for training code, the context.

In a training script::

    from trunkline import training

    context = training.init()

Importing this package costs nothing but the standard library: the names below are looked up when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trunkline.training.context import Context, init

__all__ = ["Context", "init"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from trunkline.training import context  # noqa: PLC0415  (keeps the package cheap for those who want a submodule)

        return getattr(context, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
