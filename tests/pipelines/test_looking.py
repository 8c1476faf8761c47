"""What can be seen of jobs and datums: choices of jobs, job sets and costs, who works on what, why a datum was done."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from tests.pipelines.conftest import World, only, spec
from trunkline.core.status import Status
from trunkline.errors import NotFoundError
from trunkline.pipelines.model import JobFilter
from trunkline.storage.db.schema import jobs

pytestmark = pytest.mark.slow


def ids(world: World, pipeline: str | None = None, limit: int = 100, **wanted: Any) -> list[str]:
    found = world.pipelines.list_jobs("default", pipeline, limit=limit, wanted=JobFilter(**wanted))
    return [job.id for job in found]


def test_jobs_by_status_input_and_version(world: World) -> None:
    world.pipelines.create("default", spec(datum_tries=1))
    world.settle()
    empty = ids(world)[0]
    good = world.put("images@master", {"/a": "1"})
    world.work("edges", lambda path: {path: "made"})
    bad = world.put("images@master", {"/b": "2"})
    [(task, payload)] = world.claim("edges")
    world.fail(task, payload, "no luck")
    assert ids(world, "edges") == [bad, good, empty]
    assert ids(world, "edges", statuses=frozenset([Status.FAILED])) == [bad]
    assert ids(world, None, statuses=frozenset([Status.FAILED, Status.SUCCEEDED]), limit=2) == [bad, good]
    assert ids(world, "edges", inputs=(("default", "images", good),)) == [good]
    assert ids(world, "edges", inputs=(("default", "other", good),)) == []
    world.pipelines.create("default", spec(description="new"), update=True, reprocess=True)
    world.settle()
    [now] = ids(world, "edges", history=0)
    assert now not in (bad, good, empty)
    assert ids(world, "edges", history=1) == ids(world, "edges") == [now, bad, good, empty]


def test_job_sets_newest_first_and_in_pages(world: World) -> None:
    world.pipelines.create("default", spec())
    world.pipelines.create("default", spec("montage", repo="edges", glob="/"))
    commits = []
    for number in range(3):
        commits.append(world.put("images@master", {f"/{number}": "x"}))
        world.work("edges", lambda path: {path: "made"})
        world.work("montage", lambda _: {"/all": "made"})
    look = world.pipelines.looking
    found = look.list_job_sets("default")
    assert [one.id for one in found][:3] == commits[::-1]
    assert [job.pipeline for job in found[0].jobs] == ["edges", "montage"]
    first = look.list_job_sets(limit=2)
    assert first + look.list_job_sets(limit=100, after=first[-1].id) == found
    assert look.list_job_sets("elsewhere") == []
    with pytest.raises(NotFoundError, match="there is no job 0000"):
        look.job_set("0" * 32)


def test_the_cost_of_a_change_is_that_of_all_its_jobs(world: World) -> None:
    world.pipelines.create("default", spec())
    world.pipelines.create("default", spec("montage", repo="edges", glob="/"))
    commit = world.put("images@master", {"/a": "1", "/b": "2"})
    for pipeline, factor in (("edges", 1), ("montage", 10)):
        for task, payload in world.claim(pipeline):
            stats = {
                "cpu_seconds": 0.5 * factor, "process_seconds": 2.0 * factor, "download_bytes": 100 * factor,
                "upload_bytes": 7 * factor, "memory_bytes": 1000 * factor,
            }  # fmt: skip
            result = world.result(only(payload)["id"], {f"/{pipeline}-{task.id}": "made"})
            world.tell(task, {**result, "stats": stats})
            world.report(task, Status.SUCCEEDED)
    cost = world.pipelines.looking.job_set(commit).cost
    assert (cost.jobs, cost.datums) == (2, 3)
    assert cost.stats == {
        "cpu_seconds": 6.0, "process_seconds": 24.0, "download_bytes": 1200, "upload_bytes": 84, "memory_bytes": 10_000,
    }  # fmt: skip
    one = world.pipelines.inspect_job("default", "edges", commit)
    assert (one.stats["cpu_seconds"], one.stats["memory_bytes"]) == (1.0, 1000)


def test_who_works_on_what(world: World) -> None:
    world.pipelines.create("default", spec())
    commit = world.put("images@master", {"/a": "1"})
    assert world.pipelines.workers("default", "edges", commit) == []
    [(task, payload)] = world.claim("edges")
    [worker] = world.pipelines.workers("default", "edges", commit)
    assert (worker.worker, worker.datum, worker.files) == ("w1", only(payload)["id"], "images:/a")
    assert worker.started_at is not None
    world.succeed(task, payload, {"/a": "made"})
    assert world.pipelines.workers("default", "edges", commit) == []


def test_a_lost_worker_is_counted(world: World) -> None:
    world.pipelines.create("default", spec())
    commit = world.put("images@master", {"/a": "1"})
    world.claim("edges")
    world.clock.advance(10 * world.settings.lease_seconds)
    world.jobs.reap()
    world.settle()
    assert world.pipelines.inspect_job("default", "edges", commit).restarts == 1


def test_datums_by_status_with_who_computed_them(world: World) -> None:
    world.pipelines.create("default", spec(datum_tries=1))
    first = world.put("images@master", {"/a": "1", "/b": "2"})
    world.work("edges", lambda path: {path: "made"})
    second = world.put("images@master", {"/b": "other", "/c": "3"})
    for task, payload in world.claim("edges"):
        if only(payload)["files"][0][1] == "/c":
            world.fail(task, payload, "no luck")
        else:
            world.succeed(task, payload, {"/b": "made"})

    def listed(*statuses: Status, limit: int = 100) -> dict[str, tuple[str, str]]:
        found = world.pipelines.list_datums("default", "edges", second, statuses=statuses, limit=limit)
        return {one.inputs[0].paths[0]: (one.status.value, one.job) for one in found}

    assert listed() == {"/a": ("skipped", first), "/b": ("succeeded", ""), "/c": ("failed", "")}
    assert listed(Status.FAILED) == {"/c": ("failed", "")}
    assert listed(Status.SKIPPED) == {"/a": ("skipped", first)}
    assert listed(Status.SUCCEEDED, Status.FAILED).keys() == {"/b", "/c"}
    assert len(listed(Status.SUCCEEDED, Status.FAILED, limit=1)) == 1
    [failed] = world.pipelines.list_datums("default", "edges", second, statuses=(Status.FAILED,))
    found = world.pipelines.inspect_datum("default", "edges", second, failed.id[:10])
    assert (found.reason, found.why["kind"]) == ("no luck", "new")
    world.put("images@master", {"/b": "2"})  # as it was
    third = world.pipelines.list_jobs("default", "edges")[0].id
    again = {one.inputs[0].paths[0]: one for one in world.pipelines.list_datums("default", "edges", third)}
    assert (again["/b"].status, again["/b"].job) == (Status.SKIPPED, first)


@pytest.mark.local_only
def test_pages_of_jobs_cost_what_they_show(world: World) -> None:
    """SQLite's plans: no page of a list reads all jobs that there are."""
    world.pipelines.create("default", spec())
    commit = world.put("images@master", {"/a": "1"})
    with world.db.write() as connection:
        [row] = connection.execute(sa.select(jobs).where(jobs.c.id == commit)).all()
        old = [{**row._mapping, "pk": row.pk + n, "id": f"{n:032x}"} for n in range(1, 2000)]
        connection.execute(sa.insert(jobs), old)
        connection.exec_driver_sql("ANALYZE")
    found: list[tuple[str, Any]] = []

    def note(_c: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool) -> None:
        if statement.startswith("SELECT"):
            found.append((statement, parameters))

    look = world.pipelines.looking
    sa.event.listen(world.db._engine, "before_cursor_execute", note)
    try:
        sets = look.list_job_sets(limit=3)
        look.list_job_sets("default", limit=3, after=sets[-1].id)
        look.job_set(commit)
        ids(world, None, limit=3)
        ids(world, "edges", limit=3, statuses=frozenset([Status.FAILED]))
    finally:
        sa.event.remove(world.db._engine, "before_cursor_execute", note)
    assert len(sets) == 3
    with world.db.read() as connection:
        for statement, parameters in found:
            plan = connection.exec_driver_sql("EXPLAIN QUERY PLAN " + statement, parameters).all()
            steps = [step.detail for step in plan]
            scans = [step for step in steps if step.startswith("SCAN jobs") and "LIMIT" not in statement]
            assert scans == [], statement
            assert not any("TEMP B-TREE FOR ORDER BY" in step for step in steps), (statement, steps)
