"""The nouns of training."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from trunkline.core.ids import TreeHash
from trunkline.core.status import Status

TRAINING_GROUP = "training"
VALIDATION_GROUP = "validation"
"""The metric group that checkpoints are ranked by."""

STOPPING = "stopping"
"""Phase of an experiment that was cancelled and whose trials are saving their last checkpoint."""


class CheckpointState(StrEnum):
    COMPLETED = "completed"
    DELETED = "deleted"


@dataclass(frozen=True, kw_only=True)
class Experiment:
    id: int
    name: str
    label: str
    """The commit set's ID, where one caused it."""
    idempotency_key: str | None
    config: dict[str, Any]
    """As given, with defaults filled in and the data pinned to commits."""
    code_root: TreeHash | None
    source_checkpoint: str | None
    status: Status
    phase: str
    reason: str
    progress: float
    created_at: float
    finished_at: float | None
    searcher_state: dict[str, Any] = field(repr=False)

    @property
    def is_stopping(self) -> bool:
        return self.phase == STOPPING


@dataclass(frozen=True, kw_only=True)
class Trial:
    id: int
    experiment_id: int
    request_id: str
    hparams: dict[str, Any]
    seed: int
    status: Status
    phase: str
    reason: str
    restarts: int
    """How often its code failed and was started again."""
    run_id: int
    """1 for the first run, one more for each run after that, whatever ended the one before."""
    progress: float
    latest_checkpoint: str | None
    steps_completed: int
    created_at: float
    finished_at: float | None


@dataclass(frozen=True, kw_only=True)
class MetricsRow:
    trial_id: int
    run_id: int
    group: str
    steps_completed: int
    values: dict[str, Any]
    created_at: float


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    uuid: str
    trial_id: int
    experiment_id: int
    steps_completed: int
    root: TreeHash | None
    """Tree of its files; None once deleted."""
    size: int
    metadata: dict[str, Any]
    state: CheckpointState
    metrics: dict[str, Any]
    """The trial's validation metrics at the same number of steps; empty if it was not validated there."""
    created_at: float


@dataclass(frozen=True, kw_only=True)
class LogLine:
    ts: float
    run_id: int
    stream: str
    """``stdout`` or ``stderr``; ``trunkline`` for what the trial worker itself has to say."""
    text: str
