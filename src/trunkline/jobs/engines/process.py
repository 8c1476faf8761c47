"""The process engine: children of this machine, each in a session of its own, so that they outlive the server and can be
ended whole. A process is identified by number *and* start time, so a reused number is never taken for it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from trunkline.errors import UnavailableError
from trunkline.jobs.engines.base import Engine
from trunkline.jobs.model import LaunchSpec

POLL_SECONDS = 0.02


class ProcessEngine(Engine):
    name = "process"

    def __init__(self) -> None:
        self._children: dict[int, subprocess.Popen[bytes]] = {}

    def launch(self, spec: LaunchSpec) -> dict[str, Any]:
        log = Path(spec.log_path)
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("ab") as out:
                child = subprocess.Popen(
                    spec.argv, env=spec.env, cwd=spec.cwd, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
                    start_new_session=True, close_fds=True,
                )  # fmt: skip
        except OSError as error:
            raise UnavailableError(
                f"cannot start {spec.argv[0]}: {error.strerror}", kind="launch_failed"
            ) from error
        self._children[child.pid] = child
        return {"pid": child.pid, "started": started_at(child.pid), "log": spec.log_path}

    def is_alive(self, handle: dict[str, Any]) -> bool:
        pid = int(handle["pid"])
        child = self._children.get(pid)
        if child is not None:
            # Only poll() reaps: a child that became a zombie just now must not be taken for gone and left as one.
            if child.poll() is None:
                return True
            self._children.pop(pid, None)
            return False
        return handle["started"] is not None and started_at(pid) == handle["started"]

    def stop(self, handle: dict[str, Any], *, grace_seconds: float) -> None:
        if not self.is_alive(handle):
            return
        pid = int(handle["pid"])
        _signal_group(pid, signal.SIGTERM)
        deadline = time.monotonic() + grace_seconds
        while self.is_alive(handle) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        _signal_group(pid, signal.SIGKILL)
        while self.is_alive(handle):
            time.sleep(POLL_SECONDS)

    def find(self, process_id: str) -> dict[str, Any] | None:
        """By its environment; only where the system shows that (Linux)."""
        mark = f"TRUNKLINE_PROCESS_ID={process_id}".encode()
        for place in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):  # it has ended, or is somebody else's
                pid = int(place.parent.name)
                if mark in place.read_bytes().split(b"\0") and os.getsid(pid) == pid:
                    return {"pid": pid, "started": started_at(pid), "log": ""}
        return None

    def logs(self, handle: dict[str, Any], *, tail_bytes: int) -> str:
        return tail(Path(handle["log"]), tail_bytes)


def _signal_group(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def tail(path: Path, size: int) -> str:
    """The last ``size`` bytes of a text file; empty if there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - size))
            return file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""


def started_at(pid: int) -> str | None:
    """When a process started, in the system's own words; None if it is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        if Path("/proc/self/stat").exists():
            return None
        return _started_by_ps(pid)
    return None if fields[0] in ("Z", "X") else fields[19]


def _started_by_ps(pid: int) -> str | None:
    """The same on systems without /proc (macOS)."""
    shown = subprocess.run(
        ["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    ).stdout
    state, _, started = shown.strip().partition(" ")
    return started.strip() if state and not state.startswith("Z") else None
