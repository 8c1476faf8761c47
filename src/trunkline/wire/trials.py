"""Trials, and what their worker reports of them."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from trunkline.wire.base import Ask, Wire
from trunkline.wire.leases import LeaseRef


class Trial(Wire):
    id: int
    experiment_id: int
    request_id: str
    hparams: dict[str, Any]
    seed: int
    status: str
    phase: str
    reason: str
    restarts: int
    run_id: int
    progress: float
    latest_checkpoint: str | None
    steps_completed: int
    created_at: float
    finished_at: float | None


class ReportMetrics(Ask):
    lease: LeaseRef
    group: str
    steps: int = Field(ge=0)
    values: dict[str, Any]


class ReportCheckpoint(Ask):
    lease: LeaseRef
    uuid: str
    steps: int = Field(ge=0)
    root: str
    metadata: dict[str, Any] = Field(default_factory=dict)


class ReportProgress(Ask):
    lease: LeaseRef
    progress: float


class Signals(Wire):
    """What a running trial is asked to do."""

    preempt: bool
