"""Several pipelines at once: their order, all or none, one ID, and what is refused."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from tests.pipelines.conftest import World, spec
from trunkline.core.status import Status
from trunkline.errors import (
    AlreadyExistsError,
    ConflictError,
    InvalidInputError,
    NotFoundError,
    TrunklineError,
)
from trunkline.pipelines.model import Pipeline
from trunkline.pipelines.together import PIPELINES_MAX

pytestmark = pytest.mark.slow


def asked(*specs: Any) -> list[dict[str, Any]]:
    return [{"spec": one, "code_root": None} for one in specs]


def create(world: World, *specs: Any, update: bool = False) -> list[Pipeline]:
    made = world.pipelines.create_all("default", asked(*specs), update=update)
    world.settle()
    return made


def names(world: World) -> list[str]:
    return sorted(one.name for one in world.pipelines.list_pipelines(None))


CHAIN = (spec("a", repo="images"), spec("b", repo="a"), spec("c", repo="b"))


@pytest.mark.parametrize("order", list(itertools.permutations(CHAIN)))
def test_any_order_is_right(world: World, order: tuple[dict[str, Any], ...]) -> None:
    world.put("images@master", {"/x": "1"})
    made = create(world, *order)
    assert [one.name for one in made] == [one["pipeline"]["name"] for one in order], "as they were given"
    for name in "abc":
        assert world.work(name, lambda path: {path: "made"}) == 1
    jobs = [world.pipelines.list_jobs("default", name) for name in "abc"]
    assert [[job.status for job in found] for found in jobs] == [[Status.SUCCEEDED]] * 3
    assert len({found[0].id for found in jobs}) == 1, "what they begin has one ID"
    commit = world.put("images@master", {"/y": "1"})
    assert {job.pipeline for job in world.pipelines.jobs_of(commit)} == {"a", "b", "c"}


def test_inputs_of_many_kinds_are_looked_through(world: World) -> None:
    world.versioning.create_project("vision")
    tick = {"cron": {"name": "tick", "spec": "@never"}}
    clock = spec("clock") | {"input": tick}
    nested = {"cross": [{"union": [{"pfs": {"repo": "far", "project": "vision", "glob": "/"}}]}, tick]}
    reads = spec("reads") | {"input": nested}
    of_cron = spec("of-cron", repo="clock_tick")
    far = spec("far") | {
        "pipeline": {"name": "far", "project": {"name": "vision"}},
        "input": {"pfs": {"repo": "images", "project": "default", "glob": "/"}},
    }
    create(world, reads, of_cron, far, clock)
    assert names(world) == ["clock", "far", "of-cron", "reads"]


@pytest.mark.parametrize(
    ("specs", "error", "said"),
    [
        ((spec("a", repo="b"), spec("b", repo="a"), spec("c")), ConflictError,
         "this would make a cycle: default/a <- default/b <- default/a"),
        ((spec("z", repo="x"), spec("x", repo="y"), spec("y", repo="w"), spec("w", repo="x")), ConflictError,
         "this would make a cycle: default/x <- default/y <- default/w <- default/x"),
        ((spec("old", repo="b"), spec("b", repo="old")), ConflictError, "this would make a cycle: default/old <- def"),
        ((spec("a"), spec("b"), spec("a", glob="/")), InvalidInputError, "pipeline default/a is there twice"),
        ((spec("a"), spec("b", repo="nosuch")), NotFoundError, "pipeline b: input repo default/nosuch does not exist"),
        ((spec("a"), spec("b", transform={"cmd": []})), InvalidInputError, "pipeline b: pipeline spec: transform.cmd"),
        ((spec("a"), {"pipeline": {}}), InvalidInputError, "spec 2 of 2: pipeline spec: pipeline.name: missing"),
        ((spec("a"), spec("b", repo="b")), InvalidInputError, "pipeline b: pipeline default/b cannot have its own"),
        ((spec("a"), spec("b", dry_run=True)), InvalidInputError, "the spec says dry_run"),
        ((spec("a"), spec("taken", repo="a")), AlreadyExistsError, "pipeline taken: there is a repo 'taken'"),
        ((spec("a"), spec("old")), AlreadyExistsError, "pipeline default/old exists already"),
        ((), InvalidInputError, "there is no pipeline spec"),
        (tuple(spec(f"p{n}") for n in range(PIPELINES_MAX + 1)), InvalidInputError, "these are 201 pipelines: at most 200"),
    ],
)  # fmt: skip
def test_all_or_none(world: World, specs: tuple[Any, ...], error: type[TrunklineError], said: str) -> None:
    world.versioning.create_repo("default", "taken")
    create(world, spec("old"))
    repos = [repo.name for repo in world.versioning.list_repos("default")]
    updates = "cycle" in said
    with pytest.raises(error) as caught:
        create(world, *specs, update=updates)
    assert said in caught.value.message and "\n" not in caught.value.message
    world.settle()
    assert names(world) == ["old"]
    assert [repo.name for repo in world.versioning.list_repos("default")] == repos


def test_updates_may_turn_the_order_round(world: World) -> None:
    world.put("images@master", {"/x": "1"})
    create(world, spec("a"), spec("b", repo="a"))
    jobs = len(world.pipelines.list_jobs("default", "b"))
    made = create(world, spec("a", repo="b"), spec("b"), update=True)
    assert [(one.name, one.version, one.input) for one in made] == [
        ("a", 2, "default/b:/*"),
        ("b", 2, "default/images:/*"),
    ]
    assert len(world.pipelines.list_jobs("default", "b")) == jobs + 1, "one job for one change"
    assert world.work("b", lambda path: {path: "made"}) == 1
    assert world.work("a", lambda path: {path: "made"}) == 1


def test_a_preview_of_several_changes_nothing(world: World) -> None:
    world.put("images@master", {"/x": "1"})
    create(world, spec("a"))
    found = world.pipelines.preview_all(
        "default", asked(spec("b", repo="a"), spec("a", glob="/")), update=True
    )
    assert [(one.pipeline.name, one.is_new) for one in found] == [("b", True), ("a", False)]
    assert found[1].changes == ("input.pfs.glob",) and found[1].work.total == 1
    fresh = world.pipelines.preview_all("default", asked(spec("d", repo="c"), spec("c")), datums=5)
    assert [(one.work.total, len(one.datums)) for one in fresh] == [(0, 0), (1, 1)]
    assert names(world) == ["a"]
    with pytest.raises(ConflictError, match="this would make a cycle"):
        world.pipelines.preview_all("default", asked(spec("d", repo="c"), spec("c", repo="d")))
