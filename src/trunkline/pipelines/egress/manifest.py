"""All SQL on ``egress_roots``: what is at which target, as trees that were sent there."""

from __future__ import annotations

from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from trunkline.core.ids import TreeHash
from trunkline.storage.db.schema import egress_roots, pipelines
from trunkline.storage.db.upsert import upsert
from trunkline.versioning.roots import RootSource


class Sent(NamedTuple):
    """What may be at a target."""

    trees: tuple[TreeHash, ...]
    is_whole: bool
    """Whether one of them was sent to its end, by this salt: what is the same in all of them is there."""


def sent_to(connection: Connection, pipeline_id: int, target: str, salt: str) -> Sent:
    rows = connection.execute(
        sa.select(egress_roots)
        .where(egress_roots.c.pipeline_id == pipeline_id, egress_roots.c.target == target)
        .order_by(egress_roots.c.created_at, egress_roots.c.root)
    ).all()
    is_whole = any(row.is_whole and row.salt == salt for row in rows)
    return Sent(tuple(TreeHash(row.root) for row in rows), is_whole)


def begin(
    connection: Connection, pipeline_id: int, target: str, root: str, salt: str, job_id: str, now: float
) -> None:
    """From now on files of this tree may be at the target."""
    statement = upsert(egress_roots).values(
        pipeline_id=pipeline_id, target=target, root=root, is_whole=False, salt=salt, job_id=job_id, created_at=now
    )  # fmt: skip
    connection.execute(
        statement.on_conflict_do_nothing(
            index_elements=[egress_roots.c.pipeline_id, egress_roots.c.target, egress_roots.c.root]
        )
    )


def end(
    connection: Connection, pipeline_id: int, target: str, root: str, salt: str, job_id: str, now: float
) -> None:
    """The target holds this tree, and nothing of others."""
    where = (egress_roots.c.pipeline_id == pipeline_id, egress_roots.c.target == target)
    connection.execute(sa.delete(egress_roots).where(*where))
    connection.execute(
        sa.insert(egress_roots).values(
            pipeline_id=pipeline_id, target=target, root=root, is_whole=True, salt=salt, job_id=job_id, created_at=now
        )
    )  # fmt: skip


ROOTS = (
    RootSource(
        column=egress_roots.c.root,
        keys=(pipelines.c.project, pipelines.c.name, egress_roots.c.target),
        join=(pipelines,),
        label=lambda row: f"what pipeline {row.k0}/{row.k1} has sent to {row.k2}",
    ),
)
