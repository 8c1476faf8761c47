"""The worker's end of the training context: a Unix socket that answers the trial's code, and passes on what it says.

Metrics are queued and sent in order by one thread, so that reporting costs the training loop nothing; a checkpoint is
answered only when it, and every metric before it, is stored. User code names checkpoints by UUID, never by path, and its
folder is moved out of its reach before it is read.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import tempfile
import threading
import uuid
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from trunkline.errors import ConflictError, InvalidInputError, TrunklineError, UnavailableError
from trunkline.workers.lease import Interrupted, TaskContext
from trunkline.workers.sandbox import Box

SOCKET_PATH_BYTES_MAX = 100
REQUEST_BYTES_MAX = 16 * 2**20
WAITING_METRICS_MAX = 10_000
PROGRESS_SECONDS = 0.5
CONNECTIONS_MAX = 64


class TrialTalk:
    """Listens from ``start`` to ``close``."""

    def __init__(self, context: TaskContext, box: Box, hello: dict[str, Any], *, inbox: Path) -> None:
        """``inbox`` is where the trial fills checkpoint folders."""
        self._context = context
        self._trial = hello["trial_id"]
        self._hello = hello
        self._inbox = inbox
        self._outbox = box.folder / "outbox"
        self._sender = _Sender(context, hello["trial_id"])
        self._path, self.seen_path, self._temporary = _socket_place(box)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.acknowledged = threading.Event()
        """Set when the trial's code has been told to stop, and has heard it."""

    @property
    def failure(self) -> TrunklineError | None:
        """Why what the trial reports cannot be stored any more, if so."""
        return self._sender.failure

    def start(self) -> None:
        self._listener.bind(str(self._path))
        self._listener.listen(CONNECTIONS_MAX)
        threading.Thread(target=self._accept, name="trial-socket", daemon=True).start()

    def close(self) -> None:
        """Stop listening and send what is left."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # close() alone would leave the thread in accept()
        self._listener.close()
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)
        self._sender.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), name="trial-talk", daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as requests:
            while line := requests.readline(REQUEST_BYTES_MAX):
                try:
                    answer = self._answer(json.loads(line))
                except TrunklineError as error:
                    answer = _told(error)
                except Interrupted:
                    answer = _told(_interrupted())
                except (ValueError, KeyError, TypeError) as error:
                    answer = _told(InvalidInputError(f"not a request of the training context: {error}"))
                except OSError as error:
                    answer = _told(UnavailableError(f"the checkpoint could not be read: {error.strerror}"))
                try:
                    connection.sendall(json.dumps(answer).encode() + b"\n")
                except OSError:
                    return

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        match request["do"]:
            case "hello":
                return self._hello
            case "report":
                values = {"group": request["group"], "steps": request["steps"], "values": request["metrics"]}
                self._sender.metrics(values)
            case "progress":
                self._sender.progress(float(request["fraction"]))
            case "stopping":
                self.acknowledged.set()
            case "checkpoint":
                self._checkpoint(
                    str(uuid.UUID(request["uuid"])), int(request["steps"]), dict(request["metadata"])
                )
            case other:
                raise ValueError(f"unknown request {other!r}")
        return {}

    def _checkpoint(self, name: str, steps: int, metadata: dict[str, Any]) -> None:
        self._outbox.mkdir(exist_ok=True)
        folder = self._outbox / name
        (self._inbox / name).rename(folder)
        try:
            files = list(_plain_files(folder))
            self._sender.flush()
            tree = self._context.link.retrying(
                lambda client: client.upload_files("/v1/filesets", files),
                give_up=self._context.interrupted.is_set,
            )
            body = {
                "lease": self._context.lease, "uuid": name, "steps": steps, "root": tree["root"], "metadata": metadata,
            }  # fmt: skip
            self._context.call("POST", f"/v1/trials/{self._trial}/checkpoints", body)
        except ConflictError as error:
            if error.kind == "lease_lost":
                self._context.interrupt("lost")
            raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)


class _Sender:
    """Sends metrics in order, and the latest progress now and then."""

    def __init__(self, context: TaskContext, trial_id: int) -> None:
        self._context = context
        self._path = f"/v1/trials/{trial_id}"
        self._waiting: deque[dict[str, Any]] = deque()
        self._progress: float | None = None
        self._changed = threading.Condition()
        self._closing = False
        self.failure: TrunklineError | None = None
        self._thread = threading.Thread(target=self._run, name="trial-metrics", daemon=True)
        self._thread.start()

    def metrics(self, values: dict[str, Any]) -> None:
        with self._changed:
            self._changed.wait_for(lambda: len(self._waiting) < WAITING_METRICS_MAX or self._is_over)
            self._waiting.append(values)
            self._changed.notify_all()

    def progress(self, fraction: float) -> None:
        with self._changed:
            self._progress = fraction

    def flush(self) -> None:
        """Return once every metric so far is stored (or refused, which is in the log).

        :raises UnavailableError: if they cannot be stored any more.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting or self._is_over)
        if self.failure is not None:
            raise self.failure
        if self._waiting:
            raise _interrupted()

    def close(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()

    @property
    def _is_over(self) -> bool:
        # While this worker is asked to end, the trial still has some seconds to save what it has.
        return self.failure is not None or self._context.interruption in ("lost", "cancelled")

    def _run(self) -> None:
        while not self._is_over:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._waiting or self._closing or self._is_over, PROGRESS_SECONDS
                )
                first = self._waiting[0] if self._waiting else None
                fraction, self._progress = (None, self._progress) if first else (self._progress, None)
            if first is not None:
                self._send("metrics", first)
                with self._changed:
                    self._waiting.popleft()
                    self._changed.notify_all()
            elif fraction is not None:
                self._send("progress", {"progress": fraction})
            elif self._closing:
                return
        with self._changed:
            self._changed.notify_all()

    def _send(self, what: str, body: dict[str, Any]) -> None:
        try:
            self._context.call("POST", f"{self._path}/{what}", {"lease": self._context.lease, **body})
        except ConflictError:
            self._context.interrupt("lost")
        except UnavailableError as error:
            self.failure = error
        except TrunklineError as error:
            self._context.log(f"{what} were refused: {error}", "trunkline")
        except Interrupted:
            self.failure = _interrupted()


def _socket_place(box: Box) -> tuple[Path, str, Path | None]:
    """Where the socket is, where the trial sees it, and what to remove in the end. It is in the trial's own folder, unless
    that is too deep for a socket's path."""
    inside = box.private_home / "socket"
    if len(os.fsencode(inside)) <= SOCKET_PATH_BYTES_MAX:
        return inside, f"{box.seen_home}/socket", None
    folder = Path(tempfile.mkdtemp(prefix="trunkline-trial-"))
    return folder / "socket", str(folder / "socket"), folder


def _interrupted() -> UnavailableError:
    return UnavailableError("the trial was interrupted", kind="interrupted")


def _plain_files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Every file of a checkpoint, sorted. Links are refused, not followed: they could lead to what the trial may not read."""
    for where, folders, names in os.walk(folder, followlinks=False):
        folders.sort()
        for name in sorted(folders + names):
            path = Path(where, name)
            mode = path.lstat().st_mode
            if stat.S_ISREG(mode):
                yield path.relative_to(folder).as_posix(), path
            elif not stat.S_ISDIR(mode):
                raise InvalidInputError(
                    f"checkpoint file {path.relative_to(folder)} is a link or a device: save plain files",
                    kind="bad_file",
                )


def _told(error: TrunklineError) -> dict[str, Any]:
    return {"error": {"class": type(error).__name__, "kind": error.kind, "message": error.message}}
