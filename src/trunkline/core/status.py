"""Statuses and the moves allowed between them: one enum, one table, for every long-running thing.

Phase (pulling, loading …) is kept apart from outcome: it is a free word beside the status.
"""

from __future__ import annotations

from enum import StrEnum

from trunkline.errors import StateError


class Status(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"
    """Of a datum: what it makes is known."""
    RECOVERED = "recovered"
    """Of a datum: its command failed, its ``err_cmd`` did not."""
    QUARANTINED = "quarantined"
    """Of a datum: it failed, and was set aside."""
    REMOVED = "removed"
    """Of a datum: its input is not there any more."""
    UNRUNNABLE = "unrunnable"

    @property
    def is_final(self) -> bool:
        return not TRANSITIONS[self]


TRANSITIONS: dict[Status, frozenset[Status]] = {
    Status.QUEUED: frozenset(
        {Status.RUNNING, Status.PAUSED, Status.SUCCEEDED, Status.FAILED, Status.CANCELLED, Status.SKIPPED}
        | {Status.UNRUNNABLE, Status.RECOVERED, Status.QUARANTINED}
    ),
    Status.RUNNING: frozenset(
        {Status.QUEUED, Status.PAUSED, Status.SUCCEEDED, Status.FAILED, Status.CANCELLED}
        | {Status.RECOVERED, Status.QUARANTINED}
    ),
    Status.PAUSED: frozenset({Status.QUEUED, Status.RUNNING, Status.FAILED, Status.CANCELLED}),
    Status.SUCCEEDED: frozenset(),
    Status.FAILED: frozenset(),
    Status.CANCELLED: frozenset(),
    Status.SKIPPED: frozenset(),
    Status.RECOVERED: frozenset(),
    Status.QUARANTINED: frozenset(),
    Status.REMOVED: frozenset(),
    Status.UNRUNNABLE: frozenset(),
}


def check_transition(what: str, old: Status, new: Status) -> None:
    """:raises StateError: if ``old`` may not become ``new``; ``what`` names the object in the message."""
    if new not in TRANSITIONS[old]:
        raise StateError(f"{what} is {old.value} and cannot become {new.value}", kind="bad_transition")
