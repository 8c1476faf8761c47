"""What worker processes say and are told."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from trunkline.wire.base import Ask, Wire


class Claim(Ask):
    queue: str
    worker: str
    limit: int = Field(default=1, ge=1, le=256)
    wait_seconds: float = Field(default=0.0, ge=0)


class LeasedTask(Wire):
    id: int
    kind: str
    key: str
    token: str
    payload: dict[str, Any]


class Claimed(Wire):
    tasks: list[LeasedTask]


class LeaseRef(Ask):
    """Proof that the caller holds a task."""

    id: int
    token: str


class Heartbeat(Ask):
    leases: list[LeaseRef] = Field(max_length=1000)


class HeartbeatAnswer(Wire):
    lost: list[int]
    cancelled: list[int]


class ReportTask(Ask):
    token: str
    status: str
    result: dict[str, Any] = Field(default_factory=dict)
    error: str = ""


class LogLines(Ask):
    token: str
    offset: int = Field(ge=0)
    lines: list[dict[str, Any]] = Field(max_length=10_000)


class Announce(Ask):
    """A worker says which process it is, so that a restarted server can adopt it."""

    pid: int
    started: str | None
