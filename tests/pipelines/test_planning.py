"""What a job has rows for, and why: the difference to its base."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa

from tests.pipelines.conftest import World, lease_of, spec
from trunkline.core.status import Status
from trunkline.errors import ConflictError, NotFoundError
from trunkline.jobs.model import Task
from trunkline.pipelines import datum_store
from trunkline.pipelines.datum_store import NewDatum
from trunkline.pipelines.planning import Plan
from trunkline.pipelines.runner import set_numbers
from trunkline.storage.db.schema import datum_results, datums, jobs
from trunkline.versioning.model import DeletePath

pytestmark = pytest.mark.slow


def made(path: str) -> dict[str, str]:
    return {"/" + path.strip("/").replace("/", "-") if path != "/" else "/all": f"made {path}"}


def rows(world: World, pipeline: str = "edges") -> dict[str, tuple[str, dict[str, Any]]]:
    """Status and reason of the rows of the latest job, by path."""
    with world.db.read() as connection:
        pk = connection.execute(sa.select(sa.func.max(jobs.c.pk))).scalar_one()
        found = datum_store.rows_of(connection, pk, 1000, removed=True)
    return {row.files[0][1]: (row.status, row.why) for row in found}


def latest(world: World) -> Any:
    return world.pipelines.list_jobs("default", "edges")[0]


@pytest.fixture
def three(world: World) -> World:
    """A pipeline that has done /a, /b and /d/."""
    world.pipelines.create("default", spec())
    world.put("images@master", {"/a": "1", "/b": "2", "/d/x": "3"})
    assert world.work("edges", made) == 3
    return world


def test_only_what_differs_has_a_row_and_each_says_why(three: World) -> None:
    three.versioning.modify(
        "default", "images@master", [*three.puts({"/b": "22", "/c": "4"}), DeletePath(path="/d")]
    )
    three.settle()
    assert rows(three) == {
        "/b": ("queued", {"kind": "changed", "files": ["images:/b"]}),
        "/c": ("queued", {"kind": "new"}),
        "/d/": ("removed", {"kind": "removed"}),
    }
    assert (latest(three).total, latest(three).skipped) == (3, 1)
    three.work("edges", made)
    assert three.files("edges@master") == {**made("/a"), **made("/b"), **made("/c")}


def test_a_commit_that_changes_nothing_has_no_rows(three: World) -> None:
    three.put("images@master", {"/a": "1"})
    assert rows(three) == {}
    assert (latest(three).status, latest(three).skipped) == (Status.SUCCEEDED, 3)
    assert len(three.files("edges@master")) == 3


def test_a_file_in_a_folder_changes_its_folder(three: World) -> None:
    three.put("images@master", {"/d/y": "new"})
    assert rows(three) == {"/d/": ("queued", {"kind": "changed", "files": ["images:/d/"]})}
    three.work("edges", made)
    three.versioning.modify(
        "default", "images@master", [DeletePath(path="/d"), *three.puts({"/d": "a file now"})]
    )
    three.settle()
    assert {path: status for path, (status, _) in rows(three).items()} == {"/d": "queued", "/d/": "removed"}


def test_what_is_known_says_from_where(three: World) -> None:
    first = latest(three).id
    three.put("images@master", {"/b": "other"})
    three.work("edges", made)
    three.put("images@master", {"/b": "2"})
    assert rows(three) == {
        "/b": ("skipped", {"kind": "cached", "was": "changed", "files": ["images:/b"], "from": first})
    }


def test_changed_code_says_what_changed(three: World) -> None:
    new = spec(transform={"stdin": ["echo other"], "env": {"A": "1"}})
    three.pipelines.create("default", new, update=True)
    three.settle()
    why = {"kind": "code", "code": ["transform.stdin", "transform.env"]}
    assert rows(three) == dict.fromkeys(("/a", "/b", "/d/"), ("queued", why))
    three.work("edges", made)
    three.pipelines.rerun("default", "edges", reprocess=True)
    three.settle()
    assert {status_and_why[1]["kind"] for status_and_why in rows(three).values()} == {"forced"}


def test_another_glob_uses_what_is_known(three: World) -> None:
    three.pipelines.create("default", spec(glob="/[ab]"), update=True)
    three.settle()
    assert (latest(three).status, latest(three).total, latest(three).skipped) == (Status.SUCCEEDED, 2, 2)
    assert three.files("edges@master") == {**made("/a"), **made("/b")}


def test_code_that_comes_back_is_known(three: World) -> None:
    three.pipelines.create("default", spec(transform={"stdin": ["echo other"]}), update=True)
    three.settle()
    three.work("edges", made)
    three.pipelines.create("default", spec(), update=True)
    three.settle()
    assert rows(three) == {}  # its base is the job before the last
    assert (latest(three).status, latest(three).skipped) == (Status.SUCCEEDED, 3)


def test_what_failed_before_is_tried_again(three: World) -> None:
    three.put("images@master", {"/c": "4"})
    [(task, payload)] = three.claim("edges")
    three.fail(task, payload, "exit code 1", "recovered")
    job = latest(three)
    three.put("images@master", {"/e": "5"})
    assert rows(three) == {
        "/c": ("queued", {"kind": "again", "was": "recovered", "from": job.id}), "/e": ("queued", {"kind": "new"}),
    }  # fmt: skip


def test_without_the_rows_of_its_base_everything_is_looked_at_again(three: World) -> None:
    """The job that made an output was squashed, and the result forgotten: nothing that is not certain is built on."""
    three.put("images@master", {"/c": "4"})
    three.work("edges", made)
    with three.db.write() as connection:
        connection.execute(sa.delete(datums).where(datums.c.status == Status.SUCCEEDED))
        connection.execute(sa.delete(datum_results))
    three.put("images@master", {"/b": "changed"})
    assert set(rows(three)) == {"/a", "/b", "/c", "/d/"}
    assert three.work("edges", made) == 4
    assert len(three.files("edges@master")) == 4


def test_squashed_commits_leave_right_outputs(three: World) -> None:
    second = three.put("images@master", {"/b": "22"})
    three.work("edges", lambda _: {"/b-old-name": "x"})
    three.put("images@master", {"/e": "1"})
    three.work("edges", made)
    three.versioning.squash("default", f"images@{second}", recursive=True)
    three.settle()
    three.put("images@master", {"/b": "222"})
    three.work("edges", made)
    assert three.files("edges@master") == {**made("/a"), **made("/b"), **made("/d/"), **made("/e")}


def test_purged_inputs_take_their_outputs_along(three: World) -> None:
    three.versioning.purge("default", "images:/a", everywhere=True)
    three.settle()
    three.put("images@master", {"/e": "1"})
    assert set(rows(three)) >= {"/b", "/d/", "/e"}
    three.work("edges", made)
    assert three.files("edges@master") == {**made("/b"), **made("/d/"), **made("/e")}


def test_a_conflict_with_a_datum_that_did_not_change_names_both(three: World) -> None:
    three.put("images@master", {"/c": "4"})
    three.work("edges", lambda _: made("/a"))
    reason = "the outputs of its datums do not fit together: /a is written by both datum images:/a and datum images:/c"
    assert latest(three).reason == reason
    assert latest(three).status == Status.FAILED


@pytest.fixture
def in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job begins with four datums, and gets the others five at a time."""
    monkeypatch.setattr("trunkline.pipelines.runner.FIRST_ROWS", 4)
    monkeypatch.setattr("trunkline.pipelines.runner.ROWS_PER_WRITE", 5)


TWELVE = {f"/{n:02}": str(n) for n in range(12)}


@pytest.mark.usefixtures("in_parts")
def test_many_datums_are_planned_in_parts(world: World) -> None:
    world.pipelines.create("default", spec())
    commit = world.put("images@master", TWELVE)
    assert (latest(world).total, latest(world).phase) == (12, "processing")
    assert world.work("edges", made) == 12
    assert world.pipelines.inspect_job("default", "edges", commit).status == Status.SUCCEEDED
    assert len(world.files("edges@master")) == 12


def while_planning(world: World, monkeypatch: pytest.MonkeyPatch, do: Callable[[int], object]) -> None:
    """``do`` something before each datum is planned, given how many are."""
    plan = world.pipelines._steps.planner.plan

    def watched(*args: Any, **more: Any) -> Plan:
        made = plan(*args, **more)

        def rows() -> Iterator[NewDatum]:
            for number, row in enumerate(made.rows):
                do(number)
                yield row

        return replace(made, rows=rows())

    monkeypatch.setattr(world.pipelines._steps.planner, "plan", watched)


class Killed(BaseException):
    """The end of the server."""


@pytest.mark.usefixtures("in_parts")
def test_workers_have_the_first_datums_while_the_others_are_planned(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.pipelines.create("default", spec())
    world.settle()
    seen = []

    def work(planned: int) -> None:
        if planned in (4, 9):
            seen.append((world.work("edges", made), latest(world).phase, latest(world).total))
            found = world.pipelines.list_datums("default", "edges", latest(world).id)
            assert [one.status for one in found] == [Status.SUCCEEDED] * planned

    while_planning(world, monkeypatch, work)
    commit = world.put("images@master", TWELVE)
    assert seen == [(4, "planning", 4), (5, "planning", 9)]
    job = world.pipelines.inspect_job("default", "edges", commit)
    assert (job.status, job.phase, job.total, job.processed) == (Status.RUNNING, "processing", 12, 9)
    assert world.work("edges", made) == 3
    job = world.pipelines.inspect_job("default", "edges", commit)
    assert (job.status, job.total, job.processed, job.skipped) == (Status.SUCCEEDED, 12, 12, 0)
    assert len(world.files("edges@master")) == 12


@pytest.mark.usefixtures("in_parts")
def test_a_plan_that_is_cut_short_is_made_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.pipelines.create("default", spec())
    world.settle()
    held: list[Task] = []

    def end(planned: int) -> None:
        if planned == 4:
            assert world.work("edges", made) == 4
        if planned == 9:
            held.extend(task for task, _ in world.claim("edges", limit=2))
            raise Killed

    while_planning(world, monkeypatch, end)
    with pytest.raises(Killed):
        world.put("images@master", TWELVE)
    monkeypatch.undo()
    assert (latest(world).phase, latest(world).status, latest(world).total) == ("planning", Status.RUNNING, 9)
    world = world.restart()
    world.settle()
    assert (latest(world).phase, latest(world).total, latest(world).skipped) == ("processing", 12, 4)
    for task in held:
        with pytest.raises(ConflictError, match="is lost"):
            world.tell(task)
    assert world.work("edges", made) == 8
    assert (latest(world).total, latest(world).status) == (12, Status.SUCCEEDED)
    assert len(world.files("edges@master")) == 12


@pytest.mark.usefixtures("in_parts")
def test_a_plan_beside_a_base_is_made_in_parts_too(three: World, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []

    def look(planned: int) -> None:
        if planned == 5:
            found = three.pipelines.list_datums("default", "edges", latest(three).id)
            seen.append([one.inputs[0].paths[0] for one in found])
            assert three.pipelines.why("default", "edges", latest(three).id).kinds == {"new": 4}

    while_planning(three, monkeypatch, look)
    three.put("images@master", TWELVE)
    assert seen and set(seen[0]) < set(TWELVE)  # nothing is said yet of what may not have changed
    assert (latest(three).total, latest(three).skipped) == (15, 3)
    assert three.work("edges", made) == 12
    assert (latest(three).status, latest(three).processed) == (Status.SUCCEEDED, 12)
    assert len(three.files("edges@master")) == 15


@pytest.mark.usefixtures("in_parts")
def test_a_job_that_is_stopped_while_it_is_planned(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.pipelines.create("default", spec())
    world.settle()

    def stop(planned: int) -> None:
        if planned == 6:
            world.pipelines.stop_job("default", "edges", latest(world).id)

    while_planning(world, monkeypatch, stop)
    commit = world.put("images@master", TWELVE)
    assert latest(world).status == Status.CANCELLED
    assert world.claim("edges") == []
    found = world.pipelines.list_datums("default", "edges", commit)
    assert [one.status for one in found] == [Status.CANCELLED] * 4


@pytest.mark.usefixtures("in_parts")
def test_a_plan_that_fails_in_the_middle_stops_those_who_work(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.pipelines.create("default", spec())
    world.settle()
    held: list[Task] = []

    def fail(planned: int) -> None:
        if planned == 6:
            held.extend(task for task, _ in world.claim("edges", limit=2))
            raise NotFoundError("a tree is gone")

    while_planning(world, monkeypatch, fail)
    commit = world.put("images@master", TWELVE)
    assert latest(world).status == Status.FAILED
    assert latest(world).reason == "its datums cannot be listed: a tree is gone"
    _, cancelled = world.jobs.queue.keep_alive([lease_of(task) for task in held])
    assert cancelled == [task.id for task in held]
    assert world.claim("edges") == []
    found = world.pipelines.list_datums("default", "edges", commit)
    assert {one.status for one in found} == {Status.CANCELLED}


@pytest.mark.usefixtures("in_parts")
def test_who_has_lost_the_plan_to_another_writes_no_more_of_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first sleeps longer than its lease; the second is in the middle of it when the first wakes."""
    world.pipelines.create("default", spec())
    world.settle()
    asleep: list[int] = []

    def sleep(planned: int) -> None:
        if planned == 6:
            asleep.append(planned)
            if len(asleep) == 2:
                raise Killed
            world.clock.advance(world.settings.lease_seconds + 1)
            world.jobs.reap()
            with pytest.raises(Killed):
                world.settle()

    while_planning(world, monkeypatch, sleep)
    commit = world.put("images@master", TWELVE)
    assert len(asleep) == 2
    assert (latest(world).status, latest(world).phase, latest(world).total) == (Status.RUNNING, "planning", 4)
    monkeypatch.undo()
    world = world.restart()
    world.settle()
    assert world.work("edges", made) == 12
    job = world.pipelines.inspect_job("default", "edges", commit)
    assert (job.status, job.total, job.processed, job.skipped) == (Status.SUCCEEDED, 12, 12, 0)


@pytest.mark.usefixtures("in_parts")
def test_a_pipeline_that_is_deleted_while_its_job_is_planned(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.pipelines.create("default", spec())
    world.settle()

    def delete(planned: int) -> None:
        if planned == 6:
            world.pipelines.delete("default", "edges")

    while_planning(world, monkeypatch, delete)
    world.put("images@master", TWELVE)
    assert world.claim("edges") == []
    with world.db.read() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(datums)).scalar_one() == 0


@pytest.mark.usefixtures("in_parts")
def test_datums_restarted_while_others_are_planned_are_in_sets_of_their_own(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.pipelines.create("default", spec())
    world.settle()

    def restart(planned: int) -> None:
        if planned == 4:
            assert world.work("edges", made) == 4
            world.pipelines.restart_datum("default", "edges", latest(world).id, paths=["/00"])

    while_planning(world, monkeypatch, restart)
    world.put("images@master", TWELVE)
    assert (latest(world).total, latest(world).processed) == (12, 3)
    assert [len(payload["datums"]) for _, payload in world.claim("edges")] == [1] * 9


@pytest.mark.parametrize(
    ("wanted", "before", "numbers"),
    [
        (None, 1000, [7, 7, 7, 7, 7, 7, 7, 7]),
        (None, -1, [7, 7, 8, 8, 9, 9, 10, 10]),  # four workers: each has some of it
        (None, 0, [7, 7, 8, 8, 9, 9, 10, 10]),  # four sets for a worker
        (None, 8, [7, 7, 7, 7, 8, 8, 8, 8]),  # of a larger job
        ({"number": 3}, 24, [7, 7, 7, 8, 8, 8, 9, 9]),
        ({"size_bytes": 10}, 24, [7, 7, 7, 8, 8, 8, 9, 9]),
        ({"size_bytes": 1}, 0, [7, 8, 9, 10, 11, 12, 13, 14]),
        ({"size_bytes": 10, "number": 5}, 0, [7, 7, 7, 7, 7, 8, 8, 8]),
    ],
)
def test_sets_of_a_part_of_a_plan(wanted: dict[str, int] | None, before: int, numbers: list[int]) -> None:
    before, workers = (1000, 4) if before < 0 else (before, 1)
    given = {"datum_set_spec": wanted, "parallelism_spec": {"constant": workers}}
    datums = [NewDatum(str(n), str(n), [[0, f"/{n}", "h", 4]], {}, {}) for n in range(8)]
    assert set_numbers(given, datums, first=7, before=before) == numbers


@pytest.mark.parametrize(
    ("before", "expected", "numbers"),
    [(0, 16, [0, 0, 0, 0, 1, 1, 1, 1]), (0, 4, [0, 0, 1, 1, 2, 2, 3, 3]), (8, 32, [0, 0, 0, 0, 0, 0, 0, 0])],
)
def test_sets_where_it_is_known_how_many_datums_come(before: int, expected: int, numbers: list[int]) -> None:
    given = {"datum_set_spec": None, "parallelism_spec": {"constant": 1}}
    datums = [NewDatum(str(n), str(n), [], {}, {}) for n in range(8)]
    assert set_numbers(given, datums, first=0, before=before, expected=expected) == numbers


def test_beside_a_base_the_first_part_knows_how_many_datums_come(
    three: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trunkline.pipelines.runner.FIRST_ROWS", 4)
    three.set_spec("edges", datum_set_spec=None)
    three.put("images@master", TWELVE)
    sizes = [len(payload["datums"]) for _, payload in three.claim("edges")]
    assert sizes[0] == 3  # a fourth of twelve
    assert sum(sizes) == 12


# --- looking ---


def test_datums_are_listed_whether_they_have_rows_or_not(three: World) -> None:
    three.put("images@master", {"/b": "22"})
    three.work("edges", made)
    found = three.pipelines.list_datums("default", "edges", latest(three).id)
    assert [(one.inputs[0].paths, one.status.value) for one in found] == [
        (("/b",), "succeeded"), (("/a",), "skipped"), (("/d/",), "skipped"),
    ]  # fmt: skip
    assert all(one.output_root and one.size and one.file_count == 1 for one in found)
    unchanged = three.pipelines.inspect_datum("default", "edges", latest(three).id, found[1].id[:12])
    assert unchanged == found[1]
    assert three.pipelines.inspect_datum("default", "edges", latest(three).id, found[0].id) == found[0]
    with pytest.raises(NotFoundError, match="no datum"):
        three.pipelines.inspect_datum("default", "edges", latest(three).id, "f" * 64)


def test_an_output_can_be_made_again_from_its_datums(three: World) -> None:
    three.put("images@master", {"/b": "22"})
    three.work("edges", made)
    assert three.pipelines.make_output("default", "edges", latest(three).id)
    assert not three.pipelines.make_output("default", "edges", "0" * 32)
