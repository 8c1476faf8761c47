"""Bad datums: what a failed job keeps, quarantine, doing again, time limits, newer jobs that end older ones."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.pipelines.conftest import World, only, spec
from trunkline.core.status import Status
from trunkline.errors import InvalidInputError, NotFoundError, StateError

pytestmark = pytest.mark.slow


def made(path: str) -> dict[str, str]:
    return {path.rstrip("/"): f"made {path}"}


def latest(world: World, pipeline: str = "edges") -> Any:
    return world.pipelines.list_jobs("default", pipeline)[0]


def work(world: World, *bad: str) -> list[str]:
    """Do what waits; those at the ``bad`` paths fail. Returns the paths that were done."""
    done = []
    while claimed := world.claim("edges"):
        for task, payload in claimed:
            path = only(payload)["files"][0][1]
            done.append(path)
            if path in bad:
                world.fail(task, payload, "exit code 1")
            else:
                world.succeed(task, payload, made(path))
    return sorted(done)


@pytest.fixture
def failed(world: World) -> World:
    """A job of three datums, one of which has failed."""
    world.pipelines.create("default", spec())
    world.put("images@master", {"/a": "1", "/b": "2", "/c": "3"})
    assert work(world, "/b") == ["/a", "/b", "/c"]
    assert latest(world).status == Status.FAILED
    return world


def test_rerun_does_only_the_rest(failed: World) -> None:
    job = failed.pipelines.rerun("default", "edges")
    failed.settle()
    assert work(failed) == ["/b"]
    assert (latest(failed).id, latest(failed).status, latest(failed).skipped) == (job.id, Status.SUCCEEDED, 2)
    assert set(failed.files("edges@master")) == {"/a", "/b", "/c"}
    failed.pipelines.rerun("default", "edges")
    failed.settle()
    assert work(failed) == []
    assert latest(failed).skipped == 3


def test_rerun_with_reprocess_does_all_of_it(failed: World) -> None:
    failed.pipelines.rerun("default", "edges", reprocess=True)
    failed.settle()
    assert work(failed) == ["/a", "/b", "/c"]
    assert latest(failed).version == 2
    with pytest.raises(NotFoundError):
        failed.pipelines.rerun("default", "nosuch")


def test_the_next_job_builds_on_the_last_that_succeeded(world: World) -> None:
    world.pipelines.create("default", spec())
    world.put("images@master", {"/a": "1", "/b": "2"})
    work(world)
    world.put("images@master", {"/a": "bad", "/c": "3"})
    assert work(world, "/a") == ["/a", "/c"]
    world.put("images@master", {"/a": "good"})
    assert work(world) == ["/a"]  # what the failed job did of c is known
    assert (latest(world).total, latest(world).skipped) == (3, 2)
    assert world.files("edges@master") == {"/a": "made /a", "/b": "made /b", "/c": "made /c"}


# --- quarantine ---


def test_quarantine_sets_bad_datums_aside_and_the_job_succeeds(world: World) -> None:
    world.pipelines.create("default", spec(on_failure="quarantine", datum_tries=2))
    world.put("images@master", {"/a": "1", "/bad/x": "2", "/bad/y": "3"})
    assert work(world, "/bad/") == ["/a", "/bad/"]
    job = latest(world)
    assert (job.status, job.quarantined, job.processed, job.failed) == (Status.SUCCEEDED, 1, 1, 0)
    assert world.files("edges@master") == {"/a": "made /a"}
    [datum] = [
        one for one in world.pipelines.list_datums("default", "edges", job.id) if one.status == "quarantined"
    ]
    aside = world.files("edges@quarantine")
    assert {path.removeprefix(f"/{datum.id}") for path in aside} == {
        "/reason.json", "/images/bad/x", "/images/bad/y",
    }  # fmt: skip
    assert json.loads(aside[f"/{datum.id}/reason.json"]) == {
        "datum": datum.id, "job": job.id, "reason": "exit code 1", "attempts": 2, "files": ["images:/bad/"],
    }  # fmt: skip
    world.put("images@master", {"/c": "3"})
    assert work(world, "/bad/") == ["/bad/", "/c"]  # tried again
    assert (latest(world).total, latest(world).quarantined, latest(world).skipped) == (3, 1, 1)
    world.put("images@master", {"/bad/x": "repaired"})
    assert work(world) == ["/bad/"]
    assert latest(world).quarantined == 0
    assert world.files("edges@quarantine") == {}
    assert set(world.files("edges@master")) == {"/a", "/bad", "/c"}


def test_what_is_set_aside_has_no_output_from_before(world: World) -> None:
    world.pipelines.create("default", spec(on_failure="quarantine"))
    world.put("images@master", {"/a": "1", "/b": "2"})
    work(world)
    world.put("images@master", {"/a": "bad"})
    work(world, "/a")
    assert world.files("edges@master") == {"/b": "made /b"}


# --- stopping and doing again ---


def test_restart_datum_takes_it_from_its_worker(world: World) -> None:
    world.pipelines.create("default", spec())
    commit = world.put("images@master", {"/a": "1", "/b": "2"})
    (task, payload), _ = world.claim("edges")
    [restarted] = world.pipelines.restart_datum("default", "edges", commit, paths=["/a"])
    assert restarted == only(payload)["id"]
    assert world.jobs.queue.keep_alive([world.lease(task)])[0] == [task.id]  # its worker is told
    [(_, again)] = world.claim("edges")
    assert only(again)["id"] == restarted


def test_restart_datum_does_again_what_has_ended(world: World) -> None:
    world.pipelines.create("default", spec())
    commit = world.put("images@master", {"/a": "1", "/b": "2"})
    (first, payload), (second, other) = world.claim("edges")
    world.fail(first, payload, "exit code 1")
    datum = only(payload)["id"]
    assert world.pipelines.restart_datum("default", "edges", commit, datum=datum[:10]) == [datum]
    job = latest(world)
    assert (job.failed, job.processed) == (0, 0)
    world.succeed(second, other, made("/b"))
    assert work(world) == ["/a"]
    assert (latest(world).status, latest(world).processed) == (Status.SUCCEEDED, 2)
    with pytest.raises(StateError, match="rerun pipeline edges"):
        world.pipelines.restart_datum("default", "edges", commit, datum=datum)


def test_restart_datum_says_what_is_wrong(world: World) -> None:
    world.pipelines.create("default", spec())
    commit = world.put("images@master", {"/a": "1"})
    with pytest.raises(NotFoundError, match="no datum '/x'"):
        world.pipelines.restart_datum("default", "edges", commit, paths=["/x"])
    with pytest.raises(InvalidInputError):
        world.pipelines.restart_datum("default", "edges", commit)


def test_job_timeout_ends_a_job(world: World) -> None:
    world.pipelines.create("default", spec(job_timeout="60s"))
    commit = world.put("images@master", {"/a": "1"})
    [(task, _)] = world.claim("edges")
    world.clock.advance(59)
    world.settle()
    assert latest(world).status == Status.RUNNING
    world.jobs.queue.keep_alive([world.lease(task)])
    world.clock.advance(2)
    world.settle()
    job = world.pipelines.inspect_job("default", "edges", commit)
    assert (job.status, job.reason) == (Status.FAILED, "it ran past its job_timeout of 60 s")
    assert world.jobs.queue.keep_alive([world.lease(task)])[1] == [task.id]
    world.pipelines.rerun("default", "edges")
    world.settle()
    work(world)
    assert world.tasks("job-timeout") == []


def test_the_newest_commit_wins_where_that_is_asked_for(world: World) -> None:
    world.pipelines.create("default", spec(supersede=True))
    first = world.put("images@master", {"/a": "1", "/b": "1"})
    claimed = world.claim("edges")
    [(task, payload)] = [one for one in claimed if only(one[1])["files"][0][1] == "/b"]
    world.succeed(task, payload, made("/b"))
    second = world.put("images@master", {"/a": "2"})
    third = world.put("images@master", {"/a": "3"})
    jobs = {job.id: job for job in world.pipelines.list_jobs("default", "edges")}
    assert jobs[first].status == jobs[second].status == Status.CANCELLED
    assert jobs[first].reason == f"superseded by job {second}"
    assert jobs[third].skipped == 1  # what the first had done of b is known
    assert work(world) == ["/a"]
    assert world.pipelines.inspect_job("default", "edges", third).status == Status.SUCCEEDED


# --- datums that several jobs want ---


def test_a_datum_that_another_job_computes_is_waited_for(world: World) -> None:
    world.pipelines.create("default", spec())
    first = world.put("images@master", {"/a": "1"})
    second = world.put("images@master", {"/b": "2"})
    claimed = world.claim("edges")
    assert [only(payload)["files"][0][1] for _, payload in claimed] == ["/a", "/b"]  # a once
    (task, payload), (other, other_payload) = claimed
    world.succeed(other, other_payload, made("/b"))
    assert world.pipelines.inspect_job("default", "edges", second).processed == 1
    world.succeed(task, payload, made("/a"))
    job = world.pipelines.inspect_job("default", "edges", second)
    assert (job.status, job.processed, job.skipped) == (Status.SUCCEEDED, 1, 1)
    assert world.files(f"edges@{first}") == made("/a")
    assert world.files(f"edges@{second}") == {**made("/a"), **made("/b")}


@pytest.mark.parametrize("how", ["fail", "stop"])
def test_what_comes_to_nothing_in_one_job_is_done_in_the_next(world: World, how: str) -> None:
    world.pipelines.create("default", spec())
    first = world.put("images@master", {"/a": "1"})
    second = world.put("images@master", {"/b": "2"})
    third = world.put("images@master", {"/c": "2"})
    [task, payload] = world.claim("edges")[0]
    if how == "fail":
        world.fail(task, payload, "exit code 1")
    else:
        world.pipelines.stop_job("default", "edges", first)
    [(task, payload)] = world.claim("edges")
    assert (payload["job"]["id"], only(payload)["files"][0][1]) == (second, "/a")
    world.succeed(task, payload, made("/a"))
    assert world.pipelines.inspect_job("default", "edges", third).skipped == 1


def test_egress_comes_between_the_output_and_the_end(world: World) -> None:
    """Where a spec has it, another step ends the job."""
    world.pipelines.create("default", spec())
    commit = world.put("images@master", {"/a": "1"})
    seen: list[Any] = []

    def egress(task: Any) -> Any:
        seen.append((task.payload["root"], latest(world).phase))
        return world.egressed(task)

    world.jobs.on_control("egress-job", egress)
    world.set_spec("edges", egress={"URL": "file:///somewhere"})
    assert work(world) == ["/a"]
    assert world.pipelines.inspect_job("default", "edges", commit).status == Status.SUCCEEDED
    root = world.versioning.inspect_commit("default", "edges@master").root
    assert seen == [(root, "egressing")]
