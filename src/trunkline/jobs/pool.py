"""Worker processes: as many as the queues ask for, within their bounds; known by rows, so that a restarted server adopts
them."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from trunkline.core.clock import Clock
from trunkline.errors import UnavailableError
from trunkline.jobs.engines.base import Engine
from trunkline.jobs.model import ANY_QUEUE, LaunchSpec, Process
from trunkline.jobs.queue import TaskQueue
from trunkline.storage.db.engine import Database
from trunkline.storage.db.prepared import Prepared
from trunkline.storage.db.schema import processes

log = logging.getLogger(__name__)

STOP_GRACE_SECONDS = 5.0
ADOPTION_SECONDS = 10.0
"""A row without a handle after this long belongs to a launch that a crash cut short."""

STANDBY_WORKER = "datum"
"""The kind of workers that are kept in reserve."""
STANDBY_LOOK_SECONDS = 1.0
"""So often the reserve is filled: not at the very moment when one has been taken, and has work to do."""
STANDBY_TAKES_SECONDS = 1.0
LAUNCH_AGAIN_SECONDS = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""How long a queue waits for other workers, after so many times that some ended before they said a word."""
FORGOTTEN_SECONDS = 300.0

WorkerCommand = Callable[[str, str, str], LaunchSpec]
"""``(process id, worker kind, queue) -> what to launch``; given by the composition root, which knows urls and tokens."""


class ProcessTable:
    """All SQL on ``processes``, and the engines behind them. Replicas and the gateway live here too."""

    def __init__(self, db: Database, clock: Clock, engines: Mapping[str, Engine]) -> None:
        self._db = db
        self._clock = clock
        self._engines = engines

    def launch(
        self, *, kind: str, subject: str, engine: str, spec: LaunchSpec, info: dict[str, Any] | None = None
    ) -> Process:
        """Row first, process second: whatever crashes, no process runs that no row knows of for long."""
        now = self._clock.now()
        with self._db.write() as connection:
            connection.execute(
                sa.insert(processes).values(
                    id=spec.id, kind=kind, subject=subject, engine=engine, handle=None, status="starting",
                    log=spec.log_path, info=info or {}, created_at=now,
                )
            )  # fmt: skip
        try:
            handle = self._engines[engine].launch(spec)
        except BaseException:
            self.exited(spec.id)
            raise
        self.adopt(spec.id, handle)
        return Process(
            id=spec.id, kind=kind, subject=subject, engine=engine, handle=handle, status="running", log=spec.log_path,
            info=info or {}, created_at=now,
        )  # fmt: skip

    def adopt(self, process_id: str, handle: dict[str, Any]) -> None:
        """Record (again) which process a row stands for: a child that a crashed server launched says so itself."""
        with self._db.write() as connection:
            connection.execute(
                sa.update(processes)
                .where(processes.c.id == process_id)
                .values(handle=handle, status="running")
            )

    def count_workers(self, connection: Connection, queue: str) -> int:
        """How many workers serve a queue."""
        return int(_COUNT_WORKERS.scalar(connection, queue=queue))

    def assign(self, connection: Connection, process_id: str, subject: str) -> None:
        """A process that was there for whatever comes is there for this from now on."""
        connection.execute(sa.update(processes).where(processes.c.id == process_id).values(subject=subject))

    def exited(self, process_id: str) -> None:
        with self._db.write() as connection:
            connection.execute(
                sa.update(processes)
                .where(processes.c.id == process_id)
                .values(status="exited", exited_at=self._clock.now())
            )

    def get(self, process_id: str) -> Process | None:
        with self._db.read() as connection:
            row = connection.execute(sa.select(processes).where(processes.c.id == process_id)).one_or_none()
        return _process(row) if row is not None else None

    def running(self, kind: str | None = None, subject: str | None = None) -> list[Process]:
        """Processes that were running when last looked at, oldest first."""
        with self._db.read() as connection:
            wanted = {"kind": kind, "subject": subject}
            given = {name: value for name, value in wanted.items() if value is not None}
            return [_process(row) for row in _running(*given).all(connection, **given)]

    def is_alive(self, process: Process) -> bool:
        """Look at the process itself, and note it in its row if it is gone."""
        if process.handle is None:
            alive = self._clock.now() - process.created_at < ADOPTION_SECONDS
        else:
            alive = self._engines[process.engine].is_alive(process.handle)
        if not alive:
            self.exited(process.id)
        return alive

    def stop(self, process: Process, *, grace_seconds: float = STOP_GRACE_SECONDS) -> None:
        engine = self._engines[process.engine]
        handle = process.handle or engine.find(process.id)
        if handle is not None:
            engine.stop(handle, grace_seconds=grace_seconds)
        self.exited(process.id)

    def logs(self, process: Process, *, tail_bytes: int = 20_000) -> str:
        if process.handle is None:
            return ""
        return self._engines[process.engine].logs(process.handle, tail_bytes=tail_bytes)


@dataclass
class _Failures:
    """Of workers of one queue, one after the other."""

    count: int = 0
    again_at: float = 0.0


class Pool:
    """Launches workers for queues that have work; idle workers leave by themselves. A few are kept in reserve, idle and warm,
    for whatever queue of datums has work next: so the first datum of a pipeline does not wait for a process."""

    def __init__(
        self,
        *,
        db: Database,
        queue: TaskQueue,
        table: ProcessTable,
        command: WorkerCommand,
        limits: Mapping[str, int],
        standby: int = 0,
        wants_standby: Callable[[Connection], bool] = lambda _: True,
    ) -> None:
        """``standby``: how many workers are kept in reserve, while ``wants_standby`` says that they may be of use."""
        self.table = table
        self._db = db
        self._queue = queue
        self._command = command
        self._limits = limits
        self._standby = standby
        self._wants_standby = wants_standby
        self._look_at = 0.0
        self._left_to_standby: dict[str, float] = {}
        self._unheard: dict[str, str] = {}
        """The queues of workers that have not spoken yet, by the workers' ids."""
        self._failures: dict[str, _Failures] = {}
        """Of queues whose workers end before they speak."""
        self.took_back = threading.Event()
        """Set when what dead workers held has become free."""

    def heard(self, process_id: str) -> None:
        """A worker has spoken: its queue's workers can start."""
        queue = self._unheard.pop(process_id, None)
        if queue is not None:
            self._failures.pop(queue, None)

    def adopt(self) -> None:
        """At the server's start: forget the workers that died while nobody looked. Call it before any can ask for work."""
        alive = {one.id for one in self.table.running("worker") if self.table.is_alive(one)}
        with self._db.write() as connection:
            self._queue.expire_held_by(connection, self._queue.owners(connection) - alive)

    def queue_for_standby(self, connection: Connection) -> str | None:
        """A queue that has work for a worker in reserve: one that may have more workers than it has."""
        for name, workers_max in self._queue.ready_queues(connection, STANDBY_WORKER):
            if self.table.count_workers(connection, name) < workers_max:
                return name
        return None

    def step(self) -> bool:
        """Bring the number of workers up to what the queues ask for. Returns whether anything was launched."""
        now = time.monotonic()
        with self._db.read() as connection:
            demand = self._demand(connection)
            look = self._standby > 0 and now >= self._look_at
            wants_standby = look and self._wants_standby(connection)
        if look:
            self._look_at = now + STANDBY_LOOK_SECONDS
        if not demand and not wants_standby:
            return False
        alive, by_worker = self._count_alive()
        launched = False
        reserve = alive[ANY_QUEUE]
        for row, count in demand:
            wanted = min(row.workers_max, count) - alive[row.name]
            if row.worker in self._limits:
                wanted = min(wanted, self._limits[row.worker] - by_worker[row.worker])
            if wanted > 0 and reserve and row.worker == STANDBY_WORKER and self._may_wait(row.name, now):
                reserve -= 1
                wanted -= 1
            for _ in range(wanted if self._may_launch(row.name, now) else 0):
                launched |= self._launch(row.worker, row.name)
                by_worker[row.worker] += 1
        if wants_standby:
            wanted = self._standby - alive[ANY_QUEUE]
            for _ in range(wanted if self._may_launch(ANY_QUEUE, now) else 0):
                launched |= self._launch(STANDBY_WORKER, ANY_QUEUE)
        return launched

    def _count_alive(self) -> tuple[Counter[str], Counter[str]]:
        """Living workers by queue, and by kind. What the dead ones held is free at once."""
        alive: Counter[str] = Counter()
        by_worker: Counter[str] = Counter()
        dead = []
        for process in self.table.running("worker"):
            if self.table.is_alive(process):
                alive[process.subject] += 1
                by_worker[process.info.get("worker", "")] += 1
            else:
                dead.append(process.id)
                queue = self._unheard.pop(process.id, None)
                if queue is not None:
                    self._failed(queue, f"see {process.log}")
        if dead:  # nobody has to wait until it would have been missed
            with self._db.write() as connection:
                self._queue.expire_held_by(connection, dead)
            self.took_back.set()
        return alive, by_worker

    def _may_launch(self, queue: str, now: float) -> bool:
        failures = self._failures.get(queue)
        return failures is None or now >= failures.again_at

    def _failed(self, queue: str, why: str) -> None:
        """A worker of a queue could not begin. The next one hardly can, so it is not tried at once."""
        now = time.monotonic()
        for name in [name for name, one in self._failures.items() if now > one.again_at + FORGOTTEN_SECONDS]:
            del self._failures[name]
        failures = self._failures.setdefault(queue, _Failures())
        if now < failures.again_at:  # one of several that were started together
            return
        wait_seconds = LAUNCH_AGAIN_SECONDS[min(failures.count, len(LAUNCH_AGAIN_SECONDS) - 1)]
        failures.count += 1
        failures.again_at = now + wait_seconds
        log.warning(
            "a worker for %s ended before it began (%s): the next one is started in %g s",
            queue or "whatever comes", why, wait_seconds,
        )  # fmt: skip

    def _may_wait(self, queue: str, now: float) -> bool:
        """Whether a queue's work can be left to a worker in reserve, which takes it within milliseconds; if it did not, the
        queue gets a worker of its own."""
        since = self._left_to_standby.get(queue, 0.0)
        if now - since > 2 * STANDBY_TAKES_SECONDS:
            self._left_to_standby[queue] = since = now
        return now - since < STANDBY_TAKES_SECONDS

    def _demand(self, connection: Connection) -> list[tuple[Row[Any], int]]:
        return self._queue.demand(connection)

    def _launch(self, worker: str, queue: str) -> bool:
        spec = self._command(uuid.uuid4().hex, worker, queue)
        self._unheard[spec.id] = queue  # before it can speak
        try:
            self.table.launch(
                kind="worker", subject=queue, engine="process", spec=spec, info={"worker": worker}
            )
        except UnavailableError as error:
            self._unheard.pop(spec.id, None)
            self._failed(queue, str(error))
            return False
        log.info("launched a %s worker for %s", worker, queue)
        return True

    def stop_all(self) -> None:
        """End every worker process, with whatever user code it runs."""
        for process in self.table.running("worker"):
            self.table.stop(process)


_COUNT_WORKERS = Prepared(
    sa.select(sa.func.count().label("number")).where(
        processes.c.kind == "worker",
        processes.c.subject == sa.bindparam("queue"),
        processes.c.status != "exited",
    )
)


@cache
def _running(*names: str) -> Prepared:
    """Processes that have not ended, by columns of these names."""
    where = [processes.c[name] == sa.bindparam(name) for name in names]
    query = sa.select(processes).where(processes.c.status != "exited", *where)
    return Prepared(query.order_by(processes.c.created_at))


def _process(row: Row[Any]) -> Process:
    return Process(
        id=row.id, kind=row.kind, subject=row.subject, engine=row.engine, handle=row.handle, status=row.status,
        log=row.log, info=row.info, created_at=row.created_at,
    )  # fmt: skip
