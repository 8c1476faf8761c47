"""What an ordinary commit costs: only what it reaches. Every statement that it runs is looked at with EXPLAIN QUERY PLAN."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa

from tests.conftest import FakeClock
from tests.versioning.conftest import put
from trunkline.core.ids import new_commit_id
from trunkline.jobs.outbox import Outbox
from trunkline.storage.db.engine import Database
from trunkline.storage.db.schema import branch_provenance, branches, commits, repos
from trunkline.versioning.model import Origin, Trigger
from trunkline.versioning.service import TransactionService, VersioningService

pytestmark = pytest.mark.local_only  # what is looked at are SQLite's own plans

COMMITS = 5_000
OTHERS = 200


@pytest.fixture
def crowded(versioning: VersioningService, db: Database) -> VersioningService:
    """A long history of ``data@master``, and many other repos and branches that follow each other."""
    versioning.create_repo("default", "data")
    first = versioning.modify("default", "data@master", [put("/f")])
    with db.write() as connection:
        repo, branch, pk = connection.execute(
            sa.select(repos.c.id, branches.c.id, branches.c.head).join_from(repos, branches)
        ).one()
        row = dict(connection.execute(sa.select(commits).where(commits.c.pk == pk)).one()._mapping)
        history = [{**row, "pk": pk + n, "id": f"{n:032x}", "parent": pk + n - 1} for n in range(1, COMMITS)]
        connection.execute(sa.insert(commits), history)
        connection.execute(sa.update(branches).where(branches.c.id == branch).values(head=pk + COMMITS - 1))
        others = [
            {"id": repo + n, "project": "default", "name": f"other{n}", "description": "", "created_at": 0.0}
            for n in range(1, OTHERS)
        ]
        connection.execute(sa.insert(repos), others)
        names = [
            {"id": branch + n, "repo_id": repo + n, "name": "master", "created_at": 0.0}
            for n in range(1, OTHERS)
        ]
        connection.execute(sa.insert(branches), names)
        links = [{"branch_id": branch + n, "upstream_id": branch + n - 1} for n in range(2, OTHERS)]
        connection.execute(sa.insert(branch_provenance), links)
    assert first.parent is None
    return versioning


@contextmanager
def statements(db: Database) -> Iterator[list[tuple[str, Any]]]:
    """All that is sent to the database in the block."""
    found: list[tuple[str, Any]] = []

    def note(_c: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, many: bool) -> None:
        if not statement.startswith(
            ("BEGIN", "PRAGMA", "SAVEPOINT", "RELEASE", "ROLLBACK", "COMMIT", "EXPLAIN")
        ):
            found.append((statement, parameters[0] if many else parameters))

    engines = {db._engine, db._writers}
    for engine in engines:
        sa.event.listen(engine, "before_cursor_execute", note)
    try:
        yield found
    finally:
        for engine in engines:
            sa.event.remove(engine, "before_cursor_execute", note)


GROWS = re.compile(
    r"SCAN (commits|branches|repos|branch_provenance|commit_provenance|parents|branch_triggers)\b"
)
"""Tables that grow with what is there, read as a whole (or a whole index of them)."""


def plans_that_grow(db: Database, run: Callable[[], object]) -> list[str]:
    """The statements that ``run`` sends which read a whole table, or sort one."""
    with statements(db) as sent:
        run()
    bad = []
    assert sent
    with db.read() as connection:
        for statement, parameters in sent:
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all()
            wrong = [row[3] for row in plan if GROWS.search(row[3])]
            bad += [f"{line}  in  {statement}" for line in wrong]
    return bad


def test_no_ordinary_use_case_reads_a_whole_table(
    crowded: VersioningService, db: Database, clock: FakeClock
) -> None:
    service = crowded
    watch = Trigger(branch="staging", commits=2, rate_limit="@every 1h")  # type: ignore[arg-type]
    gather = TransactionService(
        db=db, clock=clock, publish=Outbox(db, clock).publish, cases=service.transaction_cases()
    )
    transaction = gather.start().id
    service.create_repo("default", "views")
    with db.write() as connection:
        service.create_owned_repo(connection, "default", "edges", "pipeline:edges", "")
        service.set_provenance(
            connection, "default", "edges", "master", ["data@master"], commit_id=new_commit_id()
        )
    job = service.inspect_branch("default", "edges@master").head
    following = service.follow_commits("default", "data@master", after=f"{COMMITS - 10:032x}")
    cases: dict[str, Callable[[], object]] = {
        "modify": lambda: service.modify("default", "data@master", [put("/g")]),
        "start": lambda: service.start_commit("default", "data@master"),
        "write": lambda: service.modify("default", "data@master", [put("/h")]),
        "finish": lambda: service.finish_commit("default", "data@master"),
        "branch": lambda: service.create_branch("default", "data@staging", head="master^3"),
        "trigger": lambda: service.create_branch("default", "data@prod", trigger=watch),
        "sets off": lambda: [service.modify("default", "data@staging", [put("/x")]) for _ in range(2)],
        "by the clock": lambda: service.fire_due_triggers(),
        "follow": lambda: service.create_branch("default", "views@v", provenance=["data@master"]),
        "by hand": lambda: service.finish_commit("default", "views@v"),
        "list": lambda: service.list_commits("default", "data", limit=5),
        "list since": lambda: service.list_commits("default", "data", limit=5, since=f"{COMMITS - 3:032x}"),
        "list by origin": lambda: service.list_commits("default", "data", limit=5, origin=Origin.USER),
        "list a branch": lambda: service.list_commits("default", "data", branch="master", limit=5),
        "branches": lambda: service.list_branches("default", "data"),
        "inspect branch": lambda: service.inspect_branch("default", "data@master"),
        "inspect commit": lambda: service.describe_commit("default", "data@master"),
        "ancestor": lambda: service.inspect_commit("default", "data@master^5"),
        "on branch": lambda: service.inspect_commit("default", f"data@staging={COMMITS - 9:032x}"),
        "through": lambda: service.inspect_commit("default", f"data@{job}"),
        "commit set": lambda: service.inspect_commit_set(f"{COMMITS - 1:032x}"),
        "inspect repo": lambda: service.inspect_repo("default", "data"),
        "come": lambda: following.next(),
        "gather": lambda: gather.do(transaction, "create_branch", project="default", address="data@t", head="master"),
        "finish transaction": lambda: gather.finish(transaction),
        "delete": lambda: service.delete_branch("default", "data@t"),
    }  # fmt: skip
    grow = {name: found for name, run in cases.items() if (found := plans_that_grow(db, run))}
    assert grow == {}
    assert plans_that_grow(db, service.list_repos)  # this one does, so the test would see it


def test_a_commit_runs_as_many_statements_however_much_is_there(
    crowded: VersioningService, db: Database, versioning: VersioningService
) -> None:
    versioning.create_repo("default", "small")
    versioning.modify("default", "small@master", [put("/f")])
    counts = {}
    for name in ("small", "data"):
        with statements(db) as sent:
            crowded.modify("default", f"{name}@master", [put("/g", name.encode())])
        counts[name] = len(sent)
    assert counts["data"] == counts["small"]


def test_commit_sets_are_found_from_the_newest_on(crowded: VersioningService, db: Database) -> None:
    with statements(db) as sent:
        assert len(crowded.list_commit_sets(limit=3)) == 3
    with db.read() as connection:
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sent[0][0]}", sent[0][1]).all()
    assert not any(
        "TEMP B-TREE" in row[3] for row in plan
    )  # in the order of its rows, and no further than asked
