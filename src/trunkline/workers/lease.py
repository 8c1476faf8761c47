"""The loop that every worker program runs: claim a task, let a handler do it, report how it went.

A worker program is one call::

    def run_thing(context: TaskContext) -> Outcome:
        payload = context.task.payload              # what the domain's ``describe`` gave
        context.log("hello")                        # shipped to the server within 0.3 s
        while not finished:
            context.check()                         # raises Interrupted if the work is no longer wanted
            ...
        return Outcome(result={"output_root": ...})  # or raise a TrunklineError: reported as failed, with its message

    def run_worker(environment: WorkerEnvironment) -> int:   # what ``main`` calls in workers/datum.py and workers/trial.py
        return serve(environment, run_thing)

While the handler runs, a thread renews the lease and another ships its log lines. ``context.interrupted`` (an event)
is set when the lease is lost (the result will be discarded, nothing is reported), when the task is cancelled (reported
as ``cancelled``), or when this process was asked to end (reported as ``queued``: given back, to be taken by another).
A handler that has started processes waits on it beside them, ends them and raises ``Interrupted``.

The control server may be down at any time: calls are repeated for ten minutes (see ``Link``), and work goes on meanwhile.
``context.lease`` is what the body of every other call about the task carries; ``context.link`` makes such calls.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trunkline.core.status import Status
from trunkline.errors import (
    ConflictError,
    NotFoundError,
    PermissionDeniedError,
    TrunklineError,
    UnauthenticatedError,
    UnavailableError,
)
from trunkline.workers.link import Link
from trunkline.workers.logs import LogShipper
from trunkline.workers.scratch import started_at

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 1.0
CLAIM_WAIT_SECONDS_MAX = 2.0
"""Also how long an idle process that is asked to end may take to notice."""
GIVE_BACK_SECONDS = 2.0


@dataclass(frozen=True, kw_only=True)
class WorkerEnvironment:
    """What the server told this process in its environment variables."""

    worker: str
    queue: str
    home: Path
    url: str
    token: str = field(repr=False)
    process_id: str
    sandbox: str = "auto"
    idle_seconds: float = 10.0


@dataclass(frozen=True, kw_only=True)
class LeasedTask:
    """A task as it came from the claim."""

    id: int
    kind: str
    key: str
    token: str = field(repr=False)
    payload: dict[str, Any] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a task went, in the handler's words."""

    status: Status = Status.SUCCEEDED
    result: dict[str, Any] = field(default_factory=dict)
    error: str = ""


class Interrupted(Exception):  # noqa: N818  (it is no error)
    """The work is no longer wanted from this worker; why is in the context."""


class TaskContext:
    """What a handler has: the task, the line to the server, the log, and word of whether to go on."""

    def __init__(self, task: LeasedTask, link: Link, environment: WorkerEnvironment) -> None:
        self.task = task
        self.link = link
        self.environment = environment
        self.interrupted = threading.Event()
        self.interruption: str | None = None
        """``lost``, ``cancelled`` or ``stopping``, once interrupted."""
        self.is_reported = False
        """The server knows already that it is done."""
        self._shipper = LogShipper(self._send_lines)

    @property
    def lease(self) -> dict[str, Any]:
        return {"id": self.task.id, "token": self.task.token}

    def log(
        self, text: str, stream: str = "stdout", datum: str | None = None, attempt: int | None = None
    ) -> None:
        """Add a line to the task's log. Blocks only when far more was logged than the server took."""
        self._shipper.add(text, stream, datum, attempt)

    def check(self) -> None:
        """:raises Interrupted: if the work is no longer wanted."""
        if self.interrupted.is_set():
            raise Interrupted

    def call(self, method: str, path: str, json: Any = None, query: Mapping[str, Any] | None = None) -> Any:
        """A call on the task's behalf that waits for a server that is down.

        :raises Interrupted: if the work stops being wanted while it waits.
        """
        try:
            return self.link.call(method, path, json, query, give_up=self.interrupted.is_set)
        except UnavailableError:
            self.check()
            raise

    def interrupt(self, why: str) -> None:
        """The first reason stays, except that a lost lease outweighs all."""
        if self.interruption is None or why == "lost":
            self.interruption = why
        self.interrupted.set()
        if why == "lost":
            self._shipper.discard()

    def flush_log(self) -> None:
        """Wait until what was logged so far is stored."""
        self._shipper.flush()

    def close_log(self) -> None:
        """Send what is left of the log."""
        self._shipper.close()

    def _send_lines(self, offset: int, lines: list[dict[str, Any]]) -> None:
        body = {"token": self.task.token, "offset": offset, "lines": lines}
        try:
            self.link.call("POST", f"/v1/leases/{self.task.id}/logs", body, give_up=self.interrupted.is_set)
        except (ConflictError, NotFoundError):
            self.interrupt("lost")
        except TrunklineError as error:
            log.warning("%d log lines were dropped: %s", len(lines), error)


Handler = Callable[[TaskContext], Outcome]


def serve(environment: WorkerEnvironment, handler: Handler) -> int:
    """Work until the queue has been empty for a while or the process is asked to end; returns the exit status."""
    link = Link(url=environment.url, token=environment.token, home=environment.home)
    worker = _Worker(environment, link, handler)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, worker.ask_to_end)
    try:
        return worker.run()
    except TrunklineError as error:
        log.error("giving up: %s", error)
        return 1


class _Worker:
    def __init__(self, environment: WorkerEnvironment, link: Link, handler: Handler) -> None:
        self._environment = environment
        self._link = link
        self._handler = handler
        self._stopping = threading.Event()
        self._current: TaskContext | None = None
        self._queue = environment.queue

    def ask_to_end(self, _number: int, _frame: object) -> None:
        # In a thread: the one that the signal interrupts may hold the very locks that this takes.
        threading.Thread(target=self._end, name="end").start()

    def _end(self) -> None:
        self._stopping.set()
        if self._current is not None:
            self._current.interrupt("stopping")

    def run(self) -> int:
        pid = os.getpid()
        announcement = {"pid": pid, "started": started_at(pid)}
        self._link.call(
            "PUT", f"/v1/workers/{self._environment.process_id}", announcement, give_up=self._stopping.is_set
        )
        idle_since = time.monotonic()
        while not self._stopping.is_set():
            idle_left = idle_since + self._environment.idle_seconds - time.monotonic()
            if not self._queue:
                idle_left = CLAIM_WAIT_SECONDS_MAX  # in reserve for whatever comes: it stays
            task = self._claim(max(0.0, min(idle_left, CLAIM_WAIT_SECONDS_MAX)))
            if task is not None:
                self._take(task)
                idle_since = time.monotonic()
            elif idle_left <= 0:
                break
        return 0

    def _claim(self, wait_seconds: float) -> LeasedTask | None:
        body = {
            "queue": self._queue, "worker": self._environment.process_id, "limit": 1,
            "wait_seconds": wait_seconds,
        }  # fmt: skip
        answer = self._link.call("POST", "/v1/leases/claim", body, give_up=self._stopping.is_set)
        for found in answer["tasks"]:
            self._queue = found["queue"]
            return LeasedTask(
                id=found["id"],
                kind=found["kind"],
                key=found["key"],
                token=found["token"],
                payload=found["payload"],
            )
        return None

    def _take(self, task: LeasedTask) -> None:
        context = TaskContext(task, self._link, self._environment)
        self._current = context
        if self._stopping.is_set():
            context.interrupt("stopping")
        beat = _Heartbeat(context)
        try:
            outcome = self._handle(context)
            context.close_log()
            self._report(context, outcome)
        finally:
            self._current = None
            beat.end()

    def _handle(self, context: TaskContext) -> Outcome:
        try:
            return self._handler(context)
        except Interrupted:
            given_back = context.interruption == "stopping"
            return Outcome(status=Status.QUEUED if given_back else Status.CANCELLED)
        except TrunklineError as error:
            return Outcome(status=Status.FAILED, error=str(error))
        except Exception as error:
            log.exception("task %s %s failed inside the worker", context.task.kind, context.task.key)
            return Outcome(
                status=Status.FAILED, error=f"the worker itself failed: {type(error).__name__}: {error}"
            )

    def _report(self, context: TaskContext, outcome: Outcome) -> None:
        if context.interruption == "lost" or context.is_reported:
            return
        ending_at = time.monotonic() + GIVE_BACK_SECONDS
        body = {
            "token": context.task.token, "status": outcome.status.value, "result": outcome.result,
            "error": outcome.error,
        }  # fmt: skip
        path = f"/v1/leases/{context.task.id}/report"
        try:
            self._link.call(
                "POST", path, body, give_up=lambda: self._stopping.is_set() and time.monotonic() > ending_at
            )
        except (ConflictError, NotFoundError) as error:
            log.info("the result of %s is not wanted any more: %s", context.task.key, error)


class _Heartbeat:
    """Renews one lease; passes on what the server says of it."""

    def __init__(self, context: TaskContext) -> None:
        self._context = context
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._thread.start()

    def end(self) -> None:
        self._end.set()

    def _run(self) -> None:
        while not self._end.wait(HEARTBEAT_SECONDS):
            body = {"leases": [self._context.lease]}
            try:
                answer = self._context.link.call(
                    "POST", "/v1/leases/heartbeat", body, give_up=self._end.is_set
                )
            except (UnauthenticatedError, PermissionDeniedError) as error:
                log.error("the control server knows this worker no more: %s", error)
                self._context.interrupt("lost")
                return
            except TrunklineError as error:
                if not self._end.is_set():
                    log.warning("no heartbeat: %s", error)
                continue
            if self._end.is_set():
                return
            if self._context.task.id in answer["lost"]:
                self._context.interrupt("lost")
                return
            if self._context.task.id in answer["cancelled"]:
                self._context.interrupt("cancelled")
