"""One statement for many rows: the same as SQLAlchemy's own, on both databases; and JSON columns."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from trunkline.storage.db import jsontext
from trunkline.storage.db.engine import Database
from trunkline.storage.db.many import ROWS_PER_STATEMENT, Many
from trunkline.storage.db.schema import datum_results
from trunkline.storage.db.upsert import upsert


def _result(number: int) -> dict[str, Any]:
    return {
        "identity": f"i{number:05}", "output_root": None if number % 3 else f"r{number}%s?", "output_prefix": "", "size": number,
        "file_count": 1, "job_id": "j", "created_at": 0.5,
    }  # fmt: skip


@pytest.mark.parametrize(
    "count", [0, 1, ROWS_PER_STATEMENT - 1, ROWS_PER_STATEMENT, 3 * ROWS_PER_STATEMENT + 5]
)
def test_rows_are_inserted_as_they_are_given_and_conflicts_left_alone(db: Database, count: int) -> None:
    insert = Many(
        upsert(datum_results).on_conflict_do_nothing(), [column.name for column in datum_results.columns]
    )
    rows = [_result(number) for number in range(count)]
    for changed in (0, 1):
        with db.write() as connection:
            insert(connection, [{**row, "size": row["size"] + changed} for row in rows])
    with db.read() as connection:
        found = (
            connection.execute(sa.select(datum_results).order_by(datum_results.c.identity)).mappings().all()
        )
    assert [dict(row) for row in found] == rows


def test_rows_are_updated_each_with_its_own_values(db: Database) -> None:
    update = Many(
        sa.update(datum_results)
        .where(datum_results.c.identity == sa.bindparam("this"))
        .values(size=sa.bindparam("new_size"), output_root=None, file_count=7)
    )
    with db.write() as connection:
        connection.execute(sa.insert(datum_results), [_result(number) for number in range(100)])
        update(connection, ({"this": f"i{number:05}", "new_size": -number} for number in range(0, 100, 2)))
    with db.read() as connection:
        found = connection.execute(sa.select(datum_results).order_by(datum_results.c.identity)).all()
    for number, row in enumerate(found):
        expected = (-number, None, 7) if number % 2 == 0 else (number, _result(number)["output_root"], 1)
        assert (row.size, row.output_root, row.file_count) == expected


def test_parameters_behind_the_row_are_given_to_each(db: Database) -> None:
    insert = upsert(datum_results)
    insert = insert.on_conflict_do_update(
        index_elements=[datum_results.c.identity], set_={"size": sa.bindparam("new_size"), "file_count": 9}
    )
    write = Many(insert, [column.name for column in datum_results.columns])
    rows = [{**_result(number), "new_size": number + 1000} for number in range(ROWS_PER_STATEMENT + 1)]
    for _ in range(2):
        with db.write() as connection:
            write(connection, rows)
    with db.read() as connection:
        found = connection.execute(sa.select(datum_results).order_by(datum_results.c.identity)).all()
    assert [(row.size, row.file_count) for row in found] == [(row["new_size"], 9) for row in rows]


def test_rows_may_be_given_by_their_columns(db: Database) -> None:
    table = sa.Table(
        "t", sa.MetaData(), sa.Column("a", sa.Integer), sa.Column("b", sa.JSON), sa.Column("c", sa.Integer)
    )
    insert = Many(sa.insert(table).values(c=5), ["a", "b"])
    same, other = {"kind": "new"}, {"kind": "new", "n": 1}
    values = [same, same, other, other, same, None, {}, {}]
    with db.write() as connection:
        table.create(connection)
        insert.columns(connection, {"a": range(8), "b": values, "not asked for": [0]})
        insert.columns(connection, {})
        with pytest.raises(ValueError, match="shorter"):
            insert.columns(connection, {"a": [8, 9], "b": [same]})
        with pytest.raises(KeyError):
            insert.columns(connection, {"a": [8]})
        found = connection.execute(sa.select(table).order_by(table.c.a)).all()
        table.drop(connection)
    assert [tuple(row) for row in found] == [(number, value, 5) for number, value in enumerate(values)]


def test_a_row_that_lacks_a_value_writes_nothing(db: Database) -> None:
    insert = Many(sa.insert(datum_results), [column.name for column in datum_results.columns])
    with pytest.raises(KeyError), db.write() as connection:
        insert(connection, [_result(1), {"identity": "x"}])
    with db.read() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(datum_results)).scalar_one() == 0


def test_defaults_of_python_are_refused_where_they_would_be_forgotten(
    db: Database,
) -> None:
    table = sa.Table(
        "t", sa.MetaData(), sa.Column("a", sa.Integer), sa.Column("b", sa.Integer, default=lambda: 3)
    )
    with pytest.raises(TypeError, match=r"give a value for t\.b"), db.write() as connection:
        Many(sa.insert(table), ["a"])(connection, [{"a": 1}])


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec=None, exclude_categories=())),
    lambda some: st.lists(some) | st.dictionaries(st.text(), some),
    max_leaves=10,
)


@given(_JSON)
def test_json_is_read_as_it_was_written_also_by_others(value: Any) -> None:
    text = jsontext.written(value)
    for found in (jsontext.read(text), json.loads(text), jsontext.read(json.dumps(value))):
        assert repr(found) == repr(value)


def test_json_keeps_what_is_no_number() -> None:
    assert math.isnan(jsontext.read(jsontext.written({"x": math.nan}))["x"])
    assert jsontext.read(jsontext.written(-math.inf)) == -math.inf
