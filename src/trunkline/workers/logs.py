"""Ships the log lines of a task in small batches. Each carries the number of lines sent before it, so a batch that is
sent twice (its answer was lost) is stored once."""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

GATHER_SECONDS = 0.1
LINES_PER_BATCH_MAX = 1000
LINE_CHARACTERS_MAX = 64 * 1024
WAITING_LINES_MAX = 50_000

HIDDEN = "***"
HIDDEN_CHARACTERS_MIN = 4
"""Shorter secrets stay: hiding every "1" would leave nothing to read, and a secret that short hides nothing either."""

Send = Callable[[int, list[dict[str, Any]]], None]
"""``(offset, lines)``; returns once the lines are stored or given up, and never raises."""


def hiding(secrets: Iterable[str]) -> Callable[[str], str]:
    """A function that takes secrets out of a text: logs and reasons are read by more people than may know them.

    Line by line, as text comes; a secret that the code encodes or cuts up first is not recognised.
    """
    lines = {line.strip() for secret in secrets for line in secret.splitlines()}
    wanted = sorted((line for line in lines if len(line) >= HIDDEN_CHARACTERS_MIN), key=len, reverse=True)
    if not wanted:
        return lambda text: text
    pattern = re.compile("|".join(map(re.escape, wanted)))
    return lambda text: pattern.sub(HIDDEN, text)


class LogShipper:
    """Bounded: when the server takes nothing for long, ``add`` waits, and with it whoever writes the lines."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._waiting: deque[dict[str, Any]] = deque()
        self._changed = threading.Condition()
        self._offset = 0
        self._under_way = 0
        self._flushing = 0
        """Somebody waits until so many lines are sent."""
        self._closing = False
        self._discarding = False
        self._thread: threading.Thread | None = None

    def add(self, text: str, stream: str, datum: str | None = None, attempt: int | None = None) -> None:
        """Send it soon. ``datum`` and ``attempt``: whose line it is, where a task has several."""
        line: dict[str, Any] = {"ts": time.time(), "text": text[:LINE_CHARACTERS_MAX], "stream": stream}
        if datum is not None:
            line |= {"datum": datum, "attempt": attempt or 1}
        with self._changed:
            self._changed.wait_for(lambda: len(self._waiting) < WAITING_LINES_MAX or self._discarding)
            if self._discarding:
                return
            self._waiting.append(line)
            if self._thread is None:  # many tasks log nothing: no thread for those
                self._thread = threading.Thread(target=self._run, name="logs", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def flush(self) -> None:
        """Wait until what was added so far is sent (or nobody wants it any more)."""
        with self._changed:
            wanted = self._offset + self._under_way + len(self._waiting)
            self._flushing = max(self._flushing, wanted)
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._offset >= wanted or self._discarding)

    def discard(self) -> None:
        """Nobody wants the lines any more."""
        with self._changed:
            self._discarding = True
            self._waiting.clear()
            self._changed.notify_all()

    def close(self) -> None:
        """Send all that waits, then end."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing or self._discarding)
                if not self._closing and not self._discarding:
                    self._changed.wait_for(
                        lambda: (
                            self._closing
                            or self._discarding
                            or self._flushing > self._offset
                            or len(self._waiting) >= LINES_PER_BATCH_MAX
                        ),
                        GATHER_SECONDS,
                    )
                if not self._waiting:
                    return
                count = min(len(self._waiting), LINES_PER_BATCH_MAX)
                batch = [self._waiting.popleft() for _ in range(count)]
                self._under_way = count
                self._changed.notify_all()
            self._send(self._offset, batch)
            with self._changed:
                self._offset, self._under_way = self._offset + count, 0
                self._changed.notify_all()
