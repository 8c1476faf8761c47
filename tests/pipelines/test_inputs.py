"""The input tree: which datums it makes, and that what changed is exactly what a full listing would find."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trunkline.core.paths import Glob
from trunkline.pipelines.inputs import (
    Combination,
    Leaf,
    Match,
    Matches,
    Pair,
    changes,
    combinations,
    expand,
    leaves,
)

Files = Mapping[str, Mapping[str, str]]
"""For each repo, path to hash."""


def pfs(repo: str, glob: str = "/*", **more: Any) -> dict[str, Any]:
    return {
        "pfs": {"name": repo, "project": "default", "repo": repo, "branch": "master", "glob": glob, **more}
    }


def of(files: Files) -> Matches:
    def matches(leaf: Leaf) -> Iterator[Match]:
        found = files.get(leaf.repo, {})
        if leaf.glob == "/":
            if found:
                yield Match("/", repr(sorted(found.items())), len(found))
            return
        glob = Glob(leaf.glob)
        for path in sorted(found):
            captures = glob.match(path)
            if captures is not None:
                yield Match(path, found[path], len(found[path]), captures)

    return matches


def between(old: Files, new: Files) -> Callable[[Leaf], list[Pair]]:
    def changed(leaf: Leaf) -> list[Pair]:
        before = {match.path: match for match in of(old)(leaf)}
        after = {match.path: match for match in of(new)(leaf)}
        return [
            (before.get(path), after.get(path))
            for path in sorted({*before, *after})
            if before.get(path) != after.get(path)
        ]

    return changed


def paths(found: Iterable[Combination]) -> list[tuple[str, ...]]:
    return [tuple(f"{seen.leaf}{seen.path}" for seen in one) for one in found]


FILES: Files = {
    "a": {"/a1": "h", "/a2": "h", "/b1": "h"},
    "b": {"/a1": "h", "/c1": "h", "/c2": "h"},
}


def listed(spec_input: dict[str, Any], files: Files = FILES) -> list[tuple[str, ...]]:
    return paths(combinations(spec_input, of(files)))


def test_pfs_is_a_datum_for_each_match() -> None:
    assert listed(pfs("a")) == [("a/a1",), ("a/a2",), ("a/b1",)]
    assert listed(pfs("a", "/")) == [("a/",)]
    assert listed(pfs("a", "/"), {}) == []


def test_cross_is_all_with_all() -> None:
    assert listed({"cross": [pfs("a", "/a*"), pfs("b", "/c*")]}) == [
        ("a/a1", "b/c1"), ("a/a1", "b/c2"), ("a/a2", "b/c1"), ("a/a2", "b/c2"),
    ]  # fmt: skip
    assert listed({"cross": [pfs("a"), pfs("none")]}) == []


def test_union_is_one_after_the_other_and_names_may_be_equal() -> None:
    assert listed({"union": [pfs("a", "/b*"), pfs("b", "/a*")]}) == [("a/b1",), ("b/a1",)]
    same = {"union": [pfs("a", "/a*"), pfs("a", "/?1")]}
    assert listed(same) == [("a/a1",), ("a/a2",), ("a/b1",)], "a file that two globs find is one datum"


def test_join_is_by_key() -> None:
    left = pfs("a", "/(*)?", join_on="$1")
    right = pfs("b", "/(*)?", join_on="${1}")
    assert listed({"join": [left, right]}) == [("a/a1", "b/a1"), ("a/a2", "b/a1")]


def test_outer_join_leaves_nothing_of_that_side_out() -> None:
    outer = pfs("b", "/(*)?", join_on="$1", outer_join=True)
    found = listed({"join": [pfs("a", "/(*)?", join_on="$1"), outer]})
    assert found == [("a/a1", "b/a1"), ("a/a2", "b/a1"), ("b/c1",), ("b/c2",)]
    both = {"join": [pfs("a", "/(*)?", join_on="$1", outer_join=True), outer]}
    assert ("a/b1",) in listed(both) and ("b/c1",) in listed(both)


def test_group_is_one_datum_for_each_key() -> None:
    assert listed({"group": [pfs("a", "/(*)?", group_by="$1"), pfs("b", "/(*)?", group_by="$1")]}) == [
        ("a/a1", "a/a2", "b/a1"), ("a/b1",), ("b/c1", "b/c2"),
    ]  # fmt: skip


def test_a_join_may_be_grouped_and_a_file_is_in_a_group_once() -> None:
    join = {"join": [pfs("a", "/(*)?", join_on="$1"), pfs("b", "/(?)(*)", join_on="$1", group_by="$2")]}
    assert listed({"group": [join]}) == [("a/a1", "a/a2", "b/a1")]


def test_joins_of_joins_share_the_key() -> None:
    inner = {"join": [pfs("a", "/(*)?", join_on="$1"), pfs("b", "/(*)?", join_on="$1")]}
    third = pfs("c", "/(*)", join_on="$1")
    assert listed({"join": [inner, third]}, {**FILES, "c": {"/a": "h", "/b": "h"}}) == [
        ("a/a1", "b/a1", "c/a"), ("a/a2", "b/a1", "c/a"),
    ]  # fmt: skip


def test_cron_is_an_input_like_any_other() -> None:
    cron = {"cron": {"name": "tick", "project": "default", "repo": "p_tick", "spec": "@daily"}}
    [leaf] = leaves(cron)
    assert (leaf.kind, leaf.source, leaf.glob) == ("cron", "default/p_tick@master", "/*")
    assert listed({"cross": [cron, pfs("a", "/b*")]}, {**FILES, "p_tick": {"/2026": "h"}}) == [
        ("tick/2026", "a/b1")
    ]


def test_no_input_no_datums() -> None:
    assert leaves({}) == [] and listed({}) == []
    assert changes({}, of({}), of(FILES), between({}, FILES)) == ((), ())


def test_captures_go_in_where_they_are_named() -> None:
    assert expand("$1-${2}x$3", ["a", "b"]) == "a-bx"
    assert expand("no capture", ["a"]) == "no capture"


def test_the_content_of_a_reference_does_not_count() -> None:
    spec_input = {"cross": [pfs("a"), pfs("b", "/", reference=True)]}
    new = {**FILES, "b": {"/other": "h2"}}
    assert [list(part) for part in changes(spec_input, of(FILES), of(new), between(FILES, new))] == [[], []]


@pytest.mark.parametrize("kind", ["pfs", "union", "cross"])
def test_what_did_not_change_is_not_looked_at(kind: str) -> None:
    """One file of 1,000 changed: nobody asks for all the matches of its own leaf."""
    old = {"a": {f"/{number}": "h" for number in range(1000)}, "b": {"/x": "h"}}
    new = {**old, "a": {**old["a"], "/7": "h2"}}
    asked: list[str] = []

    def watched(files: Files) -> Matches:
        def matches(leaf: Leaf) -> Iterable[Match]:
            asked.append(leaf.repo)
            return of(files)(leaf)

        return matches

    tree = pfs("a") if kind == "pfs" else {kind: [pfs("a"), pfs("b")]}
    removed, added = changes(tree, watched(old), watched(new), between(old, new))
    assert len(list(removed)) == len(list(added)) == 1
    assert set(asked) <= {"b"}


@st.composite
def trees(draw: st.DrawFn, depth: int = 3, keys: bool = True, repos: str = "abc") -> dict[str, Any]:
    kind = draw(st.sampled_from(["pfs", "cross", "union", "join", "group"] if depth else ["pfs"]))
    if kind == "pfs":
        glob = draw(st.sampled_from(["/(*)?", "/?(*)", "/(?)(*)", "/(a*)"] + ([] if keys else ["/", "/*"])))
        options: dict[str, Any] = {"reference": draw(st.sampled_from([False, False, True]))}
        if keys:
            options |= {
                "join_on": draw(st.sampled_from(["$1", "$1", "$2", ""])),
                "group_by": draw(st.sampled_from(["$1", "$1", "x$2", ""])),
                "outer_join": draw(st.booleans()),
            }
        return pfs(draw(st.sampled_from(repos)), glob, **options)
    return {kind: [draw(trees(depth - 1, keys, repos)) for _ in range(draw(st.integers(1, 3)))]}


contents = st.dictionaries(
    st.sampled_from("abc"),
    st.dictionaries(
        st.sampled_from(["/a1", "/a2", "/b1", "/b2", "/c1"]), st.sampled_from(["h", "i"]), max_size=5
    ),
)


@pytest.mark.slow
@settings(max_examples=400)
@given(st.one_of(trees(), trees(keys=False), trees(depth=2, keys=False, repos="a")), contents, contents)
def test_what_changed_is_what_two_full_listings_differ_by(
    spec_input: dict[str, Any], old: Files, new: Files
) -> None:
    before, after = list(combinations(spec_input, of(old))), list(combinations(spec_input, of(new)))
    removed, added = changes(spec_input, of(old), of(new), between(old, new))
    for found in (before, after, list(removed), list(added)):
        assert len(found) == len({tuple(seen[:5] for seen in one) for one in found}), "each datum once"
    assert set(after) == (set(before) - set(removed)) | set(added)
    assert set(removed) <= set(before) and not set(removed) & set(after)
    assert set(added) <= set(after) and not set(added) & set(before)
    assert list(removed) == list(removed), "it can be gone through again"
