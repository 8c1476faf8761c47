"""The outbox: events written in the transaction that causes them, handled in a transaction of their own, once.

A subscriber only writes rows (usually: enqueues a task). Its writes and the removal of the event are one transaction, so an
event is neither lost nor handled twice, whatever crashes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from trunkline.core.clock import Clock
from trunkline.storage.db.engine import Changes, Database
from trunkline.storage.db.prepared import Prepared
from trunkline.storage.db.schema import outbox

EVENTS_AT_ONCE_MAX = 100
NAME = "outbox"
"""What a write that publishes touches."""

Subscriber = Callable[[Connection, dict[str, Any]], None]

log = logging.getLogger(__name__)

_PUBLISH = Prepared(
    sa.insert(outbox).values({name: sa.bindparam(name) for name in ("topic", "payload", "created_at")})
)
_ANY = Prepared(sa.select(outbox.c.seq).limit(1))
_NEXT = Prepared(sa.select(outbox).order_by(outbox.c.seq).limit(sa.bindparam("count", type_=sa.Integer)))
_DELETE = Prepared(sa.delete(outbox).where(outbox.c.seq == sa.bindparam("seq")))


class Outbox:
    """Publish inside a transaction; ``drain`` handles what is there."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock
        self._subscribers: dict[str, list[Subscriber]] = {}

    def subscribe(self, topic: str, subscriber: Subscriber) -> None:
        self._subscribers.setdefault(topic, []).append(subscriber)

    def publish(self, connection: Connection, topic: str, payload: dict[str, Any]) -> None:
        _PUBLISH.run(connection, topic=topic, payload=payload, created_at=self._clock.now())
        self._db.touch(NAME)

    @property
    def changes(self) -> Changes:
        """Moves when something is published."""
        return self._db.changes_of(NAME)

    def drain(self) -> int:
        """Handle all events, oldest first; returns how many. An event whose subscriber fails stays, and is tried again."""
        handled = 0
        while found := self._handle_some():
            handled += found
        return handled

    def _handle_some(self, count: int = EVENTS_AT_ONCE_MAX) -> int:
        """The next few, in one transaction: those of one commit are handled together."""
        with self._db.read() as connection:
            if _ANY.scalar(connection) is None:
                return 0
        failure: Exception | None = None
        handled = 0
        with self._db.write(syncs=False) as connection:
            for row in _NEXT.all(connection, count=count):
                try:
                    self._handle(row)
                except Exception as error:  # what was handled before it stays so
                    failure = error
                    break
                handled += 1
        if failure is not None:
            raise failure
        return handled

    def _handle(self, row: Row[Any]) -> None:
        with self._db.write() as connection:
            for subscriber in self._subscribers.get(row.topic, ()):
                subscriber(connection, row.payload)
            _DELETE.run(connection, seq=row.seq)
        log.debug("handled %s %s", row.topic, row.payload)
