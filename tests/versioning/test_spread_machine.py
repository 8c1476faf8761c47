"""Branches, what they follow, triggers and transactions, in any order: what must always be so, is.

Heads are made from heads exactly where branches follow branches; a commit set has one commit a repo; every commit is announced
once; and a transaction that is gathered, forgotten or refused leaves no trace.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from tests.conftest import FakeClock
from tests.versioning.conftest import open_service, put
from trunkline.core.ids import new_commit_id
from trunkline.errors import AlreadyExistsError, InvalidInputError, NotFoundError, StateError
from trunkline.jobs.outbox import Outbox
from trunkline.storage.db.engine import Database
from trunkline.storage.db.schema import (
    branch_provenance,
    branch_triggers,
    branches,
    commit_provenance,
    commits,
    outbox,
    repos,
)
from trunkline.testing.stores import Stores
from trunkline.versioning.model import CommitStatus, Origin, Trigger
from trunkline.versioning.service import TransactionService

REPOS = ("a", "b", "c", "d")
REFUSED = (AlreadyExistsError, InvalidInputError, NotFoundError, StateError)
names = st.tuples(st.sampled_from(REPOS), st.sampled_from(["m", "s", "t"])).map("@".join)
operations = st.one_of(
    st.tuples(st.just("start_commit"), names, st.none()),
    st.tuples(st.just("finish_commit"), names, st.none()),
    st.tuples(st.just("delete_branch"), names, st.none()),
    st.tuples(st.just("create_branch"), names, st.sampled_from(["m", "s^", "t"]).map(lambda h: {"head": h})),
    st.tuples(
        st.just("create_branch"), names,
        st.lists(names, max_size=2, unique=True).map(lambda up: {"provenance": up}),
    ),
)  # fmt: skip


class Spreading(RuleBasedStateMachine):
    def __init__(self, stores: Stores) -> None:
        super().__init__()
        self.stores = stores
        self.clock = FakeClock()
        self.start()
        for name in REPOS:
            self.service.create_repo("default", name)
        with self.db.write() as connection:
            self.service.create_owned_repo(connection, "default", "job", "pipeline:job", "")
            self.service.set_provenance(
                connection, "default", "job", "master", ["default/a@m"], commit_id=new_commit_id()
            )

    def start(self) -> None:
        self.db = Database(self.stores.database_url)
        self.service = open_service(self.db, self.stores.open_objects(), self.clock)
        publish = Outbox(self.db, self.clock).publish
        self.gather = TransactionService(
            db=self.db, clock=self.clock, publish=publish, cases=self.service.transaction_cases()
        )

    def teardown(self) -> None:
        self.db.close()

    def snapshot(self) -> list[list[tuple[Any, ...]]]:
        tables = (repos, branches, branch_provenance, branch_triggers, commits, commit_provenance, outbox)
        with self.db.read() as connection:
            return [[tuple(row) for row in connection.execute(sa.select(table))] for table in tables]

    def attempt(self, what: Any, *args: Any, **more: Any) -> Any:
        """What is refused leaves everything as it was."""
        before = self.snapshot()
        try:
            return what(*args, **more)
        except REFUSED:
            assert self.snapshot() == before
            return None

    @rule(address=names)
    def put(self, address: str) -> None:
        self.attempt(self.service.modify, "default", address, [put("/f", new_commit_id().encode())])

    @rule(operation=operations)
    def do(self, operation: tuple[str, str, dict[str, Any] | None]) -> None:
        kind, address, more = operation
        self.attempt(getattr(self.service, kind), "default", address, **(more or {}))

    @rule(address=names, source=st.sampled_from(["m", "s", "t"]), count=st.none() | st.integers(1, 3))
    def watch(self, address: str, source: str, count: int | None) -> None:
        trigger = Trigger(branch=source, commits=count)  # type: ignore[arg-type]
        self.attempt(self.service.create_branch, "default", address, trigger=trigger)

    @rule(ends_well=st.booleans())
    def job(self, ends_well: bool) -> None:
        waiting = [c for c in self.service.list_commits("default", "job") if c.status is CommitStatus.OPEN]
        for one in waiting[-1:]:
            with self.db.write() as connection:
                self.service.finish_output(
                    connection, "default", "job", one.id, tree=None, error=None if ends_well else "no"
                )

    @rule(gathered=st.lists(operations, min_size=1, max_size=6), end=st.sampled_from(["finish", "delete"]))
    def transaction(self, gathered: list[tuple[str, str, dict[str, Any] | None]], end: str) -> None:
        before = self.snapshot()
        started = self.gather.start().id
        kept = 0
        for kind, address, more in gathered:
            try:
                self.gather.do(started, kind, project="default", address=address, **(more or {}))
                kept += 1
            except REFUSED:
                pass
        assert self.snapshot() == before
        if end == "delete":
            self.gather.delete(started)
            assert self.snapshot() == before
        else:
            assert len(self.gather.finish(started).answers) == kept
            new = {row[1] for row in self.snapshot()[4]} - {row[1] for row in before[4]}
            assert new <= {started}

    @rule()
    def reopen(self) -> None:
        self.db.close()
        self.start()

    @invariant()
    def heads_are_made_from_heads_where_branches_follow_branches(self) -> None:
        for repo in (*REPOS, "job"):
            for branch in self.service.list_branches("default", repo):
                if not branch.provenance or branch.head is None:
                    continue
                upstream = [self.service.inspect_branch("default", one) for one in branch.provenance]
                heads = {f"default/{one.repo}@{one.head}" for one in upstream if one.head is not None}
                if heads:
                    found = self.service.inspect_commit("default", f"{repo}@{branch.head}")
                    assert set(found.provenance) == heads, branch
                    assert found.origin is Origin.AUTO

    @invariant()
    def every_commit_is_announced_once(self) -> None:
        with self.db.read() as connection:
            rows = connection.execute(sa.select(outbox.c.topic, outbox.c.payload)).all()
            made = connection.execute(
                sa.select(repos.c.name, commits.c.id, commits.c.origin, commits.c.status).join_from(
                    commits, repos
                )
            ).all()
        told = Counter((row.topic, row.payload["repo"], row.payload["id"]) for row in rows)
        expected = Counter(("commit.opened", row.name, row.id) for row in made if row.origin == "auto")
        expected += Counter(("commit.finished", row.name, row.id) for row in made if row.status == "finished")
        assert told == expected

    @invariant()
    def nothing_moves_itself_in_a_circle(self) -> None:
        for repo in REPOS:
            found = {b.name: b for b in self.service.list_branches("default", repo)}
            for branch in found.values():
                assert not (branch.trigger and branch.provenance)
                at, steps = branch, 0
                while at.trigger is not None:
                    at, steps = found[at.trigger.branch], steps + 1
                    assert steps <= len(found)


@pytest.mark.machine
def test_spreading(fresh_stores: Callable[[], Stores]) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        lambda: Spreading(fresh_stores()),
        settings=settings(
            max_examples=max(3, settings.default.max_examples // 5),
            stateful_step_count=15 if settings.default.max_examples <= 30 else 50,
            deadline=None,
        ),
    )
