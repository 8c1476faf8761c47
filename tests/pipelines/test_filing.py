"""What datums have made: known as soon as they say so, filed with the results of all jobs in time."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from tests.pipelines.conftest import World, lease_of, spec
from trunkline.core.status import Status
from trunkline.jobs.model import Report, Task
from trunkline.pipelines import datum_store, datum_tasks, results, set_store
from trunkline.storage.db.schema import datum_results, datums
from trunkline.versioning import keepstore
from trunkline.wire.leases import DatumResult

pytestmark = pytest.mark.slow

SIX = {f"/{n}": str(n) for n in range(6)}


def begun(world: World, **more: Any) -> list[tuple[Task, dict[str, Any]]]:
    """A job of six datums, leased in sets of two."""
    world.pipelines.create("default", spec(datum_set_spec={"number": 2}, **more))
    world.put("images@master", SIX)
    return world.claim("edges")


def succeed(world: World, task: Task, payload: dict[str, Any]) -> None:
    world.tell(task, *[world.result(one["id"], {"/" + one["id"]: "made"}) for one in payload["datums"]])
    world.report(task, Status.SUCCEEDED)


def filed(world: World) -> tuple[int, int]:
    """How many results there are, and datums that are not filed."""
    with world.db.read() as connection:
        count = connection.execute(sa.select(sa.func.count()).select_from(datum_results)).scalar_one()
        query = sa.select(sa.func.count()).select_from(datums).where(datums.c.filed_at.is_(None))
        return count, connection.execute(query).scalar_one()


def known(world: World) -> dict[str, Any]:
    with world.db.read() as connection:
        identities = connection.execute(sa.select(datums.c.identity)).scalars()
        return results.known_results(connection, list(identities))


def test_results_are_known_at_once_and_filed_at_the_end_of_the_job(world: World) -> None:
    sets = begun(world)
    assert (known(world), filed(world)) == ({}, (0, 6))
    succeed(world, *sets[0])
    before = known(world)
    assert (len(before), filed(world)) == (2, (0, 6))
    for one in sets[1:]:
        succeed(world, *one)
    assert filed(world) == (6, 0)
    after = known(world)
    assert len(after) == 6
    assert {one: after[one] for one in before} == before


def test_sets_are_filed_together_when_each_datum_of_them_has_ended(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datum_tasks, "SETS_PER_FILING", 2)
    first, second, third = begun(world)
    succeed(world, *second)
    assert filed(world) == (0, 6)
    task, payload = first
    world.tell(task, world.result(payload["datums"][0]["id"], {}))
    assert filed(world) == (0, 6)
    world.tell(task, world.result(payload["datums"][1]["id"], {}))
    world.report(task, Status.SUCCEEDED)
    assert filed(world) == (4, 2)
    assert len(known(world)) == 4
    succeed(world, *third)
    assert filed(world) == (6, 0)


def test_what_a_job_has_made_is_filed_however_it_ends(world: World) -> None:
    first, second, _ = begun(world)
    succeed(world, *first)
    task, payload = second
    world.tell(task, world.result(payload["datums"][0]["id"], {}))
    world.pipelines.stop_job("default", "edges", payload["job"]["id"])
    world.settle()
    assert filed(world) == (3, 0)
    world.pipelines.rerun("default", "edges")
    world.settle()
    assert [len(payload["datums"]) for _, payload in world.claim("edges")] == [2, 1]


def test_a_failure_is_no_result(world: World) -> None:
    for task, payload in begun(world, datum_tries=1):
        failed = [{"id": one["id"], "status": "failed", "stats": {}} for one in payload["datums"]]
        world.tell(task, *failed)
        world.report(task, Status.SUCCEEDED)
    assert (known(world), filed(world)) == ({}, (0, 0))


def test_another_pipeline_uses_what_a_running_job_has_made(world: World) -> None:
    first, *_ = begun(world)
    succeed(world, *first)
    world.pipelines.create("default", spec("same"))
    world.settle()
    job = next(iter(world.pipelines.list_jobs("default", "same")))
    assert (job.total, job.skipped) == (6, 2)


def test_what_is_purged_while_the_job_runs_is_not_filed(world: World) -> None:
    world.versioning.learn_roots([*datum_store.ROOTS, *results.ROOTS])
    first, *others = begun(world)
    secret = "never to be seen again " * 100
    task, payload = first
    world.tell(task, *[world.result(one["id"], {f"/{one['id']}": secret}) for one in payload["datums"]])
    world.versioning.create_repo("default", "people")
    world.put("people@master", {"/me": secret})
    world.versioning.purge("default", "people:/me", everywhere=True, force=True)
    assert known(world) == {}
    world.jobs.report(lease_of(task), Report(status=Status.SUCCEEDED))
    for one in others:
        succeed(world, *one)
    assert filed(world) == (4, 0)
    assert len(known(world)) == 4


def test_many_results_of_a_set_at_once(world: World) -> None:
    """They are looked up by their set, a few by their IDs."""
    world.pipelines.create("default", spec(datum_set_spec={"number": 1000}))
    world.put("images@master", {f"/{n:03}": str(n) for n in range(150)})
    [(task, payload)] = world.claim("edges")
    told = [world.result(one["id"], {}) for one in payload["datums"]]
    world.tell(task, *told[:120])
    world.tell(task, *told, {**told[0], "id": "of nobody"})  # of the first ones once more
    world.report(task, Status.SUCCEEDED)
    job = next(iter(world.pipelines.list_jobs("default", "edges")))
    assert (job.status, job.processed) == (Status.SUCCEEDED, 150)


def test_a_filed_datum_that_is_restarted_is_in_flight_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datum_tasks, "SETS_PER_FILING", 1)
    first, *_ = begun(world)
    succeed(world, *first)
    assert filed(world) == (2, 4)
    job, datum = first[1]["job"]["id"], first[1]["datums"][0]
    world.pipelines.restart_datum("default", "edges", job, datum=datum["id"])
    assert filed(world) == (2, 5)
    row = world.row("edges", job)
    with world.db.read() as connection:
        assert results.in_flight(connection, row.pipeline_id, 0, [datum["identity"]]) == {datum["identity"]}
        assert results.in_flight(connection, row.pipeline_id, row.pk, [datum["identity"]]) == set()
        assert results.in_flight(connection, row.pipeline_id + 1, 0, [datum["identity"]]) == set()


def test_a_damaged_tree_is_no_result_any_more(world: World) -> None:
    """As ``fsck --repair`` does it."""
    first, *others = begun(world)
    succeed(world, *first)
    with world.db.write() as connection:
        roots = {root.root for root in datum_store.ROOTS[0].roots(connection)}
        assert [keepstore.drop_cached(connection, datum_store.ROOTS[0], root) for root in roots] == [0] * len(
            roots
        )
    assert known(world) == {}
    for one in others:
        succeed(world, *one)
    assert filed(world) == (4, 0)
    assert len(known(world)) == 4


def said(datum: str, **more: Any) -> dict[str, Any]:
    """As the server's door passes it on."""
    return DatumResult.model_validate({"id": datum, "status": "succeeded", **more}).model_dump()


def test_the_least_that_a_worker_may_say(world: World) -> None:
    [(task, payload), *_] = begun(world)
    datum = payload["datums"][0]["id"]
    world.tell(task, said(datum))
    shown = world.pipelines.inspect_datum("default", "edges", payload["job"]["id"], datum)
    assert (shown.status, shown.attempts, shown.output_root, shown.size) == (Status.SUCCEEDED, 1, None, 0)
    other = payload["datums"][1]["id"]
    world.tell(task, said(other, stats={"download_bytes": 1}))
    shown = world.pipelines.inspect_datum("default", "edges", payload["job"]["id"], other)
    assert (shown.stats["download_bytes"], shown.stats["upload_bytes"], shown.stats["oom"]) == (1, 0, False)


def test_hashes_are_looked_up_in_the_small_indexes(world: World) -> None:
    """Not by going through the datums of all jobs of the pipeline."""
    if not world.db.is_sqlite:
        pytest.skip("another database plans by what its tables hold")
    begun(world)
    asked: list[tuple[str, Any]] = []

    def listen(_connection: Any, _cursor: Any, sql: str, values: Any, *_: Any) -> None:
        asked.append((sql, values))

    with world.db.read() as connection:
        sa.event.listen(connection, "before_cursor_execute", listen)
        results.in_flight(connection, 1, 1, ["a", "b"])
        results.known_results(connection, ["a", "b"])
        set_store.waiting_for(connection, ["a", "b"])
        datum_store.latest(connection, 1, 1, ["a" * 64, "b" * 64])
        sa.event.remove(connection, "before_cursor_execute", listen)
        plans = [
            [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", values)]
            for sql, values in asked
            if sql.startswith("SELECT") and "datums" in sql
        ]
    wanted = ["datums_unfiled", "datums_unfiled", "datums_unfiled", "datums_short_id"]
    assert [plan[0].split()[4] for plan in plans] == wanted, plans
    assert {plan[0].split()[0] for plan in plans} == {"SEARCH"}, plans
