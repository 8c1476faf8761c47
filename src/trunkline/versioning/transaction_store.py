"""All SQL on transactions: what somebody gathers, to happen all at once or not at all."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from trunkline.core.ids import CommitId
from trunkline.storage.db.schema import transaction_operations, transactions
from trunkline.versioning.model import Operation, Transaction


def insert(connection: Connection, transaction_id: CommitId, now: float) -> None:
    connection.execute(sa.insert(transactions).values(id=transaction_id, created_at=now))


def find(connection: Connection, transaction_id: str) -> Transaction | None:
    found = _load(connection, sa.select(transactions).where(transactions.c.id == transaction_id))
    return found[0] if found else None


def list_all(connection: Connection) -> list[Transaction]:
    """The oldest first."""
    return _load(connection, sa.select(transactions).order_by(transactions.c.created_at, transactions.c.id))


def _load(connection: Connection, query: sa.Select[Any]) -> list[Transaction]:
    rows = connection.execute(query).all()
    table = transaction_operations.c
    wanted = sa.select(transaction_operations).where(table.transaction_id.in_([row.id for row in rows]))
    operations: dict[str, list[Operation]] = {}
    for one in connection.execute(wanted.order_by(table.transaction_id, table.seq)):
        operation = Operation(kind=one.kind, arguments=one.arguments)
        operations.setdefault(one.transaction_id, []).append(operation)
    return [
        Transaction(id=row.id, operations=tuple(operations.get(row.id, ())), created_at=row.created_at)
        for row in rows
    ]


def append(connection: Connection, transaction_id: str, seq: int, operation: Operation) -> None:
    connection.execute(
        sa.insert(transaction_operations).values(
            transaction_id=transaction_id, seq=seq, kind=operation.kind, arguments=operation.arguments
        )
    )


def delete(connection: Connection, transaction_id: str) -> None:
    connection.execute(sa.delete(transactions).where(transactions.c.id == transaction_id))
