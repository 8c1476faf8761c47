"""Transactions: operations on refs, gathered one by one, that happen all at once or not at all, under one ID.

An operation is tried when it is gathered: it and all before it run, and are undone. So what is wrong is said at once, and the
answer is what it will be. At the end all run once more, for good, in one transaction of the database.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy.engine import Connection

from trunkline.core.clock import Clock
from trunkline.core.ids import CommitId, new_commit_id
from trunkline.core.suggest import did_you_mean
from trunkline.errors import InvalidInputError, LimitError, NotFoundError
from trunkline.storage.db.engine import Database
from trunkline.versioning import spread, transaction_store
from trunkline.versioning.model import FinishedTransaction, Operation, Transaction
from trunkline.versioning.spread import Publisher

OPERATIONS_MAX = 100
"""In one transaction. Each new one runs all before it, some milliseconds each, and other writers wait meanwhile."""
OPEN_MAX = 1000

UseCase = Callable[..., Any]
"""Changes rows only, in ``db.write()`` blocks of its own; all its arguments are plain JSON values."""


class TransactionService:
    """Gathers, tries and applies. ``cases``: the operations that there are, by name."""

    def __init__(self, *, db: Database, clock: Clock, publish: Publisher, cases: dict[str, UseCase]) -> None:
        self._db = db
        self._clock = clock
        self._publish = publish
        self._cases = cases

    def start(self) -> Transaction:
        """A transaction without operations. :raises LimitError: ``too_many_transactions``."""
        with self._db.write() as connection:
            if len(transaction_store.list_all(connection)) >= OPEN_MAX:
                raise LimitError(
                    f"there are {OPEN_MAX} unfinished transactions: delete some ('trunkline list transactions')",
                    kind="too_many_transactions",
                )
            made = new_commit_id()
            transaction_store.insert(connection, made, self._clock.now())
            return self._need(connection, made)

    def list_all(self) -> list[Transaction]:
        """Those that are not finished, the oldest first."""
        with self._db.read() as connection:
            return transaction_store.list_all(connection)

    def inspect(self, transaction_id: str) -> Transaction:
        """:raises NotFoundError: ``no_transaction``."""
        with self._db.read() as connection:
            return self._need(connection, transaction_id)

    def delete(self, transaction_id: str) -> None:
        """Forget it; nothing has happened. :raises NotFoundError: ``no_transaction``."""
        with self._db.write() as connection:
            self._need(connection, transaction_id)
            transaction_store.delete(connection, transaction_id)

    def do(self, transaction_id: str | None, kind: str, **arguments: Any) -> Any:
        """Run an operation now or, in a transaction, gather it; returns what it gives, or will give.

        :raises NotFoundError: ``no_transaction``. :raises LimitError: ``transaction_full``. And what the operation raises, which
            is then not gathered.
        """
        if transaction_id is None:
            return self._case(kind)(**arguments)
        operation = Operation(kind=kind, arguments=arguments)
        self._case(kind)
        with self._db.write() as connection:
            gathered = self._need(connection, transaction_id).operations
            if len(gathered) >= OPERATIONS_MAX:
                raise LimitError(
                    f"transaction {transaction_id} has {OPERATIONS_MAX} operations, which is the most: finish it",
                    kind="transaction_full",
                )
            trial = connection.begin_nested()
            try:
                answer = self._run(connection, CommitId(transaction_id), (*gathered, operation))[-1]
            finally:
                trial.rollback()
            transaction_store.append(connection, transaction_id, len(gathered), operation)
        return answer

    def finish(self, transaction_id: str) -> FinishedTransaction:
        """Apply all operations, or none; the transaction is gone then.

        :raises NotFoundError: ``no_transaction``. And what an operation raises: then nothing has happened.
        """
        with self._db.write() as connection:
            found = self._need(connection, transaction_id)
            answers = self._run(connection, found.id, found.operations)
            transaction_store.delete(connection, transaction_id)
        return FinishedTransaction(id=found.id, operations=found.operations, answers=tuple(answers))

    def _run(
        self, connection: Connection, commit_id: CommitId, operations: tuple[Operation, ...]
    ) -> list[Any]:
        with spread.gathered(connection, self._publish, commit_id, self._clock.now()):
            return [self._case(operation.kind)(**operation.arguments) for operation in operations]

    def _case(self, kind: str) -> UseCase:
        if kind not in self._cases:
            raise InvalidInputError(
                f"a transaction has no operation {kind!r}{did_you_mean(kind, self._cases)}",
                kind="unknown_operation",
            )
        return self._cases[kind]

    def _need(self, connection: Connection, transaction_id: str) -> Transaction:
        found = transaction_store.find(connection, transaction_id)
        if found is None:
            raise NotFoundError(
                f"there is no unfinished transaction {transaction_id!r}: see 'trunkline list transactions', and leave this "
                "one with 'trunkline stop transaction'",
                kind="no_transaction",
            )
        return found
