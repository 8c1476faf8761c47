"""Python's garbage collector in programs that stay."""

from __future__ import annotations

import gc

LOOKED_FOR_AFTER = 20_000
"""So many more objects that may be part of a cycle must be there before one is looked for."""


def keep_what_is_there() -> None:
    """Say that what a program has now, at its start, it keeps. Else the collector goes through all of that, too, whenever a
    fourth of it has been made anew, and in the server nobody is answered meanwhile."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(LOOKED_FOR_AFTER)
