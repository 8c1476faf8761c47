"""Folders in which commands write, and whether any has: asked after each, and mostly none has."""

from __future__ import annotations

import os
import time
from pathlib import Path

QUIET_NS = 50_000_000
"""Far more than the clock of any file system takes for one step."""
SECOND_NS = 10**9


class Quiet:
    """One folder."""

    def __init__(self, folder: Path, *, stays: bool) -> None:
        """``stays``: commands cannot put another folder in its place."""
        self.path = str(folder)
        self._handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) if stays else -1
        """From here it is looked at without looking up each folder above it."""
        self._changed = -1
        """When it was last changed, if there was nothing in it afterwards."""

    def holds(self) -> bool:
        """Whether nothing was put into it, or taken from it, since there was nothing to clean; if so, the caller need not look.

        The time of its last change tells, if that was long enough ago for another change to have another time. A whole second
        tells nothing: it may be all that the file system knows.
        """
        changed = os.stat(self.path if self._handle < 0 else self._handle).st_ctime_ns  # noqa: PTH116
        if changed == self._changed:
            return True
        if changed % SECOND_NS and time.time_ns() - changed > QUIET_NS:
            self._changed = changed
        return False

    def close(self) -> None:
        """Nobody asks any more."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
