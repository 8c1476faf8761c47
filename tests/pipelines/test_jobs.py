"""Jobs from commit to output, step by step; every rule that the outside can see."""

from __future__ import annotations

from typing import Any

import pytest

from tests.pipelines.conftest import World, lease_of, only, spec
from trunkline.core.status import Status
from trunkline.errors import (
    AlreadyExistsError,
    ConflictError,
    InvalidInputError,
    NotFoundError,
    StateError,
)
from trunkline.jobs.model import Report
from trunkline.versioning.model import CommitStatus


def upper(path: str) -> dict[str, str]:
    """An output file named after the datum's input."""
    return {path.rstrip("/") or "/all": f"did {path}"}


def path_of(payload: dict[str, Any]) -> str:
    return only(payload)["files"][0][1]  # type: ignore[no-any-return]


def latest(world: World, pipeline: str = "edges") -> Any:
    return world.pipelines.list_jobs("default", pipeline)[0]


def test_creation_makes_one_job_even_without_any_input(world: World) -> None:
    world.pipelines.create("default", spec())
    world.settle()
    [job] = world.pipelines.list_jobs("default", "edges")
    assert (job.status, job.total, job.phase, job.reason) == (Status.SUCCEEDED, 0, "", "")
    commit = world.versioning.inspect_commit("default", "edges@master")
    assert (commit.id, commit.status, commit.error) == (job.id, CommitStatus.FINISHED, None)


def test_a_commit_becomes_datums_and_their_outputs_one_tree(world: World) -> None:
    world.pipelines.create("default", spec())
    world.settle()
    commit = world.put("images@master", {"/a.png": "A", "/b.png": "B", "/dir/c.png": "C"})
    job = world.pipelines.inspect_job("default", "edges", commit)
    assert (job.status, job.phase, job.total) == (Status.RUNNING, "processing", 3)
    assert [one.commit for one in job.inputs] == [commit]
    assert world.work("edges", upper) == 3
    job = world.pipelines.inspect_job("default", "edges", commit)
    assert (job.status, job.processed, job.skipped) == (Status.SUCCEEDED, 3, 0)
    assert job.stats == {"process_seconds": 4.5}
    assert world.files("edges@master") == {
        "/a.png": "did /a.png", "/b.png": "did /b.png", "/dir": "did /dir/",
    }  # fmt: skip
    assert [job.pipeline for job in world.pipelines.jobs_of(commit)] == ["edges"]


def test_what_was_computed_is_not_computed_again(world: World) -> None:
    world.pipelines.create("default", spec())
    world.put("images@master", {"/a": "1", "/b": "2"})
    assert world.work("edges", upper) == 2
    world.put("images@master", {"/b": "3", "/c": "4"})
    assert world.work("edges", upper) == 2  # b changed, c is new
    job = latest(world)
    assert (job.total, job.processed, job.skipped) == (3, 2, 1)
    world.put("images@master", {"/b": "2"})  # as it was: known from the first job
    job = latest(world)
    assert (job.status, job.skipped, job.total) == (Status.SUCCEEDED, 3, 3)
    world.pipelines.create("default", spec("twin"))
    world.settle()
    assert latest(world, "twin").skipped == 3  # across pipelines too
    statuses = {
        datum.status for datum in world.pipelines.list_datums("default", "twin", latest(world, "twin").id)
    }
    assert statuses == {Status.SKIPPED}


def test_changed_code_or_salt_is_run_again_and_every_job_always(world: World) -> None:
    world.put("images@master", {"/a": "1"})
    world.pipelines.create("default", spec())
    world.settle()
    assert world.work("edges", upper) == 1
    created = world.pipelines.create("default", spec(), update=True)
    world.settle()
    assert created.version == 2
    assert world.work("edges", upper) == 0
    world.pipelines.create("default", spec(transform={"stdin": ["echo other"]}), update=True)
    world.settle()
    assert world.work("edges", upper) == 1
    world.pipelines.create("default", spec(transform={"stdin": ["echo other"]}), update=True, reprocess=True)
    world.settle()
    assert world.work("edges", upper) == 1
    for _ in range(2):
        world.pipelines.create("default", spec(reprocess_spec="every_job"), update=True)
        world.settle()
        assert world.work("edges", upper) == 1


def test_jobs_of_a_pipeline_run_at_once_and_end_in_the_order_of_their_commits(world: World) -> None:
    world.pipelines.create("default", spec())
    first = world.put("images@master", {"/a": "1"})
    second = world.put("images@master", {"/a": "2"})
    claimed = world.claim("edges")
    assert [payload["job"]["id"] for _, payload in claimed] == [first, second]
    (task, payload), (later, later_payload) = claimed
    world.succeed(later, later_payload, {"/a": "second"})
    job = world.pipelines.inspect_job("default", "edges", second)
    assert (job.status, job.phase, job.processed) == (Status.RUNNING, "finishing", 1)
    world.succeed(task, payload, {"/a": "first"})
    assert [one.status for one in world.pipelines.list_jobs("default", "edges")] == [Status.SUCCEEDED] * 3
    assert world.files(f"edges@{first}") == {"/a": "first"}
    assert world.files("edges@master") == {"/a": "second"}


def test_where_every_job_does_everything_they_come_one_after_the_other(world: World) -> None:
    world.pipelines.create("default", spec(reprocess_spec="every_job"))
    first = world.put("images@master", {"/a": "1"})
    second = world.put("images@master", {"/a": "2"})
    [(task, payload)] = world.claim("edges")
    assert payload["job"]["id"] == first
    assert world.pipelines.inspect_job("default", "edges", second).phase == "waiting"
    world.succeed(task, payload, upper("/a"))
    [(_, payload)] = world.claim("edges")
    assert payload["job"]["id"] == second


def test_a_failing_datum_fails_the_job_but_its_successes_are_kept(world: World) -> None:
    world.pipelines.create("default", spec(datum_tries=2))
    world.settle()
    commit = world.put("images@master", {"/bad": "1", "/good": "2"})
    for task, payload in world.claim("edges"):
        if path_of(payload) == "/bad":
            world.fail(task, payload, "exit code 3: no such colour")
        else:
            world.succeed(task, payload, upper(path_of(payload)))
    job = world.pipelines.inspect_job("default", "edges", commit)
    assert (job.status, job.processed, job.failed) == (Status.FAILED, 1, 1)
    assert job.reason == "datum images:/bad failed: exit code 3: no such colour"
    output = world.versioning.inspect_commit("default", f"edges@{commit}")
    assert output.error == job.reason
    world.put("images@master", {"/bad": "better"})
    assert world.work("edges", upper) == 1
    assert latest(world).status == Status.SUCCEEDED
    assert set(world.files("edges@master")) == {"/bad", "/good"}


def test_a_failed_input_makes_what_follows_unrunnable(world: World) -> None:
    world.pipelines.create("default", spec(datum_tries=1))
    world.pipelines.create("default", spec("montage", repo="edges"))
    world.settle()
    commit = world.put("images@master", {"/a": "1"})
    assert world.pipelines.inspect_job("default", "montage", commit).status == Status.QUEUED
    [(task, payload)] = world.claim("edges")
    world.fail(task, payload, "exit code 1")
    job = world.pipelines.inspect_job("default", "montage", commit)
    assert job.status == Status.UNRUNNABLE
    assert "edges" in job.reason and "exit code 1" in job.reason
    assert world.versioning.inspect_commit("default", f"montage@{commit}").error == job.reason


def test_a_chain_runs_under_one_id(world: World) -> None:
    world.pipelines.create("default", spec())
    world.pipelines.create("default", spec("montage", repo="edges", glob="/"))
    world.settle()
    commit = world.put("images@master", {"/a": "1", "/b": "2"})
    assert world.work("edges", upper) == 2
    [(task, payload)] = world.claim("montage")
    assert payload["job"]["id"] == commit
    assert path_of(payload) == "/"
    assert payload["env_extra"]["edges_COMMIT"] == commit
    world.succeed(task, payload, {"/m": "x"})
    assert [job.status for job in world.pipelines.jobs_of(commit)] == [Status.SUCCEEDED] * 2


def test_an_open_commit_is_waited_for(world: World) -> None:
    world.pipelines.create("default", spec(glob="/"))
    world.settle()
    started = world.versioning.start_commit("default", "images@master")
    world.put("images@master", {"/a": "1"})
    assert world.pipelines.inspect_job("default", "edges", started.id).status == Status.QUEUED
    assert world.claim("edges") == []
    world.versioning.finish_commit("default", "images@master")
    world.settle()
    assert len(world.claim("edges")) == 1


def test_recovered_datums_leave_no_output_and_are_tried_in_the_next_job(world: World) -> None:
    world.pipelines.create("default", spec())
    world.put("images@master", {"/a": "1"})
    [(task, payload)] = world.claim("edges")
    world.fail(task, payload, "exit code 1", "recovered")
    job = latest(world)
    assert (job.status, job.recovered, job.processed) == (Status.SUCCEEDED, 1, 0)
    [datum] = world.pipelines.list_datums("default", "edges", job.id)
    assert (datum.status, datum.output_root) == (Status.RECOVERED, None)
    assert world.files("edges@master") == {}
    world.put("images@master", {"/b": "2"})
    assert len(world.claim("edges")) == 2


def test_stop_job_ends_it_and_lets_the_next_begin(world: World) -> None:
    world.pipelines.create("default", spec())
    first = world.put("images@master", {"/a": "1"})
    second = world.put("images@master", {"/a": "2"})
    (task, payload), (other, other_payload) = world.claim("edges")
    stopped = world.pipelines.stop_job("default", "edges", first)
    assert stopped.status == Status.CANCELLED
    lost, cancelled = world.jobs.queue.keep_alive([lease_of(task)])
    assert (lost, cancelled) == ([], [task.id])
    world.report(task, Status.CANCELLED)
    world.settle()
    assert world.pipelines.inspect_job("default", "edges", second).status == Status.RUNNING
    assert world.versioning.inspect_commit("default", f"edges@{first}").error == "it was stopped by request"
    with pytest.raises(StateError, match="has ended already: it is cancelled"):
        world.pipelines.stop_job("default", "edges", first)
    world.succeed(other, other_payload, upper("/a"))
    assert world.pipelines.inspect_job("default", "edges", second).status == Status.SUCCEEDED
    assert payload["job"]["id"] == first


def test_a_late_success_of_a_stopped_job_changes_nothing(world: World) -> None:
    world.pipelines.create("default", spec())
    commit = world.put("images@master", {"/a": "1"})
    [(task, payload)] = world.claim("edges")
    world.pipelines.stop_job("default", "edges", commit)
    world.succeed(task, payload, upper(path_of(payload)))
    assert world.pipelines.inspect_job("default", "edges", commit).status == Status.CANCELLED
    assert world.files("edges@master") == {}


def test_a_stopped_pipeline_keeps_its_commits_until_it_is_started(world: World) -> None:
    world.pipelines.create("default", spec())
    world.settle()
    assert world.pipelines.stop("default", "edges").state == "paused"
    world.put("images@master", {"/a": "1"})
    world.put("images@master", {"/a": "2"})
    assert world.claim("edges") == []
    world.pipelines.start("default", "edges")
    world.settle()
    assert world.work("edges", upper) == 2
    assert {job.status for job in world.pipelines.list_jobs("default", "edges")} == {Status.SUCCEEDED}


def test_update_cancels_what_runs(world: World) -> None:
    world.pipelines.create("default", spec())
    commit = world.put("images@master", {"/a": "1"})
    [(task, _)] = world.claim("edges")
    world.pipelines.create("default", spec(transform={"stdin": ["echo new"]}), update=True)
    world.settle()
    assert world.pipelines.inspect_job("default", "edges", commit).reason == "its pipeline was updated"
    world.report(task, Status.FAILED, error="killed")
    assert world.work("edges", upper) == 1
    assert latest(world).version == 2


def test_delete_removes_everything_and_refuses_while_it_is_read(world: World) -> None:
    world.pipelines.create("default", spec())
    world.pipelines.create("default", spec("montage", repo="edges"))
    world.put("images@master", {"/a": "1"})
    with pytest.raises(StateError, match="is read by default/montage"):
        world.pipelines.delete("default", "edges")
    [(task, _)] = world.claim("edges")
    world.pipelines.delete("default", "montage")
    world.pipelines.delete("default", "edges")
    world.report(task, Status.CANCELLED)
    assert world.pipelines.list_pipelines() == []
    assert {repo.name for repo in world.versioning.list_repos()} == {"images"}
    with pytest.raises(NotFoundError):
        world.pipelines.delete("default", "edges")
    world.pipelines.create("default", spec())
    world.settle()
    assert world.work("edges", upper) == 1


def test_delete_can_be_forced_and_can_keep_the_repo(world: World) -> None:
    world.pipelines.create("default", spec())
    world.pipelines.create("default", spec("montage", repo="edges"))
    world.put("images@master", {"/a": "1"})
    world.work("edges", upper)
    world.pipelines.delete("default", "edges", keep_repo=True)
    assert world.files("edges@master") == {"/a": "did /a"}
    world.put("images@master", {"/a": "2"})
    world.pipelines.create("default", spec())
    world.settle()
    world.pipelines.delete("default", "edges", force=True)
    assert [pipeline.name for pipeline in world.pipelines.list_pipelines()] == ["montage"]


def test_a_kept_repo_is_anybodys_until_its_pipeline_is_there_again(world: World) -> None:
    world.pipelines.create("default", spec())
    world.put("images@master", {"/a": "1"})
    world.work("edges", upper)
    world.pipelines.delete("default", "edges", keep_repo=True)
    assert world.versioning.inspect_repo("default", "edges").owner is None
    world.put("edges@master", {"/by-hand": "x"})
    started = world.versioning.start_commit("default", "edges@master")
    with pytest.raises(StateError, match="finish it first"):
        world.pipelines.create("default", spec())
    world.versioning.finish_commit("default", f"edges@{started.id}")
    world.pipelines.create("default", spec())
    world.settle()
    assert latest(world).status == Status.SUCCEEDED
    assert world.files("edges@master") == {"/a": "did /a"}
    with pytest.raises(StateError, match="belongs to pipeline edges"):
        world.put("edges@master", {"/by-hand": "x"})
    world.pipelines.delete("default", "edges", keep_repo=True)
    world.versioning.delete_repo("default", "edges")
    world.versioning.create_repo("default", "edges")
    with pytest.raises(AlreadyExistsError, match="there is a repo 'edges'"):
        world.pipelines.create("default", spec())


def test_a_pipeline_whose_input_was_deleted_says_so_until_it_follows_again(world: World) -> None:
    world.pipelines.create("default", spec())
    assert world.pipelines.inspect("default", "edges").notes == ()
    world.versioning.delete_repo("default", "images", force=True)
    world.versioning.create_repo("default", "images")
    [alert] = world.pipelines.list_pipelines()[0].notes
    assert alert.startswith("it no longer follows default/images@master, which was deleted")
    world.pipelines.create("default", spec(), update=True)
    assert world.pipelines.inspect("default", "edges").notes == ()


def test_jobs_and_datums_in_pages(world: World) -> None:
    world.pipelines.create("default", spec())
    world.pipelines.create("default", spec("montage", repo="edges", glob="/"))
    world.put("images@master", {f"/{n}": str(n) for n in range(5)})
    whole = world.pipelines.list_jobs()
    assert len(whole) == 4
    first = world.pipelines.list_jobs(limit=3)
    last = first[-1]
    assert first + world.pipelines.list_jobs(after=(last.project, last.pipeline, last.id)) == whole
    assert world.pipelines.list_jobs("default", "edges", after=("default", "edges", whole[-1].id)) == []
    with pytest.raises(NotFoundError):
        world.pipelines.list_jobs(after=("default", "edges", "0" * 32))
    job = latest(world)
    datums = world.pipelines.list_datums("default", "edges", job.id)
    assert len(datums) == 5
    some = world.pipelines.list_datums("default", "edges", job.id, limit=2)
    assert some + world.pipelines.list_datums("default", "edges", job.id, after=some[-1].id) == datums


@pytest.mark.parametrize("again_every", [1, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 3))])
def test_a_server_that_dies_between_any_two_steps_loses_nothing(world: World, again_every: int) -> None:
    """Restart after every few background steps: the same end, each datum done once."""
    world.pipelines.create("default", spec())
    world.pipelines.create("default", spec("montage", repo="edges", glob="/"))
    commit = world.put("images@master", {f"/{n}": str(n) for n in range(3)})
    done: list[str] = []
    for turn in range(200):
        if turn % again_every == 0:
            world = world.restart()
        for pipeline in ("edges", "montage"):
            for task, payload in world.claim(pipeline, limit=1):
                done.append(only(payload)["id"])
                world.jobs.progress(lease_of(task), [world.result(done[-1], {})], None)
                world.jobs.report(lease_of(task), Report(status=Status.SUCCEEDED))
        world.jobs.outbox._handle_some(1)
        world.jobs.step()
    assert [job.status for job in world.pipelines.jobs_of(commit)] == [Status.SUCCEEDED] * 2
    assert len(done) == len(set(done)) == 3


def test_many_datums_are_queued_in_slices(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trunkline.pipelines.runner.TASKS_PER_STEP", 4)
    world.pipelines.create("default", spec())
    world.put("images@master", {f"/{n:03}": str(n) for n in range(12)})
    assert world.work("edges", upper) == 12
    assert latest(world).status == Status.SUCCEEDED
    assert len(world.files("edges@master")) == 12


def test_outputs_that_collide_fail_the_job(world: World) -> None:
    world.pipelines.create("default", spec())
    world.put("images@master", {"/a": "1", "/b": "2"})
    for task, payload in world.claim("edges"):
        world.succeed(task, payload, {"/same": only(payload)["id"]})
    job = latest(world)
    assert job.status == Status.FAILED
    assert job.reason.endswith("/same is written by both datum images:/a and datum images:/b")


# --- what create refuses ---


def test_create_says_what_is_missing(world: World) -> None:
    with pytest.raises(NotFoundError, match="input repo default/nosuch does not exist: create it with"):
        world.pipelines.create("default", spec(repo="nosuch"))
    with pytest.raises(InvalidInputError, match=r"ubuntu:20.04.*is not mapped"):
        world.pipelines.create("default", spec(transform={"image": "ubuntu:20.04"}))
    with pytest.raises(InvalidInputError, match="glob"):
        world.pipelines.create("default", spec(glob="/[a"))
    with pytest.raises(NotFoundError, match="no secret login in namespace default"):
        world.pipelines.create(
            "default", spec(transform={"secrets": [{"name": "login", "key": "user", "env_var": "USER_NAME"}]})
        )
    with pytest.raises(NotFoundError):
        world.pipelines.create("nosuch", spec())
    assert world.versioning.list_repos("default")[0].name == "images"
    assert len(world.versioning.list_repos("default")) == 1


def test_create_twice_needs_update(world: World) -> None:
    world.pipelines.create("default", spec())
    with pytest.raises(AlreadyExistsError, match="update pipeline"):
        world.pipelines.create("default", spec())


def test_cycles_are_refused(world: World) -> None:
    with pytest.raises((InvalidInputError, NotFoundError)):
        world.pipelines.create("default", spec("a", repo="a"))
    world.pipelines.create("default", spec("a"))
    world.pipelines.create("default", spec("b", repo="a"))
    with pytest.raises(ConflictError, match="cycle"):
        world.pipelines.create("default", spec("a", repo="b"), update=True)
    assert world.pipelines.inspect("default", "a").version == 1


# --- what a worker is told ---


def test_the_worker_gets_secrets_code_and_a_token_of_its_job(world: World) -> None:
    world.secrets.apply("default", "login", "Opaque", {}, {"user": "ann", "pass": "s3cret"})
    code = world.versioning.stage([])
    secrets = [
        {"name": "login", "key": "user", "env_var": "WHO"},
        {"name": "login", "mount_path": "/opt/login"},
    ]
    world.pipelines.create(
        "default",
        spec(transform={"secrets": secrets, "code": "./src", "env": {"N": 3}}, datum_timeout="1m30s"),
        code_root=code.root,
    )
    commit = world.put("images@master", {"/a": "1"})
    [(task, payload)] = world.claim("edges")
    assert payload["secrets_env"] == {"WHO": "ann"}
    assert payload["secret_files"] == {"/opt/login/pass": "s3cret", "/opt/login/user": "ann"}
    assert payload["transform"]["env"] == {"N": "3"}
    assert payload["datum_timeout_seconds"] == 90.0
    assert payload["code_root"] == code.root
    assert payload["job_token"] == "job-token-1"
    assert payload["env_extra"]["PACH_JOB_ID"] == commit
    assert "s3cret" not in repr(task.payload)


def test_a_missing_secret_fails_the_job_with_its_name(world: World) -> None:
    world.secrets.apply("default", "login", "Opaque", {}, {"user": "ann"})
    secrets = [{"name": "login", "key": "user", "env_var": "WHO"}]
    world.pipelines.create("default", spec(transform={"secrets": secrets}, datum_tries=1))
    world.secrets.delete("default", "login")
    world.put("images@master", {"/a": "1"})
    assert world.claim("edges") == []
    world.settle()
    assert "no secret login" in latest(world).reason
