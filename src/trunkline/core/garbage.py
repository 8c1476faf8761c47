"""Python's garbage collector in programs that stay."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

LOOKED_FOR_AFTER = 20_000
"""So many more objects that may be part of a cycle must be there before one is looked for."""


def look_for_none_yet() -> None:
    """At the start of a program that is going to ``keep_what_is_there``: what modules make while they are imported is looked
    through again and again, in vain."""
    gc.disable()


@contextmanager
def none_looked_for() -> Iterator[None]:
    """The same, while much is imported."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def keep_what_is_there() -> None:
    """Say that what a program has now, at its start, it keeps. Else the collector goes through all of that, too, whenever a
    fourth of it has been made anew, and in the server nobody is answered meanwhile."""
    gc.enable()
    gc.collect()
    gc.freeze()
    gc.set_threshold(LOOKED_FOR_AFTER)
