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


def test_what_was_handled_before_an_event_that_fails_stays_so(db: Database, clock: FakeClock) -> None:
    box = Outbox(db, clock)
    seen: list[int] = []

    def refuse_two(_connection: Connection, payload: dict[str, Any]) -> None:
        if payload["n"] == 2:
            raise ZeroDivisionError
        seen.append(payload["n"])

    box.subscribe("t", refuse_two)
    box.subscribe("t", _note)
    with db.write() as connection:
        for n in range(4):
            box.publish(connection, "t", {"n": n})
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            box.drain()
    assert seen == [0, 1]
    with db.read() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(outbox)).scalar_one() == 2


def test_only_a_write_without_sync_does_not_wait_for_the_disk(db: Database) -> None:
    ask = "PRAGMA synchronous" if db.is_sqlite else "SHOW synchronous_commit"
    found: list[Any] = []
    for syncs in (True, False, True):
        with db.write(syncs=syncs) as connection:
            found.append(connection.exec_driver_sql(ask).scalar_one())
    assert found == ([2, 1, 2] if db.is_sqlite else ["on", "off", "on"])
