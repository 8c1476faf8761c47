"""Searchers: which trials an experiment runs. Pure: events in, operations out, state as JSON.

The service feeds every event in the transaction that makes it true and stores the state with it, so a search goes on
exactly where it was after a crash. ``single`` needs only the two events below; searchers that judge trials while they run
add an event for a validation and an operation to stop a trial.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, Protocol

from trunkline.training import hyperparameters

SEED_BITS = 31


@dataclass(frozen=True, kw_only=True)
class Began:
    """The experiment was created."""


@dataclass(frozen=True, kw_only=True)
class TrialEnded:
    request_id: str
    succeeded: bool


Event = Began | TrialEnded


@dataclass(frozen=True, kw_only=True)
class CreateTrial:
    request_id: str
    """The searcher's own name for the trial; unique in its experiment."""
    hparams: dict[str, Any]
    seed: int


@dataclass(frozen=True, kw_only=True)
class Finish:
    """The search is over. It failed if no trial succeeded."""


Operation = CreateTrial | Finish


@dataclass(frozen=True, kw_only=True)
class Step:
    state: dict[str, Any]
    operations: tuple[Operation, ...]


class Search(Protocol):
    """One search method."""

    def advance(self, state: dict[str, Any], event: Event) -> Step:
        """What to do about an event. Given the same state and event, it answers the same; the first state is empty."""


class Single:
    """One trial, at one point of the hyperparameters' space."""

    def __init__(self, space: hyperparameters.Group, seed: int) -> None:
        self._space = space
        self._seed = seed

    def advance(self, state: dict[str, Any], event: Event) -> Step:
        if isinstance(event, TrialEnded):
            return Step(state=state, operations=(Finish(),))
        rng = random.Random(self._seed)
        hparams = hyperparameters.sample(self._space, rng)
        return Step(
            state={},
            operations=(CreateTrial(request_id="1", hparams=hparams, seed=rng.getrandbits(SEED_BITS)),),
        )


def open_search(config: dict[str, Any]) -> Search:
    """The search of a stored (validated) config."""
    name = config["searcher"]["name"]
    assert name == "single", f"config validation lets only 'single' pass, not {name!r}"
    return Single(
        hyperparameters.parse(config["hyperparameters"]), config["reproducibility"]["experiment_seed"]
    )
