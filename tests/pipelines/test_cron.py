"""Cron inputs: when they tick, what is made up for, and that no tick is lost or doubled."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pipelines.conftest import World, spec
from trunkline.core.cron import parse_schedule
from trunkline.errors import AlreadyExistsError, InvalidInputError, NotFoundError, StateError
from trunkline.pipelines import cron
from trunkline.pipelines.cron import due_ticks, next_tick, tick_name
from trunkline.pipelines.model import Pipeline

pytestmark = pytest.mark.slow

HOUR = 3600.0


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


# --- when ---------------------------------------------------------------------------------------------------------


def test_ticks_are_named_by_their_time() -> None:
    assert tick_name(at("2026-01-31T12:00:00")) == "/2026-01-31T12:00:00Z"
    assert tick_name(at("2026-01-31T12:00:00") + 0.25) == "/2026-01-31T12:00:00.250Z"


def test_nothing_is_due_before_its_time() -> None:
    hourly = parse_schedule("@hourly")
    assert due_ticks(hourly, at("2026-01-31T12:00:00"), at("2026-01-31T11:59:59"), "all") == (
        [],
        at("2026-01-31T12:00:00"),
    )


@pytest.mark.parametrize(("catch_up", "made"), [("all", [12, 13, 14]), ("last", [14]), ("none", [])])
def test_what_is_made_up_for_after_a_pause(catch_up: Any, made: list[int]) -> None:
    first, now = at("2026-01-31T12:00:00"), at("2026-01-31T14:30:00")
    ticks, following = due_ticks(parse_schedule("@hourly"), first, now, catch_up)
    assert ticks == [at(f"2026-01-31T{hour}:00:00") for hour in made]
    assert following == at("2026-01-31T15:00:00")


@pytest.mark.parametrize("catch_up", ["all", "last", "none"])
def test_a_tick_that_is_a_little_late_is_none_that_was_missed(catch_up: Any) -> None:
    first = at("2026-01-31T12:00:00")
    assert due_ticks(parse_schedule("@hourly"), first, first + 5, catch_up)[0] == [first]


@pytest.mark.parametrize("schedule", ["@every 1s", "* * * * *"])
def test_years_of_ticks_are_not_gone_through(schedule: str) -> None:
    """A start in 1970: the newest ticks are made, and soon."""
    now = at("2026-01-31T12:00:00")
    first = next_tick(parse_schedule(schedule), 0.0)
    assert first is not None
    ticks, following = due_ticks(parse_schedule(schedule), first, now, "all")
    assert len(ticks) == cron.TICKS_MAX and ticks[-1] == now and following is not None and following > now


@given(
    schedule=st.sampled_from(["@every 7s", "@every 90m", "*/5 * * * *", "0 9 * * mon-fri", "30 2 29 2 *", "@weekly"]),
    span=st.integers(0, 3000 * 3600),
    cuts=st.lists(st.integers(0, 3000 * 3600), max_size=5),
)  # fmt: skip
def test_however_often_one_looks_the_ticks_are_the_same(schedule: str, span: int, cuts: list[int]) -> None:
    parsed, begin = parse_schedule(schedule), at("2026-01-31T12:00:00")
    first = next_tick(parsed, begin)
    at_once = due_ticks(parsed, first or 0.0, begin + span, "all")
    found: list[float] = []
    next_at = first
    for cut in sorted({*(one for one in cuts if one <= span), span}):
        ticks, next_at = due_ticks(parsed, next_at or 0.0, begin + cut, "all")
        found += ticks
    assert (found[-cron.TICKS_MAX :], next_at) == at_once


# --- the pipeline's own repo --------------------------------------------------------------------------------------


def with_cron(world: World, *, update: bool = False, name: str = "report", **more: Any) -> Pipeline:
    tick = {"name": "tick", "spec": "@every 1h", **more}
    return world.pipelines.create("default", spec(name) | {"input": {"cron": tick}}, update=update)


def pass_time(world: World, seconds: float) -> None:
    world.clock.advance(seconds)
    world.settle()


def ticks(world: World, repo: str = "report_tick") -> list[str]:
    try:
        return [path[1:] for path in world.files(f"{repo}@master")]
    except NotFoundError:
        return []


def name_of(time: float) -> str:
    return tick_name(time)[1:]


def test_it_ticks_when_its_time_comes(world: World) -> None:
    begin = float(int(world.clock.now()))
    with_cron(world)
    world.settle()
    assert ticks(world) == []
    pass_time(world, HOUR - 2)
    assert ticks(world) == []
    pass_time(world, 2)
    pass_time(world, HOUR)
    assert ticks(world) == [name_of(begin + HOUR), name_of(begin + 2 * HOUR)]
    commits = world.versioning.list_commits("default", "report_tick")
    assert [commit.description for commit in commits] == [name_of(begin + 2 * HOUR), name_of(begin + HOUR)]
    assert world.pipelines.list_jobs("default", "report")[0].id == commits[0].id


def test_what_was_missed_comes_in_one_commit_after_a_restart(world: World) -> None:
    with_cron(world)
    world.settle()
    world.clock.advance(5 * HOUR)
    again = world.restart()
    again.settle()
    assert len(ticks(again)) == 5
    [commit] = again.versioning.list_commits("default", "report_tick")
    assert commit.description.startswith("5 ticks until ")
    again.settle()
    assert len(ticks(again)) == 5


@pytest.mark.parametrize(("catch_up", "count"), [("last", 1), ("none", 0)])
def test_less_is_made_up_for_where_the_spec_says_so(world: World, catch_up: str, count: int) -> None:
    with_cron(world, catch_up=catch_up)
    world.settle()
    pass_time(world, 5.5 * HOUR)
    assert len(ticks(world)) == count
    pass_time(world, 0.5 * HOUR)
    assert len(ticks(world)) == count + 1


def test_overwrite_keeps_the_newest_only(world: World) -> None:
    begin = float(int(world.clock.now()))
    with_cron(world, overwrite=True)
    world.settle()
    pass_time(world, 2 * HOUR)
    pass_time(world, HOUR)
    assert ticks(world) == [name_of(begin + 3 * HOUR)]


def test_a_start_in_the_past_is_made_up_for(world: World) -> None:
    begin = float(int(world.clock.now()))
    with_cron(world, start=name_of(begin - 3 * HOUR))
    world.settle()
    assert ticks(world) == [name_of(begin - 2 * HOUR), name_of(begin - HOUR), name_of(begin)]


def test_a_start_in_the_future_is_waited_for(world: World) -> None:
    begin = float(int(world.clock.now()))
    with_cron(world, start=name_of(begin + 3 * HOUR))
    pass_time(world, 3.5 * HOUR)
    assert ticks(world) == []
    pass_time(world, HOUR)
    assert ticks(world) == [name_of(begin + 4 * HOUR)]


def test_a_stopped_pipeline_does_not_tick_and_catches_up(world: World) -> None:
    with_cron(world)
    world.settle()
    world.pipelines.stop("default", "report")
    pass_time(world, 3 * HOUR)
    assert ticks(world) == []
    world.pipelines.start("default", "report")
    world.settle()
    assert len(ticks(world)) == 3


def test_run_cron_ticks_at_once_and_again(world: World) -> None:
    with_cron(world, spec="@never")
    world.settle()
    made = [world.pipelines.crons.run("default", "report") for _ in range(2)]
    assert len({one.id for [one] in made}) == len(ticks(world)) == 2, "in one millisecond, too"
    pass_time(world, 1000 * HOUR)
    assert len(ticks(world)) == 2
    with pytest.raises(
        InvalidInputError, match="pipeline default/report has no cron input tock: it has tick"
    ):
        world.pipelines.crons.run("default", "report", "tock")
    world.pipelines.create("default", spec("plain"))
    with pytest.raises(InvalidInputError, match="pipeline default/plain has no cron input: only a"):
        world.pipelines.crons.run("default", "plain")
    with pytest.raises(NotFoundError, match="there is no pipeline default/nosuch"):
        world.pipelines.crons.run("default", "nosuch")


def test_an_update_goes_on_unless_the_schedule_changes(world: World) -> None:
    begin = float(int(world.clock.now()))
    with_cron(world)
    pass_time(world, 0.5 * HOUR)
    with_cron(world, update=True)
    pass_time(world, 0.5 * HOUR)
    assert ticks(world) == [name_of(begin + HOUR)]
    with_cron(world, update=True, spec="@every 2h")
    pass_time(world, HOUR)
    assert len(ticks(world)) == 1
    pass_time(world, HOUR)
    assert len(ticks(world)) == 2


def test_nobody_else_writes_into_its_repo(world: World) -> None:
    with_cron(world)
    with pytest.raises(StateError, match="belongs to pipeline report"):
        world.put("report_tick@master", {"/x": "1"})


def test_the_repo_goes_with_the_pipeline_unless_its_output_stays(world: World) -> None:
    with_cron(world)
    world.pipelines.delete("default", "report")
    assert {repo.name for repo in world.versioning.list_repos("default")} == {"images"}
    with_cron(world)
    pass_time(world, HOUR)
    with_cron(world, name="other")
    world.pipelines.stop_job("default", "report", world.pipelines.list_jobs("default", "report")[0].id)
    world.pipelines.delete("default", "report", keep_repo=True)
    assert len(ticks(world)) == 1
    pass_time(world, HOUR)
    assert len(ticks(world)) == 1, "nobody makes it tick"
    assert len(ticks(world, "other_tick")) == 1
    with_cron(world)
    pass_time(world, HOUR)
    assert len(ticks(world)) == 2, "it is taken up again"


def test_its_repo_must_not_be_somebody_elses(world: World) -> None:
    world.versioning.create_repo("default", "report_tick")
    with pytest.raises(AlreadyExistsError, match="there is a repo 'report_tick'"):
        with_cron(world)
    assert world.pipelines.list_pipelines("default") == []


def test_a_removed_cron_input_leaves_its_repo_with_what_it_has(world: World) -> None:
    with_cron(world)
    pass_time(world, HOUR)
    world.pipelines.create("default", spec("report"), update=True)
    pass_time(world, 5 * HOUR)
    assert len(ticks(world)) == 1
