"""A user's commands in their own view of the system, one after the other, each ended with everything it started.

Two modes. ``namespace``: private namespaces in which ``/pfs`` is what it should be, the data directory is not to be seen, and
no process outlives its command (``zygote`` is the first process in there). ``paths``, where the system has none of these:
``PFS_ROOT`` says where the folders are, and ``/pfs/`` is rewritten in the command and its stdin; there the data directory is
*not* hidden. What exactly is isolated where: ``docs/guides/pipelines.md``.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from trunkline.core.sizes import size_text
from trunkline.errors import UnavailableError
from trunkline.workers import zygote
from trunkline.workers.box import Box
from trunkline.workers.limits import Group, Limits, make_group, oom_kills_around, rlimits_of
from trunkline.workers.memory import Memory
from trunkline.workers.output import OnLine, Output

__all__ = ["Box", "Ended", "Sandbox", "become_subreaper", "choose_mode", "run", "start_sandbox"]

ZYGOTE = Path(__file__).with_name("zygote.py")
START_SECONDS = 20.0
END_SECONDS = 5.0
POLL_SECONDS = 0.1
POLL_MILLISECONDS = POLL_SECONDS * 1000
PR_SET_CHILD_SUBREAPER = 36
ANSWER_BYTES = 65536
_LENGTH = struct.Struct("!I")


class Ended(NamedTuple):
    """How a command ended."""

    exit_code: int
    """As a shell shows it: 128 + the signal's number if one killed it."""
    reason: str
    """In words, with the last lines it wrote; empty if the exit code is 0."""
    seconds: float
    was_interrupted: bool = False
    timed_out: bool = False
    kind: str = ""
    """Why it could not be started, if so: another try would end the same way."""
    oom: bool = False
    """Memory ran out, and the system killed it (or a process of it)."""
    cpu_seconds: float = 0.0
    memory_bytes: int = 0
    """The most that one of its processes had; never less than what a process has when it is made."""


class Command(NamedTuple):
    """What to run, and who listens."""

    argv: Sequence[str]
    stdin: Path | None
    """None: nothing is to be read there."""
    env: Mapping[str, str]
    """What this command has in its environment beyond what was configured."""
    cwd: str
    interrupted: threading.Event
    common: Mapping[str, str] = MappingProxyType({})
    """The same for many commands (the very same object): it is passed on once."""
    timeout_seconds: float | None = None
    on_wait: Callable[[], None] = lambda: None
    """Called now and then."""
    is_hopeless: Callable[[], bool] = lambda: False
    """Asked now and then: whether nothing can come of it any more, so that it is ended."""


class Sandbox:
    """One zygote. Used from one thread, the main one: the zygote dies with the thread that started it."""

    def __init__(self, box: Box, *, own_pids: bool = True) -> None:
        """:raises UnavailableError: ``no_sandbox``, saying what the system refuses."""
        self.box = box
        self.own_pids = own_pids and box.mode == "namespace"
        self._limits = Limits()
        self._group: Group | None = None
        self._command: Command | None = None
        self._common: Mapping[str, str] | None = None
        """What the zygote was told that commands have in common."""
        self._began = 0.0
        self.is_lost = False
        """Its process died under the last command."""
        self._oom_kills = oom_kills_around(is_here=box.mode != "container")
        self._oom_kills_before = 0
        """How many there were when the command, or its datum, began."""
        self._poll = select.poll()
        self._watched: dict[int, Callable[[], object]] = {}
        self._line, theirs = socket.socketpair()
        out, err = os.pipe(), os.pipe()
        handles = (theirs.fileno(), out[1], err[1])
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(ZYGOTE), *map(str, handles)], pass_fds=handles, cwd="/",
                start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env={},
            )  # fmt: skip
        finally:
            theirs.close()
            os.close(out[1])
            os.close(err[1])
        self.output = Output({"stdout": out[0], "stderr": err[0]})
        for number in (out[0], err[0]):
            self.watch(number, functools.partial(self.output.read, number))
        self._poll.register(self._line.fileno(), select.POLLIN)
        self._start()

    def _start(self) -> None:
        box = self.box
        self._line.settimeout(START_SECONDS)
        try:
            self._ask(
                {
                    "do": "start", "mode": box.mode, "own_pids": self.own_pids, "root": str(box.folder / "root"),
                    "pfs": str(box.pfs), "out": str(box.out),
                }
            )  # fmt: skip
        except BaseException:
            self.close()
            raise

    def lay_in_memory(self, size: int) -> Memory:
        """Have ``/pfs``, but for the output, in memory from now on; in a namespace, before ``configure``.

        :raises UnavailableError: ``no_sandbox``, saying what the system refuses.
        """
        handle = self._ask({"do": "lay_in_memory", "bytes": size})
        assert handle is not None, "it comes with the answer"
        return Memory(handle)

    def configure(self, box: Box, env: Mapping[str, str], limits: Limits) -> None:
        """What all commands get; once.

        :raises UnavailableError: ``no_sandbox``, saying what the system refuses.
        """
        self.box = box
        self._limits = limits
        if box.mode != "namespace" and not limits.network:
            raise UnavailableError(
                "no network was asked for, and this system cannot take it away: it needs namespaces",
                kind="no_sandbox",
            )
        if limits.memory_bytes is not None or limits.cpus is not None:
            self._group = self._limited(limits)
        self._ask(
            {
                "do": "configure", "keep": [str(path.resolve()) for path in box.keep], "homes": list(box.homes),
                "private_home": str(box.private_home), "secrets": box.secrets(), "env": dict(env),
                "rlimits": rlimits_of(limits, has_group=self._group is not None), "user": box.user,
                "gives_up": box.mode != "container", "no_network": not limits.network, "lock_cgroups": self._group is not None,
            }
        )  # fmt: skip
        self._line.settimeout(None)

    def _limited(self, limits: Limits) -> Group | None:
        group = make_group(f"trunkline-{self._process.pid}")
        if group is None:
            return None
        try:
            group.limit(limits)
            inside = zygote.children_of(self._process.pid) if self.own_pids else [self._process.pid]
            for pid in inside:
                group.take(pid)
            oom_kills = group.oom_kills()
        except OSError:
            group.remove()
            return None
        if self._oom_kills is not None:
            self._oom_kills.close()
        self._oom_kills = oom_kills
        return group

    def watch(self, descriptor: int, ready: Callable[[], object]) -> None:
        """Call ``ready`` when there is something to read, while a command runs."""
        self._watched[descriptor] = ready
        self._poll.register(descriptor, select.POLLIN)

    def unwatch(self, descriptor: int) -> None:
        """No longer."""
        if self._watched.pop(descriptor, None) is not None:
            self._poll.unregister(descriptor)

    def run(self, command: Command) -> Ended:
        """Run a command to its end, or until it is interrupted or its time is over; then nothing of it is left.

        :raises UnavailableError: ``no_sandbox``, if its view could not be made.
        """
        self.begin(command)
        ended = self.wait(command.timeout_seconds)
        assert ended is not None, "it waits for the end"
        return ended

    def begin(self, command: Command) -> None:
        """Start a command; ``wait`` sees to it."""
        self._command, self._began = command, time.monotonic()
        self.output.begin()
        self.look_at_memory()
        argv, cwd = command.argv, command.cwd
        if self.box.mode == "paths":
            argv, cwd = [self.box.rewritten(word) for word in argv], self.box.rewritten(cwd)
        message: dict[str, Any] = {"do": "run", "argv": argv, "env": dict(command.env), "cwd": cwd}
        if command.common is not self._common:
            message["common"] = dict(command.common)
            self._common = command.common
        stdin = None if command.stdin is None else os.open(command.stdin, os.O_RDONLY)
        if stdin is not None:
            message["has_file"] = True
        try:
            self._send(message, stdin)
        except OSError:
            pass  # it is gone, and wait() finds out
        finally:
            if stdin is not None:
                os.close(stdin)

    def wait(
        self, timeout_seconds: float | None = None, until: Callable[[], bool] = lambda: False
    ) -> Ended | None:
        """Until the command has ended; or, with None as the answer, until ``until`` says so, which is asked whenever something
        happened. A command that takes longer than ``timeout_seconds`` from now is ended."""
        command = self._command
        assert command is not None, "one was begun"
        started = time.monotonic()
        line, stopped, look_at = self._line.fileno(), "", started + POLL_SECONDS
        while stopped or not until():
            for number, _ in self._poll.poll(POLL_MILLISECONDS):
                if number == line:
                    answer = self._answer()
                    self.is_lost = answer is None
                    self.output.finish()
                    self._command = None
                    return self._ended(answer, stopped, time.monotonic() - self._began, timeout_seconds)
                if (ready := self._watched.get(number)) is not None:
                    ready()
            now = time.monotonic()
            if timeout_seconds is not None and now - started > timeout_seconds and not stopped:
                stopped = "timeout"
                self.kill()
            if now >= look_at:
                look_at = now + POLL_SECONDS
                if command.interrupted.is_set() and not stopped:
                    stopped = "interrupted"
                    self.kill()
                if not stopped and command.is_hopeless():
                    stopped = "hopeless"
                    self.kill()
                command.on_wait()
        return None

    def look_at_memory(self) -> None:
        """What has been killed for memory until now is not the fault of what begins now."""
        if self._oom_kills is not None:
            self._oom_kills_before = self._oom_kills.count()

    def follow(self, command: Command) -> None:
        """The command that runs now works for somebody else: who may interrupt it, and who is called meanwhile."""
        self._command = command

    @property
    def is_busy(self) -> bool:
        """Whether a command was begun, and has not been seen to its end."""
        return self._command is not None

    def kill(self) -> None:
        """End the command that runs; ``wait`` says when it has."""
        with contextlib.suppress(OSError):
            self._send({"do": "kill"})

    def _ended(
        self, answer: dict[str, Any] | None, stopped: str, seconds: float, timeout_seconds: float | None
    ) -> Ended:
        if answer is not None and answer.get("kind") == "no_sandbox":
            raise UnavailableError(f"no private /pfs could be made: {answer['message']}", kind="no_sandbox")
        found = answer or {"code": -signal.SIGKILL}
        code = found["code"]
        used: dict[str, Any] = {
            "seconds": found.get("seconds", seconds), "exit_code": code if code >= 0 else 128 - code,
            "cpu_seconds": found.get("cpu_seconds", 0.0), "memory_bytes": found.get("memory_bytes", 0),
        }  # fmt: skip
        if stopped == "interrupted":
            return Ended(reason="interrupted", was_interrupted=True, **used | {"exit_code": 137})
        tail = self.output.tail()
        said = f": {tail}" if tail else ""
        if stopped == "timeout":
            reason = f"ran past its datum_timeout of {timeout_seconds:g} s{said}"
            return Ended(reason=reason, timed_out=True, **used | {"exit_code": 137})
        if "kind" in found:
            return Ended(reason=str(found["message"]), kind=found["kind"], **used)
        if code == 0:
            return Ended(reason="", **used)
        oom = not stopped and self._ran_out_of_memory(code)
        return Ended(reason=self._reason(code, oom) + said, oom=oom, **used)

    def _ran_out_of_memory(self, code: int) -> bool:
        if self._oom_kills is None:
            return False
        if self._oom_kills.is_shared and code not in (-signal.SIGKILL, 128 + signal.SIGKILL):
            return False  # then it was somebody else who was killed, as far as anybody knows
        return self._oom_kills.count() > self._oom_kills_before

    def _reason(self, code: int, oom: bool) -> str:
        limits = self._limits
        memory_limit = None if limits.memory_bytes is None else size_text(limits.memory_bytes)
        if oom:
            of = f", its limit is {memory_limit}" if memory_limit else ""
            return f"out of memory: killed by the system{of}"
        if code in (-signal.SIGXFSZ, 128 + signal.SIGXFSZ) and limits.disk_bytes is not None:
            return f"killed: a file became larger than its disk limit of {size_text(limits.disk_bytes)}"
        hint = ""
        if memory_limit and self._group is None:
            hint = f" (its memory limit is {memory_limit}: out of memory?)"
        if code < 0:
            return f"killed by {signal.Signals(-code).name}{hint}"
        return f"exit code {code}{hint}"

    @property
    def is_alive(self) -> bool:
        """Whether it can run commands."""
        return self._process.poll() is None

    def close(self) -> None:
        """End it, with all that runs in it."""
        with contextlib.suppress(OSError):
            self._line.shutdown(socket.SHUT_RDWR)
        self._line.close()
        try:  # it hears that we are gone, ends what runs, and then itself
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if not self.own_pids:
            _end_children_of_ours()
        self.output.close()
        if self._oom_kills is not None:
            self._oom_kills.close()
            self._oom_kills = None
        if self._group is not None:
            self._group.remove()

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- messages ---

    def _send(self, message: dict[str, Any], file: int | None = None) -> None:
        data = json.dumps(message).encode()
        data = _LENGTH.pack(len(data)) + data
        if file is None:
            self._line.sendall(data)
        else:
            sent = socket.send_fds(self._line, [data], [file])
            if sent < len(data):
                self._line.sendall(data[sent:])

    def _answer(self, files: list[int] | None = None) -> dict[str, Any] | None:
        """What it says to the last question, and no more than that is on its way; None if it is gone. ``files`` gets the one
        that comes with the answer, if one does."""
        data, end = b"", _LENGTH.size
        while len(data) < end:
            try:
                if files is None:
                    part = self._line.recv(ANSWER_BYTES)
                else:
                    part, found, _, _ = socket.recv_fds(self._line, ANSWER_BYTES, 1)
                    files += found
            except OSError:
                return None
            if not part:
                return None
            data += part
            if len(data) >= _LENGTH.size:
                end = _LENGTH.size + _LENGTH.unpack_from(data)[0]
        text = data[_LENGTH.size :].decode()  # bytes would first be looked at for their encoding
        answer: dict[str, Any] = json.loads(text)
        return answer

    def _ask(self, message: dict[str, Any]) -> int | None:
        """Returns the file that comes with the answer, if one does."""
        try:
            self._send(message)
        except OSError as error:
            raise UnavailableError("the sandbox's process died", kind="no_sandbox") from error
        files: list[int] = []
        answer = self._answer(files)
        if answer is None:
            raise UnavailableError("no private /pfs could be made: its process died", kind="no_sandbox")
        if "kind" in answer:
            raise UnavailableError(f"no private /pfs could be made: {answer['message']}", kind=answer["kind"])
        return files[0] if files else None


def become_subreaper() -> None:
    """From now on, descendants that lose their parent become ours, so that none can hide from a sandbox's end."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1), 0, 0, 0)


def _end_children_of_ours() -> None:
    """What a zygote without a namespace left behind when it was killed itself."""
    for _ in range(zygote.STRAY_ROUNDS_MAX):
        strays = zygote.children_of(os.getpid())
        if not strays:
            return
        for pid in strays:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def start_sandbox(setting: str, box: Box) -> tuple[Sandbox, str]:
    """The best that the setting and the system allow, and why it is not a better one (empty if there is none).

    :raises UnavailableError: ``no_sandbox``, if ``namespace`` is demanded and impossible.
    """
    if setting == "paths":
        return Sandbox(box.in_mode("paths")), "sandbox is set to 'paths'"
    problem = "it is not Linux"
    if sys.platform == "linux":
        for own_pids in (True, False):  # a container may refuse a /proc of one's own, and allow the rest
            try:
                return Sandbox(box.in_mode("namespace"), own_pids=own_pids), ""
            except UnavailableError as error:
                problem = error.message
    if setting == "namespace":
        raise UnavailableError(
            f"this system gives no private mount namespace ({problem}): allow unprivileged user namespaces, "
            "or set sandbox = 'paths'",
            kind="no_sandbox",
        )
    return Sandbox(box.in_mode("paths")), problem


def choose_mode(setting: str, scratch: Path) -> tuple[str, str]:
    """The mode to use, and why it is not the better one (empty if it is), found by trying it once.

    :raises UnavailableError: ``no_sandbox``, if ``namespace`` is demanded and impossible.
    """
    box = Box(folder=scratch / "probe", home=scratch, inputs=())
    box.create()
    sandbox, why_not = start_sandbox(setting, box)
    with sandbox:
        return sandbox.box.mode, why_not


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
    limits: Limits | None = None,
) -> Ended:
    """One command in a sandbox of its own. ``shown`` makes of a line what others may see of it.

    :raises UnavailableError: ``no_sandbox``, if its view could not be made.
    """
    stdin = box.write_stdin(stdin_lines)
    try:
        sandbox = Sandbox(box)
    except UnavailableError:
        if box.mode != "namespace":
            raise
        sandbox = Sandbox(box, own_pids=False)
    with sandbox:
        sandbox.configure(box, env, limits or Limits())
        sandbox.output.listen(on_line, shown)
        return sandbox.run(
            Command(
                argv=argv, stdin=stdin, env={}, cwd=cwd, interrupted=interrupted, timeout_seconds=timeout_seconds,
                on_wait=on_wait,
            )
        )  # fmt: skip
