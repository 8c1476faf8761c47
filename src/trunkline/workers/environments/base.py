"""What every kind of environment gives the datum worker, and what it needs for that."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from trunkline.workers.box import Box
from trunkline.workers.output import OnLine
from trunkline.workers.sandbox import Sandbox


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """An environment that is ready: all that the datum worker must know of it."""

    path: tuple[str, ...] = ()
    """Folders for the front of PATH."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Variables, of lower rank than the spec's own."""
    keep: tuple[Path, ...] = ()
    """Folders that commands must see, even where they lie in the data directory."""
    start: Callable[[Box], Sandbox] | None = None
    """How a sandbox for its commands is made; None: as the worker makes any."""
    key: str = ""
    """What names the environment; empty if nothing was made for it."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is asked of a driver."""

    home: Path
    """The data directory."""
    scratch: Path
    """A folder of this worker's own."""
    mode: str
    """How this worker hides the data directory: ``namespace`` or ``paths``."""
    payload: Mapping[str, Any]
    """What the server told of the datum; its ``environment``, ``transform``, ``job``, ``code_root`` and ``limits`` are read."""
    code: Path | None
    """The code folder, if the pipeline has one."""
    log: OnLine
    """The job's log."""
    interrupted: threading.Event
    """Set when nobody wants it any more."""
    check: Callable[[], None]
    """Raises if ``interrupted`` is set."""


class Driver(Protocol):
    """One kind of environment, for the life of a worker."""

    def prepare(self, wanted: Wanted) -> Prepared:
        """Make it ready; quick if it was before.

        :raises InvalidInputError: if it cannot be made; one line says why, with the tool's last words.
        """

    def close(self) -> None:
        """Let go of what is held for it."""
