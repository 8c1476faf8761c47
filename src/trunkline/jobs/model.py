"""What the queue, the outbox and the engines speak of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from sqlalchemy.engine import Connection

from trunkline.core.ids import LeaseToken, TaskId
from trunkline.core.status import Status

CONTROL_QUEUE = "control"
"""The queue of short steps that the control server itself takes; every other queue is served by worker processes."""
SLOW_QUEUE = "control:slow"
"""Steps of the control server that may take minutes, and so have threads of their own."""

ANY_QUEUE = ""
"""What a worker in reserve asks for: a task of whatever queue has work and too few workers."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """A leased unit of work. ``(kind, key)`` is unique: asking twice for the same work is harmless."""

    id: TaskId
    kind: str
    key: str
    queue: str
    payload: dict[str, Any]
    attempts: int
    lease_token: LeaseToken
    owner: str = ""
    """The worker that it is leased to."""


@dataclass(frozen=True, kw_only=True)
class Again:
    """Outcome of a control step: not settled, look again after this long."""

    after_seconds: float
    apply: Callable[[Connection], None] = lambda _: None


@dataclass(frozen=True, kw_only=True)
class Done:
    """Outcome of a control step: finished; ``apply`` runs in the transaction that ends the lease."""

    apply: Callable[[Connection], None] = lambda _: None


Outcome = Again | Done


class ControlHandler(Protocol):
    """A domain's step for one kind of control task: read, decide, act; writes go into the outcome's ``apply``.

    It may run again after a crash at any point, so whatever it does outside the database must be repeatable.
    """

    def __call__(self, task: Task, /) -> Outcome: ...


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a worker says of a task at its end."""

    status: Status
    result: dict[str, Any] = field(default_factory=dict)
    error: str = ""


class WorkerHandler(Protocol):
    """A domain's side of a kind of task that worker processes do."""

    def describe(self, task: Task) -> dict[str, Any]:
        """Everything the worker needs, read when the task is claimed (secrets included, so never stored in the task)."""

    def started(self, connection: Connection, task: Task) -> None:
        """The task was claimed: same transaction."""

    def progress(
        self, connection: Connection, task: Task, results: Sequence[Mapping[str, Any]], current: str | None
    ) -> bool:
        """Apply results of parts of the task while it goes on, fenced by the lease, in the same transaction; what was said
        before is said again without harm. Returns whether the rest is still wanted.

        :raises StateError: ``no_parts``, if tasks of this kind are not done in parts.
        """

    def reported(self, connection: Connection, task: Task, report: Report) -> float | None:
        """Apply the report, fenced by the lease, in the same transaction. Seconds until a retry, or None: no retry."""

    def lost(self, connection: Connection, task: Task) -> float | None:
        """The worker went silent. Seconds until a retry, or None if the task is given up."""


@dataclass(frozen=True, kw_only=True)
class LaunchSpec:
    """What an engine is asked to run. ``env`` is the whole environment, not an addition to the engine's own."""

    id: str
    argv: tuple[str, ...]
    env: dict[str, str]
    cwd: str
    log_path: str


@dataclass(frozen=True, kw_only=True)
class Process:
    """A child that the control server has started and that may outlive it."""

    id: str
    kind: str
    subject: str
    engine: str
    handle: dict[str, Any] | None
    status: str
    log: str | None
    info: dict[str, Any]
    created_at: float
