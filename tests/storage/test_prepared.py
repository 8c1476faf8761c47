"""One statement that is run often: the same as SQLAlchemy's own, on both databases."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import CompileError, IntegrityError

import trunkline
from trunkline.core.status import Status
from trunkline.errors import InvalidInputError
from trunkline.storage.db.engine import Database
from trunkline.storage.db.prepared import Prepared, PreparedUpdate
from trunkline.storage.db.schema import datum_results, tasks

NAMES = ("kind", "key", "queue", "payload", "status", "attempts", "run_after", "created_at", "updated_at")
INSERT = Prepared(
    sa.insert(tasks)
    .values({name: sa.bindparam(name) for name in NAMES} | {"again": False, "cancel": True})
    .returning(tasks.c.id)
)
OF_KEYS = (
    sa.select(tasks)
    .where(
        tasks.c.kind == "k",
        tasks.c.key.in_(sa.bindparam("keys", expanding=True)),
        tasks.c.attempts < sa.bindparam("below"),
    )
    .order_by(tasks.c.key)
)
FIND = Prepared(OF_KEYS)


def _task(number: int, **other: Any) -> dict[str, Any]:
    return {
        "kind": "k", "key": f"{number:03}", "queue": "q", "payload": {"number": [number, None]}, "status": Status.QUEUED,
        "attempts": number, "run_after": 0.5, "created_at": 1.0, "updated_at": 2.0, **other,
    }  # fmt: skip


def _fill(db: Database, count: int) -> None:
    with db.write() as connection:
        keys = [INSERT.scalar(connection, **_task(number)) for number in range(count)]
    assert len(set(keys)) == count


def test_rows_have_columns_of_their_types(db: Database) -> None:
    _fill(db, 3)
    with db.read() as connection:
        first, second = FIND.all(connection, keys=["001", "000", "nobody"], below=9)
        assert (first.key, first.payload, first.cancel, first.again) == (
            "000",
            {"number": [0, None]},
            True,
            False,
        )
        assert second.payload["number"] == [1, None]
        assert isinstance(second.run_after, float)
        assert FIND.first(connection, keys=["002"], below=2) is None
        assert FIND.scalar(connection, keys=["002"], below=2) is None
        assert FIND.scalars(connection, keys=["002"], below=3) == [second.id + 1]
        assert FIND.all(connection, keys=[], below=9) == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(asked=st.lists(st.integers(0, 40), max_size=40), below=st.integers(0, 41))
def test_lists_of_any_length_are_asked_for(filled: Database, asked: list[int], below: int) -> None:
    values = {"keys": [f"{one:03}" for one in asked], "below": below}
    with filled.read() as connection:
        found = FIND.all(connection, **values)
        expected = connection.execute(OF_KEYS, values).all()
    assert [tuple(row) for row in found] == [tuple(row) for row in expected]


@pytest.fixture
def filled(db: Database) -> Database:
    _fill(db, 40)
    return db


def test_an_update_sets_other_columns_each_time(db: Database) -> None:
    _fill(db, 2)
    update = PreparedUpdate(sa.update(tasks).where(tasks.c.key == sa.bindparam("which")))
    with db.write() as connection:
        assert update.run(connection, {"payload": {"a": 1}, "status": Status.RUNNING}, which="000") == 1
        assert update.run(connection, {"queue": "other"}, {"attempts": 5}, which="001") == 1
        assert update.run(connection, {"queue": "other"}, {"attempts": 5}, which="001") == 1
        assert update.run(connection, {"queue": "other"}, which="nobody") == 0
    with db.read() as connection:
        first, second = FIND.all(connection, keys=["000", "001"], below=99)
    assert (first.payload, first.status, first.queue, first.attempts) == ({"a": 1}, "running", "q", 0)
    assert (second.payload, second.queue, second.attempts) == ({"number": [1, None]}, "other", 11)


def test_what_goes_wrong_is_said_in_the_same_words(db: Database) -> None:
    _fill(db, 1)
    with pytest.raises(IntegrityError) as caught, db.write() as connection:
        INSERT.scalar(connection, **_task(0, payload={"secret": "hunter2"}))
    assert "hunter2" not in str(caught.value) or not db.is_sqlite
    with pytest.raises(InvalidInputError, match="64 bits"), db.write() as connection:
        INSERT.scalar(connection, **_task(1, attempts=2**70))
    with db.read() as connection, pytest.raises(Exception, match=r"below"):
        FIND.all(connection, keys=["000"])


def test_whoever_listens_hears_of_it(db: Database) -> None:
    _fill(db, 1)
    heard: list[str] = []

    def note(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        heard.append(statement)

    sa.event.listen(db._engine, "before_cursor_execute", note)
    try:
        with db.read() as connection:
            assert FIND.first(connection, keys=["000"], below=1).key == "000"
    finally:
        sa.event.remove(db._engine, "before_cursor_execute", note)
    assert any("FROM tasks" in one for one in heard)


def test_what_a_statement_has_changed_is_undone_with_its_block(db: Database) -> None:
    """A block inside another is undone alone; one that fails is undone as a whole."""
    insert = Prepared(
        sa.insert(datum_results).values(
            identity=sa.bindparam("identity"), output_root=None, output_prefix="", size=0, file_count=0, job_id="j",
            created_at=0.0,
        )
    )  # fmt: skip
    with db.write() as connection:
        insert.run(connection, identity="kept")
        with pytest.raises(RuntimeError), db.write() as inner:
            insert.run(inner, identity="lost")
            raise RuntimeError
        with db.write() as inner:
            insert.run(inner, identity="kept too")
    with pytest.raises(RuntimeError), db.write() as connection:
        insert.run(connection, identity="lost as well")
        raise RuntimeError
    with db.read() as connection:
        found = connection.execute(sa.select(datum_results.c.identity)).scalars().all()
    assert sorted(found) == ["kept", "kept too"]


def _prepared() -> Iterator[tuple[str, Any]]:
    """All that are kept in the modules of trunkline, with their names."""
    source = Path(trunkline.__file__).parent
    for path in sorted(source.rglob("*.py")):
        if "Prepared" not in path.read_text("utf-8"):
            continue
        module = importlib.import_module(
            ".".join(("trunkline", *path.relative_to(source).with_suffix("").parts))
        )
        for name, value in vars(module).items():
            for one in value if isinstance(value, tuple) else (value,):
                if isinstance(one, Prepared | PreparedUpdate):
                    yield f"{module.__name__}.{name}", one._statement


def test_each_can_be_run_by_sqlalchemy() -> None:
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    seen, broken = 0, []
    for name, statement in _prepared():
        seen += 1
        names = list(statement.compile(dialect=dialect).bind_names.values())
        try:
            statement.compile(dialect=dialect, column_keys=names)
        except CompileError as error:
            broken.append(f"{name}: {error}")
    assert not broken
    assert seen > 50
