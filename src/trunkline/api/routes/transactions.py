"""Transactions. What they gather comes through the routes of the things themselves, with a header."""

from __future__ import annotations

from typing import Any

from trunkline.api.auth import gathered
from trunkline.api.deps import Use
from trunkline.api.routes import new_router
from trunkline.wire.base import Page, Wire
from trunkline.wire.branches import Branch
from trunkline.wire.commits import Commit
from trunkline.wire.history import Removed
from trunkline.wire.pipelines import Pipeline
from trunkline.wire.repos import Repo
from trunkline.wire.tags import Tag
from trunkline.wire.transactions import FinishedTransaction, Transaction

router = new_router("transactions")

ANSWERS: dict[str, type[Wire]] = {
    "create_repo": Repo, "create_branch": Branch, "start_commit": Commit, "finish_commit": Commit,
    "create_pipeline": Pipeline, "create_pipelines": Pipeline, "squash": Removed, "create_tag": Tag,
}  # fmt: skip
"""What an operation answers, or a list of what; all others answer nothing."""


def _answer(kind: str, found: Any) -> Any:
    model = ANSWERS.get(kind)
    if model is None:
        return None
    if isinstance(found, list):
        return [model.model_validate(one).model_dump(mode="json") for one in found]
    return model.model_validate(found).model_dump(mode="json")


@router.post("/transactions", status_code=201)
def start_transaction(use: Use) -> Transaction:
    return Transaction.model_validate(use.transactions.start())


@router.get("/transactions")
def list_transactions(use: Use) -> Page[Transaction]:
    return Page(items=[Transaction.model_validate(found) for found in use.transactions.list_all()])


@router.get("/transactions/{transaction_id}")
def inspect_transaction(transaction_id: str, use: Use) -> Transaction:
    return Transaction.model_validate(use.transactions.inspect(transaction_id))


@router.post("/transactions/{transaction_id}/finish")
@gathered
def finish_transaction(transaction_id: str, use: Use) -> FinishedTransaction:
    done = use.transactions.finish(transaction_id)
    pairs = zip(done.operations, done.answers, strict=True)
    answers = [_answer(operation.kind, found) for operation, found in pairs]
    operations = [{"kind": one.kind, "arguments": one.arguments} for one in done.operations]
    return FinishedTransaction.model_validate({"id": done.id, "operations": operations, "answers": answers})


@router.delete("/transactions/{transaction_id}", status_code=204)
@gathered
def delete_transaction(transaction_id: str, use: Use) -> None:
    use.transactions.delete(transaction_id)
