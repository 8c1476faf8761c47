"""What follows from the end of a run, and which checkpoints are best and stay."""

from typing import Any

import pytest

from trunkline.core.ids import TreeHash
from trunkline.core.status import Status
from trunkline.training.decisions import (
    ATTEMPTS_BEYOND_RESTARTS_MAX,
    Run,
    after_loss,
    after_run,
    experiment_outcome,
    ranked,
    retained,
)
from trunkline.training.model import Checkpoint, CheckpointState
from trunkline.training.searchers import Began, CreateTrial, Finish, TrialEnded, open_search
from trunkline.training.values import stored_values


@pytest.mark.parametrize(
    ("exit_code", "preempted", "paused", "stopping", "restarts", "expected"),
    [
        (0, False, False, False, 0, (Status.SUCCEEDED, 0)),
        (0, False, True, False, 0, (Status.SUCCEEDED, 0)),  # it was done before it could pause
        (0, False, False, True, 0, (Status.SUCCEEDED, 0)),
        (0, True, True, False, 0, (Status.PAUSED, 0)),
        (0, True, False, False, 0, (Status.QUEUED, 0)),  # activated again while it was saving
        (0, True, False, True, 0, (Status.CANCELLED, 0)),
        (0, True, True, True, 0, (Status.CANCELLED, 0)),
        (1, False, False, False, 0, (Status.QUEUED, 1)),
        (1, False, True, False, 0, (Status.PAUSED, 1)),
        (1, False, False, False, 2, (Status.FAILED, 2)),
        (1, False, True, False, 2, (Status.FAILED, 2)),
        (1, False, False, True, 0, (Status.CANCELLED, 0)),
        (None, False, False, False, 0, (Status.QUEUED, 1)),
        (None, True, False, False, 0, (Status.QUEUED, 0)),  # its worker was asked to end
    ],
)
def test_after_run(
    exit_code: int | None,
    preempted: bool,
    paused: bool,
    stopping: bool,
    restarts: int,
    expected: tuple[Status, int],
) -> None:
    run = Run(exit_code=exit_code, preempted=preempted, error="")
    found = after_run(run, paused=paused, stopping=stopping, restarts=restarts, restarts_max=2)
    assert (found.status, found.restarts) == expected


def test_failure_says_why() -> None:
    run = Run(exit_code=1, preempted=False, error="ValueError: no (exit code 1)")
    found = after_run(run, paused=False, stopping=False, restarts=2, restarts_max=2)
    assert found.reason == "ValueError: no (exit code 1) (after 2 restarts)"
    assert after_run(run, paused=False, stopping=False, restarts=0, restarts_max=0).reason == run.error


def test_a_lost_worker_is_not_the_trials_fault_but_not_forever() -> None:
    def after(attempts: int, *, paused: bool = False, stopping: bool = False) -> tuple[Status, int]:
        found = after_loss(attempts=attempts, paused=paused, stopping=stopping, restarts=1, restarts_max=5)
        return found.status, found.restarts

    assert after(1) == (Status.QUEUED, 1)
    assert after(1, paused=True) == (Status.PAUSED, 1)
    assert after(1, stopping=True) == (Status.CANCELLED, 1)
    assert after(5 + ATTEMPTS_BEYOND_RESTARTS_MAX) == (Status.FAILED, 1)


def test_an_experiment_fails_only_if_all_trials_failed() -> None:
    assert experiment_outcome([Status.FAILED, Status.SUCCEEDED], stopping=False) is Status.SUCCEEDED
    assert experiment_outcome([Status.FAILED, Status.FAILED], stopping=False) is Status.FAILED
    assert experiment_outcome([Status.SUCCEEDED], stopping=True) is Status.CANCELLED


def checkpoint(name: str, steps: int, *, trial: int = 1, **metrics: Any) -> Checkpoint:
    return Checkpoint(
        uuid=name, trial_id=trial, experiment_id=1, steps_completed=steps, root=TreeHash("0" * 64), size=1, metadata={},
        state=CheckpointState.COMPLETED, metrics=metrics, created_at=float(steps),
    )  # fmt: skip


def names(found: list[Checkpoint]) -> str:
    return "".join(one.uuid for one in found)


SOME = [
    checkpoint("a", 1, loss=0.5),
    checkpoint("b", 2, loss=0.3),
    checkpoint("c", 3, loss=0.3),
    checkpoint("d", 4),
    checkpoint("e", 5, loss="NaN"),
    checkpoint("f", 6, other=0.0),
]


def test_best_first_later_of_equals_unvalidated_last() -> None:
    assert names(ranked(SOME, metric="loss", smaller_is_better=True)) == "cbafed"
    assert names(ranked(SOME, metric="loss", smaller_is_better=False)) == "acbfed"
    assert names(ranked([], metric="loss", smaller_is_better=True)) == ""


@pytest.mark.parametrize(
    ("experiment_best", "trial_best", "trial_latest", "kept"),
    [
        (0, 1, 1, "cfz"),
        (0, 0, 0, ""),
        (2, 0, 0, "cz"),
        (0, 2, 0, "bcz"),
        (0, 0, 3, "defz"),
        (0, 9, 0, "abcz"),
    ],
)
def test_retention(experiment_best: int, trial_best: int, trial_latest: int, kept: str) -> None:
    both = [*SOME, checkpoint("z", 1, trial=2, loss=0.1)]
    found = retained(
        both, metric="loss", smaller_is_better=True, experiment_best=experiment_best, trial_best=trial_best,
        trial_latest=trial_latest,
    )  # fmt: skip
    assert "".join(sorted(found)) == kept


def test_single_searcher() -> None:
    config = {
        "searcher": {"name": "single"},
        "hyperparameters": {"lr": {"type": "double", "minval": 0, "maxval": 1}, "n": 3},
        "reproducibility": {"experiment_seed": 7},
    }
    first = open_search(config).advance({}, Began())
    assert first == open_search(config).advance({}, Began())
    (created,) = first.operations
    assert isinstance(created, CreateTrial)
    assert created.hparams["n"] == 3
    after = open_search(config).advance(
        first.state, TrialEnded(request_id=created.request_id, succeeded=False)
    )
    assert after.operations == (Finish(),)


def test_metric_values_are_json() -> None:
    given = {"a": float("nan"), "b": {"c": [float("inf"), -float("inf"), 1]}, "d": None, "e": 0.5}
    assert stored_values(given) == {"a": "NaN", "b": {"c": ["Infinity", "-Infinity", 1]}, "d": None, "e": 0.5}
