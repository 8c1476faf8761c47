"""Everything that may happen to data, in any order, by two writers, beside a dict: put, append, copy, delete, branch, merge,
squash, drop, gc, purge, reopen. After every step every commit shows what the dict says, and at the end ``fsck`` finds nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.conftest import FakeClock
from tests.versioning.conftest import contents, put
from trunkline.core.ids import TreeHash
from trunkline.errors import ConflictError, NotFoundError, StateError
from trunkline.jobs.outbox import Outbox
from trunkline.storage.db.engine import Database
from trunkline.testing.stores import Stores
from trunkline.versioning.merging import Strategy
from trunkline.versioning.model import Change, Commit, CopyTree, DeletePath
from trunkline.versioning.service import VersioningService
from trunkline.versioning.writers import Writers

Files = dict[str, bytes]
DAYS = 3 * 24 * 3600.0

# No path is below another one: how files and directories meet is test_machine's business.
paths = st.sampled_from(["/a", "/d/b", "/d/e/c", "/ä"])
data = st.one_of(
    st.sampled_from([b"", b"1", b"22", b"secret"]),
    # Long enough to be cut into chunks, and alike, so that chunks are shared.
    st.integers(0, 3).map(lambda n: bytes([n]) * 700_000 + bytes(range(256)) * 2_000),
)
branches = st.sampled_from(["master", "dev", "old"])
pick = st.integers(0, 1000)
writers = st.integers(0, 1)


class WholeStore(RuleBasedStateMachine):
    def __init__(self, stores: Stores) -> None:
        super().__init__()
        self.stores = stores
        self.clock = FakeClock()
        self.files: dict[str, Files] = {}
        """What each commit shows, by ID."""
        self.parents: dict[str, str | None] = {}
        self.heads: dict[str, str] = {}
        self.open()
        self.services[0].create_repo("default", "r")

    def open(self) -> None:
        """Two services of one server: they share the database, the objects and the register of writers."""
        self.db = Database(self.stores.database_url)
        registry, publish = Writers(), Outbox(self.db, self.clock).publish
        self.services = [
            VersioningService(
                db=self.db,
                objects=self.stores.open_objects(),
                clock=self.clock,
                publish=publish,
                registry=registry,
            )
            for _ in range(2)
        ]

    def teardown(self) -> None:
        try:
            assert self.services[0].fsck() == []
        finally:
            self.db.close()

    # --- what people do ---

    def change(self, writer: int, branch: str, changes: list[Change], files: Files) -> None:
        made = self.services[writer].modify("default", f"r@{branch}", changes)
        self.learn(branch, made, files)

    def learn(self, branch: str, made: Commit, files: Files) -> None:
        assert made.parent == self.heads.get(branch)
        self.files[made.id] = files
        self.parents[made.id] = made.parent
        self.heads[branch] = made.id

    def shown(self, branch: str) -> Files:
        return self.files[self.heads[branch]] if branch in self.heads else {}

    @rule(writer=writers, branch=branches, path=paths, content=data)
    def put(self, writer: int, branch: str, path: str, content: bytes) -> None:
        self.change(writer, branch, [put(path, content)], {**self.shown(branch), path: content})

    @rule(writer=writers, branch=branches, path=paths, content=data)
    def append(self, writer: int, branch: str, path: str, content: bytes) -> None:
        files = self.shown(branch)
        joined = files.get(path, b"") + content
        self.change(writer, branch, [put(path, content, append=True)], {**files, path: joined})

    @rule(writer=writers, branch=branches, path=paths)
    def delete(self, writer: int, branch: str, path: str) -> None:
        files = {name: content for name, content in self.shown(branch).items() if name != path}
        self.change(writer, branch, [DeletePath(path=path)], files)

    @precondition(lambda self: self.files)
    @rule(writer=writers, branch=branches, source=pick, path=paths, to=paths)
    def copy(self, writer: int, branch: str, source: int, path: str, to: str) -> None:
        commit = self.any_commit(source)
        if path in self.files[commit]:
            _, root, _ = self.services[writer].resolve("default", f"r@{commit}")
            change = CopyTree(path=to, root=root, source_path=path)
            self.change(writer, branch, [change], {**self.shown(branch), to: self.files[commit][path]})

    @precondition(lambda self: self.files)
    @rule(source=pick, branch=branches)
    def branch(self, source: int, branch: str) -> None:
        commit = self.any_commit(source)
        self.services[0].create_branch("default", f"r@{branch}", head=commit)
        self.heads[branch] = commit

    @rule(writer=writers, source=branches, into=branches)
    def merge(self, writer: int, source: str, into: str) -> None:
        if source not in self.heads or into not in self.heads:
            return
        service = self.services[writer]
        try:
            plan = service.merge_branch(
                "default", f"r@{source}", f"r@{into}", dry_run=True, strategy=Strategy.THEIRS
            )
            done = service.merge_branch("default", f"r@{source}", f"r@{into}")
        except ConflictError:
            return
        except StateError as error:
            assert error.kind == "no_common_ancestor"
            return
        if done.commit is not None:
            assert plan.base == done.base
            base = self.files[done.base] if done.base is not None else {}
            self.learn(into, done.commit, merged(base, self.shown(into), self.shown(source)))

    @precondition(lambda self: self.files)
    @rule(writer=writers, which=pick)
    def squash(self, writer: int, which: int) -> None:
        commit = self.any_commit(which)
        children = [child for child, parent in self.parents.items() if parent == commit]
        try:
            self.services[writer].squash("default", f"r@{commit}")
        except StateError:
            assert not children or commit in self.heads.values()
            return
        assert children
        for child in children:
            self.parents[child] = self.parents[commit]
        self.forget(commit)

    @precondition(lambda self: self.files)
    @rule(writer=writers, which=pick)
    def drop(self, writer: int, which: int) -> None:
        commit = self.any_commit(which)
        has_children = commit in self.parents.values()
        try:
            removed = self.services[writer].drop("default", f"r@{commit}")
        except StateError:
            assert has_children
            return
        assert not has_children
        assert [one.id for one in removed.commits] == [commit]
        for branch in [name for name, head in self.heads.items() if head == commit]:
            parent = self.parents[commit]
            if parent is None:
                del self.heads[branch]
            else:
                self.heads[branch] = parent
        self.forget(commit)

    # --- what keeps the store ---

    @rule(later=st.booleans(), writer=writers)
    def collect(self, later: bool, writer: int) -> None:
        if later:
            self.clock.advance(DAYS)
        self.services[writer].gc(grace_seconds=0)

    @rule(writer=writers, path=paths)
    def purge(self, writer: int, path: str) -> None:
        gone = {files[path] for files in self.files.values() if files.get(path)}
        try:
            self.services[writer].purge("default", f"r:{path}", everywhere=True)
        except NotFoundError:
            assert not gone
            return
        assert gone
        for commit, files in self.files.items():
            self.files[commit] = {name: content for name, content in files.items() if content not in gone}

    @rule()
    def reopen(self) -> None:
        self.db.close()
        self.open()

    # --- the model ---

    def any_commit(self, number: int) -> str:
        return list(self.files)[number % len(self.files)]  # IDs are random: their order would be, too

    def forget(self, commit: str) -> None:
        del self.files[commit], self.parents[commit]

    @invariant()
    def every_commit_shows_what_the_model_says(self) -> None:
        roots: dict[TreeHash, Files] = {}
        for number, (commit, files) in enumerate(self.files.items()):
            service = self.services[number % 2]
            found, root, _ = service.resolve("default", f"r@{commit}")
            assert found.parent == self.parents[commit]
            if root not in roots:
                roots[root] = contents(service, root)
            assert roots[root] == files
        for branch, head in self.heads.items():
            assert self.services[0].inspect_branch("default", f"r@{branch}").head == head


def merged(base: Files, ours: Files, theirs: Files) -> Files:
    """Three ways, path by path; for sides that do not contradict each other."""
    found: Files = {}
    for path in base.keys() | ours.keys() | theirs.keys():
        result = theirs.get(path) if ours.get(path) == base.get(path) else ours.get(path)
        if result is not None:
            found[path] = result
    return found


@pytest.mark.machine
def test_the_whole_store(fresh_stores: Callable[[], Stores]) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        lambda: WholeStore(fresh_stores()),
        settings=settings(
            max_examples=max(3, settings.default.max_examples // 3), stateful_step_count=30, deadline=None
        ),
    )
