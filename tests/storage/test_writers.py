"""Writers of one process: one at a time, and none waits for ever."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import sqlalchemy as sa

from trunkline.errors import UnavailableError
from trunkline.storage.db import engine
from trunkline.storage.db.engine import Database
from trunkline.storage.db.schema import events

COUNT = 50


@pytest.fixture
def db(tmp_path: Path) -> Database:
    return Database(f"sqlite:///{tmp_path / 't.db'}")


def add(db: Database, key: str) -> None:
    with db.write() as connection:
        last = connection.execute(sa.select(sa.func.count()).select_from(events)).scalar_one()
        values = {"noun": "job", "key": key, "old": str(last), "new": "", "reason": "", "created_at": 0.0}
        connection.execute(sa.insert(events).values(values))


def test_each_sees_what_those_before_have_written(db: Database) -> None:
    threads = [
        threading.Thread(target=lambda: [add(db, "x") for _ in range(COUNT)], daemon=True) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    with db.read() as connection:
        seen = connection.execute(sa.select(events.c.old).order_by(events.c.seq)).scalars().all()
    assert seen == [str(number) for number in range(4 * COUNT)]
    db.close()


@pytest.mark.parametrize("where", ["this process", "another"])
def test_who_gets_no_turn_says_so_and_the_next_one_may(
    db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setattr(engine, "BUSY_TIMEOUT_MS", 50)
    waiting = Database(f"sqlite:///{tmp_path / 't.db'}")
    holder = waiting if where == "this process" else db
    raised: list[UnavailableError] = []

    def write() -> None:
        try:
            add(waiting, "too late")
        except UnavailableError as error:
            raised.append(error)

    thread = threading.Thread(target=write, daemon=True)
    with holder.write():
        thread.start()
        thread.join(30)
    assert [one.kind for one in raised] == ["database_unavailable"]
    add(waiting, "now")
    waiting.close()
    db.close()


def test_a_write_that_fails_gives_its_turn_back(db: Database) -> None:
    with pytest.raises(ValueError, match="no"), db.write():
        raise ValueError("no")
    add(db, "x")
    db.close()


@pytest.mark.parametrize("spills", [True, False])
def test_a_statement_that_fails_is_undone_alone(db: Database, spills: bool) -> None:
    with db.write(spills=spills) as connection:
        connection.exec_driver_sql("CREATE TABLE t (a INTEGER PRIMARY KEY)")
        connection.exec_driver_sql("INSERT INTO t VALUES (1)")
        with pytest.raises(sa.exc.IntegrityError):
            connection.exec_driver_sql("INSERT INTO t VALUES (2), (3), (1), (4)")
        connection.exec_driver_sql("INSERT INTO t VALUES (5)")
    with db.write() as connection:
        assert connection.exec_driver_sql("SELECT a FROM t").scalars().all() == [1, 5]
        assert connection.exec_driver_sql("PRAGMA temp_store").scalar() == 0
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
    db.close()
