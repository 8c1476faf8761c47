"""The older home of ``timed``."""

from __future__ import annotations

from ..handler_utils.timer import timed

__all__ = ["timed"]
