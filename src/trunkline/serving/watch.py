"""Notices that a replica or the gateway has ended, and has its service looked at at once.

Without it every service would have to be looked at every second, well or not, at two transactions each: measured, 8 % of a
processor for three services that nobody used. A look of the watch reads the process table only if something was written since,
and else asks the system alone.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from trunkline.jobs.engines.process import started_at
from trunkline.jobs.model import Process
from trunkline.jobs.pool import ProcessTable
from trunkline.serving import store
from trunkline.serving.deployers.process import KIND as REPLICA
from trunkline.serving.gateway import KIND as GATEWAY
from trunkline.storage.db.engine import Database

WATCH_SECONDS = 0.25

log = logging.getLogger(__name__)


class Watch:
    """A thread that calls ``ask`` with the keys of services of which something has died."""

    def __init__(self, *, db: Database, table: ProcessTable, ask: Callable[[Sequence[str]], None]) -> None:
        self._db = db
        self._table = table
        self._ask = ask
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._known: list[Process] = []
        self._seen = -1

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="trunkline-watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def look(self) -> None:
        """Ask once, if there is something to ask for."""
        dead = [process for process in self._running() if _has_ended(process)]
        if not dead:
            return
        gateway_is_dead = any(process.kind == GATEWAY for process in dead)
        subjects = {process.subject for process in dead}
        with self._db.read() as connection:
            active = store.active_revisions(connection)
        keys = {one.key for one in active if gateway_is_dead or one.id in subjects}
        if keys:
            self._ask(sorted(keys))

    def _running(self) -> list[Process]:
        written = self._db.changes.count
        if written != self._seen:
            self._known = [one for one in self._table.running() if one.kind in (REPLICA, GATEWAY)]
            self._seen = written
        return self._known

    def _run(self) -> None:
        while not self._over.wait(WATCH_SECONDS):
            try:
                self.look()
            except Exception:
                log.exception("a look at the replicas failed; the next one follows")


def _has_ended(process: Process) -> bool:
    # Not table.is_alive(), which would note the end in the row: then the service's own look would not count it as a crash.
    handle = process.handle
    return handle is not None and started_at(int(handle["pid"])) != handle["started"]
