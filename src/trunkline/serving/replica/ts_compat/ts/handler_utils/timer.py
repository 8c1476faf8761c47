"""``timed``: report how long a handler's method took."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any


def timed(func: Callable[..., Any]) -> Callable[..., Any]:
    """Report the time of a method to its context's metrics, if it has one."""

    @functools.wraps(func)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        start = time.monotonic()
        try:
            return func(self, *args, **kwargs)
        finally:
            metrics = getattr(getattr(self, "context", None), "metrics", None)
            if metrics is not None:
                metrics.add_time(f"ts_handler_{func.__name__}", (time.monotonic() - start) * 1000, None, "ms")

    return wrapper
