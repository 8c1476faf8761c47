"""Events are neither lost nor handled twice."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tests.conftest import FakeClock
from trunkline.jobs.outbox import Outbox
from trunkline.storage.db.engine import Database
from trunkline.storage.db.schema import meta, outbox


def _note(connection: Connection, payload: dict[str, Any]) -> None:
    connection.execute(sa.insert(meta).values(key=f"seen-{payload['n']}", value="x"))


def test_events_are_handled_in_order_and_once(db: Database, clock: FakeClock) -> None:
    box = Outbox(db, clock)
    seen: list[int] = []
    box.subscribe("t", lambda _, payload: seen.append(payload["n"]))
    with db.write() as connection:
        for n in range(3):
            box.publish(connection, "t", {"n": n})
        box.publish(connection, "nobody-listens", {})
    assert box.drain() == 4
    assert box.drain() == 0
    assert seen == [0, 1, 2]


def test_an_event_of_a_transaction_that_fails_never_was(db: Database, clock: FakeClock) -> None:
    box = Outbox(db, clock)
    with pytest.raises(ZeroDivisionError), db.write() as connection:
        box.publish(connection, "t", {"n": 1})
        raise ZeroDivisionError
    assert box.drain() == 0


def test_a_failing_subscriber_leaves_the_event_and_nothing_half_done(db: Database, clock: FakeClock) -> None:
    box = Outbox(db, clock)
    box.subscribe("t", _note)
    failing = True

    def flaky(_connection: Connection, _payload: dict[str, Any]) -> None:
        if failing:
            raise ZeroDivisionError

    box.subscribe("t", flaky)
    with db.write() as connection:
        box.publish(connection, "t", {"n": 7})
    with pytest.raises(ZeroDivisionError):
        box.drain()
    with db.read() as connection:
        assert connection.execute(sa.select(meta).where(meta.c.key == "seen-7")).one_or_none() is None
        assert connection.execute(sa.select(sa.func.count()).select_from(outbox)).scalar_one() == 1
    failing = False
    assert box.drain() == 1
    with db.read() as connection:
        assert connection.execute(sa.select(meta).where(meta.c.key == "seen-7")).one_or_none() is not None
