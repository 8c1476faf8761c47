"""Runs one command of a user in its own view of the file system, and ends it with everything it started.

Two modes. ``namespace``: a private mount namespace in which ``/pfs`` is what it should be and the data directory is not
to be seen (``launcher`` builds it). ``paths``, where the system has no such namespaces: ``PFS_ROOT`` says where the
folders are, and ``/pfs/`` is rewritten in the command and its stdin; there the data directory is *not* hidden.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from trunkline.errors import UnavailableError

LAUNCHER = Path(__file__).with_name("launcher.py")
PROBE_SECONDS = 20.0
POLL_SECONDS = 0.1
LINE_BYTES_MAX = 64 * 1024
TAIL_LINES = 5
TAIL_CHARACTERS_MAX = 600
STRAY_ROUNDS_MAX = 100
PR_SET_CHILD_SUBREAPER = 36

_PFS = re.compile(r"(?<![\w./-])/pfs(?=/|$|[\s'\";:,)])")

OnLine = Callable[[str, str], None]
"""``(text, stream)``."""


@dataclass(frozen=True, kw_only=True)
class Box:
    """The folders of one try, and where the command sees them."""

    folder: Path
    """Holds all of the others; private to the try."""
    home: Path
    """The data directory, to be hidden."""
    inputs: tuple[str, ...]
    keep: tuple[Path, ...] = ()
    """Folders inside the data directory that the command needs all the same: its Python, say."""
    secret_files: Mapping[str, str] = field(default_factory=dict, repr=False)
    mode: str = "namespace"
    """``namespace``, ``paths`` or ``container``."""

    @property
    def pfs(self) -> Path:
        return self.folder / "pfs"

    @property
    def out(self) -> Path:
        return self.pfs / "out"

    @property
    def private_home(self) -> Path:
        """What lies over the data directory."""
        return self.folder / "home"

    @property
    def seen_pfs(self) -> str:
        return str(self.pfs) if self.mode == "paths" else "/pfs"

    @property
    def seen_home(self) -> str:
        """What the command is told is the data directory: it holds nothing but the server's address."""
        return str(self.private_home if self.mode == "paths" else self.home)

    def create(self) -> None:
        for name in (*self.inputs, "out"):
            (self.pfs / name).mkdir(parents=True)
        for name in ("home/run", "home/code", "home/tmp", "root", "secrets"):
            (self.folder / name).mkdir(parents=True)

    def note_server(self, url: str) -> None:
        """Tell the command (again) where the server is."""
        target = self.private_home / "run" / "server.json"
        temporary = target.with_suffix(".tmp")
        temporary.write_text(json.dumps({"url": url}))
        temporary.replace(target)

    def write_secrets(self) -> list[tuple[str, Path]]:
        """Put the secrets on disk; returns ``(where it is to be seen, folder)``."""
        folders = []
        for number, (folder, files) in enumerate(sorted(_by_folder(self.secret_files).items())):
            source = self.folder / "secrets" / str(number)
            source.mkdir(exist_ok=True)
            for name, value in files.items():
                (source / name).write_text(value)
            folders.append((folder, source))
        return folders

    def rewritten(self, text: str) -> str:
        """A word of the command as it must be in this mode."""
        return _PFS.sub(lambda _: str(self.pfs), text) if self.mode == "paths" else text


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a command ended."""

    exit_code: int
    """As a shell shows it: 128 + the signal's number if one killed it."""
    reason: str
    """In words, with the last lines it wrote; empty if the exit code is 0."""
    seconds: float
    was_interrupted: bool = False


def choose_mode(setting: str, scratch: Path) -> tuple[str, str]:
    """The mode to use, and why it is not the better one (empty if it is).

    :raises UnavailableError: ``no_sandbox``, if ``namespace`` is demanded and impossible.
    """
    if setting == "paths":
        return "paths", "sandbox is set to 'paths'"
    problem = _probe(scratch)
    if not problem:
        return "namespace", ""
    if setting == "namespace":
        raise UnavailableError(
            f"this system gives no private mount namespace ({problem}): allow unprivileged user namespaces, "
            "or set sandbox = 'paths'",
            kind="no_sandbox",
        )
    return "paths", problem


def _probe(scratch: Path) -> str:
    """Try it once, with nothing in it; returns what went wrong."""
    if sys.platform != "linux":
        return "it is not Linux"
    box = Box(folder=scratch / "probe", home=scratch, inputs=())
    box.create()
    reader, writer = os.pipe()
    try:
        plan = _write_plan(box, argv=["true"], cwd="/", status_fd=writer, is_probe=True)
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(
                _launch_command(plan), pass_fds=(writer,), check=False, timeout=PROBE_SECONDS, stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            os.close(writer)
            writer = -1
            told = os.read(reader, 4096)
            return str(json.loads(told)["message"]) if told else ""
        return "the attempt took too long"
    finally:
        os.close(reader)
        if writer >= 0:
            os.close(writer)


def _launch_command(plan: Path) -> list[str]:
    return [sys.executable, "-I", "-S", str(LAUNCHER), str(plan)]


def _write_plan(box: Box, *, argv: Sequence[str], cwd: str, status_fd: int, is_probe: bool = False) -> Path:
    plan = {
        "mode": box.mode,
        "probe": is_probe,
        "parent": os.getpid(),
        "status_fd": status_fd,
        "root": str((box.folder / "root").resolve()),
        "pfs": [[name, str((box.pfs / name).resolve())] for name in (*box.inputs, "out")],
        "home": str(box.home.resolve()),
        "private_home": str(box.private_home.resolve()),
        "keep": [str(path.resolve()) for path in box.keep],
        "folders": [[folder, str(source)] for folder, source in box.write_secrets()],
        "cwd": cwd,
        "argv": list(argv),
    }
    path = box.folder / "plan.json"
    path.write_text(json.dumps(plan))
    return path


def _by_folder(files: Mapping[str, str]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for path, value in files.items():
        folder, _, name = path.rpartition("/")
        found.setdefault(folder, {})[name] = value
    return found


def become_subreaper() -> None:
    """From now on, descendants that lose their parent become ours, so that none can hide from ``run``'s end."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1), 0, 0, 0)


def run(
    box: Box,
    argv: Sequence[str],
    *,
    stdin_lines: Sequence[str],
    env: Mapping[str, str],
    cwd: str,
    on_line: OnLine,
    interrupted: threading.Event,
    timeout_seconds: float | None,
    on_wait: Callable[[], None] = lambda: None,
    shown: Callable[[str], str] = lambda line: line,
) -> Ended:
    """Run a command to its end, or until ``interrupted`` is set or the time is over; then nothing of it is left.

    Call it from the main thread: the command dies with the thread that started it. ``on_wait`` is called now and then;
    ``shown`` makes of a line what others may see of it.

    :raises UnavailableError: ``no_sandbox``, if its view could not be made.
    """
    started = time.monotonic()
    reader, writer = os.pipe()
    stdin_file = box.folder / "stdin"
    stdin_file.write_text("".join(f"{box.rewritten(line)}\n" for line in stdin_lines))
    words = [box.rewritten(word) for word in argv]
    plan = _write_plan(box, argv=words, cwd=box.rewritten(cwd), status_fd=writer)
    try:
        with stdin_file.open("rb") as stdin:
            child = subprocess.Popen(
                _launch_command(plan), stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=dict(env),
                start_new_session=True, pass_fds=(writer,), cwd="/",
            )  # fmt: skip
    except BaseException:
        os.close(reader)
        raise
    finally:
        os.close(writer)
    output = _Output(child, on_line, shown)
    try:
        stopped = _wait(child, started, interrupted, timeout_seconds, on_wait)
    finally:
        _end_all(child)
        output.join()
        told = os.read(reader, 65536)
        os.close(reader)
    return _ended(child, json.loads(told) if told else None, stopped, output.tail(), started, timeout_seconds)


def _wait(
    child: subprocess.Popen[bytes],
    started: float,
    interrupted: threading.Event,
    timeout_seconds: float | None,
    on_wait: Callable[[], None],
) -> str:
    """Why it was stopped: ``interrupted``, ``timeout``, or empty if it ended by itself."""
    ended = threading.Event()

    def watch() -> None:
        child.wait()
        ended.set()

    threading.Thread(target=watch, name="wait", daemon=True).start()
    while not ended.wait(POLL_SECONDS):
        if interrupted.is_set():
            return "interrupted"
        if timeout_seconds is not None and time.monotonic() - started > timeout_seconds:
            return "timeout"
        on_wait()
    return ""


def _end_all(child: subprocess.Popen[bytes]) -> None:
    """Kill the command's process group, and what has left the group and was inherited by us."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    for _ in range(STRAY_ROUNDS_MAX):
        strays = _children_of_ours()
        if not strays:
            return
        for pid in strays:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def _children_of_ours() -> list[int]:
    own = str(os.getpid())
    found = []
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir("/proc"):  # noqa: PTH208  (Path objects for all of /proc cost ten times as much)
            if name.isdigit():
                with contextlib.suppress(OSError):
                    fields = Path(f"/proc/{name}/stat").read_bytes().rpartition(b")")[2].split()
                    if fields[1].decode() == own:
                        found.append(int(name))
    return found


def _ended(
    child: subprocess.Popen[bytes],
    told: dict[str, Any] | None,
    stopped: str,
    tail: str,
    started: float,
    timeout_seconds: float | None,
) -> Ended:
    seconds = time.monotonic() - started
    if told is not None and told["kind"] == "no_sandbox":
        raise UnavailableError(f"no private /pfs could be made: {told['message']}", kind="no_sandbox")
    if stopped == "interrupted":
        return Ended(exit_code=137, reason="interrupted", seconds=seconds, was_interrupted=True)
    said = f": {tail}" if tail else ""
    if stopped == "timeout":
        return Ended(
            exit_code=137,
            reason=f"ran past its datum_timeout of {timeout_seconds:g} s{said}",
            seconds=seconds,
        )
    code = child.returncode
    if told is not None:
        return Ended(exit_code=code, reason=str(told["message"]), seconds=seconds)
    if code < 0:
        name = signal.Signals(-code).name
        hint = " (out of memory?)" if -code == signal.SIGKILL else ""
        return Ended(exit_code=128 - code, reason=f"killed by {name}{hint}{said}", seconds=seconds)
    reason = f"exit code {code}{said}" if code else ""
    return Ended(exit_code=code, reason=reason, seconds=seconds)


class _Output:
    """Reads both streams of a command line by line, as they come."""

    def __init__(self, child: subprocess.Popen[bytes], on_line: OnLine, shown: Callable[[str], str]) -> None:
        self._on_line = on_line
        self._shown = shown
        self._tails: dict[str, deque[str]] = {name: deque(maxlen=TAIL_LINES) for name in ("stdout", "stderr")}
        assert child.stdout is not None and child.stderr is not None, "both are pipes"
        self._threads = [
            threading.Thread(target=self._read, args=(pipe, name), name=name, daemon=True)
            for pipe, name in ((child.stdout, "stdout"), (child.stderr, "stderr"))
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
        """The last words on stderr, else on stdout, in one line."""
        lines = self._tails["stderr"] or self._tails["stdout"]
        return " | ".join(line.strip() for line in lines)[-TAIL_CHARACTERS_MAX:]
