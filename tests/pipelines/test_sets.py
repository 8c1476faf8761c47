"""Datum sets: what a worker leases, tells while it works, and what happens when it dies."""

from __future__ import annotations

from typing import Any

import pytest

from tests.pipelines.conftest import World, lease_of, spec
from trunkline.core.status import Status
from trunkline.errors import ConflictError
from trunkline.jobs.model import Task
from trunkline.pipelines.datum_tasks import WORKER_DIED
from trunkline.pipelines.runner import datums_per_set

FIVE = {f"/{n}": str(n) for n in range(5)}


def begun(world: World, files: dict[str, str] = FIVE, **more: Any) -> tuple[str, Task, dict[str, Any]]:
    """A job whose datums are one set, leased."""
    world.pipelines.create("default", spec(datum_set_spec={"number": 100}, **more))
    commit = world.put("images@master", files)
    [(task, payload)] = world.claim("edges")
    return commit, task, payload


def job(world: World, commit: str) -> Any:
    return world.pipelines.inspect_job("default", "edges", commit)


def statuses(world: World, commit: str) -> dict[str, str]:
    """By path."""
    found = world.pipelines.list_datums("default", "edges", commit)
    return {one.inputs[0].paths[0]: one.status.value for one in found}


@pytest.mark.parametrize(
    ("given", "workers", "datums", "size"),
    [
        (None, 1, 3, 1), (None, 2, 100, 13), (None, 1, 100_000, 1000), ({"number": 7}, 2, 100, 7),
        ({"per_worker": 1}, 2, 100, 50), ({"number": 0, "per_worker": 0}, 1, 8, 2),
    ],
)  # fmt: skip
def test_sizes_of_sets(given: dict[str, int] | None, workers: int, datums: int, size: int) -> None:
    found = datums_per_set({"datum_set_spec": given, "parallelism_spec": {"constant": workers}}, datums)
    assert found == size


def test_sets_by_size_of_input(world: World) -> None:
    world.pipelines.create("default", spec(datum_set_spec={"size_bytes": 10}))
    world.put("images@master", {f"/{n}": "x" * 4 for n in range(7)})
    assert [len(payload["datums"]) for _, payload in world.claim("edges")] == [3, 3, 1]


def test_what_a_worker_is_told(world: World) -> None:
    commit, task, payload = begun(world, transform={"env": {"A": "b"}}, datum_timeout="2s")
    assert task.kind == "datum-set"
    assert payload["job"] == {"project": "default", "pipeline": "edges", "id": commit, "version": 1}
    assert (payload["set"], payload["careful"], payload["tries"]) == (0, False, 3)
    [seen] = payload["inputs"]
    root = world.versioning.inspect_commit("default", "images@master").root
    assert seen == {
        "name": "images", "project": "default", "repo": "images", "branch": "master", "commit": commit, "root": root,
        "lazy": False, "empty_files": False, "s3": False,
    }  # fmt: skip
    assert [one["files"][0][:2] for one in payload["datums"]] == [[0, path] for path in FIVE]
    assert payload["datums"][0]["files"][0][3] == 1
    assert payload["transform"]["env"] == {"A": "b"}
    assert payload["env_extra"]["PACH_JOB_ID"] == payload["env_extra"]["images_COMMIT"] == commit
    assert payload["limits"] == {"memory_bytes": None, "cpus": None, "disk_bytes": None, "network": True}


def test_results_count_at_once_and_only_once(world: World) -> None:
    commit, task, payload = begun(world)
    first, second, *rest = (one["id"] for one in payload["datums"])
    result = world.result(first, {"/a": "A"})
    assert world.tell(task, result, current=second) is True
    assert world.tell(task, result, current=second) is True
    assert (job(world, commit).processed, job(world, commit).stats["process_seconds"]) == (1, 1.5)
    assert list(statuses(world, commit).values()).count("running") == 1
    world.tell(task, *(world.result(one, {}) for one in (second, *rest)))
    assert job(world, commit).status == Status.SUCCEEDED  # before the set is given back
    world.report(task, Status.SUCCEEDED)
    assert world.files("edges@master") == {"/a": "A"}
    assert world.claim("edges") == []


def test_sums_and_peaks_of_a_job_and_of_its_commit_set(world: World) -> None:
    commit, task, payload = begun(world, {"/a": "1", "/b": "2"})
    for datum, memory in zip(payload["datums"], (10, 30), strict=True):
        stats = {
            "download_seconds": 1,
            "cpu_seconds": 2,
            "upload_bytes": 3,
            "memory_bytes": memory,
            "oom": False,
        }
        world.tell(task, {**world.result(datum["id"], {}), "stats": stats})
    wanted = {"download_seconds": 2, "cpu_seconds": 4, "upload_bytes": 6, "memory_bytes": 30}
    assert job(world, commit).stats == wanted
    cost = world.pipelines.looking.job_set(commit).cost
    assert (cost.jobs, cost.datums, cost.stats) == (1, 2, wanted)


def test_several_uploads_in_one_tree(world: World) -> None:
    """All outputs of a call are one fileset, each below its datum's ID."""
    commit, task, payload = begun(world, {"/a": "1", "/b": "2"})
    one, two = (datum["id"] for datum in payload["datums"])
    tree = world.versioning.stage(world.puts({f"/{one}/d/x": "X", f"/{two}/d/y": "Y"}))
    world.tell(
        task,
        *({**world.result(datum, {}), "root": tree.root, "prefix": f"/{datum}"} for datum in (one, two)),
    )
    assert job(world, commit).status == Status.SUCCEEDED
    assert world.files("edges@master") == {"/d/x": "X", "/d/y": "Y"}


def test_what_was_not_reported_is_done_again(world: World) -> None:
    commit, task, payload = begun(world)
    done = payload["datums"][0]["id"]
    world.tell(task, world.result(done, {}))
    world.report(task, Status.QUEUED)  # the worker was asked to leave
    [(again, payload)] = world.claim("edges")
    assert done not in {one["id"] for one in payload["datums"]}
    assert [one["attempts"] for one in payload["datums"]] == [0] * 4
    with pytest.raises(ConflictError):
        world.tell(task, world.result(payload["datums"][0]["id"], {}))
    world.tell(again, *(world.result(one["id"], {}) for one in payload["datums"]))
    assert job(world, commit).processed == 5


def lose(world: World) -> None:
    world.clock.advance(world.settings.lease_seconds + 1)
    world.jobs.reap()
    world.settle()


def test_a_worker_that_dies_costs_nothing_the_first_time_then_a_try_of_one_datum(world: World) -> None:
    commit, _, _ = begun(world, {"/a": "1", "/b": "2"}, datum_tries=2)
    lose(world)
    for attempts in (0, 1):
        [(task, payload)] = world.claim("edges")
        assert payload["careful"]
        culprit = payload["datums"][1]
        assert [one["attempts"] for one in payload["datums"]] == [0, attempts]
        world.tell(task, current=culprit["id"])
        lose(world)
    assert statuses(world, commit) == {"/a": "queued", "/b": "failed"}
    [(task, payload)] = world.claim("edges")
    world.tell(task, *(world.result(one["id"], {"/out": "x"}) for one in payload["datums"]))
    assert job(world, commit).reason == f"datum images:/b failed: {WORKER_DIED}"
    assert (job(world, commit).processed, job(world, commit).failed) == (1, 1)


def test_a_worker_that_dies_before_it_says_anything_does_not_go_on_for_ever(world: World) -> None:
    commit, _, _ = begun(world, {"/a": "1"}, datum_tries=1)
    lose(world)
    assert len(world.claim("edges")) == 1
    lose(world)
    assert world.claim("edges") == []
    assert WORKER_DIED in job(world, commit).reason


def test_a_worker_that_fails_as_a_whole_uses_up_tries(world: World) -> None:
    commit, task, _ = begun(world, {"/a": "1", "/b": "2"}, datum_tries=2)
    world.report(task, Status.FAILED, "no room")
    world.clock.advance(1)
    [(task, payload)] = world.claim("edges")
    assert [one["attempts"] for one in payload["datums"]] == [1, 1]
    world.report(task, Status.FAILED, "no room")
    assert job(world, commit).reason == "datum images:/a failed (and 1 more): no room"


def test_progress_of_a_stopped_job_says_stop_and_keeps_what_was_done(world: World) -> None:
    commit, task, payload = begun(world)
    world.pipelines.stop_job("default", "edges", commit)
    assert world.tell(task, world.result(payload["datums"][0]["id"], {"/a": "A"})) is False
    assert job(world, commit).processed == 0
    world.report(task, Status.CANCELLED)
    world.pipelines.rerun("default", "edges")
    world.settle()
    [job_now, *_] = world.pipelines.list_jobs("default", "edges")
    assert (job_now.total, job_now.skipped) == (5, 1)


def test_progress_is_a_sign_of_life(world: World) -> None:
    _, task, _ = begun(world)
    for _ in range(3):
        world.clock.advance(world.settings.lease_seconds * 0.8)
        assert world.tell(task) is True
        world.jobs.reap()
    assert world.jobs.queue.keep_alive([lease_of(task)]) == ([], [])


def test_no_task_is_left_when_a_job_has_ended(world: World) -> None:
    _, task, payload = begun(world)
    world.tell(task, *(world.result(one["id"], {}) for one in payload["datums"]))
    world.report(task, Status.SUCCEEDED)
    assert world.tasks("datum-set") == []
