"""The four verbs of an engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from trunkline.jobs.model import LaunchSpec


class Engine(ABC):
    """Runs processes that outlive the control server. A handle is JSON, so that the next server can adopt them."""

    name: str

    @abstractmethod
    def launch(self, spec: LaunchSpec) -> dict[str, Any]:
        """Start a process and return its handle.

        :raises UnavailableError: if it cannot be started, saying why.
        """

    @abstractmethod
    def is_alive(self, handle: dict[str, Any]) -> bool:
        """Whether exactly this process (not another that got its number) still runs."""

    @abstractmethod
    def stop(self, handle: dict[str, Any], *, grace_seconds: float) -> None:
        """Ask it to end, wait up to ``grace_seconds``, then kill it with everything it started. Not an error if it is gone."""

    @abstractmethod
    def find(self, process_id: str) -> dict[str, Any] | None:
        """The handle of a process that a server started, and could not note before it ended; None if none is found."""

    @abstractmethod
    def logs(self, handle: dict[str, Any], *, tail_bytes: int) -> str:
        """The end of what it wrote to stdout and stderr."""
