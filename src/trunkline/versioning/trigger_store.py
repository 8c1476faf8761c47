"""All SQL on triggers. Each function works in its caller's transaction."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from trunkline.core.ids import BranchName
from trunkline.storage.db.prepared import Prepared
from trunkline.storage.db.schema import branch_triggers, branches
from trunkline.versioning.model import Trigger


@dataclass(frozen=True, kw_only=True)
class TriggerRow:
    """A trigger with the keys of the branch that it moves and of the one that it watches."""

    branch_id: int
    source_id: int
    trigger: Trigger
    next_at: float | None


def _query() -> sa.Select[Any]:
    return sa.select(branch_triggers, branches.c.name.label("source")).join_from(
        branch_triggers, branches, branches.c.id == branch_triggers.c.source_id
    )


_ON_SOURCE = Prepared(
    _query()
    .where(branch_triggers.c.source_id == sa.bindparam("source"))
    .order_by(branch_triggers.c.branch_id)
)


def _row(row: Row[Any]) -> TriggerRow:
    trigger = Trigger(branch=BranchName(row.source), **row.spec)
    return TriggerRow(branch_id=row.branch_id, source_id=row.source_id, trigger=trigger, next_at=row.next_at)


def of_branches(connection: Connection, branch_ids: Iterable[int]) -> dict[int, TriggerRow]:
    """The triggers that move these branches."""
    query = _query().where(branch_triggers.c.branch_id.in_(list(branch_ids)))
    return {row.branch_id: _row(row) for row in connection.execute(query)}


def of_branch(connection: Connection, branch_id: int) -> TriggerRow | None:
    return of_branches(connection, [branch_id]).get(branch_id)


def on_source(connection: Connection, source_id: int) -> list[TriggerRow]:
    """The triggers that watch a branch."""
    return [_row(row) for row in _ON_SOURCE.all(connection, source=source_id)]


def due(connection: Connection, now: float, limit: int) -> list[TriggerRow]:
    """Those that the clock calls."""
    query = _query().where(branch_triggers.c.next_at <= now).order_by(branch_triggers.c.next_at).limit(limit)
    return [_row(row) for row in connection.execute(query)]


def next_time(connection: Connection) -> float | None:
    """When the clock calls the next one."""
    found: float | None = connection.execute(sa.select(sa.func.min(branch_triggers.c.next_at))).scalar_one()
    return found


def put(
    connection: Connection, branch_id: int, source_id: int, trigger: Trigger, next_at: float | None
) -> None:
    """Set a branch's trigger, in place of the one that it had."""
    drop(connection, branch_id)
    spec = {
        "size": trigger.size, "commits": trigger.commits, "rate_limit": trigger.rate_limit, "cron": trigger.cron,
        "all": trigger.all,
    }  # fmt: skip
    connection.execute(
        sa.insert(branch_triggers).values(
            branch_id=branch_id, source_id=source_id, spec=spec, next_at=next_at
        )
    )


def drop(connection: Connection, branch_id: int) -> None:
    connection.execute(sa.delete(branch_triggers).where(branch_triggers.c.branch_id == branch_id))


def schedule(connection: Connection, branch_id: int, next_at: float | None) -> None:
    connection.execute(
        sa.update(branch_triggers).where(branch_triggers.c.branch_id == branch_id).values(next_at=next_at)
    )
