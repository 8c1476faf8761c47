"""A worker's line to the control server, which may be down for a while: calls are repeated until it is back.

The server may come back at another port, so its address is read anew from ``run/server.json`` in the data directory.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from trunkline.errors import UnavailableError
from trunkline.sdk.transport import (
    Transport,
)  # not the whole client: its models would double a worker's memory

log = logging.getLogger(__name__)

PATIENCE_SECONDS = 600.0
BACKOFF_SECONDS = (0.1, 0.2, 0.5, 1.0, 2.0)

T = TypeVar("T")


class Link:
    """Calls with patience. Safe to use from several threads."""

    def __init__(
        self, *, url: str, token: str, home: Path, patience_seconds: float = PATIENCE_SECONDS
    ) -> None:
        self._token = token
        self._home = home
        self._patience_seconds = patience_seconds
        self._lock = threading.Lock()
        self._url = url
        self._client = Transport(url=url, token=token)

    @property
    def url(self) -> str:
        """Where the server was last known to be."""
        return self._url

    def call(
        self,
        method: str,
        path: str,
        json: Any = None,
        query: Mapping[str, Any] | None = None,
        *,
        give_up: Callable[[], bool] = lambda: False,
    ) -> Any:
        """One request; see ``retrying``."""
        return self.retrying(
            lambda client: client.call(method, path, json=json, query=query), give_up=give_up
        )

    def retrying(self, action: Callable[[Transport], T], *, give_up: Callable[[], bool] = lambda: False) -> T:
        """Repeat ``action`` while the server does not answer.

        :raises UnavailableError: after the patience is used up, or as soon as ``give_up()`` says so.
        """
        deadline = time.monotonic() + self._patience_seconds
        attempt = 0
        while True:
            try:
                return action(self._client)
            except UnavailableError as error:
                wait = BACKOFF_SECONDS[min(attempt, len(BACKOFF_SECONDS) - 1)]
                if give_up() or time.monotonic() + wait > deadline:
                    raise
                if attempt == 0:
                    log.info("the control server does not answer, trying on: %s", error)
                attempt += 1
            time.sleep(wait)
            self.find_server()

    def find_server(self) -> None:
        """Follow the server to its present address, if it has moved."""
        url = server_url(self._home)
        with self._lock:
            if url and url != self._url:
                log.info("the control server is now at %s", url)
                self._client = Transport(url=url, token=self._token)
                self._url = url


def server_url(home: Path) -> str | None:
    """What ``run/server.json`` says; None while there is none."""
    try:
        found = json.loads((home / "run" / "server.json").read_text())
    except (OSError, ValueError):
        return None
    url = found.get("url")
    return url if isinstance(url, str) else None
