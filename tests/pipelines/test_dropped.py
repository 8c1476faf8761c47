"""An output commit that is dropped or squashed takes its job along, whatever that was doing."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from tests.pipelines.conftest import World, spec
from trunkline.core.status import Status
from trunkline.errors import ConflictError, NotFoundError, StateError
from trunkline.jobs.model import Report
from trunkline.jobs.queue import Lease
from trunkline.storage.db.schema import datums, tasks


@pytest.fixture
def edges(world: World) -> World:
    world.pipelines.create("default", spec())
    world.settle()
    return world


def job_ids(world: World) -> list[str]:
    return [job.id for job in world.pipelines.list_jobs("default", "edges")]


def test_dropping_the_newest_commit_ends_its_job(edges: World) -> None:
    first = edges.put("images@master", {"/a": "a"})
    edges.work("edges", lambda _: {"/a": "made"})
    second = edges.put("images@master", {"/b": "b"})
    [(task, _)] = edges.claim("edges")
    with pytest.raises(StateError, match="was made from it"):
        edges.versioning.drop("default", "images@master")
    edges.versioning.drop("default", second)
    edges.settle()
    assert job_ids(edges)[0] == first
    with pytest.raises(NotFoundError):
        edges.pipelines.inspect_job("default", "edges", second)
    assert edges.files("edges@master") == {"/a": "made"}
    lease = Lease(task_id=task.id, token=task.lease_token)
    try:  # the worker's word comes too late, and changes nothing
        edges.jobs.report(lease, Report(status=Status.SUCCEEDED, result={}, error=""))
    except ConflictError as error:
        assert error.kind == "lease_lost"
    edges.settle()
    with edges.db.read() as connection:
        assert connection.execute(sa.select(datums).where(datums.c.status == "running")).all() == []
        waiting = sa.select(tasks).where(tasks.c.kind == "datum", tasks.c.status == "queued")
        assert connection.execute(waiting).all() == []
    third = edges.put("images@master", {"/c": "c"})
    edges.work("edges", lambda _: {"/c": "made"})
    assert edges.pipelines.inspect_job("default", "edges", third).status == Status.SUCCEEDED
    assert edges.files("edges@master") == {"/c": "made"} or "/c" in edges.files("edges@master")


def test_dropping_an_output_alone_makes_it_anew(edges: World) -> None:
    made = edges.put("images@master", {"/a": "a"})
    edges.work("edges", lambda _: {"/a": "made"})
    gone = edges.versioning.drop("default", "edges@master")
    edges.settle()
    [opened] = gone.opened
    job = edges.pipelines.inspect_job("default", "edges", opened.id)
    assert (job.status, job.skipped, job.processed) == (Status.SUCCEEDED, 1, 0)  # its datum was known
    assert made not in job_ids(edges)
    assert edges.files("edges@master") == {"/a": "made"}


def test_squashing_a_commit_set_takes_its_jobs_along(edges: World) -> None:
    first = edges.put("images@master", {"/a": "a"})
    edges.work("edges", lambda _: {"/a": "made"})
    edges.put("images@master", {"/b": "b"})
    edges.work("edges", lambda _: {"/b": "made"})
    edges.versioning.squash("default", first)
    edges.settle()
    assert first not in job_ids(edges)
    assert len(edges.versioning.list_commits("default", "images")) == 1


def test_a_tag_keeps_a_pipelines_output(edges: World) -> None:
    edges.put("images@master", {"/a": "a"})
    edges.work("edges", lambda _: {"/a": "made"})
    edges.versioning.create_tag("default", "edges@v1", commit="master")
    for call in (
        lambda: edges.pipelines.delete("default", "edges"),
        lambda: edges.versioning.drop("default", "images@master", recursive=True),
        lambda: edges.versioning.delete_repo("default", "images"),
    ):
        with pytest.raises(StateError):
            call()
    edges.pipelines.delete("default", "edges", force=True)
    assert [one.name for one in edges.versioning.list_repos()] == ["images"]


def test_the_end_of_a_job_whose_output_has_just_gone(edges: World) -> None:
    """Between the drop and its event."""
    made = edges.put("images@master", {"/a": "a"})
    edges.versioning.drop("default", made)
    edges.pipelines.stop_job("default", "edges", made)
    edges.settle()
    assert made not in job_ids(edges)
