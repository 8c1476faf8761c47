"""Transactions."""

from __future__ import annotations

from typing import Any

from trunkline.wire.base import Wire

TRANSACTION_HEADER = "x-trunkline-transaction"
"""Request header with a transaction's ID: the request is gathered in it, and its answer is what it will be."""


class Operation(Wire):
    kind: str
    """E.g. ``create_branch``."""
    arguments: dict[str, Any]


class Transaction(Wire):
    """Operations that wait to be applied together."""

    id: str
    """That of the commit set that it will make."""
    operations: tuple[Operation, ...]
    created_at: float


class FinishedTransaction(Wire):
    """What a transaction did."""

    id: str
    operations: tuple[Operation, ...]
    answers: tuple[Any, ...]
    """What each operation gave: the repo, branch, commit or pipeline; None where something was deleted."""
