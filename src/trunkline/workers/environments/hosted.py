"""Runs a container engine's client: its output line by line, until it ends, is told to, or has had its time."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from trunkline.workers.sandbox import OnLine

POLL_SECONDS = 0.05
LINE_BYTES_MAX = 64 * 1024
TAIL_LINES = 5
TAIL_CHARACTERS_MAX = 600
END_SECONDS = 20.0


@dataclass(frozen=True, kw_only=True)
class Told:
    """How a client ended."""

    code: int
    """Its exit status; negative: the signal that killed it."""
    tail: str
    """The last words on stderr, else on stdout, in one line."""
    seconds: float
    stopped: str
    """``interrupted`` or ``timeout`` if it was stopped; else empty."""


def run_client(
    argv: Sequence[str],
    *,
    stdin_file: Path,
    env: Mapping[str, str],
    on_line: OnLine,
    interrupted: threading.Event,
    timeout_seconds: float | None,
    on_wait: Callable[[], None],
    shown: Callable[[str], str],
    stop: Callable[[], None],
) -> Told:
    """Run it to its end; ``stop`` is called once if that is to come early, and must make it come."""
    started = time.monotonic()
    with stdin_file.open("rb") as stdin:
        client = subprocess.Popen(
            list(argv), stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=dict(env),
            start_new_session=True, cwd="/",
        )  # fmt: skip
    output = _Output(client, on_line, shown)
    stopped = ""
    try:
        while stopped == "":
            with contextlib.suppress(subprocess.TimeoutExpired):
                client.wait(POLL_SECONDS)
                break
            if interrupted.is_set():
                stopped = "interrupted"
            elif timeout_seconds is not None and time.monotonic() - started > timeout_seconds:
                stopped = "timeout"
            else:
                on_wait()
    finally:
        if client.poll() is None:
            stop()
            _end(client)
        output.join()
    seconds = time.monotonic() - started
    return Told(code=client.returncode, tail=output.tail(), seconds=seconds, stopped=stopped)


def _end(client: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        client.wait(END_SECONDS)
        return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(client.pid, signal.SIGKILL)
    client.wait()


class _Output:
    """Reads both streams line by line, as they come."""

    def __init__(self, client: subprocess.Popen[bytes], on_line: OnLine, shown: Callable[[str], str]) -> None:
        self._on_line = on_line
        self._shown = shown
        self._tails: dict[str, deque[str]] = {name: deque(maxlen=TAIL_LINES) for name in ("stdout", "stderr")}
        assert client.stdout is not None and client.stderr is not None, "both are pipes"
        self._threads = [
            threading.Thread(target=self._read, args=(pipe, name), name=name, daemon=True)
            for pipe, name in ((client.stdout, "stdout"), (client.stderr, "stderr"))
        ]
        for thread in self._threads:
            thread.start()

    def _read(self, pipe: IO[bytes], stream: str) -> None:
        with pipe:
            while raw := pipe.readline(LINE_BYTES_MAX):
                text = self._shown(raw.decode("utf-8", "replace").rstrip("\r\n"))
                if text.strip():
                    self._tails[stream].append(text)
                self._on_line(text, stream)

    def join(self) -> None:
        for thread in self._threads:
            thread.join()

    def tail(self) -> str:
        lines = self._tails["stderr"] or self._tails["stdout"]
        return " | ".join(line.strip() for line in lines)[-TAIL_CHARACTERS_MAX:]
