"""Transactions: all or nothing, one ID, one commit for each branch that follows."""

from __future__ import annotations

import threading

import pytest
import sqlalchemy as sa

from tests.conftest import FakeClock
from tests.versioning.conftest import events, open_service, put
from trunkline.core.ids import new_commit_id
from trunkline.errors import (
    AlreadyExistsError,
    InvalidInputError,
    LimitError,
    NotFoundError,
    StateError,
)
from trunkline.jobs.outbox import Outbox
from trunkline.storage.db.engine import Database
from trunkline.storage.db.schema import outbox, repos
from trunkline.storage.objects.base import ObjectStore
from trunkline.testing.stores import Stores
from trunkline.versioning.model import CommitStatus
from trunkline.versioning.service import TransactionService, VersioningService
from trunkline.versioning.service import transactions as module


@pytest.fixture
def gather(db: Database, clock: FakeClock, versioning: VersioningService) -> TransactionService:
    for name in ("a", "b"):
        versioning.create_repo("default", name)
        versioning.modify("default", f"{name}@master", [put("/f", b"1")])
    return TransactionService(
        db=db, clock=clock, publish=Outbox(db, clock).publish, cases=versioning.transaction_cases()
    )


def follow(service: VersioningService, db: Database, name: str, *upstream: str) -> None:
    with db.write() as connection:
        service.create_owned_repo(connection, "default", name, f"pipeline:{name}", "")
        service.set_provenance(connection, "default", name, "master", upstream, commit_id=new_commit_id())


class TestJoining:
    """Blocks inside a ``write()`` block of the same thread."""

    def test_a_block_inside_sees_and_shares_its_fate(
        self, db: Database, versioning: VersioningService
    ) -> None:
        with pytest.raises(RuntimeError), db.write():
            versioning.create_repo("default", "x")
            assert versioning.inspect_repo("default", "x").name == "x"
            raise RuntimeError
        with pytest.raises(NotFoundError):
            versioning.inspect_repo("default", "x")

    def test_a_block_that_fails_inside_leaves_nothing(
        self, db: Database, versioning: VersioningService
    ) -> None:
        def fail() -> None:
            with db.write() as connection:
                connection.execute(sa.update(repos).values(description="half"))
                raise StateError("no", kind="no")

        with db.write():
            versioning.create_repo("default", "x", "whole")
            with pytest.raises(StateError):
                fail()
        assert versioning.inspect_repo("default", "x").description == "whole"

    def test_another_thread_does_not_join(self, db: Database, versioning: VersioningService) -> None:
        seen: list[int] = []
        with db.write():
            versioning.create_repo("default", "x")
            thread = threading.Thread(target=lambda: seen.append(len(versioning.list_repos())))
            thread.start()
            thread.join()
        assert seen == [0]
        assert len(versioning.list_repos()) == 1


class TestGathering:
    def test_one_id_and_one_commit_downstream(
        self, db: Database, versioning: VersioningService, gather: TransactionService
    ) -> None:
        follow(versioning, db, "joined", "a@master", "b@master")
        follow(versioning, db, "after", "joined@master", "a@master")
        started = gather.start()
        first = gather.do(
            started.id, "start_commit", project="default", address="a@master", description="one"
        )
        second = gather.do(started.id, "start_commit", project="default", address="b@master", description="")
        assert (first.id, second.id, first.status) == (started.id, started.id, CommitStatus.OPEN)
        done = gather.do(started.id, "finish_commit", project="default", address="a@master", description=None)
        assert (done.status, done.description) == (CommitStatus.FINISHED, "one")
        assert versioning.inspect_commit("default", "a@master").id != started.id  # nothing has happened
        count = len(versioning.list_commits("default", "joined"))
        finished = gather.finish(started.id)
        assert [one.kind for one in finished.operations] == ["start_commit", "start_commit", "finish_commit"]
        assert finished.answers[2].status is CommitStatus.FINISHED
        together = versioning.inspect_commit_set(started.id)
        assert sorted(c.repo for c in together.commits) == ["a", "after", "b", "joined"]
        assert len(versioning.list_commits("default", "joined")) == count + 1
        joined = versioning.inspect_commit("default", f"joined@{started.id}")
        assert joined.provenance == (f"default/a@{started.id}", f"default/b@{started.id}")
        after = versioning.inspect_commit("default", f"after@{started.id}")
        assert after.provenance == (f"default/a@{started.id}", f"default/joined@{started.id}")
        opened = [event for event in events(db) if event[0] == "commit.opened" and event[2] == started.id]
        assert [event[1] for event in opened] == ["joined@master", "after@master"]
        with pytest.raises(NotFoundError, match="no unfinished transaction"):
            gather.finish(started.id)

    def test_operations_see_those_before_them(
        self, versioning: VersioningService, gather: TransactionService
    ) -> None:
        started = gather.start()
        do = gather.do
        do(started.id, "create_repo", project="default", name="new", description="made here")
        do(started.id, "create_branch", project="default", address="new@dev", provenance=["a@master"])
        do(started.id, "create_branch", project="default", address="a@old", head="master")
        waiting = do(
            started.id, "create_branch", project="default", address="a@prod",
            trigger={"branch": "old", "commits": 2},
        )  # fmt: skip
        assert waiting.trigger.commits == 2
        with pytest.raises(AlreadyExistsError):
            do(started.id, "create_repo", project="default", name="new")
        do(started.id, "delete_branch", project="default", address="a@prod")
        assert len(gather.inspect(started.id).operations) == 5  # the one that failed is not among them
        assert [one.name for one in versioning.list_repos()] == ["a", "b"]
        gather.finish(started.id)
        assert versioning.inspect_repo("default", "new").description == "made here"
        assert versioning.inspect_commit("default", "new@dev").id == started.id
        assert [one.name for one in versioning.list_branches("default", "a")] == ["master", "old"]

    def test_tags_go_along(self, versioning: VersioningService, gather: TransactionService) -> None:
        versioning.create_tag("default", "b@old", commit="master")
        started = gather.start()
        do = gather.do
        do(started.id, "start_commit", project="default", address="a@master")
        tag = {"project": "default", "address": "a@v1.0", "commit": "master"}
        with pytest.raises(StateError, match="finish it"):
            do(started.id, "create_tag", **tag)
        do(started.id, "finish_commit", project="default", address="a@master", description=None)
        made = do(started.id, "create_tag", **tag)
        do(started.id, "delete_tag", project="default", address="b@old")
        assert made.commit == started.id
        assert versioning.list_tags("default", "a") == []
        assert [one.name for one in versioning.list_tags("default", "b")] == ["old"]
        assert gather.finish(started.id).answers[2].name == "v1.0"
        assert versioning.inspect_commit("default", "a@v1.0").id == started.id
        assert versioning.list_tags("default", "b") == []

    def test_what_has_changed_meanwhile_undoes_it_all(
        self, versioning: VersioningService, gather: TransactionService, db: Database
    ) -> None:
        started = gather.start()
        gather.do(started.id, "create_repo", project="default", name="x")
        gather.do(started.id, "start_commit", project="default", address="a@master")
        versioning.start_commit("default", "a@master")
        before = events(db)
        with pytest.raises(StateError) as caught:
            gather.finish(started.id)
        assert caught.value.kind == "parent_open"
        assert [one.name for one in versioning.list_repos()] == ["a", "b"]
        assert events(db) == before
        versioning.finish_commit("default", "a@master")  # it can still be finished, or forgotten
        assert len(gather.finish(started.id).answers) == 2

    def test_one_commit_in_a_repo(self, gather: TransactionService) -> None:
        started = gather.start()
        gather.do(started.id, "start_commit", project="default", address="a@master")
        with pytest.raises(AlreadyExistsError) as caught:
            gather.do(started.id, "start_commit", project="default", address="a@other")
        assert caught.value.kind == "commit_exists"

    def test_a_moved_branch_and_a_trigger(
        self, db: Database, versioning: VersioningService, gather: TransactionService
    ) -> None:
        follow(versioning, db, "edges", "a@prod")
        versioning.create_branch("default", "a@prod", trigger=None, head="master")
        cases = versioning.transaction_cases()
        cases["create_branch"](project="default", address="a@prod", trigger={"branch": "staging"})
        versioning.modify("default", "b@master", [put("/x")])
        started = gather.start()
        gather.do(started.id, "create_branch", project="default", address="a@staging", head="master")
        gather.do(started.id, "start_commit", project="default", address="a@staging")
        gather.do(started.id, "finish_commit", project="default", address="a@staging")
        gather.finish(started.id)
        assert versioning.inspect_branch("default", "a@prod").head == started.id
        assert versioning.inspect_branch("default", "edges@master").head == started.id

    def test_what_is_refused(
        self, gather: TransactionService, monkeypatch: pytest.MonkeyPatch, versioning: VersioningService
    ) -> None:
        with pytest.raises(NotFoundError):
            gather.do("f" * 32, "create_repo", project="default", name="x")
        started = gather.start()
        with pytest.raises(InvalidInputError, match="did you mean 'create_repo'"):
            gather.do(started.id, "create_rep", project="default", name="x")
        monkeypatch.setattr(module, "OPERATIONS_MAX", 2)
        for name in ("x", "y"):
            gather.do(started.id, "create_repo", project="default", name=name)
        with pytest.raises(LimitError, match="which is the most"):
            gather.do(started.id, "create_repo", project="default", name="z")
        monkeypatch.setattr(module, "OPEN_MAX", 1)
        with pytest.raises(LimitError, match="unfinished"):
            gather.start()
        gather.delete(started.id)
        assert gather.list_all() == []
        assert [one.name for one in versioning.list_repos()] == ["a", "b"]

    def test_it_outlives_the_process(
        self, stores: Stores, db: Database, clock: FakeClock, gather: TransactionService, objects: ObjectStore
    ) -> None:
        started = gather.start()
        gather.do(started.id, "create_repo", project="default", name="x")
        other = Database(stores.database_url)
        service = open_service(other, objects, clock)
        again = TransactionService(
            db=other, clock=clock, publish=Outbox(other, clock).publish, cases=service.transaction_cases()
        )
        again.finish(started.id)
        assert service.inspect_repo("default", "x").name == "x"
        with other.read() as connection:
            assert connection.execute(sa.select(sa.func.count()).select_from(outbox)).scalar_one() > 0
        other.close()
