"""Lists of texts as one parameter, on both databases."""

from __future__ import annotations

import sqlalchemy as sa

from trunkline.storage.db.among import Among
from trunkline.storage.db.engine import Database
from trunkline.storage.db.many import Many
from trunkline.storage.db.schema import datum_results

_FOUND = sa.select(datum_results.c.identity).where(
    Among(datum_results.c.identity, "wanted"), datum_results.c.size > sa.bindparam("over")
)


def _write(db: Database, *names: str) -> None:
    with db.write() as connection:
        Many(sa.insert(datum_results), [column.name for column in datum_results.columns])(
            connection,
            [
                {
                    "identity": name, "output_root": None, "output_prefix": "", "size": number, "file_count": 0, "job_id": "j",
                    "created_at": 0.5,
                }
                for number, name in enumerate(names)
            ],
        )  # fmt: skip


def test_rows_are_found_whose_text_is_in_the_list(db: Database) -> None:
    strange = "ä\"'\\,{}[]%s?\n"
    _write(db, "a", "b", strange, "c", *[f"n{number}" for number in range(3000)])
    with db.read() as connection:
        for wanted, found in (
            (["b", strange, "b", "not there"], {"b", strange}),
            (["a"], set()),  # (its size)
            ([], set()),
            ([f"n{number}" for number in range(5000)], {f"n{number}" for number in range(3000)}),
        ):
            rows = connection.execute(_FOUND, {"wanted": wanted, "over": 0}).scalars().all()
            assert sorted(rows) == sorted(found)


def test_they_are_found_by_an_index(db: Database) -> None:
    if not db.is_sqlite:
        return  # another database plans by what its tables hold
    sql = str(_FOUND.compile(dialect=sa.create_engine("sqlite://").dialect))
    with db.read() as connection:
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", ('["a"]', 0)).all()
    assert plan[0][3].startswith("SEARCH datum_results"), plan
