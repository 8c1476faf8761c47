"""The store beside a dictionary: whatever is done in whatever order, both say the same."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from tests.conftest import FakeClock
from tests.versioning.conftest import contents, open_service, put, shown
from trunkline.errors import ConflictError, NotFoundError, StateError
from trunkline.storage.db.engine import Database
from trunkline.testing.stores import Stores
from trunkline.versioning.model import Change, CopyTree, DeletePath, PutFile
from trunkline.versioning.service import VersioningService

paths = st.lists(st.sampled_from(["a", "b", "c", "a-b", "ü"]), min_size=1, max_size=3).map(
    lambda parts: "/" + "/".join(parts)
)
data = st.binary(max_size=4) | st.integers(0, 255).map(lambda i: bytes([i]) * 70_000)
branches = st.sampled_from(["master", "dev", "x"])
Files = dict[str, bytes]


def collides(files: Files, path: str) -> bool:
    parts = path.split("/")
    return any("/".join(parts[:n]) in files for n in range(2, len(parts))) or any(
        p.startswith(path + "/") for p in files
    )


def apply(files: Files, change: Change, trees: dict[str, Files]) -> Files | None:
    """What the model becomes, or None if the change must be refused."""
    files = dict(files)
    if isinstance(change, PutFile):
        if collides(files, change.path):
            return None
        new = b"".join(change.parts)
        files[change.path] = files.get(change.path, b"") + new if change.append else new
        return files
    remaining = {p: d for p, d in files.items() if p != change.path and not p.startswith(change.path + "/")}
    if isinstance(change, DeletePath):
        return {p: d for p, d in files.items() if p != change.path} if change.path in files else remaining
    source = trees[change.root]
    below = {
        p[len(change.source_path) :]: d for p, d in source.items() if p.startswith(change.source_path + "/")
    }
    if change.source_path in source:
        below = {"": source[change.source_path]}
    if not below:
        return None
    for suffix, content in below.items():
        if collides(remaining, change.path + suffix):
            return None
        remaining[change.path + suffix] = content
    return remaining


class VersionedFiles(RuleBasedStateMachine):
    commits = Bundle("commits")

    def __init__(self, stores: Stores) -> None:
        super().__init__()
        self.stores = stores
        self.clock = FakeClock()
        self.heads: dict[str, Files] = {}
        self.open: dict[str, str] = {}
        self.history: dict[str, Files] = {}
        self.trees: dict[str, Files] = {}
        self.races = 0
        self.start()
        self.service.create_repo("default", "r")

    def start(self) -> None:
        """Two of everything, as two processes would have: they share nothing but the stores."""
        self.dbs = [Database(self.stores.database_url) for _ in range(2)]
        self.writers = [open_service(db, self.stores.open_objects(), self.clock) for db in self.dbs]

    @property
    def service(self) -> VersioningService:
        """For what only looks, and may be done by either."""
        return self.writers[self.races % 2]

    def stop(self) -> None:
        for db in self.dbs:
            db.close()

    def teardown(self) -> None:
        problems = self.service.fsck()
        self.stop()
        assert problems == []

    def write(self, branch: str, changes: list[Change], writer: int = 0) -> str | None:
        files: Files | None = self.heads.get(branch, {})
        for change in changes:
            files = None if files is None else apply(files, change, self.trees)
        try:
            made = self.writers[writer].modify("default", f"r@{branch}", changes)
        except (ConflictError, NotFoundError):
            assert files is None
            return None
        assert files is not None
        self.heads[branch] = files
        assert made.root is not None
        self.trees[made.root] = files
        if branch in self.open:
            assert made.id == self.open[branch]
            return None
        self.history[made.id] = files
        return made.id

    @rule(
        target=commits, branch=branches, files=st.dictionaries(paths, data, max_size=4), append=st.booleans(),
        writer=st.integers(0, 1),
    )  # fmt: skip
    def put(self, branch: str, files: Files, append: bool, writer: int) -> str | None:
        changes: list[Change] = [put(path, content, append=append) for path, content in files.items()]
        return self.write(branch, changes, writer)

    @rule(branch=branches, appends=st.booleans())
    def two_writers_at_once(self, branch: str, appends: bool) -> None:
        """Both land, each whole, in one order or the other."""
        self.races += 1
        path, before = "/raced", self.heads.get(branch, {})
        tokens = [b"<%d:%d>" % (self.races, number) for number in range(2)]
        both: list[list[Change]] = [
            [put(path, token, append=appends), put(f"/of-{number}", token)]
            for number, token in enumerate(tokens)
        ]
        with ThreadPoolExecutor(2) as pool:
            made = list(pool.map(lambda n: self.writers[n].modify("default", f"r@{branch}", both[n]), (0, 1)))
        after = shown(self.service, f"r@{branch}")
        old = before.get(path, b"") if appends else b""
        orders = [old + tokens[0] + tokens[1], old + tokens[1] + tokens[0]] if appends else tokens
        assert after.pop(path) in orders
        first = {one.id: shown(self.service, f"r@{one.id}") for one in made}
        expected = {name: content for name, content in before.items() if name != path}
        assert after == expected | {f"/of-{number}": token for number, token in enumerate(tokens)}
        self.heads[branch] = shown(self.service, f"r@{branch}")
        if branch not in self.open:
            assert len(first) == 2
            self.history |= first
        root = self.service.resolve("default", f"r@{branch}")[1]
        self.trees[root] = self.heads[branch]

    @rule(target=commits, branch=branches, doomed=st.lists(paths, min_size=1, max_size=2), path=paths)
    def delete_and_put(self, branch: str, doomed: list[str], path: str) -> str | None:
        return self.write(branch, [*(DeletePath(path=p) for p in doomed), put(path, b"after")])

    @rule(target=commits, branch=branches, path=paths, source=commits, source_path=paths)
    def copy(self, branch: str, path: str, source: str | None, source_path: str) -> str | None:
        if source is None:
            return None
        root = self.service.resolve("default", f"r@{source}")[1]
        return self.write(branch, [CopyTree(path=path, root=root, source_path=source_path)])

    @rule(branch=branches)
    def start_commit(self, branch: str) -> None:
        if branch in self.open:
            try:
                self.service.start_commit("default", f"r@{branch}")
                raise AssertionError
            except StateError:
                return
        self.open[branch] = self.service.start_commit("default", f"r@{branch}").id
        self.heads.setdefault(branch, {})

    @rule(target=commits, branch=branches)
    def finish_commit(self, branch: str) -> str | None:
        if branch not in self.open:
            return None
        finished = self.service.finish_commit("default", f"r@{branch}")
        assert finished.root is not None
        self.history[finished.id] = self.trees[finished.root] = self.heads[branch]
        return self.open.pop(branch)

    @rule(branch=branches, head=commits)
    def branch(self, branch: str, head: str | None) -> None:
        if head is not None and branch not in self.open:
            self.service.create_branch("default", f"r@{branch}", head=head)
            self.heads[branch] = self.history[head]

    @rule()
    def reopen(self) -> None:
        self.stop()
        self.start()

    @rule(old=commits, new=commits)
    def diff(self, old: str | None, new: str | None) -> None:
        if old is None or new is None:
            return
        roots = [self.service.resolve("default", f"r@{ref}")[1] for ref in (old, new)]
        before, after = self.history[old], self.history[new]
        found = {(d.new or d.old).path: d.op for d in self.service.diff(*roots)}  # type: ignore[union-attr]
        assert found == {
            path: "added" if path not in before else "deleted" if path not in after else "changed"
            for path in before.keys() | after.keys()
            if before.get(path) != after.get(path)
        }

    @rule(commit=commits)
    def old_commits_never_change(self, commit: str | None) -> None:
        if commit is not None:
            assert shown(self.service, f"r@{commit}") == self.history[commit]

    @invariant()
    def both_say_the_same(self) -> None:
        for branch, files in self.heads.items():
            _, root, _ = self.service.resolve("default", f"r@{branch}")
            assert contents(self.service, root) == files
            assert [i.path for i in self.service.walk(root)] == sorted(files, key=lambda path: path.encode())
            whole = self.service.stat(root)
            assert whole.size == sum(map(len, files.values()))


@pytest.mark.machine
def test_versioned_files(fresh_stores: Callable[[], Stores]) -> None:
    examples = settings.default.max_examples
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        lambda: VersionedFiles(fresh_stores()),
        settings=settings(
            max_examples=max(3, examples // 3), stateful_step_count=60 if examples >= 1000 else 20
        ),
    )
