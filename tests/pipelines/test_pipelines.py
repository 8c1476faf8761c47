"""Pipelines as such: what they follow, when, their versions, and what a bad spec is told."""

from __future__ import annotations

from typing import Any

import pytest

from tests.pipelines.conftest import World, spec
from trunkline.core.ids import RepoName
from trunkline.core.status import Status
from trunkline.errors import (
    AlreadyExistsError,
    ConflictError,
    InvalidInputError,
    NotFoundError,
    StateError,
    TrunklineError,
)
from trunkline.settings import Environment
from trunkline.versioning.model import PutFile


def pfs(repo: str, glob: str = "/*", **more: Any) -> dict[str, Any]:
    return {"pfs": {"repo": repo, "glob": glob, **more}}


def create(world: World, name: str, input_: dict[str, Any], *, update: bool = False, **more: Any) -> None:
    world.pipelines.create("default", spec(name, **more) | {"input": input_}, update=update)
    world.settle()


def jobs(world: World, name: str) -> int:
    return len(world.pipelines.list_jobs("default", name))


# --- triggers and propagation -------------------------------------------------------------------------------------


def test_a_trigger_makes_a_branch_that_waits(world: World) -> None:
    create(world, "edges", pfs("images", trigger={"commits": 2}))
    branch = world.versioning.inspect_branch("default", "images@edges-trigger-1")
    assert branch.trigger is not None and (branch.trigger.branch, branch.trigger.commits) == ("master", 2)
    assert branch.subvenance == ("default/edges@master",)
    begun = jobs(world, "edges")
    world.put("images@master", {"/a": "1"})
    assert jobs(world, "edges") == begun
    world.put("images@master", {"/b": "1"})
    assert jobs(world, "edges") == begun + 1
    assert world.pipelines.list_jobs("default", "edges")[0].inputs[0].branch == "edges-trigger-1"


def test_the_branch_of_a_trigger_goes_when_it_is_not_needed(world: World) -> None:
    create(world, "edges", pfs("images", trigger={"size": "1MB"}))
    create(world, "edges", pfs("images", trigger={"size": "2MB"}), update=True)
    trigger = world.versioning.inspect_branch("default", "images@edges-trigger-1").trigger
    assert trigger is not None and trigger.size == "2MB"
    create(world, "edges", pfs("images"), update=True)
    with pytest.raises(NotFoundError):
        world.versioning.inspect_branch("default", "images@edges-trigger-1")
    create(world, "other", pfs("images", trigger={"cron_spec": "@daily"}))
    world.pipelines.delete("default", "other")
    assert [branch.name for branch in world.versioning.list_branches("default", "images")] == ["master"]


def test_what_never_propagates_is_taken_up_with_the_next_change(world: World) -> None:
    world.versioning.create_repo("default", "model")
    both = {"cross": [pfs("images"), pfs("model", "/", propagation_spec={"never": True})]}
    world.put("model@master", {"/m": "1"})
    create(world, "score", both)
    begun = jobs(world, "score")
    quiet = world.put("model@master", {"/m": "2"})
    assert jobs(world, "score") == begun
    world.put("images@master", {"/a": "1"})
    assert jobs(world, "score") == begun + 1
    newest = world.pipelines.list_jobs("default", "score")[0]
    assert {one.repo: one.commit for one in newest.inputs}[RepoName("model")] == quiet
    create(world, "score", {"cross": [pfs("images"), pfs("model", "/")]}, update=True)
    begun = jobs(world, "score")
    world.put("model@master", {"/m": "3"})
    assert jobs(world, "score") == begun + 1


def test_a_quiet_input_is_made_before_what_reads_it(world: World) -> None:
    """It is passed by, but when both follow one change the reader gets the new output and not the old one."""
    create(world, "first", pfs("images"))
    both = {"cross": [pfs("images"), pfs("first", "/", propagation_spec={"never": True})]}
    create(world, "second", both)
    commit = world.put("images@master", {"/a": "1"})
    upstream = world.versioning.inspect_commit("default", f"second@{commit}").provenance
    assert f"default/first@{commit}" in upstream


# --- several inputs -----------------------------------------------------------------------------------------------


def test_a_pipeline_follows_all_its_inputs(world: World) -> None:
    world.versioning.create_repo("default", "edges")
    create(world, "montage", {"cross": [pfs("images"), {"union": [pfs("edges"), pfs("edges", "/x")]}]})
    branch = world.versioning.inspect_branch("default", "montage@master")
    assert branch.provenance == ("default/edges@master", "default/images@master")
    world.versioning.delete_repo("default", "edges", force=True)
    notes = world.pipelines.inspect("default", "montage").notes
    assert len(notes) == 1 and "it no longer follows default/edges@master" in notes[0]


def test_a_pipeline_that_is_read_in_any_place_is_not_deleted(world: World) -> None:
    create(world, "edges", pfs("images"))
    create(world, "montage", {"cross": [pfs("images"), pfs("edges")]})
    with pytest.raises(StateError, match="is read by default/montage"):
        world.pipelines.delete("default", "edges")
    world.pipelines.delete("default", "edges", force=True)
    assert world.versioning.inspect_branch("default", "montage@master").provenance == ()


# --- bad ones -----------------------------------------------------------------------------------------------------


def test_a_cycle_over_several_inputs_is_found_and_named(world: World) -> None:
    create(world, "a", pfs("images"))
    create(world, "b", {"cross": [pfs("images"), pfs("a")]})
    create(world, "c", {"union": [pfs("b"), pfs("images")]})
    with pytest.raises(
        ConflictError, match="this would make a cycle: default/a <- default/c <- default/b <- default/a"
    ):
        create(world, "a", {"cross": [pfs("images"), pfs("c")]}, update=True)
    with pytest.raises(ConflictError, match=r"default/b <- default/c <- default/b$"):
        create(world, "b", {"group": [pfs("c", "/(*)", group_by="$1")]}, update=True)
    assert world.pipelines.inspect("default", "a").version == 1
    assert world.versioning.inspect_branch("default", "a@master").provenance == ("default/images@master",)


@pytest.mark.parametrize(
    ("changed", "error", "said"),
    [
        ({"pipeline": {"name": "images"}, "input": pfs("other")}, AlreadyExistsError, "there is a repo 'images'"),
        ({"pipeline": {"name": "taken"}}, AlreadyExistsError, "pipeline default/taken exists already"),
        ({"pipeline": {"name": "-x"}}, InvalidInputError, "start with a letter or digit"),
        ({"pipeline": {"name": "x" * 52}}, InvalidInputError, "at most 51 characters"),
        ({"pipeline": {"name": "a/b"}}, InvalidInputError, "is not allowed"),
        ({"pipeline": {"name": ""}}, InvalidInputError, "is not allowed"),
        ({"output_branch": "a b"}, InvalidInputError, "branch name 'a b' is not allowed"),
        ({"input": pfs("new")}, InvalidInputError, "cannot have its own output repo as input"),
        ({"input": {"cross": [pfs("images"), pfs("nosuch")]}}, NotFoundError, "input repo default/nosuch does not"),
        ({"input": {"cross": [pfs("images"), pfs("images", "/", name="x", branch="dev")]}}, InvalidInputError, "use one"),
        ({"dry_run": True}, InvalidInputError, "the spec says dry_run"),
        ({"transform": {"cmd": ["x"], "code": "src"}}, InvalidInputError, "it was not sent along"),
        ({"transform": {"cmd": ["x"], "image": "nobody/knows"}}, InvalidInputError, "is not mapped to an environment"),
        ({"transform": {"cmd": ["x"], "user": "no-such-user"}}, InvalidInputError, "there is no user 'no-such-user' on"),
        ({"transform": {"cmd": ["x"], "user": "0:no-such-group"}}, InvalidInputError, "no group 'no-such-group' on"),
        ({"transform": {"cmd": ["x"], "user": 10**12}}, InvalidInputError, "there is no user '1000000000000' on"),
    ],
)  # fmt: skip
def test_a_bad_spec_is_one_line_and_leaves_nothing(
    world: World, changed: dict[str, Any], error: type[TrunklineError], said: str
) -> None:
    world.versioning.create_repo("default", "other")
    create(world, "taken", pfs("images"))
    before = [repo.name for repo in world.versioning.list_repos("default")]
    for make in (world.pipelines.create, world.pipelines.preview):
        if "dry_run" in changed and make == world.pipelines.preview:
            continue
        with pytest.raises(error) as caught:
            make("default", spec("new") | changed)
        assert said in caught.value.message and "\n" not in caught.value.message
    assert [repo.name for repo in world.versioning.list_repos("default")] == before
    assert [one.name for one in world.pipelines.list_pipelines("default")] == ["taken"]


def test_a_user_of_a_container_is_the_images_affair(world: World) -> None:
    world.settings.environments = {"theirs": Environment(container=True)}
    world.settings.container_engine = "/bin/true"
    create(world, "edges", pfs("images"), transform={"image": "theirs", "user": "no-such-user"})


def test_a_working_dir_in_the_code_must_be_there(world: World) -> None:
    code = world.versioning.stage([PutFile(path="/src/a.py", parts=[b""])]).root
    for there in ("src", "./src/"):
        asked = spec("edges", transform={"code": ".", "working_dir": there})
        world.pipelines.create("default", asked, code_root=code, update=True)
    asked = spec("edges", transform={"code": ".", "working_dir": "srd"})
    with pytest.raises(InvalidInputError, match="there is no folder 'srd' in the folder"):
        world.pipelines.create("default", asked, code_root=code, update=True)


def test_a_requirements_file_must_be_in_the_code(world: World) -> None:
    code = world.versioning.stage([PutFile(path="/src/needs.txt", parts=[b"pillow"])]).root
    asked = spec("edges", transform={"code": ".", "requirements": "src/needs.txt"})
    world.pipelines.create("default", asked, code_root=code)
    for wrong in ("needs.txt", "src"):
        asked = spec("edges", transform={"code": ".", "requirements": wrong})
        with pytest.raises(InvalidInputError, match=f"there is no file '{wrong}' in the folder"):
            world.pipelines.create("default", asked, code_root=code, update=True)


# --- versions, jobs -----------------------------------------------------------------------------------------------


def test_versions_stay(world: World) -> None:
    for number in range(1, 4):
        create(world, "edges", pfs("images"), description=f"number {number}", update=True)
    found = world.pipelines.versions("default", "edges")
    assert [(one.version, one.description) for one in found] == [
        (3, "number 3"),
        (2, "number 2"),
        (1, "number 1"),
    ]
    assert [one.version for one in world.pipelines.versions("default", "edges", limit=1, before=3)] == [2]
    assert world.pipelines.inspect("default", "edges", 2).description == "number 2"
    for missing in (0, 4):
        with pytest.raises(NotFoundError, match=f"has no version {missing}: it has 1 to 3"):
            world.pipelines.inspect("default", "edges", missing)


def test_an_update_of_a_stopped_pipeline_leaves_it_stopped(world: World) -> None:
    create(world, "edges", pfs("images"))
    world.pipelines.stop("default", "edges")
    create(world, "edges", pfs("images", "/"), update=True)
    assert world.pipelines.inspect("default", "edges").state == "paused"


def test_a_deleted_job_is_ended_and_gone_and_the_next_one_is_right(world: World) -> None:
    create(world, "edges", pfs("images"))
    first = world.put("images@master", {"/a": "1"})
    world.work("edges", lambda _: {"/done": "1"})
    second = world.put("images@master", {"/b": "1"})
    world.pipelines.delete_job("default", "edges", second)
    world.settle()
    with pytest.raises(NotFoundError, match="there is no job"):
        world.pipelines.inspect_job("default", "edges", second)
    assert world.versioning.inspect_commit("default", f"edges@{second}").error == "it was deleted"
    world.pipelines.delete_job("default", "edges", first)
    third = world.put("images@master", {"/c": "1"})
    assert world.pipelines.inspect_job("default", "edges", third).status == Status.RUNNING


def test_a_preview_of_what_is_not_there_yet_has_no_datums(world: World) -> None:
    cron = {"cron": {"name": "tick", "spec": "@daily"}}
    waits = pfs("images", trigger={"commits": 2})
    for input_ in (cron, waits):
        found = world.pipelines.preview("default", spec("new") | {"input": input_}, datums=10)
        assert (found.is_new, found.work.total, found.datums) == (True, 0, ())
    assert [repo.name for repo in world.versioning.list_repos("default")] == ["images"]
    assert [one.name for one in world.versioning.list_branches("default", "images")] == []


def test_a_preview_of_an_update_changes_nothing(world: World) -> None:
    create(world, "edges", pfs("images"))
    world.put("images@master", {"/a": "1", "/b": "1"})
    world.work("edges", lambda _: {})
    world.put("images@master", {"/b": "2", "/c": "1"})
    before = world.pipelines.list_jobs("default", "edges")
    same = world.pipelines.preview("default", spec("edges"), update=True)
    assert (same.work.to_do, same.work.kinds, same.work.unchanged) == (2, {"changed": 1, "new": 1}, 1)
    other = world.pipelines.preview("default", spec("edges", glob="/a"), update=True)
    assert other.changes == ("input.pfs.glob",) and other.pipeline.version == 2
    world.settle()
    assert world.pipelines.list_jobs("default", "edges") == before, "no job was ended or made"
    assert world.pipelines.inspect("default", "edges").version == 1


def test_defaults_of_the_server_and_of_a_project(world: World) -> None:
    world.settings.pipeline_defaults = {"datum_tries": 7, "parallelism_spec": {"constant": 2}}
    world.settings.project_pipeline_defaults = {"vision": {"datumTries": 5}}
    world.versioning.create_project("vision")
    create(world, "plain", pfs("images"))
    shown = world.pipelines.inspect("default", "plain").spec
    assert (shown["datum_tries"], shown["parallelism_spec"]["constant"]) == (7, 2)
    there = spec("edges") | {"pipeline": {"name": "edges", "project": {"name": "vision"}}}
    made = world.pipelines.create("default", there | {"input": pfs("images", project="default")})
    assert (made.project, made.spec["datum_tries"], made.spec["parallelism_spec"]["constant"]) == (
        "vision",
        5,
        2,
    )


def test_the_worker_is_told_the_limits(world: World) -> None:
    create(
        world,
        "edges",
        pfs("images"),
        resource_limits={"memory": "512Mi", "cpu": "500m"},
        transform={"network": False},
    )
    world.put("images@master", {"/a": "1"})
    [(_, told)] = world.jobs.claim("pipeline:default/edges", "w1", 1)
    assert told["limits"] == {"memory_bytes": 512 << 20, "cpus": 0.5, "disk_bytes": None, "network": False}
