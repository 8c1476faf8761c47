"""Several specs of one file: in which order they are made, and whose fault an error is. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from trunkline.errors import InvalidInputError, TrunklineError
from trunkline.pipelines.checks import Node, chain_back, cycle_of
from trunkline.pipelines.spec import PipelineSpec

PIPELINES_MAX = 200
"""Other writers wait while they are made: some seconds for so many."""


@dataclass(frozen=True, kw_only=True)
class Wish:
    """A pipeline that is to be: its spec, checked for itself, and its code."""

    spec: PipelineSpec
    code_root: str | None
    label: str
    """What errors call it; empty where it is the only one."""

    @property
    def node(self) -> Node:
        return self.spec.pipeline.project, self.spec.pipeline.name

    @property
    def makes(self) -> set[Node]:
        """The repos that come with it."""
        return {self.node, *((leaf.project, leaf.repo) for leaf in self.spec.cron_inputs)}


def label_of(spec: Any, number: int, count: int) -> str:
    """``pipeline edges``, or ``spec 2 of 3`` where it does not even have a name."""
    if count == 1:
        return ""
    named = spec.get("pipeline") if isinstance(spec, Mapping) else None
    name = named.get("name") if isinstance(named, Mapping) else None
    return f"pipeline {name[:100]}" if name and isinstance(name, str) else f"spec {number} of {count}"


@contextmanager
def blamed_on(label: str) -> Iterator[None]:
    """An error in the block says which of the specs it is about."""
    try:
        yield
    except TrunklineError as error:
        if not label:
            raise
        raise type(error)(f"{label}: {error.message}", kind=error.kind, details=error.details) from error


def check_count(count: int) -> None:
    """:raises InvalidInputError: ``no_pipelines`` or ``too_many_pipelines``."""
    if not count:
        raise InvalidInputError("there is no pipeline spec to create from", kind="no_pipelines")
    if count > PIPELINES_MAX:
        raise InvalidInputError(
            f"these are {count} pipelines: at most {PIPELINES_MAX} are created at once, so make several files of them",
            kind="too_many_pipelines",
        )


def in_order(wishes: Sequence[Wish]) -> list[Wish]:
    """Each behind those whose output it reads; as given, otherwise.

    :raises InvalidInputError: ``pipeline_twice``. :raises ConflictError: ``pipeline_cycle``, naming the chain.
    """
    nodes = [wish.node for wish in wishes]
    twice = next((node for number, node in enumerate(nodes) if node in nodes[:number]), None)
    if twice is not None:
        raise InvalidInputError(
            f"pipeline {'/'.join(twice)} is there twice: each has one spec", kind="pipeline_twice"
        )
    makers = {repo: wish.node for wish in wishes for repo in wish.makes}
    above = {
        wish.node: [
            makers[source]
            for leaf in wish.spec.pfs_inputs
            if (source := (leaf.project, leaf.repo)) in makers and source not in wish.makes - {wish.node}
        ]
        for wish in wishes
    }
    waiting, done, found = list(wishes), set[Node](), list[Wish]()
    while waiting:
        free = next((wish for wish in waiting if done.issuperset(above[wish.node])), None)
        if free is None:
            chains = (chain_back(wish.node, above) for wish in waiting)
            raise cycle_of(next(chain for chain in chains if chain is not None))
        waiting.remove(free)
        done.add(free.node)
        found.append(free)
    return found
