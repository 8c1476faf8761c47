"""Experiments and what their trials report."""

from __future__ import annotations

from typing import Any

from trunkline.wire.base import Ask, Wire


class Experiment(Wire):
    id: int
    name: str
    label: str
    """The commit set's ID, where one caused it."""
    config: dict[str, Any]
    code_root: str | None
    source_checkpoint: str | None
    status: str
    phase: str
    reason: str
    progress: float
    created_at: float
    finished_at: float | None


class CreateExperiment(Ask):
    config: dict[str, Any] | str
    """Determined's experiment configuration, as a mapping or as YAML text."""
    code_root: str | None = None
    label: str = ""
    idempotency_key: str | None = None
    source_checkpoint: str | None = None


class MetricsRow(Wire):
    trial_id: int
    run_id: int
    group: str
    steps_completed: int
    values: dict[str, Any]
    created_at: float


class Checkpoint(Wire):
    uuid: str
    trial_id: int
    experiment_id: int
    steps_completed: int
    root: str | None
    """Tree of its files; None once deleted."""
    size: int
    metadata: dict[str, Any]
    state: str
    metrics: dict[str, Any]
    created_at: float
