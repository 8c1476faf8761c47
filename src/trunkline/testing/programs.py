"""Other people's servers, run for tests: found on this machine, in a folder of their own, on free ports, and ended surely:
also where the test run itself is killed."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from trunkline.errors import InternalError

STOP_SECONDS = 20.0
POLL_SECONDS = 0.05
NOBODY = 65534
_PR_SET_PDEATHSIG = 1


def find_program(name: str, *folders: Path) -> str | None:
    """The path of a program: in PATH, beside this Python, or in one of the folders."""
    places = [os.environ.get("PATH", ""), str(Path(sys.executable).parent), *map(str, folders)]
    return shutil.which(name, path=os.pathsep.join(places))


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, all different."""
    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in listeners:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in listeners]


@contextlib.contextmanager
def own_folder(prefix: str) -> Iterator[Path]:
    """A folder that the server may write to, whoever it runs as; gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix=f"trunkline-{prefix}-"))
    try:
        if os.geteuid() == 0:
            os.chown(folder, NOBODY, NOBODY)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def as_nobody() -> dict[str, int | list[int]]:
    """Arguments for ``Popen``: not as root, which some servers refuse to be."""
    return {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}


@contextlib.contextmanager
def running_program(
    argv: Sequence[str],
    folder: Path,
    *,
    is_ready: Callable[[], bool],
    start_seconds: float,
    stop_signal: signal.Signals = signal.SIGTERM,
) -> Iterator[subprocess.Popen[bytes]]:
    """A server for the length of a block; its output is in ``folder/log``.

    :raises InternalError: if it ends, or does not get ready in time, with the end of what it said.
    """
    log = folder / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            argv, cwd=folder, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
            env={"PATH": os.environ.get("PATH", ""), "HOME": str(folder), "TMPDIR": str(folder)},
            preexec_fn=_die_with_parent, **as_nobody(),
        )  # type: ignore[call-overload]  # fmt: skip
    try:
        deadline = time.monotonic() + start_seconds
        while not is_ready():
            if process.poll() is not None or time.monotonic() > deadline:
                raise InternalError(f"{argv[0]} did not start: {log.read_text(errors='replace')[-2000:]}")
            time.sleep(POLL_SECONDS)
        yield process
    finally:
        end(process, stop_signal)


def end(process: subprocess.Popen[bytes], stop_signal: signal.Signals) -> None:
    """End a process and wait until it is gone; one that does not leave when it is told is killed."""
    for number in (stop_signal, signal.SIGKILL):
        if process.poll() is None:
            process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
            return


def _die_with_parent() -> None:
    _at_end_of_parent(signal.SIGKILL)


def stop_with_parent() -> None:
    """For ``preexec_fn``: the process is told to stop when the test run is gone, however that came to be."""
    _at_end_of_parent(signal.SIGTERM)


def _at_end_of_parent(number: signal.Signals) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
