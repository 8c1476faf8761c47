"""What worker processes say and are told."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from trunkline.wire.base import Ask, AskPart, Wire


class Claim(Ask):
    queue: str
    """Empty: any queue of datums that has too few workers; the worker then stays with it."""
    worker: str
    limit: int = Field(default=1, ge=1, le=256)
    wait_seconds: float = Field(default=0.0, ge=0)


class LeasedTask(Wire):
    id: int
    kind: str
    key: str
    queue: str
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


class DatumStats(Wire):
    """What one datum took."""

    download_seconds: float = 0.0
    process_seconds: float = 0.0
    upload_seconds: float = 0.0
    cpu_seconds: float = 0.0
    download_bytes: int = 0
    upload_bytes: int = 0
    memory_bytes: int = 0
    """The most it had at once."""
    exit_code: int | None = None
    oom: bool = False
    """Whether it was killed because it asked for more memory than there is."""


class DatumResult(AskPart):
    """How one datum of a set ended."""

    id: str
    status: Literal["succeeded", "failed", "recovered"]
    reason: str = ""
    attempts: int = Field(default=1, ge=1)
    seconds_ago: float | None = Field(default=None, ge=0)
    """How long ago its last try began."""
    root: str | None = None
    """The fileset that its output is part of; None: it wrote nothing."""
    prefix: str = ""
    """Where in it; empty: all of it."""
    size: int = Field(default=0, ge=0)
    file_count: int = Field(default=0, ge=0)
    stats: DatumStats = Field(default_factory=DatumStats)


class Progress(Ask):
    """What a worker has done of a datum set since it last said so."""

    token: str
    results: list[DatumResult] = Field(default_factory=list, max_length=1000)
    current: str | None = None
    """The datum that it is at."""
    ends: bool = False
    """These are the last: the task ends with them, without a report."""


class ProgressAnswer(Wire):
    stop: bool
    """The rest is not wanted any more."""
    ended: bool = False
    """The task is over, as was asked for."""


class LogLines(Ask):
    token: str
    offset: int = Field(ge=0)
    lines: list[dict[str, Any]] = Field(max_length=10_000)


class Announce(Ask):
    """A worker says which process it is, so that a restarted server can adopt it."""

    pid: int
    started: str | None
