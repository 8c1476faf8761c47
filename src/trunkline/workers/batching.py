"""``datum_batching``: the user's process stays, and asks for one datum after the other over a Unix socket.

JSON lines. The process says ``{"do": "next"}``, with how the datum before went (``"status": "succeeded"`` or ``"failed"``,
``"reason"``; it may add ``"cpu_seconds"`` and ``"memory_bytes"``), and is answered ``{"datum": {"id", "env", "inputs"}}``
when the next one lies in ``/pfs`` (with ``"job"`` beside it: the variables of all datums of a job, when it is the first of
one), or ``{"end": true}``. A process that ends in the midst of a datum has failed at it; another
is started for the rest.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Mapping
from json.encoder import encode_basestring_ascii as _string
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trunkline.workers.inputs import Datum, Part
from trunkline.workers.lease import Interrupted
from trunkline.workers.place import Place
from trunkline.workers.sandbox import Command, Ended

if TYPE_CHECKING:
    from trunkline.workers.datum import SetRun

SOCKET_NAME = ".datums.sock"
SOCKET_VARIABLE = "TRUNKLINE_DATUM_SOCKET"
REQUEST_BYTES_MAX = 2**20
END_SECONDS = 2.0


class Batching:
    """One long-lived user process, in the sandbox of a place. It outlives a set, not the sandbox."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._line: socket.socket | None = None
        self._buffer = b""
        self._asked: dict[str, Any] | None = None
        """What the process said when it last asked for a datum, while it waits for one."""
        self._work: SetRun | None = None
        self._had_some = False
        """Whether this process has been given a datum."""
        self._told: Mapping[str, str] | None = None
        """The variables of a job that it was told of."""
        self._attach()

    def _attach(self) -> None:
        self._sandbox = self._place.sandbox
        self._temporary: Path | None = None
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._seen_path = self._listen()
        self._listener.setblocking(False)
        self._sandbox.watch(self._listener.fileno(), self._accept)

    def _listen(self) -> str:
        box = self._place.box
        if box.mode != "paths":
            folder = os.open(box.pfs, os.O_RDONLY | os.O_DIRECTORY)
            try:  # the path itself may be longer than a socket's may be
                self._listener.bind(f"/proc/self/fd/{folder}/{SOCKET_NAME}")
            finally:
                os.close(folder)
            (box.pfs / SOCKET_NAME).chmod(0o666)  # nobody but the sandbox gets there
            seen = f"/pfs/{SOCKET_NAME}"
        else:
            self._temporary = Path(tempfile.mkdtemp(prefix="trunkline-"))
            seen = str(self._temporary / "socket")
            self._listener.bind(seen)
        self._listener.listen(1)
        return seen

    def run(self, work: SetRun, part: Part) -> list[Datum]:
        """A part of a set, each datum once; returns those to be tried again."""
        return [datum for datum in part.datums if not self._one(work, part, datum)]

    def _one(self, work: SetRun, part: Part, datum: Datum) -> bool:
        while True:
            known = work.begin(part, datum)
            if known is not None:
                return known
            done = work.guarded(datum, functools.partial(self._try, work, part, datum))
            if done or not work.careful:
                return done
            part = work.fetched_again(datum)

    def _try(self, work: SetRun, part: Part, datum: Datum) -> bool:
        ended = self._ready_for(work)
        env, seen = work.lay(datum, whole=True)
        started, what = time.monotonic(), "ended without asking for a datum, as one with datum_batching must"
        if ended is None:
            what = "ended before it asked for the next datum"
            self._asked, self._had_some = None, True
            self._sandbox.look_at_memory()
            self._give(work, datum["id"], env, seen)
            ended = self._until_asked(work.timeout_seconds)
        self._sandbox.output.finish()
        if ended is None:
            return work.end(part, datum, self._said(time.monotonic() - started), env)
        self._hang_up()
        work.revive()
        if ended.was_interrupted:
            raise Interrupted
        if ended.exit_code == 0:
            ended = Ended(exit_code=1, reason=f"the command {what}", seconds=ended.seconds)
        return work.end(part, datum, ended, env)

    def _ready_for(self, work: SetRun) -> Ended | None:
        """Have a process that asks for a datum; how it ended instead, if it did."""
        if self._sandbox is not self._place.sandbox:
            self._detach()
            self._attach()
        self._sandbox.output.begin()
        if not self._sandbox.is_busy:
            self._start(work)
        elif self._work is not work:
            self._sandbox.follow(self._command(work))
        self._work = work
        if self._asked is not None:  # as nearly always
            return None
        ended = self._until_asked(None)
        if ended is not None and self._had_some:  # it left between two datums; another may stay
            self._start(work)
            ended = self._until_asked(None)
        return ended

    def _give(self, work: SetRun, datum_id: str, env: Mapping[str, str], seen: Mapping[str, str]) -> None:
        given = f'{{"id": {_string(datum_id)}, "env": {_object(env)}, "inputs": {_object(seen)}}}'
        job = ""
        if work.job_env() is not self._told:
            self._told = work.job_env()
            job = f', "job": {_object(self._told)}'
        self._send(f'{{"datum": {given}{job}}}')

    def _until_asked(self, timeout_seconds: float | None) -> Ended | None:
        return self._sandbox.wait(timeout_seconds, self._has_asked)

    def _has_asked(self) -> bool:
        return self._asked is not None

    def _command(self, work: SetRun) -> Command:
        return work.command(work.payload["transform"]["cmd"], "stdin", {SOCKET_VARIABLE: self._seen_path})

    def _start(self, work: SetRun) -> None:
        self._hang_up()
        self._had_some = False
        self._told = None
        self._sandbox.begin(self._command(work))

    def _said(self, seconds: float) -> Ended:
        """How the datum went, in the words of the process."""
        said = self._asked or {}
        failed = said.get("status", "succeeded") != "succeeded"
        reason = str(said.get("reason") or "the command says so, without a reason") if failed else ""
        return Ended(
            exit_code=1 if failed else 0, reason=reason, seconds=seconds,
            cpu_seconds=float(said.get("cpu_seconds") or 0.0), memory_bytes=int(said.get("memory_bytes") or 0),
        )  # fmt: skip

    def stop(self) -> None:
        """End the process: the sandbox is needed for another command."""
        if self._sandbox.is_busy:
            if self._asked is not None:
                self._asked = None
                self._send('{"end": true}')
                self._sandbox.wait(END_SECONDS)
            else:
                self._sandbox.kill()
                self._sandbox.wait(END_SECONDS)
        self._hang_up()

    def close(self) -> None:
        """The same, and listen no more."""
        if self._sandbox.is_alive:
            self.stop()
        self._detach()

    def _detach(self) -> None:
        self._hang_up()
        self._sandbox.unwatch(self._listener.fileno())
        self._listener.close()
        with contextlib.suppress(OSError):
            (self._place.box.pfs / SOCKET_NAME).unlink(missing_ok=True)
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)

    # --- the socket ---

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._line, _ = self._listener.accept()
            self._line.setblocking(True)
            self._sandbox.watch(self._line.fileno(), self._receive)
            self._sandbox.unwatch(self._listener.fileno())  # one at a time; the others wait

    def _receive(self) -> None:
        assert self._line is not None, "it is watched"
        try:
            data = self._line.recv(65536)
        except OSError:
            data = b""
        if not data or len(self._buffer) > REQUEST_BYTES_MAX:
            self._hang_up()
            return
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            try:
                said = json.loads(line.decode())  # bytes would first be looked at for their encoding
                if said["do"] != "next":
                    raise ValueError("it is not 'next'")
                self._asked = said
            except (ValueError, KeyError, TypeError) as error:
                self._send(json.dumps({"error": f"not a request for a datum: {error}"}))

    def _send(self, message: str) -> None:
        if self._line is not None:
            try:  # noqa: SIM105 (done for each datum)
                self._line.sendall(f"{message}\n".encode())
            except OSError:
                pass  # its end is seen soon

    def _hang_up(self) -> None:
        self._asked, self._buffer = None, b""
        if self._line is not None:
            self._sandbox.unwatch(self._line.fileno())
            self._line.close()
            self._line = None
            self._sandbox.watch(self._listener.fileno(), self._accept)


def _object(texts: Mapping[str, str]) -> str:
    """As ``json.dumps`` writes it; that takes longer to get going."""
    return "{" + ", ".join([f"{_string(name)}: {_string(text)}" for name, text in texts.items()]) + "}"
