"""All SQL on ``datum_results``: what datums have made, by identity, whichever job or pipeline they belonged to."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from trunkline.storage.db.many import Many
from trunkline.storage.db.schema import datum_results
from trunkline.storage.db.upsert import upsert
from trunkline.versioning.roots import RootSource

PARAMETERS_MAX = 500


class Result(NamedTuple):
    """The output of a datum: all that is below ``prefix`` in the tree ``root``; no root: it wrote nothing."""

    root: str | None
    prefix: str = ""
    size: int = 0
    file_count: int = 0
    job_id: str = ""


def known_results(connection: Connection, identities: Iterable[str]) -> dict[str, Result]:
    """By identity, for those that were computed before."""
    found: dict[str, Result] = {}
    rest = iter(identities)
    while part := list(islice(rest, PARAMETERS_MAX)):
        rows = connection.execute(sa.select(datum_results).where(datum_results.c.identity.in_(part)))
        found.update(
            (row.identity, Result(row.output_root, row.output_prefix, row.size, row.file_count, row.job_id))
            for row in rows
        )
    return found


def remember(connection: Connection, found: Iterable[tuple[str, Result]], now: float) -> None:
    """The first result of an identity stays: two of them are equally right."""
    values = [
        {
            "identity": identity, "output_root": one.root, "output_prefix": one.prefix, "size": one.size,
            "file_count": one.file_count, "job_id": one.job_id, "created_at": now,
        }
        for identity, one in found
    ]  # fmt: skip
    if values:
        _REMEMBER(connection, values)


_REMEMBER = Many(
    upsert(datum_results).on_conflict_do_nothing(), [column.name for column in datum_results.columns]
)

ROOTS = (
    RootSource(
        column=datum_results.c.output_root,
        keys=(datum_results.c.identity, datum_results.c.job_id),
        label=lambda row: f"cached result {row.k0} of job {row.k1}",
        is_cache=True,
    ),
)
