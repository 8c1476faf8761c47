"""Three-way merges: of dictionaries beside trees, and of branches as people make them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.versioning.conftest import contents, put, shown
from trunkline.errors import ConflictError, InvalidInputError, NotFoundError, StateError
from trunkline.storage.db.engine import Database
from trunkline.versioning import merging, trees
from trunkline.versioning.merging import Strategy, merge_file, nearest_common
from trunkline.versioning.model import DeletePath
from trunkline.versioning.nodes import EMPTY_ROOT, Entry, TreeNode, decode_tree
from trunkline.versioning.service import VersioningService

KEYS = [b"a", b"a-", b"a/b", b"a/b/c", b"a/c", b"b", b"b/a", b"c"]
files = st.builds(
    lambda content, mtime, executable: Entry(b"", 1, content, 0, mtime, executable),
    st.sampled_from([b"1" * 32, b"2" * 32]), st.sampled_from([None, 5, 9]), st.booleans(),
)  # fmt: skip


def is_tree(tree: dict[bytes, Entry]) -> bool:
    return not any(one.startswith(other + b"/") for one in tree for other in tree)


plain_trees = st.dictionaries(st.sampled_from(KEYS), files).map(
    lambda tree: {key: entry._replace(key=key) for key, entry in tree.items()}
)
some_trees = plain_trees.filter(is_tree)


class Nodes:
    """Tree nodes in memory."""

    def __init__(self) -> None:
        self.stored: dict[bytes, bytes] = {}
        self.loaded = 0

    def put(self, raw: bytes) -> bytes:
        from trunkline.core.hashing import digest

        name = digest(raw)
        self.stored[name] = raw
        return name

    def load(self, name: bytes, ahead: Sequence[bytes] = ()) -> TreeNode:
        self.loaded += 1
        return decode_tree(b"\x54\x01\x00\x00" if name == EMPTY_ROOT else self.stored[name])

    def tree(self, entries: dict[bytes, Entry]) -> bytes:
        return trees.edit(self.load, self.put, EMPTY_ROOT, sorted(entries.items())).hash

    def read(self, root: bytes) -> dict[bytes, Entry]:
        return {entry.key: entry for entry in trees.entries(self.load, root)}


def oracle(
    base: dict[bytes, Entry], ours: dict[bytes, Entry], theirs: dict[bytes, Entry]
) -> tuple[dict[bytes, Entry], set[bytes]]:
    """The merged files, and the paths that contradict each other."""
    merged: dict[bytes, Entry] = {}
    bad: set[bytes] = set()
    for key in base.keys() | ours.keys() | theirs.keys():
        result, reason = merge_file(base.get(key), ours.get(key), theirs.get(key))
        if reason is not None:
            bad.add(key)
        elif result is not None:
            merged[key] = result
    for key in list(merged):
        if any(other.startswith(key + b"/") for other in merged):
            bad.add(key)
    return merged, bad


def without_times(tree: dict[bytes, Entry]) -> dict[bytes, Entry]:
    """An edit without a time keeps the one that is there, so times are compared in tests of their own."""
    return {key: entry._replace(mtime=None) for key, entry in tree.items()}


@given(base=some_trees, ours=some_trees, theirs=some_trees)
def test_a_merge_is_what_the_dictionaries_say(
    base: dict[bytes, Entry], ours: dict[bytes, Entry], theirs: dict[bytes, Entry]
) -> None:
    nodes = Nodes()
    roots = [nodes.tree(one) for one in (base, ours, theirs)]
    decisions = list(merging.decide(nodes.load, *roots))
    assert [one.key for one in decisions] == sorted(one.key for one in decisions)
    expected, bad = oracle(base, ours, theirs)
    told = {one.key for one in decisions if one.conflict}
    assert bool(told) == bool(bad)
    assert bad <= told | {one.key for one in decisions if one.conflict == merging.PART}
    summary = merging.summarize(decisions, None, 2)
    assert (summary.conflict_count, len(summary.conflicts)) == (len(told), min(2, len(told)))
    if not bad:
        done = nodes.read(trees.edit(nodes.load, nodes.put, roots[1], merging.edits(decisions, None)).hash)
        assert without_times(done) == without_times(expected)
        assert len(done) == len(ours) + summary.added - summary.deleted


@given(base=some_trees, ours=some_trees, theirs=some_trees, strategy=st.sampled_from(list(Strategy)))
def test_a_strategy_always_makes_a_tree(
    base: dict[bytes, Entry], ours: dict[bytes, Entry], theirs: dict[bytes, Entry], strategy: Strategy
) -> None:
    nodes = Nodes()
    roots = [nodes.tree(one) for one in (base, ours, theirs)]
    decisions = list(merging.decide(nodes.load, *roots))
    done = nodes.read(trees.edit(nodes.load, nodes.put, roots[1], merging.edits(decisions, strategy)).hash)
    assert is_tree(done)
    winner = ours if strategy is Strategy.OURS else theirs
    for one in decisions:
        if one.conflict:
            assert (done.get(one.key) is None) == (winner.get(one.key) is None)
    expected, bad = oracle(base, ours, theirs)
    if not bad:
        assert without_times(done) == without_times(expected)


@given(base=some_trees, other=some_trees)
def test_what_one_side_did_is_done(base: dict[bytes, Entry], other: dict[bytes, Entry]) -> None:
    for ours, theirs in ((base, other), (other, base), (other, other)):
        merged, bad = oracle(base, ours, theirs)
        assert (merged, bad) == (other, set())


def entry(content: int = 1, mtime: int | None = None, executable: bool = False) -> Entry:
    return Entry(b"x", 1, bytes([content]) * 32, 0, mtime, executable)


@pytest.mark.parametrize(
    ("base", "ours", "theirs", "result", "reason"),
    [
        (entry(1), entry(2), entry(3), None, merging.BOTH_CHANGED),
        (None, entry(2), entry(3), None, merging.BOTH_ADDED),
        (entry(1), None, entry(3), None, merging.DELETED_HERE),
        (entry(1), entry(3), None, None, merging.DELETED_THERE),
        (entry(1), entry(3), entry(3), entry(3), None),
        (entry(1), None, None, None, None),
        # A time alone contradicts nothing: a deletion wins over it, content too, and of two the later counts.
        (entry(1, 5), None, entry(1, 9), None, None),
        (entry(1, 5), entry(2, 6), entry(1, 9), entry(2, 6), None),
        (entry(1, 5), entry(1, 5), entry(1, 9), entry(1, 9), None),
        (entry(1, 5), entry(1, 8), entry(1, 9), entry(1, 9), None),
        (entry(1, 5), entry(1, 9), entry(1, 8), entry(1, 9), None),
        (None, entry(1, None), entry(1, 8), entry(1, 8), None),
        # The executable bit is merged beside the content.
        (entry(1), entry(1, executable=True), entry(2), entry(2, executable=True), None),
        (entry(1, executable=True), entry(2, executable=True), entry(1), entry(2), None),
        (entry(1), entry(1, executable=True), None, None, merging.DELETED_THERE),
        (None, entry(1, executable=True), entry(1), entry(1, executable=True), None),
    ],
)  # fmt: skip
def test_one_file(
    base: Entry | None, ours: Entry | None, theirs: Entry | None, result: Entry | None, reason: str | None
) -> None:
    assert merge_file(base, ours, theirs) == (result, reason)


def test_a_merge_reads_only_what_differs() -> None:
    nodes = Nodes()
    base = {key: Entry(key, 1, b"1" * 32, 0, None, False) for key in (b"d/%05d" % i for i in range(20_000))}
    ours = base | {b"d/00010": base[b"d/00010"]._replace(hash=b"2" * 32)}
    theirs = base | {b"d/15000x": Entry(b"d/15000x", 1, b"3" * 32, 0, None, False)}
    roots = [nodes.tree(one) for one in (base, ours, theirs)]
    nodes.loaded = 0
    decisions = list(merging.decide(nodes.load, *roots))
    assert [one.key for one in decisions] == [b"d/00010", b"d/15000x"]
    trees.edit(nodes.load, nodes.put, roots[1], merging.edits(decisions, None))
    assert nodes.loaded < 60  # of more than 150


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=20), st.data())
def test_the_nearest_common_ancestor(seeds: list[tuple[int, int]], draw: st.DataObject) -> None:
    parents = {0: [], 1: []} | {
        n + 2: sorted({a % (n + 2), b % (n + 2)}) if b % 3 == 0 else [a % (n + 2)]
        for n, (a, b) in enumerate(seeds)
    }

    def ancestors(pk: int) -> set[int]:
        return {pk}.union(*(ancestors(parent) for parent in parents[pk]))

    a, b = (draw.draw(st.sampled_from(sorted(parents))) for _ in range(2))
    asked: list[int] = []
    found = nearest_common(a, b, lambda pk: asked.append(pk) or parents[pk])  # type: ignore[func-returns-value]
    common = ancestors(a) & ancestors(b)
    assert found == max(common, default=None)
    assert all(found is None or pk > found for pk in asked)


class TestBranches:
    @pytest.fixture(autouse=True)
    def repo(self, versioning: VersioningService) -> None:
        versioning.create_repo("default", "data")
        versioning.modify("default", "data@master", [put("/a", b"1"), put("/b", b"1"), put("/c", b"1")])
        versioning.create_branch("default", "data@feature", head="master")

    def test_both_sides_land_in_one_commit(self, versioning: VersioningService, db: Database) -> None:
        base = versioning.inspect_commit("default", "data@master")
        versioning.modify("default", "data@feature", [put("/a", b"2"), put("/new", b"n", executable=True)])
        versioning.modify("default", "data@feature", [DeletePath(path="/b")])
        head = versioning.modify("default", "data@master", [put("/c", b"2")])
        tried = versioning.merge_branch("default", "data@feature", "data@master", dry_run=True)
        assert (tried.commit, tried.base, tried.added, tried.deleted, tried.changed) == (
            None,
            base.id,
            1,
            1,
            1,
        )
        assert versioning.inspect_commit("default", "data@master").id == head.id
        merged = versioning.merge_branch("default", "data@feature", "data@master", description="all in")
        assert merged.commit is not None
        assert (merged.commit.parent, merged.commit.description) == (head.id, "all in")
        assert shown(versioning, "data@master") == {"/a": b"2", "/c": b"2", "/new": b"n"}
        assert versioning.stat(merged.commit.root, "/new").executable  # type: ignore[arg-type]
        assert versioning.fsck() == []
        again = versioning.merge_branch("default", "data@feature", "data@master")
        assert again.is_up_to_date and again.commit is None

    def test_what_was_merged_is_not_merged_again(self, versioning: VersioningService) -> None:
        versioning.modify("default", "data@feature", [put("/a", b"2")])
        versioning.modify("default", "data@master", [put("/c", b"2")])
        versioning.merge_branch("default", "data@feature", "data@master")
        source = versioning.modify("default", "data@feature", [put("/a", b"3")])
        merged = versioning.merge_branch("default", "data@feature", "data@master")
        assert merged.base == source.parent and merged.changed == 1
        assert shown(versioning, "data@master") == {"/a": b"3", "/b": b"1", "/c": b"2"}
        back = versioning.merge_branch("default", "data@master", "data@feature")
        assert back.base == source.id and back.commit is not None
        assert shown(versioning, "data@feature") == shown(versioning, "data@master")

    def test_a_target_that_has_not_moved_gets_a_commit_of_its_own(
        self, versioning: VersioningService
    ) -> None:
        source = versioning.modify("default", "data@feature", [put("/a", b"2")])
        merged = versioning.merge_branch("default", "data@feature", "data@master")
        assert merged.commit is not None and merged.commit.id != source.id
        assert (merged.commit.root, merged.commit.size) == (source.root, source.size)
        assert merged.commit.parent == source.parent

    def test_conflicts_are_listed_and_nothing_is_written(self, versioning: VersioningService) -> None:
        feature = [put("/a", b"2"), DeletePath(path="/b"), put("/d/x", b"1"), put("/e", b"1")]
        master = [put("/a", b"3"), put("/b", b"2"), put("/d", b"1"), put("/e/y", b"1"), put("/c", b"9")]
        versioning.modify("default", "data@feature", feature)
        head = versioning.modify("default", "data@master", master)
        with pytest.raises(
            ConflictError, match=r"in 4 files, so nothing was merged: /a \(both changed it\)"
        ) as told:
            versioning.merge_branch("default", "data@feature", "data@master")
        assert told.value.details == {
            "count": 4,
            "conflicts": [
                {"path": "/a", "reason": merging.BOTH_CHANGED},
                {"path": "/b", "reason": merging.DELETED_THERE},
                {"path": "/d", "reason": merging.FILE_HERE},
                {"path": "/e", "reason": merging.FILE_THERE},
            ],
        }
        assert "\n" not in told.value.message
        assert versioning.inspect_commit("default", "data@master").id == head.id
        ours = versioning.merge_branch(
            "default", "data@feature", "data@master", strategy=Strategy.OURS, dry_run=True
        )
        assert (ours.conflict_count, ours.added, ours.changed, ours.deleted) == (4, 0, 0, 0)
        theirs = versioning.merge_branch("default", "data@feature", "data@master", strategy=Strategy.THEIRS)
        assert theirs.commit is not None and theirs.conflicts[0].path == "/a"
        assert shown(versioning, "data@master") == {"/a": b"2", "/c": b"9", "/d/x": b"1", "/e": b"1"}

    def test_only_the_first_thousand_are_listed(self, versioning: VersioningService) -> None:
        for branch, content in (("feature", b"1"), ("master", b"2")):
            versioning.modify("default", f"data@{branch}", [put(f"/many/{i}", content) for i in range(1003)])
        with pytest.raises(ConflictError, match="1003 files") as told:
            versioning.merge_branch("default", "data@feature", "data@master")
        assert (told.value.details["count"], len(told.value.details["conflicts"])) == (1003, 1000)

    def test_what_cannot_be_merged(self, versioning: VersioningService) -> None:
        versioning.create_repo("default", "other")
        versioning.modify("default", "other@master", [put("/x")])
        versioning.modify("default", "data@island", [put("/x")])
        versioning.start_commit("default", "data@opened")
        versioning.create_branch("default", "data@empty")
        for source, target, error, match in (
            ("other@master", "data@master", InvalidInputError, "of different repos"),
            ("data@island", "data@master", StateError, "no commit in common"),
            ("data@opened", "data@master", StateError, "is open"),
            ("data@master", "data@opened", StateError, "finish it first"),
            ("data@master", "data@none", NotFoundError, "no branch 'none'"),
            ("data@master", "data@feature^", InvalidInputError, "a branch is needed"),
            ("data@master:/a", "data@feature", InvalidInputError, "leave out the path"),
            ("data@empty", "data@master", NotFoundError, "no commits yet"),
        ):  # fmt: skip
            with pytest.raises(error, match=match):
                versioning.merge_branch("default", source, target)
        merged = versioning.merge_branch("default", "data@master", "data@empty")
        assert merged.base is None and contents(versioning, merged.commit.root) == {  # type: ignore[union-attr]
            "/a": b"1", "/b": b"1", "/c": b"1",
        }  # fmt: skip
