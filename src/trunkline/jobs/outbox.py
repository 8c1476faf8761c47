"""The outbox: events written in the transaction that causes them, handled in a transaction of their own, once.

A subscriber only writes rows (usually: enqueues a task). Its writes and the removal of the event are one transaction, so an
event is neither lost nor handled twice, whatever crashes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from trunkline.core.clock import Clock
from trunkline.storage.db.engine import Database
from trunkline.storage.db.schema import outbox

Subscriber = Callable[[Connection, dict[str, Any]], None]

log = logging.getLogger(__name__)


class Outbox:
    """Publish inside a transaction; ``drain`` handles what is there."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock
        self._subscribers: dict[str, list[Subscriber]] = {}

    def subscribe(self, topic: str, subscriber: Subscriber) -> None:
        self._subscribers.setdefault(topic, []).append(subscriber)

    def publish(self, connection: Connection, topic: str, payload: dict[str, Any]) -> None:
        connection.execute(
            sa.insert(outbox).values(topic=topic, payload=payload, created_at=self._clock.now())
        )

    def drain(self) -> int:
        """Handle all events, oldest first; returns how many. An event whose subscriber fails stays, and is tried again."""
        handled = 0
        while self._handle_one():
            handled += 1
        return handled

    def _handle_one(self) -> bool:
        with self._db.read() as connection:
            if connection.execute(sa.select(outbox.c.seq).limit(1)).one_or_none() is None:
                return False
        with self._db.write() as connection:
            row = connection.execute(sa.select(outbox).order_by(outbox.c.seq).limit(1)).one_or_none()
            if row is None:
                return False
            for subscriber in self._subscribers.get(row.topic, ()):
                subscriber(connection, row.payload)
            connection.execute(sa.delete(outbox).where(outbox.c.seq == row.seq))
        log.debug("handled %s %s", row.topic, row.payload)
        return True
