"""How a change spreads: deferred processing, branches that follow others, triggers."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from tests.conftest import FakeClock
from tests.versioning.conftest import events, put, shown
from trunkline.core.ids import new_commit_id
from trunkline.errors import AlreadyExistsError, InvalidInputError, StateError
from trunkline.storage.db.engine import Database
from trunkline.storage.db.schema import outbox
from trunkline.storage.objects.base import ObjectStore
from trunkline.versioning.model import Commit, CommitStatus, Origin, TreeInfo, Trigger
from trunkline.versioning.service import VersioningService

Service = VersioningService


@pytest.fixture(autouse=True)
def repos(versioning: Service) -> None:
    for name in ("data", "labels", "views"):
        versioning.create_repo("default", name)


def commit(service: Service, address: str, files: dict[str, bytes] | None = None) -> Commit:
    changes = [put(path, data) for path, data in (files or {f"/{new_commit_id()}": b"x"}).items()]
    return service.modify("default", address, changes)


def head(service: Service, address: str) -> str | None:
    return service.inspect_branch("default", address).head


def output_repo(service: Service, db: Database, name: str, *upstream: str) -> None:
    """A repo that belongs to a pipeline and follows others, as the pipelines domain makes them."""
    with db.write() as connection:
        service.create_owned_repo(connection, "default", name, f"pipeline:{name}", "")
        service.set_provenance(connection, "default", name, "master", upstream, commit_id=new_commit_id())


def end_jobs(service: Service, db: Database, name: str, tree: TreeInfo | None = None) -> None:
    """Finish all that is open there, the oldest first."""
    for one in reversed(service.list_commits("default", name)):
        if one.status is CommitStatus.OPEN:
            with db.write() as connection:
                service.finish_output(connection, "default", name, one.id, tree=tree, error=None)


def watch(service: Service, address: str, **conditions: object) -> None:
    service.create_branch("default", address, trigger=Trigger(**conditions))  # type: ignore[arg-type]


class TestDeferredProcessing:
    def test_the_whole_loop(self, versioning: Service, db: Database) -> None:
        versioning.create_branch("default", "data@master")
        output_repo(versioning, db, "edges", "data@master")
        end_jobs(versioning, db, "edges")
        before = head(versioning, "edges@master")
        first = commit(versioning, "data@staging", {"/a": b"1"})
        second = commit(versioning, "data@staging", {"/b": b"2"})
        assert head(versioning, "data@master") is None
        assert head(versioning, "edges@master") == before
        versioning.create_branch("default", "data@master", head="staging")
        assert head(versioning, "data@master") == second.id
        job = versioning.inspect_commit("default", "edges@master")
        assert (job.id, job.origin, job.status) == (second.id, Origin.AUTO, CommitStatus.OPEN)
        assert job.provenance == (f"default/data@{second.id}",)
        end_jobs(versioning, db, "edges")
        versioning.create_branch("default", "data@master", head=first.id)  # and back
        again = versioning.inspect_commit("default", "edges@master")
        assert (again.id, again.provenance) == (first.id, (f"default/data@{first.id}",))
        end_jobs(versioning, db, "edges")
        versioning.create_branch("default", "data@master", head=second.id)  # that ID is taken there
        third = versioning.inspect_commit("default", "edges@master")
        assert third.id not in (first.id, second.id)
        assert third.provenance == (f"default/data@{second.id}",)

    def test_a_branch_begins_at_any_commit(self, versioning: Service) -> None:
        made = [commit(versioning, "data@staging") for _ in range(4)]
        for text, expected in {
            "staging^2": made[1], "data@staging^": made[2], made[0].id: made[0], f"staging={made[1].id}": made[1],
            "staging.2": made[1], "default/data@staging~3": made[0], f"{made[3].id}^": made[2],
        }.items():  # fmt: skip
            assert versioning.create_branch("default", "data@x", head=text).head == expected.id, text
        commit(versioning, "labels@master")
        with pytest.raises(InvalidInputError, match="not a commit of repo"):
            versioning.create_branch("default", "data@x", head="labels@master")

    def test_an_open_head_stays_where_it_is(self, versioning: Service) -> None:
        commit(versioning, "data@staging")
        versioning.start_commit("default", "data@master")
        with pytest.raises(StateError) as caught:
            versioning.create_branch("default", "data@master", head="staging")
        assert caught.value.kind == "parent_open"


class TestFollowing:
    def test_a_branch_that_a_person_lets_follow(self, versioning: Service, db: Database) -> None:
        versioning.create_branch("default", "views@joined", provenance=["data@master", "labels@master"])
        assert head(versioning, "views@joined") is None  # nothing to follow yet
        data = commit(versioning, "data@master")
        opened = versioning.inspect_commit("default", "views@joined")
        assert (opened.id, opened.origin, opened.status) == (data.id, Origin.AUTO, CommitStatus.OPEN)
        with pytest.raises(StateError, match="follows"):
            versioning.start_commit("default", "views@joined")
        commit(versioning, "views@joined", {"/sum": b"1"})
        assert versioning.finish_commit("default", "views@joined", "by hand").description == "by hand"
        assert shown(versioning, "views@joined") == {"/sum": b"1"}
        with pytest.raises(StateError) as caught:
            commit(versioning, "views@joined", {"/more": b""})
        assert caught.value.kind == "output_branch"
        label = commit(versioning, "labels@master")
        assert versioning.finish_commit("default", f"views@{label.id}").id == label.id
        assert shown(versioning, "views@joined") == {"/sum": b"1"}  # nothing was written: as before
        assert versioning.inspect_commit("default", "views@joined").provenance == (
            f"default/data@{data.id}", f"default/labels@{label.id}",
        )  # fmt: skip
        assert ("commit.finished", "views@joined", label.id, None) in events(db)

    def test_both_directions_are_shown(self, versioning: Service, db: Database) -> None:
        commit(versioning, "data@master")
        output_repo(versioning, db, "edges", "data@master")
        output_repo(versioning, db, "montage", "edges@master", "labels@master")
        branch = versioning.inspect_branch("default", "data@master")
        assert branch.subvenance == ("default/edges@master",)
        assert branch.all_subvenance == ("default/edges@master", "default/montage@master")
        far = versioning.inspect_branch("default", "montage@master")
        assert far.provenance == ("default/edges@master", "default/labels@master")
        assert far.all_provenance == ("default/data@master", "default/edges@master", "default/labels@master")
        listed = {b.name: b for b in versioning.list_branches("default", "edges")}
        assert listed["master"].provenance == ("default/data@master",)
        assert listed["master"].subvenance == ("default/montage@master",)

        source = commit(versioning, "data@master")
        commits = versioning.describe_commit("default", "data@master")
        assert commits.all_subvenance == (f"default/edges@{source.id}", f"default/montage@{source.id}")
        assert not commits.has_more_subvenance
        assert versioning.describe_commit("default", "montage@master").all_provenance == (
            f"default/data@{source.id}", f"default/edges@{source.id}",
        )  # fmt: skip

    def test_what_may_not_be_followed(self, versioning: Service, db: Database) -> None:
        commit(versioning, "data@master")
        versioning.create_branch("default", "views@a", provenance=["data@master"])
        for address, upstream, kind in [
            ("data@master", ["views@a"], "provenance_cycle"),
            ("data@master", ["data@master"], "provenance_cycle"),
            ("views@b", ["data@master"], "two_branches"),  # one change would reach two branches of views
            ("labels@x", ["data@master", "data@staging"], "two_branches"),
            ("labels@x", ["views@a", "data@staging"], "two_branches"),  # views@a was made from data@master
        ]:
            with pytest.raises((InvalidInputError, StateError)) as caught:
                versioning.create_branch("default", address, provenance=upstream)
            assert caught.value.kind in (kind, "parent_open"), (address, upstream)
        output_repo(versioning, db, "edges", "data@master")
        with pytest.raises(StateError, match="pipeline edges"):
            versioning.create_branch("default", "edges@master", provenance=["labels@master"])
        assert [b.name for b in versioning.list_branches("default", "data")] == ["master"]

    def test_provenance_can_be_changed_and_ended(self, versioning: Service) -> None:
        data, label = commit(versioning, "data@master"), commit(versioning, "labels@master")
        versioning.create_branch("default", "views@a", provenance=["data@master"])
        first = versioning.finish_commit("default", "views@a")
        assert first.provenance == (f"default/data@{data.id}",)
        versioning.create_branch("default", "views@a", provenance=["labels@master"])
        assert versioning.finish_commit("default", "views@a").provenance == (f"default/labels@{label.id}",)
        versioning.create_branch("default", "views@a", provenance=[])
        commit(versioning, "labels@master")
        assert commit(versioning, "views@a").origin is Origin.USER
        versioning.create_branch("default", "views@a", provenance=["labels@master"])
        versioning.finish_commit("default", "views@a")
        with pytest.raises(StateError, match="--force"):
            versioning.delete_branch("default", "labels@master")
        versioning.delete_branch("default", "views@a")
        versioning.delete_branch("default", "labels@master")

    def test_of_several_open_commits_any_may_be_written_and_finished(self, versioning: Service) -> None:
        versioning.create_branch("default", "views@a", provenance=["data@master"])
        old, new = commit(versioning, "data@master"), commit(versioning, "data@master")
        commit(versioning, f"views@{old.id}", {"/f": b"old"})
        assert shown(versioning, "views@a") == {"/f": b"old"}  # the newer one shows what its parent does
        versioning.finish_commit("default", f"views@{new.id}")
        versioning.finish_commit("default", f"views@{old.id}")
        assert shown(versioning, f"views@{new.id}") == {"/f": b"old"}


class TestTriggers:
    def test_without_conditions_each_good_commit_moves_it(self, versioning: Service, db: Database) -> None:
        watch(versioning, "data@master", branch="staging")
        output_repo(versioning, db, "edges", "data@master")
        end_jobs(versioning, db, "edges")
        made = commit(versioning, "data@staging")
        assert head(versioning, "data@master") == made.id
        assert head(versioning, "edges@master") == made.id  # the one ID, all the way
        opened = versioning.start_commit("default", "data@staging")
        assert head(versioning, "data@master") == made.id
        versioning.finish_commit("default", "data@staging")
        assert head(versioning, "data@master") == opened.id

    def test_size(self, versioning: Service) -> None:
        watch(versioning, "data@master", branch="staging", size="1K")
        commit(versioning, "data@staging", {"/a": b"x" * 999})
        assert head(versioning, "data@master") is None
        second = commit(versioning, "data@staging", {"/b": b"x"})
        assert head(versioning, "data@master") == second.id
        commit(versioning, "data@staging", {"/c": b"x" * 999})
        assert head(versioning, "data@master") == second.id
        third = commit(versioning, "data@staging", {"/d": b"x"})
        assert head(versioning, "data@master") == third.id

    def test_commits(self, versioning: Service) -> None:
        watch(versioning, "data@master", branch="staging", commits=3)
        made = [commit(versioning, "data@staging") for _ in range(7)]
        assert head(versioning, "data@master") == made[5].id
        commit(versioning, "data@staging")
        assert head(versioning, "data@master") == made[5].id
        assert commit(versioning, "data@staging").id == head(versioning, "data@master")

    def test_all_or_any(self, versioning: Service) -> None:
        watch(versioning, "data@any", branch="staging", commits=2, size="10")
        watch(versioning, "data@both", branch="staging", commits=2, size="10", all=True)
        big = commit(versioning, "data@staging", {"/a": b"x" * 10})
        assert (head(versioning, "data@any"), head(versioning, "data@both")) == (big.id, None)
        small = commit(versioning, "data@staging", {"/b": b""})
        assert (head(versioning, "data@any"), head(versioning, "data@both")) == (big.id, small.id)

    def test_a_rate_limit_lets_the_last_of_a_burst_through_later(
        self, versioning: Service, db: Database, clock: FakeClock
    ) -> None:
        watch(versioning, "data@master", branch="staging", rate_limit="@every 1h")
        first = commit(versioning, "data@staging")
        assert head(versioning, "data@master") == first.id
        clock.advance(600)
        for _ in range(3):
            last = commit(versioning, "data@staging")
        assert head(versioning, "data@master") == first.id
        with db.read() as connection:
            topics = list(connection.execute(sa.select(outbox.c.topic)).scalars())
        assert "trigger.scheduled" in topics  # that is what wakes the clock's task
        assert versioning.fire_due_triggers() == clock.now() + 3000
        assert head(versioning, "data@master") == first.id
        clock.advance(3000)
        assert versioning.fire_due_triggers() is None
        assert head(versioning, "data@master") == last.id

    def test_cron(self, versioning: Service, clock: FakeClock) -> None:
        clock.time = 1_000_000 // 3600 * 3600 + 60.0
        watch(versioning, "data@master", branch="staging", cron="0 * * * *")
        made = commit(versioning, "data@staging")
        versioning.start_commit("default", "data@staging")  # what is open is not taken
        assert versioning.fire_due_triggers() == clock.now() + 3540
        assert head(versioning, "data@master") is None
        clock.advance(3540)
        assert versioning.fire_due_triggers() == clock.now() + 3600
        assert head(versioning, "data@master") == made.id
        clock.advance(3 * 3600)  # ticks that were slept through are one
        versioning.finish_commit("default", "data@staging")
        assert versioning.fire_due_triggers() == clock.now() + 3600
        assert head(versioning, "data@master") == head(versioning, "data@staging")

    def test_one_sets_off_another(self, versioning: Service, db: Database) -> None:
        watch(versioning, "data@prod", branch="master", commits=2)
        watch(versioning, "data@master", branch="staging", commits=2)
        output_repo(versioning, db, "edges", "data@prod")
        end_jobs(versioning, db, "edges")
        made = [commit(versioning, "data@staging") for _ in range(4)]
        assert head(versioning, "data@master") == made[3].id
        assert head(versioning, "data@prod") == made[3].id
        assert head(versioning, "edges@master") == head(versioning, "data@prod")

    def test_moving_the_watched_branch_by_hand_counts(self, versioning: Service) -> None:
        watch(versioning, "data@prod", branch="master")
        made = commit(versioning, "data@staging")
        versioning.create_branch("default", "data@master", head="staging")
        assert head(versioning, "data@prod") == made.id
        older = commit(versioning, "data@staging")
        versioning.create_branch("default", "data@master", head=older.id)
        versioning.create_branch("default", "data@master", head=made.id)
        assert head(versioning, "data@prod") == older.id  # never back by itself

    def test_a_failed_commit_sets_nothing_off(self, versioning: Service, db: Database) -> None:
        commit(versioning, "data@master")
        output_repo(versioning, db, "edges", "data@master")
        watch(versioning, "edges@good", branch="master")
        failed = versioning.list_commits("default", "edges")[0]
        with db.write() as connection:
            versioning.finish_output(connection, "default", "edges", failed.id, tree=None, error="broken")
        assert head(versioning, "edges@good") is None
        good = commit(versioning, "data@master")
        end_jobs(versioning, db, "edges")
        assert head(versioning, "edges@good") == good.id

    def test_the_move_and_its_cause_are_one(
        self, versioning: Service, db: Database, clock: FakeClock, objects: ObjectStore
    ) -> None:
        watch(versioning, "data@master", branch="staging")
        output_repo(versioning, db, "edges", "data@master")
        end_jobs(versioning, db, "edges")
        first = commit(versioning, "data@staging")
        end_jobs(versioning, db, "edges")

        def break_down(_connection: object, topic: str, payload: dict[str, object]) -> None:
            if (topic, payload["repo"]) == ("commit.opened", "edges"):
                raise RuntimeError("the last thing that a spreading commit does")

        broken = Service(db=db, objects=objects, clock=clock, publish=break_down)
        before = events(db)
        with pytest.raises(RuntimeError):
            commit(broken, "data@staging")
        for address in ("data@staging", "data@master", "edges@master"):
            assert head(versioning, address) == first.id
        assert events(db) == before

    def test_a_branch_that_is_written_to_stays(self, versioning: Service) -> None:
        watch(versioning, "data@master", branch="staging")
        opened = versioning.start_commit("default", "data@master")
        commit(versioning, "data@staging")
        assert head(versioning, "data@master") == opened.id
        versioning.finish_commit("default", "data@master")
        assert commit(versioning, "data@staging").id == head(versioning, "data@master")

    def test_what_is_no_trigger(self, versioning: Service) -> None:
        watch(versioning, "data@a", branch="b")
        versioning.create_branch("default", "labels@f", provenance=["data@master"])
        for address, conditions, kind in [
            ("data@b", {"branch": "a"}, "trigger_cycle"),
            ("data@a", {"branch": "a"}, "trigger_cycle"),
            ("data@c", {"branch": "x", "cron": "@daily", "commits": 2}, "bad_trigger"),
            ("data@c", {"branch": "x", "commits": 0}, "bad_trigger"),
            ("data@c", {"branch": "x", "size": "much"}, "bad_size"),
            ("data@c", {"branch": "x", "rate_limit": "often"}, "bad_schedule"),
            ("data@c", {"branch": "x y"}, "bad_name"),
            ("labels@f", {"branch": "x"}, "trigger_and_provenance"),
        ]:
            with pytest.raises(InvalidInputError) as caught:
                watch(versioning, address, **conditions)
            assert caught.value.kind == kind, (address, conditions)
        with pytest.raises(InvalidInputError, match="both"):
            versioning.create_branch("default", "data@a", provenance=["views@master"])
        assert {b.name for b in versioning.list_branches("default", "data")} == {"a", "b", "master"}

    def test_changing_and_ending_one(self, versioning: Service) -> None:
        watch(versioning, "data@a", branch="b", commits=5)
        watch(versioning, "data@a", branch="c", commits=1)
        found = versioning.inspect_branch("default", "data@a").trigger
        assert found == Trigger(branch="c", commits=1)  # type: ignore[arg-type]
        with pytest.raises(StateError, match="watches"):
            versioning.delete_branch("default", "data@c")
        versioning.delete_branch("default", "data@b")
        with pytest.raises(AlreadyExistsError):
            versioning.create_branch("default", "data@a")
        versioning.create_branch("default", "data@a", drop_trigger=True)
        commit(versioning, "data@c")
        assert head(versioning, "data@a") is None
        watch(versioning, "data@a", branch="c")
        versioning.delete_branch("default", "data@c", force=True)
        assert versioning.inspect_branch("default", "data@a").trigger is None
        versioning.delete_repo("default", "data")
