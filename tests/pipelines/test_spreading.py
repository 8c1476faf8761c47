"""Pipelines behind branches that move by themselves, that people fill, or that a transaction makes."""

from __future__ import annotations

from tests.pipelines.conftest import World, spec
from tests.pipelines.test_jobs import upper
from trunkline.core.status import Status
from trunkline.versioning.model import Trigger
from trunkline.versioning.service import TransactionService


def test_a_pipeline_behind_a_trigger_runs_once_for_what_has_gathered(world: World) -> None:
    trigger = Trigger(branch="staging", commits=3)  # type: ignore[arg-type]
    world.versioning.create_branch("default", "images@master", trigger=trigger)
    world.pipelines.create("default", spec())
    world.settle()
    made = [world.put("images@staging", {f"/{n}": "x"}) for n in range(3)]
    world.work("edges", upper)
    jobs = world.pipelines.list_jobs("default", "edges")
    assert [(job.id, job.status) for job in jobs[:1]] == [(made[2], Status.SUCCEEDED)]
    assert len(jobs) == 2  # the one at creation, and this one
    assert world.files("edges@master") == {f"/{n}": f"did /{n}" for n in range(3)}
    together = world.versioning.inspect_commit_set(made[2])
    assert [commit.repo for commit in together.commits] == ["images", "edges"]


def test_a_pipeline_waits_for_a_branch_that_a_person_fills(world: World) -> None:
    world.versioning.create_repo("default", "chosen")
    world.versioning.create_branch("default", "chosen@master", provenance=["images@master"])
    world.pipelines.create("default", spec(repo="chosen"))
    world.settle()
    made = world.put("images@master", {"/a": "A"})
    job = world.pipelines.inspect_job("default", "edges", made)
    assert job.status is Status.QUEUED
    world.put("chosen@master", {"/good": "A"})
    assert world.pipelines.inspect_job("default", "edges", made).status is Status.QUEUED
    world.versioning.finish_commit("default", "chosen@master")
    world.settle()
    assert world.work("edges", upper) == 1
    assert world.pipelines.inspect_job("default", "edges", made).status is Status.SUCCEEDED
    assert world.files(f"edges@{made}") == {"/good": "did /good"}


def test_repos_pipelines_and_their_first_commit_in_one_transaction(world: World) -> None:
    gather = TransactionService(
        db=world.db, clock=world.clock, publish=world.jobs.outbox.publish,
        cases={**world.versioning.transaction_cases(), "create_pipeline": world.pipelines.create},
    )  # fmt: skip
    started = gather.start().id
    first = spec("edges", repo="photos")
    gather.do(started, "create_repo", project="default", name="photos")
    made = gather.do(started, "create_pipeline", project="default", spec=first)
    gather.do(started, "create_pipeline", project="default", spec=spec("montage", repo="edges"))
    gather.do(started, "start_commit", project="default", address="photos@master")
    assert made.name == "edges"
    world.settle()
    assert world.pipelines.list_pipelines() == []
    gather.finish(started)
    world.settle()
    assert [one.name for one in world.pipelines.list_pipelines()] == ["edges", "montage"]
    world.put("photos@master", {"/a": "A"})
    world.versioning.finish_commit("default", "photos@master")
    world.settle()
    for pipeline in ("edges", "montage"):
        assert world.work(pipeline, upper) == 1
        [job] = world.pipelines.list_jobs("default", pipeline)
        assert (job.id, job.status) == (started, Status.SUCCEEDED)
    assert world.files(f"montage@{started}") == {"/a": "did /a"}
