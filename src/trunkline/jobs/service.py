"""The use cases of ``jobs``: workers claim, report and keep alive; the background loops keep everything moving.

Level-triggered throughout: each loop looks at what *is*, so a crash between any two statements costs a repetition, never a
loss.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy.engine import Connection

from trunkline.core.clock import Clock
from trunkline.core.status import Status
from trunkline.errors import ConflictError, TrunklineError
from trunkline.jobs.model import (
    ANY_QUEUE,
    CONTROL_QUEUE,
    SLOW_QUEUE,
    Again,
    ControlHandler,
    Report,
    Task,
    WorkerHandler,
)
from trunkline.jobs.outbox import Outbox
from trunkline.jobs.pool import Pool
from trunkline.jobs.queue import Lease, TaskQueue
from trunkline.storage.db.engine import Database

log = logging.getLogger(__name__)

CONTROL_THREADS = 4
SLOW_THREADS = 2
POLL_SECONDS = 0.5
POOL_LOOK_SECONDS = 0.05
"""To start a worker takes longer: nobody notices that several commits are looked at together."""
FAILED_STEP_RETRY_SECONDS = (0.2, 1.0, 5.0, 15.0)


class JobsService:
    """Claims and reports for worker processes; handlers per kind of task; start and stop of the loops."""

    def __init__(self, *, db: Database, clock: Clock, queue: TaskQueue, outbox: Outbox, pool: Pool) -> None:
        self.queue = queue
        self.outbox = outbox
        self.pool = pool
        self._db = db
        self._clock = clock
        self._control: dict[str, ControlHandler] = {}
        self._workers: dict[str, WorkerHandler] = {}
        self._repeatable: set[str] = set()
        """Kinds of tasks whose end a power cut may undo: they are done again, and nobody was told of it."""
        self._steps: set[Lease] = set()
        """The leases of those that are being taken just now; of one task there may be two, one of which is lost."""
        self._renew_at = 0.0
        self._stop = threading.Event()
        self._turns = {queue: threading.Lock() for queue in (CONTROL_QUEUE, SLOW_QUEUE)}
        self._threads: list[threading.Thread] = []

    def on_control(self, kind: str, handler: ControlHandler, *, repeatable: bool = False) -> None:
        """Register the step for a kind of control task. ``repeatable``: a power cut may undo it."""
        self._control[kind] = handler
        if repeatable:
            self._repeatable.add(kind)

    def on_worker(self, kind: str, handler: WorkerHandler, *, repeatable: bool = False) -> None:
        """Register the domain's side of a kind of worker task. ``repeatable``: a power cut may undo its end."""
        self._workers[kind] = handler
        if repeatable:
            self._repeatable.add(kind)

    # --- what worker processes call ---

    def has_work(self, queue: str) -> bool:
        """Whether a claim would find a task."""
        with self._db.read() as connection:
            if queue == ANY_QUEUE:
                return self.pool.queue_for_standby(connection) is not None
            ready_at = self.queue.next_ready_at(connection, queue)
        return ready_at is not None and ready_at <= self._clock.now()

    def claim(self, queue: str, worker: str, limit: int) -> list[tuple[Task, dict[str, Any]]]:
        """Lease up to ``limit`` ready tasks; each comes with all its worker needs. A worker in reserve, which asks for any queue,
        belongs to the queue of the task that it gets."""
        with self._db.write(syncs=False) as connection:
            if queue == ANY_QUEUE:
                found = self.pool.queue_for_standby(connection)
                if found is None:
                    return []
                self.pool.table.assign(connection, worker, found)
                queue = found
            claimed = self.queue.claim(connection, queue, worker, limit)
            for task in claimed:
                self._workers[task.kind].started(connection, task)
        described = []
        self.pool.heard(worker)
        for task in claimed:
            try:
                described.append((task, self._workers[task.kind].describe(task)))
            except TrunklineError as error:
                self.report(
                    Lease(task_id=task.id, token=task.lease_token),
                    Report(status=Status.FAILED, error=str(error)),
                )
        return described

    def report(self, lease: Lease, report: Report) -> None:
        """End a task with what the worker says of it.

        :raises ConflictError: ``lease_lost``, if the lease ran out or was given to another; nothing was applied.
        """
        with self._db.read() as connection:
            kind = self.held(connection, lease).kind
        with self._db.write(syncs=kind not in self._repeatable) as connection:
            self._end(connection, self.held(connection, lease), lease, report)

    def _end(self, connection: Connection, task: Task, lease: Lease, report: Report) -> None:
        retry_after = self._workers[task.kind].reported(connection, task, report)
        if retry_after is None:
            self.queue.finish(connection, lease, report.status)
        else:
            self.queue.release(connection, lease, retry_after)

    def progress(
        self, lease: Lease, results: Sequence[Mapping[str, Any]], current: str | None, *, ends: bool = False
    ) -> bool:
        """What a worker has done of a task so far; also a sign of life. Returns whether it shall go on; if so, and these are the
        last results, the task has ended.

        :raises ConflictError: ``lease_lost``; nothing was applied.
        """
        with self._db.write(wakes=bool(results), syncs=False) as connection:
            task = self.held(connection, lease)
            handler = self._workers[task.kind]
            is_wanted = handler.progress(connection, task, results, current)
            is_wanted = self.queue.is_wanted(connection, lease) and is_wanted
            if is_wanted and ends:
                self._end(connection, task, lease, Report(status=Status.SUCCEEDED))
            return is_wanted

    def held(self, connection: Connection, lease: Lease) -> Task:
        """The task that a lease holds.

        :raises ConflictError: ``lease_lost``.
        """
        task = self.queue.held(connection, lease)
        if task is None:
            raise ConflictError(
                f"the lease on task {lease.task_id} is lost: its work was given to another worker or cancelled",
                kind="lease_lost",
            )
        return task

    # --- the loops ---

    def start(self) -> None:
        """Start the background threads. Call once, after all handlers are registered."""
        self.queue.forgive()
        self.pool.adopt()
        loops: Mapping[str, Callable[[], object]] = {
            "outbox": self._drain,
            "leases": self._reap_in_time,
            "pool": self._fill_pool,
            **{f"control-{n}": lambda: self._take_next(CONTROL_QUEUE) for n in range(CONTROL_THREADS)},
            **{f"slow-{n}": lambda: self._take_next(SLOW_QUEUE) for n in range(SLOW_THREADS)},
        }
        for name, step in loops.items():
            thread = threading.Thread(target=self._loop, args=(step,), name=f"trunkline-{name}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self, timeout_seconds: float = 10.0) -> None:
        """Let each loop finish its step. Worker processes go on; ``pool.stop_all`` ends them."""
        self._stop.set()
        self._db.wake_all()
        self.pool.took_back.set()
        for thread in self._threads:
            thread.join(timeout_seconds)

    def _loop(self, step: Callable[[], object]) -> None:
        while not self._stop.is_set():
            try:
                step()
            except TrunklineError as error:
                log.warning("%s", error)
                self._stop.wait(POLL_SECONDS)
            except Exception:
                log.exception("a background step failed; it will be repeated")
                self._stop.wait(POLL_SECONDS)

    def _drain(self) -> None:
        changes = self.outbox.changes
        seen = changes.count
        self.outbox.drain()
        changes.wait(seen, POLL_SECONDS)

    def _fill_pool(self) -> None:
        changes = self.queue.changes_of(ANY_QUEUE)
        seen = changes.count
        if not self.pool.step():
            changes.wait(seen, POLL_SECONDS)
        self._stop.wait(POOL_LOOK_SECONDS)

    def _reap_in_time(self) -> None:
        self._renew_steps()
        if not self.reap():
            self.pool.took_back.wait(min(POLL_SECONDS, self.queue.lease_seconds / 3))
            self.pool.took_back.clear()

    def _take_next(self, queue: str) -> None:
        """Take the next control task. One thread looks and waits for it; the others work, or wait for their turn to look."""
        changes = self.queue.changes_of(queue)
        with self._turns[queue]:
            tasks: list[Task] = []
            while not (tasks or self._stop.is_set()):
                seen = changes.count
                tasks, wait_seconds = self._claim_step(queue)
                if not tasks:
                    changes.wait(seen, wait_seconds)
        for task in tasks:
            self._take(task)

    def step(self, queue: str = CONTROL_QUEUE) -> bool:
        """Take one control task, if one is ready, or will be in a moment."""
        tasks, wait_seconds = self._claim_step(queue)
        for task in tasks:
            self._take(task)
        if not tasks and wait_seconds < POLL_SECONDS:
            self._stop.wait(wait_seconds)
        return bool(tasks) or wait_seconds < POLL_SECONDS

    def _claim_step(self, queue: str) -> tuple[list[Task], float]:
        """The next control task; or none, and for how long there will be none."""
        with self._db.read() as connection:
            ready_at = self.queue.next_ready_at(connection, queue)
        wait_seconds = POLL_SECONDS if ready_at is None else ready_at - self._clock.now()
        if wait_seconds > 0:
            return [], min(wait_seconds, POLL_SECONDS)
        with self._db.write(wakes=False, syncs=False) as connection:
            return self.queue.claim(connection, queue, "server", 1), 0.0

    def _take(self, task: Task) -> None:
        lease = Lease(task_id=task.id, token=task.lease_token)
        self._steps.add(lease)
        try:
            outcome = self._control[task.kind](task)
        except Exception as error:
            if not isinstance(error, TrunklineError):
                log.exception("step %s %s failed; it will be repeated", task.kind, task.key)
            else:
                log.warning("step %s %s: %s", task.kind, task.key, error)
            delay = FAILED_STEP_RETRY_SECONDS[min(task.attempts, len(FAILED_STEP_RETRY_SECONDS)) - 1]
            outcome = Again(after_seconds=delay)
        finally:
            self._steps.discard(lease)
        with self._db.write(syncs=task.kind not in self._repeatable) as connection:
            if self.queue.held(connection, lease) is None:
                return
            outcome.apply(connection)
            if isinstance(outcome, Again):
                self.queue.release(connection, lease, outcome.after_seconds)
            else:
                self.queue.finish(connection, lease, Status.SUCCEEDED)

    def _renew_steps(self) -> None:
        """Keep the leases of the steps that are being taken."""
        now = time.monotonic()
        if now >= self._renew_at:
            self._renew_at = now + self.queue.lease_seconds / 3
            if leases := list(self._steps):
                self.queue.keep_alive(leases)

    def reap(self) -> bool:
        """Take back the tasks of workers that went silent."""
        with self._db.read() as connection:
            if not self.queue.expired(connection):
                return False
        with self._db.write() as connection:
            for task in self.queue.expired(connection):
                lease = Lease(task_id=task.id, token=task.lease_token)
                handler = self._workers.get(task.kind)
                retry_after = handler.lost(connection, task) if handler else 0.0
                log.warning(
                    "the worker of %s %s went silent (attempt %d)", task.kind, task.key, task.attempts
                )
                if retry_after is None:
                    self.queue.finish(connection, lease, Status.FAILED)
                else:
                    self.queue.release(connection, lease, retry_after)
        return True
