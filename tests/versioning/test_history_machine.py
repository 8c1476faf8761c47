"""History that is changed in every allowed way, beside a model that never forgets: what is refused, what stays, who points
where. A small pipeline follows the data, so that commits have provenance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import sqlalchemy as sa
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.conftest import FakeClock
from tests.versioning.conftest import broken_references, contents, open_service, put
from trunkline.core.ids import CommitId, new_commit_id
from trunkline.errors import AlreadyExistsError, ConflictError, StateError
from trunkline.storage.db.engine import Database
from trunkline.storage.db.schema import branches, commit_provenance, commits, merges, repos, tags
from trunkline.testing.stores import Stores
from trunkline.versioning.merging import Strategy
from trunkline.versioning.model import Change, CommitStatus, DeletePath

Files = dict[str, bytes]
Key = tuple[str, str]
"""Repo and ID."""

paths = st.sampled_from(["/a", "/a/b", "/b", "/c"])
data = st.sampled_from([b"1", b"2", b"3"])
lines = st.sampled_from(["data@master", "data@dev", "labels@master"])
FOLLOWS = {"model@master": {"data@master"}, "deploy@master": {"model@master", "labels@master"}}
REPOS = ("data", "labels", "model", "deploy")
pick = st.integers(0, 1000)


@dataclass
class Known:
    """A commit as the model knows it."""

    seq: int
    parent: Key | None
    is_open: bool
    made_from: set[Key]
    files: Files | None
    behind: set[Key] = field(default_factory=set)
    """Its first parent and what was merged into it, whatever became of them."""
    is_gone: bool = False


def merge_files(base: Files, ours: Files, theirs: Files) -> Files | None:
    """None where they contradict each other."""
    merged: Files = {}
    for path in base.keys() | ours.keys() | theirs.keys():
        b, o, t = base.get(path), ours.get(path), theirs.get(path)
        if o != t and o != b and t != b:
            return None
        result = t if o == b else o
        if result is not None:
            merged[path] = result
    if any(one.startswith(other + "/") for one in merged for other in merged):
        return None
    return merged


class ChangingHistory(RuleBasedStateMachine):
    def __init__(self, stores: Stores) -> None:
        super().__init__()
        self.stores = stores
        self.clock = FakeClock()
        self.known: dict[Key, Known] = {}
        self.newest = 0
        """The greatest key that was ever seen."""
        self.heads: dict[str, Key | None] = {}
        self.tags: dict[str, Key] = {}
        self.follows = {branch: set(upstream) for branch, upstream in FOLLOWS.items()}
        self.start()

    def start(self) -> None:
        self.db = Database(self.stores.database_url)
        self.service = open_service(self.db, self.stores.open_objects(), self.clock)

    def teardown(self) -> None:
        self.db.close()

    @initialize(first=st.booleans())
    def make_repos(self, first: bool) -> None:
        for repo in REPOS:
            self.service.create_repo("default", repo)
        if first:
            made = self.service.modify("default", "data@master", [put("/a", b"1")])
            self.sync()
            self.known["data", made.id].files = {"/a": b"1"}
        for branch, upstream in FOLLOWS.items():
            repo, name = branch.split("@")
            with self.db.write() as connection:
                self.service.set_provenance(
                    connection, "default", repo, name, sorted(upstream), commit_id=new_commit_id()
                )
        self.sync()

    # --- the model ---

    def sync(self) -> list[Key]:
        """Learn of new commits; all that were known must be as they were."""
        new: list[Key] = []
        with self.db.read() as connection:
            rows = list(
                connection.execute(sa.select(commits, repos.c.name).join(repos).order_by(commits.c.pk))
            )
            links = list(connection.execute(sa.select(commit_provenance)))
            heads = list(
                connection.execute(
                    sa.select(branches.c.name, branches.c.head, repos.c.name.label("repo")).join(repos)
                )
            )
        keys: dict[int, Key] = {row.pk: (row.name, row.id) for row in rows}
        self.heads = {f"{row.repo}@{row.name}": keys[row.head] if row.head else None for row in heads}
        for row in rows:
            key = (row.name, row.id)
            made_from = {keys[link.upstream_pk] for link in links if link.commit_pk == row.pk}
            parent = keys[row.parent] if row.parent is not None else None
            known = self.known.get(key)
            if known is None or (known.is_gone and row.pk > self.newest):
                # An output that was dropped is made again, under its ID, when a branch is moved to what it is made from.
                self.known.pop(key, None)
                new.append(key)
                self.known[key] = Known(
                    seq=row.pk, parent=parent, is_open=row.status == "open",
                    made_from=made_from, files=None, behind={parent} if parent else set(),
                )  # fmt: skip
            known = self.known[key]
            assert not known.is_gone
            assert (known.parent, known.made_from) == (parent, made_from)
            assert known.is_open == (row.status == "open")
        assert {key for key, known in self.known.items() if not known.is_gone} == set(keys.values())
        self.newest = max([self.newest, *keys])
        return new

    def alive(self, *wanted: str) -> list[Key]:
        return [key for key, one in self.known.items() if not one.is_gone and key[0] in (wanted or REPOS)]

    def ancestors(self, key: Key) -> set[Key]:
        found, left = {key}, [key]
        while left:
            new = self.known[left.pop()].behind - found
            found |= new
            left += new
        return found

    def downstream(self, keys: set[Key]) -> set[Key]:
        found = set(keys)
        while new := {key for key in self.alive() if self.known[key].made_from & found} - found:
            found |= new
        return found

    def upstream(self, key: Key) -> set[Key]:
        found, left = {key}, [key]
        while left:
            new = self.known[left.pop()].made_from - found
            found |= new
            left += new
        return found

    def written(self, key: Key | None) -> Files | None:
        """The files of the nearest that has some, itself included."""
        while key is not None:
            known = self.known[key]
            if known.files is not None:
                return known.files
            key = known.parent
        return None

    def shown(self, key: Key | None) -> Files:
        return self.written(key) or {}

    def children(self, keys: set[Key]) -> set[Key]:
        return {key for key in self.alive() if self.known[key].parent in keys} - keys

    def is_kept(self, doomed: set[Key]) -> bool:
        return any(self.upstream(tagged) & doomed for tagged in self.tags.values())

    def remove(self, doomed: set[Key]) -> None:
        for key in doomed:
            self.known[key].is_gone = True
        for known in self.known.values():
            while known.parent in doomed and known.parent is not None:
                known.parent = self.known[known.parent].parent
            known.made_from -= doomed

    # --- what people do ---

    @rule(line=lines, files=st.dictionaries(paths, data, max_size=3), doomed=st.sets(paths, max_size=1))
    def commit(self, line: str, files: Files, doomed: set[str]) -> None:
        before = self.shown(self.heads.get(line))
        changes: list[Change] = [DeletePath(path=path) for path in sorted(doomed)]
        after = {p: d for p, d in before.items() if not any(p == x or p.startswith(x + "/") for x in doomed)}
        for path, content in files.items():
            after[path] = content
            changes.append(put(path, content))
        if any(one.startswith(other + "/") for one in after for other in after):
            return
        if line in self.tags:
            with pytest.raises(StateError, match="is a tag"):
                self.service.modify("default", line, changes)
            return
        made = self.service.modify("default", line, changes)
        self.sync()
        self.known[line.split("@")[0], made.id].files = after

    @rule(which=pick, files=st.dictionaries(paths, data, max_size=2), fails=st.booleans())
    def finish_a_job(self, which: int, files: Files, fails: bool) -> None:
        waiting = [key for key in self.alive("model", "deploy") if self.known[key].is_open]
        if not waiting or any(one.startswith(other + "/") for one in files for other in files):
            return
        repo, commit_id = waiting[which % len(waiting)]
        tree = self.service.stage([put(path, content) for path, content in files.items()])
        with self.db.write() as connection:
            self.service.finish_output(
                connection, "default", repo, commit_id, tree=tree, error="no" if fails else None
            )
        known = self.known[repo, commit_id]
        known.files = self.written(known.parent) if fails else files
        known.is_open = False
        self.sync()

    @rule(which=pick, name=st.sampled_from(["dev", "master"]))
    def branch(self, which: int, name: str) -> None:
        """A branch is made, or moved; what follows it gets commits."""
        at = self.alive("data")
        if at:
            repo, commit_id = at[which % len(at)]
            if f"data@{name}" in self.tags:
                with pytest.raises(AlreadyExistsError, match="there is a tag"):
                    self.service.create_branch("default", f"data@{name}", head=commit_id)
                return
            self.service.create_branch("default", f"data@{name}", head=commit_id)
            self.sync()
            assert self.heads[f"data@{name}"] == (repo, commit_id)

    @rule(name=st.sampled_from(["dev", "master"]), force=st.booleans())
    def delete_branch(self, name: str, force: bool) -> None:
        line = f"data@{name}"
        if line not in self.heads:
            return
        followers = [one for one, upstream in self.follows.items() if line in upstream]
        try:
            self.service.delete_branch("default", line, force=force)
        except StateError as error:
            assert followers and not force and followers[0] in error.message
            return
        assert force or not followers
        for one in followers:
            self.follows[one].discard(line)
        before = set(self.alive())
        self.sync()
        assert set(self.alive()) == before

    @rule(which=pick, name=st.sampled_from(["v1.0", "keep", "dev"]), move=st.booleans())
    def tag(self, which: int, name: str, move: bool) -> None:
        candidates = [key for key in self.alive() if not self.known[key].is_open]
        if not candidates:
            return
        repo, commit_id = candidates[which % len(candidates)]
        label = f"{repo}@{name}"
        try:
            self.service.create_tag("default", label, commit=commit_id, move=move)
        except AlreadyExistsError:
            assert label in self.heads or (label in self.tags and not move)
            return
        assert label not in self.heads
        self.tags[label] = (repo, commit_id)

    @precondition(lambda self: self.tags)
    @rule(which=pick)
    def untag(self, which: int) -> None:
        label = sorted(self.tags)[which % len(self.tags)]
        self.service.delete_tag("default", label)
        del self.tags[label]

    # --- changing history ---

    def choose(self, which: int, is_set: bool) -> tuple[set[Key], str]:
        at = self.alive()
        repo, commit_id = at[which % len(at)]
        if is_set:
            return {key for key in at if key[1] == commit_id}, commit_id
        return {(repo, commit_id)}, f"{repo}@{commit_id}"

    @precondition(lambda self: self.alive())
    @rule(which=pick, is_set=st.booleans(), recursive=st.booleans())
    def squash(self, which: int, is_set: bool, recursive: bool) -> None:
        chosen, address = self.choose(which, is_set)
        doomed = self.downstream(chosen) if recursive else chosen
        children = self.children(doomed)
        has_child = all(any(key in self.lineage(child, doomed) for child in children) for key in doomed)
        allowed = (
            has_child
            and not any(self.known[key].is_open for key in doomed | children)
            and self.downstream(chosen) <= doomed
            and not doomed & set(self.heads.values())
            and not self.is_kept(doomed)
        )
        self.take_out(self.service.squash, address, recursive, doomed, allowed)
        assert not allowed or self.sync() == []

    def lineage(self, key: Key, doomed: set[Key]) -> set[Key]:
        """The doomed right above a commit."""
        found: set[Key] = set()
        at = self.known[key].parent
        while at is not None and at in doomed:
            found.add(at)
            at = self.known[at].parent
        return found

    @precondition(lambda self: self.alive())
    @rule(which=pick, is_set=st.booleans(), recursive=st.booleans(), newest=st.booleans())
    def drop(self, which: int, is_set: bool, recursive: bool, newest: bool) -> None:
        if newest:  # what people do, and what is mostly allowed
            at = self.alive()
            which = len(at) - 1 - which % min(3, len(at))
        chosen, address = self.choose(which, is_set)
        doomed = self.downstream(chosen) if recursive else chosen
        allowed = (
            not self.children(doomed)
            and self.downstream(chosen) <= doomed
            and not self.is_kept(doomed)
            and not self.children(chosen)
        )
        heads = dict(self.heads)
        self.take_out(self.service.drop, address, recursive, doomed, allowed)
        if allowed:
            new = self.sync()
            for branch, head in heads.items():
                while head in doomed:
                    head = self.known[head].parent
                now = self.heads[branch]
                if now in new:
                    assert branch in self.follows and self.known[now].parent == head
                else:
                    assert now == head

    def take_out(self, use: object, address: str, recursive: bool, doomed: set[Key], allowed: bool) -> None:
        try:
            removed = use("default", address, recursive=recursive)  # type: ignore[operator]
        except StateError as error:
            assert not allowed, error
            assert "\n" not in error.message
            self.sync()
            return
        assert allowed
        assert {(one.repo, one.id) for one in removed.commits} == doomed
        self.remove(doomed)

    @rule(which=pick, name=st.sampled_from(["dev", "master"]))
    def merge(self, which: int, name: str) -> None:
        at = self.alive("data")
        target = self.heads.get(f"data@{name}")
        if not at or target is None:
            return
        source = at[which % len(at)]
        common = self.ancestors(source) & self.ancestors(target) & set(at)
        line, commit_id = f"data@{name}", source[1]
        if not common:
            try:
                self.service.merge_branch("default", f"data@{commit_id}", line)
                raise AssertionError
            except StateError as error:
                assert error.kind == "no_common_ancestor"
                return
        base = max(common, key=lambda key: self.known[key].seq)
        tried = self.service.merge_branch(
            "default", f"data@{commit_id}", line, strategy=Strategy.OURS, dry_run=True
        )
        assert tried.base == base[1]
        expected = merge_files(self.shown(base), self.shown(target), self.shown(source))
        try:
            merged = self.service.merge_branch("default", f"data@{commit_id}", line)
        except ConflictError as error:
            assert expected is None and error.details["count"] >= 1
            assert self.sync() == []
            return
        assert expected is not None
        new = self.sync()
        if base == source:
            assert merged.is_up_to_date and new == []
            return
        assert merged.commit is not None
        made = self.known["data", merged.commit.id]
        made.files = expected
        made.behind.add(source)

    @rule()
    def reopen(self) -> None:
        self.db.close()
        self.start()

    # --- what always holds ---

    @invariant()
    def everything_that_is_pointed_at_exists(self) -> None:
        with self.db.read() as connection:
            known = set(connection.execute(sa.select(commits.c.pk)).scalars())
            for column in (
                branches.c.head, commits.c.parent, tags.c.commit_pk, commit_provenance.c.upstream_pk,
                merges.c.source_pk, merges.c.commit_pk,
            ):  # fmt: skip
                pointed = set(connection.execute(sa.select(column).where(column.is_not(None))).scalars())
                assert pointed <= known, column
            assert not broken_references(connection)
            older = sa.select(commits.c.pk).where(commits.c.parent >= commits.c.pk)
            assert not connection.execute(older).all()

    @invariant()
    def heads_are_provenant_iff_branches_are(self) -> None:
        if not self.heads:
            return
        for branch, upstream in self.follows.items():
            if not upstream:
                continue
            head = self.heads[branch]
            now = {self.heads[one] for one in upstream} - {None}
            if head is None:
                assert not now, "a branch has a head as soon as one that it follows has"
                continue
            near = {one.split("@")[0] for one in upstream}
            assert {key for key in self.known[head].made_from if key[0] in near} == now

    @invariant()
    def trees_are_the_models(self) -> None:
        for key in self.alive():
            _, root, _ = self.service.resolve("default", f"{key[0]}@{key[1]}")
            assert contents(self.service, root) == self.shown(key)
        for label, (repo, commit_id) in self.tags.items():
            found, _, _ = self.service.resolve("default", label)
            assert (found.repo, found.id) == (repo, CommitId(commit_id))
            assert found.status is CommitStatus.FINISHED


def test_an_output_that_was_dropped_comes_back_under_its_id(fresh_stores: Callable[[], Stores]) -> None:
    """Where its branch is moved to what it was made from: a way that the machine takes once in hundreds of runs."""
    state = ChangingHistory(fresh_stores())
    try:
        state.make_repos(first=True)
        first = state.heads["data@master"]
        state.commit(line="data@master", files={"/b": b"2"}, doomed=set())
        assert first is not None
        state.branch(which=0, name="master")
        output = ("model", first[1])
        assert state.heads["model@master"] == output
        state.drop(which=state.alive().index(output), is_set=False, recursive=True, newest=False)
        assert state.known[output].is_gone
        state.branch(which=1, name="master")
        state.branch(which=0, name="master")
        assert state.heads["model@master"] == output and not state.known[output].is_gone
        state.heads_are_provenant_iff_branches_are()
        state.everything_that_is_pointed_at_exists()
    finally:
        state.teardown()


@pytest.mark.machine
def test_changing_history(fresh_stores: Callable[[], Stores]) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        lambda: ChangingHistory(fresh_stores()),
        settings=settings(
            max_examples=max(3, settings.default.max_examples // 3), stateful_step_count=25, deadline=None
        ),
    )
