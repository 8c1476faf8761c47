"""The store beside a dictionary: whatever is done in whatever order, both say the same."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from tests.conftest import FakeClock
from tests.versioning.conftest import contents, open_service, put, shown
from trunkline.errors import ConflictError, NotFoundError, StateError
from trunkline.storage.db.engine import Database
from trunkline.storage.objects.local import LocalStore
from trunkline.versioning.model import Change, CopyTree, DeletePath, PutFile

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

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.clock = FakeClock()
        self.heads: dict[str, Files] = {}
        self.open: dict[str, str] = {}
        self.history: dict[str, Files] = {}
        self.trees: dict[str, Files] = {}
        self.start()
        self.service.create_repo("default", "r")

    def start(self) -> None:
        self.db = Database(f"sqlite:///{self.folder / 'trunkline.db'}")
        self.objects = LocalStore(self.folder / "objects")
        self.service = open_service(self.db, self.objects, self.clock)

    def teardown(self) -> None:
        problems = self.service.fsck()
        self.db.close()
        shutil.rmtree(self.folder)
        assert problems == []

    def write(self, branch: str, changes: list[Change]) -> str | None:
        files: Files | None = self.heads.get(branch, {})
        for change in changes:
            files = None if files is None else apply(files, change, self.trees)
        try:
            made = self.service.modify("default", f"r@{branch}", changes)
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
        target=commits, branch=branches, files=st.dictionaries(paths, data, max_size=4), append=st.booleans()
    )
    def put(self, branch: str, files: Files, append: bool) -> str | None:
        return self.write(branch, [put(path, content, append=append) for path, content in files.items()])

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
        self.db.close()
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


VersionedFiles.TestCase.settings = settings(
    max_examples=max(8, settings.default.max_examples // 3), stateful_step_count=20, deadline=None
)
TestVersionedFiles = VersionedFiles.TestCase
