"""What follows from what happened to a trial, and which checkpoints are best and stay. Pure."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from trunkline.core.status import Status
from trunkline.training.model import Checkpoint

RESTART_DELAYS_SECONDS = (0.0, 1.0, 5.0, 15.0, 30.0)
ATTEMPTS_BEYOND_RESTARTS_MAX = 20
"""Runs of a trial that may end without its own doing (its worker went silent) before it is given up."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """How a run of a trial ended."""

    exit_code: int | None
    """None if the trial's command was never started."""
    preempted: bool
    """It ended because it was asked to save a checkpoint and stop, or because its worker was."""
    error: str


@dataclass(frozen=True, kw_only=True)
class Next:
    """What becomes of a trial after a run."""

    status: Status
    restarts: int
    reason: str = ""
    after_seconds: float = 0.0


def after_run(run: Run, *, paused: bool, stopping: bool, restarts: int, restarts_max: int) -> Next:
    """The next status of a running trial: exit code 0 is success unless it was asked to stop, anything else a restart.

    ``paused`` and ``stopping`` say what the experiment wants by now.
    """
    waiting = Status.PAUSED if paused else Status.QUEUED
    if run.preempted:
        return Next(status=Status.CANCELLED if stopping else waiting, restarts=restarts)
    if run.exit_code == 0:
        return Next(status=Status.SUCCEEDED, restarts=restarts)
    reason = run.error or f"exited with code {run.exit_code}"
    if stopping:
        return Next(status=Status.CANCELLED, restarts=restarts, reason=reason)
    if restarts >= restarts_max:
        tries = f" (after {restarts} restarts)" if restarts else ""
        return Next(status=Status.FAILED, restarts=restarts, reason=reason + tries)
    delay = RESTART_DELAYS_SECONDS[min(restarts, len(RESTART_DELAYS_SECONDS) - 1)]
    return Next(status=waiting, restarts=restarts + 1, reason=reason, after_seconds=delay)


def after_loss(*, attempts: int, paused: bool, stopping: bool, restarts: int, restarts_max: int) -> Next:
    """The next status of a trial whose worker went silent. Not its own fault, so no restart is counted."""
    if stopping:
        return Next(status=Status.CANCELLED, restarts=restarts)
    if attempts >= restarts_max + ATTEMPTS_BEYOND_RESTARTS_MAX:
        reason = (
            f"its worker was lost {attempts - restarts} times: does the trial use up the machine's memory?"
        )
        return Next(status=Status.FAILED, restarts=restarts, reason=reason)
    return Next(
        status=Status.PAUSED if paused else Status.QUEUED, restarts=restarts, reason="its worker was lost"
    )


def experiment_outcome(trials: Iterable[Status], *, stopping: bool) -> Status:
    """The status of an experiment whose trials have all ended: it failed only if none of them succeeded."""
    if stopping:
        return Status.CANCELLED
    ended = list(trials)
    if Status.SUCCEEDED in ended:
        return Status.SUCCEEDED
    return (
        Status.CANCELLED if ended and all(status is Status.CANCELLED for status in ended) else Status.FAILED
    )


def score(values: Mapping[str, Any], metric: str) -> float | None:
    """The searcher's metric as a finite number; None if it was not reported or is not one."""
    value = values.get(metric)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def ranked(checkpoints: Iterable[Checkpoint], *, metric: str, smaller_is_better: bool) -> list[Checkpoint]:
    """Best first; of two that are equal, the later one; those without the metric last, latest first."""

    def key(checkpoint: Checkpoint) -> tuple[bool, float]:
        value = score(checkpoint.metrics, metric)
        if value is None:
            return True, 0.0
        return False, value if smaller_is_better else -value

    return sorted(latest_first(checkpoints), key=key)


def latest_first(checkpoints: Iterable[Checkpoint]) -> list[Checkpoint]:
    return sorted(checkpoints, key=lambda c: (c.steps_completed, c.created_at, c.uuid), reverse=True)


def retained(
    checkpoints: Collection[Checkpoint],
    *,
    metric: str,
    smaller_is_better: bool,
    experiment_best: int,
    trial_best: int,
    trial_latest: int,
) -> set[str]:
    """The checkpoints that ``checkpoint_storage.save_*`` keeps. "Best" means among those with the searcher's metric."""
    best = [
        checkpoint
        for checkpoint in ranked(checkpoints, metric=metric, smaller_is_better=smaller_is_better)
        if score(checkpoint.metrics, metric) is not None
    ]
    kept = {checkpoint.uuid for checkpoint in best[:experiment_best]}
    for trial_id in {checkpoint.trial_id for checkpoint in checkpoints}:
        kept |= {c.uuid for c in [c for c in best if c.trial_id == trial_id][:trial_best]}
        kept |= {
            c.uuid for c in [c for c in latest_first(checkpoints) if c.trial_id == trial_id][:trial_latest]
        }
    return kept
