"""One work on the whole store at a time: gc, repair, purge, backup. A leased row, so that a crash leaves no lock behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from trunkline.core.clock import Clock
from trunkline.core.ids import new_token
from trunkline.errors import StateError, TrunklineError
from trunkline.storage.db.engine import Database
from trunkline.storage.db.schema import maintenance

LEASE_SECONDS = 60.0
RENEW_SECONDS = 15.0
_NAME = "store"


class Progress:
    """How far the present work is; read by whoever asks."""

    def __init__(self) -> None:
        self.what = ""
        self.step = ""
        self.done = 0
        self.total = 0

    @contextmanager
    def of(self, what: str) -> Iterator[None]:
        """``what`` goes on for the length of a block."""
        self.what = what
        self.begin("starting")
        try:
            yield
        finally:
            self.what = ""

    def begin(self, step: str, total: int = 0) -> None:
        self.step, self.done, self.total = step, 0, total

    def more(self, count: int = 1) -> None:
        self.done += count


def forget(db: Database) -> None:
    """At the server's start: who held the store is dead."""
    with db.write() as connection:
        connection.execute(sa.delete(maintenance))


def is_running(connection: Connection, now: float) -> bool:
    """Whether somebody holds the store for such work."""
    return _holder(connection, now) is not None


def _holder(connection: Connection, now: float) -> str | None:
    query = sa.select(maintenance.c.what).where(maintenance.c.name == _NAME, maintenance.c.expires_at > now)
    return connection.execute(query).scalar_one_or_none()


@contextmanager
def exclusive(db: Database, clock: Clock, what: str) -> Iterator[None]:
    """Hold the store for the length of a block.

    :raises StateError: ``busy``, naming what is going on.
    """
    token = new_token()
    with db.write() as connection:
        now = clock.now()
        other = _holder(connection, now)
        if other is not None:
            raise StateError(
                f"{other} is at work on the store: wait until it is done, then repeat", kind="busy"
            )
        connection.execute(sa.delete(maintenance).where(maintenance.c.name == _NAME))
        row = {"name": _NAME, "what": what, "token": token, "expires_at": now + LEASE_SECONDS}
        connection.execute(sa.insert(maintenance).values(row))
    ended = threading.Event()
    keeper = threading.Thread(target=_renew, args=(db, clock, token, ended), name="maintenance", daemon=True)
    keeper.start()
    try:
        yield
    finally:
        ended.set()
        keeper.join()
        with db.write() as connection:
            connection.execute(sa.delete(maintenance).where(maintenance.c.token == token))


def _renew(db: Database, clock: Clock, token: str, ended: threading.Event) -> None:
    while not ended.wait(RENEW_SECONDS):
        try:
            with db.write() as connection:
                connection.execute(
                    sa.update(maintenance)
                    .where(maintenance.c.token == token)
                    .values(expires_at=clock.now() + LEASE_SECONDS)
                )
        except TrunklineError:
            continue  # tried again in a moment; until it expires nobody else begins
