"""The input tree of a spec: which datums there are, and which of them change when the inputs do. Pure.

``combinations`` lists all datums; ``changes`` finds what differs between two versions of the inputs without listing them:
for ``pfs``, ``cron``, ``union`` and ``cross`` it takes as long as its answer is, ``join`` and ``group`` look through their
inputs once more if anything in them changed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

NESTED = ("cross", "union", "join", "group")
CRON_GLOB = "/*"

_CAPTURE = re.compile(r"\$(?:(\d+)|\{(\d+)\})")


@dataclass(frozen=True, kw_only=True)
class Leaf:
    """One ``pfs`` or ``cron`` input of the tree."""

    name: str
    project: str
    repo: str
    branch: str
    glob: str
    kind: Literal["pfs", "cron"] = "pfs"
    join_on: str = ""
    outer_join: bool = False
    group_by: str = ""
    lazy: bool = False
    empty_files: bool = False
    s3: bool = False
    reference: bool = False
    """Its content does not count: a change of it makes no datum new."""
    quiet: bool = False
    """A new commit on it makes no job by itself."""

    @property
    def source(self) -> str:
        """The branch that it reads, as provenance names it."""
        return f"{self.project}/{self.repo}@{self.branch}"

    @property
    def place(self) -> tuple[str, str, str, str]:
        return self.name, self.project, self.repo, self.branch


class Match(NamedTuple):
    """A file or folder (its path ends in ``/``) that a leaf's glob found."""

    path: str
    hash: str
    size: int
    captures: tuple[str, ...] = ()


class Seen(NamedTuple):
    """What a datum sees of one leaf: a match, and where it is from."""

    leaf: str
    project: str
    repo: str
    branch: str
    path: str
    hash: str
    size: int
    join_on: str = ""
    group_by: str = ""


Combination = tuple[Seen, ...]
"""A datum."""
Matches = Callable[[Leaf], Iterable[Match]]
"""What a leaf's glob finds in one version of the inputs, sorted by path. May be called again for the same leaf."""
Pair = tuple[Match | None, Match | None]
"""A match as it was and as it is."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """The tree of a spec's ``input``."""

    kind: str
    leaf: Leaf | None = None
    children: tuple[Node, ...] = ()

    @cached_property
    def leaves(self) -> tuple[Leaf, ...]:
        """From left to right."""
        if self.leaf is not None:
            return (self.leaf,)
        return tuple(leaf for child in self.children for leaf in child.leaves)

    @cached_property
    def is_outer(self) -> bool:
        return any(leaf.outer_join for leaf in self.leaves)

    @cached_property
    def overlaps(self) -> bool:
        """Two children may find the same datum: both read one branch under one name."""
        places = [{leaf.place for leaf in child.leaves} for child in self.children]
        return sum(map(len, places)) > len(set().union(*places))


def tree(spec_input: Mapping[str, Any]) -> Node:
    """The tree of an effective spec's ``input``."""
    for kind in NESTED:
        if spec_input.get(kind):
            return Node(kind=kind, children=tuple(map(tree, spec_input[kind])))
    if spec_input.get("cron"):
        cron = spec_input["cron"]
        leaf = Leaf(
            name=cron["name"], project=cron["project"], repo=cron["repo"], branch="master", glob=CRON_GLOB, kind="cron"
        )  # fmt: skip
        return Node(kind="cron", leaf=leaf)
    pfs = spec_input["pfs"]
    return Node(
        kind="pfs",
        leaf=Leaf(
            name=pfs["name"], project=pfs["project"], repo=pfs["repo"], branch=pfs["branch"], glob=pfs["glob"],
            quiet=bool((pfs.get("propagation_spec") or {}).get("never")),
            **{name: pfs[name] for name in _OPTIONS if pfs.get(name)},
        ),
    )  # fmt: skip


_OPTIONS = ("join_on", "outer_join", "group_by", "lazy", "empty_files", "s3", "reference")


def leaves(spec_input: Mapping[str, Any]) -> list[Leaf]:
    """All leaves, from left to right. None for a spec without input, as a spout has it."""
    return list(tree(spec_input).leaves) if any(spec_input.values()) else []


def quiet_sources(spec_input: Mapping[str, Any]) -> set[str]:
    """Branches of which a new commit makes no job by itself."""
    found = leaves(spec_input)
    return {leaf.source for leaf in found if leaf.quiet} - {leaf.source for leaf in found if not leaf.quiet}


def combinations(spec_input: Mapping[str, Any], matches: Matches) -> Iterator[Combination]:
    """Every datum once, always in the same order. Holds no more in memory than all matches of all leaves but the first,
    except for ``join``, ``group``, and unions that read one branch twice."""
    if not any(spec_input.values()):
        return iter(())
    root = tree(spec_input)
    found = _all(root, matches)
    return _once(found) if _is_ambiguous(root) else found


def changes(
    spec_input: Mapping[str, Any],
    old: Matches,
    new: Matches,
    changed: Callable[[Leaf], Sequence[Pair]],
) -> tuple[Iterable[Combination], Iterable[Combination]]:
    """The datums that are not there any more, and those that are new; one whose content changed is in both.

    ``changed`` gives the matches of a leaf that differ between ``old`` and ``new``; it is called once for each leaf.
    """
    if not any(spec_input.values()):
        return (), ()
    root = tree(spec_input)
    if _is_ambiguous(root):
        before = dict.fromkeys(_once(_all(root, old)))
        after = dict.fromkeys(_once(_all(root, new)))
        return [one for one in before if one not in after], [one for one in after if one not in before]
    return _delta(root, _Versions(old, new, changed))


def expand(template: str, captures: Sequence[str]) -> str:
    """``$1`` and ``${1}`` replaced by what the glob captured; empty where it has no such bracket."""

    def value(found: re.Match[str]) -> str:
        number = int(found[1] or found[2])
        return captures[number - 1] if 1 <= number <= len(captures) else ""

    return _CAPTURE.sub(value, template)


def captures_used(template: str) -> list[int]:
    """The numbers of the brackets that ``join_on`` or ``group_by`` mention."""
    return [int(found[1] or found[2]) for found in _CAPTURE.finditer(template)]


# --- all datums ---------------------------------------------------------------------------------------------------


def _all(node: Node, matches: Matches) -> Iterator[Combination]:
    if node.leaf is not None:
        return _of_leaf(node.leaf, matches(node.leaf))
    if node.kind == "cross":
        return _product([_all(child, matches) for child in node.children])
    if node.kind == "union":
        found = (one for child in node.children for one in _all(child, matches))
        return _once(found) if node.overlaps else found
    buckets = _buckets(node, [_all(child, matches) for child in node.children], None)
    made = _joined if node.kind == "join" else _grouped
    return (one for key in sorted(buckets) for one in made(node, buckets[key]))


def _of_leaf(leaf: Leaf, found: Iterable[Match]) -> Iterator[Combination]:
    return ((_seen(leaf, match),) for match in found)


def _seen(leaf: Leaf, match: Match) -> Seen:
    digest, size = ("", 0) if leaf.reference else (match.hash, match.size)
    if not leaf.join_on and not leaf.group_by:
        return Seen(leaf.name, leaf.project, leaf.repo, leaf.branch, match.path, digest, size)
    return Seen(
        leaf.name, leaf.project, leaf.repo, leaf.branch, match.path, digest, size,
        expand(leaf.join_on, match.captures), expand(leaf.group_by, match.captures),
    )  # fmt: skip


def _product(pools: Sequence[Iterable[Combination]]) -> Iterator[Combination]:
    """The first pool is read as it comes, the others are kept: none of them is read if one is empty."""
    first, *others = pools
    kept: list[list[Combination]] = []
    for pool in others:
        kept.append(list(pool))
        if not kept[-1]:
            return
    yield from _multiply(first, kept)


def _multiply(first: Iterable[Combination], others: list[list[Combination]]) -> Iterator[Combination]:
    if not others:
        yield from first
        return
    rest = others[1:]
    for begin in first:
        yield from _multiply((begin + more for more in others[0]), rest)


def _once(found: Iterable[Combination]) -> Iterator[Combination]:
    """Without those that have the same files under the same names as an earlier one."""
    known: set[Hashable] = set()
    for one in found:
        name = tuple(seen[:5] for seen in one)
        if name not in known:
            known.add(name)
            yield one


def _is_ambiguous(root: Node) -> bool:
    """One file may be seen under one name with two keys, so that it takes the whole of a version to say what it counts as."""
    by_place: dict[Hashable, list[Leaf]] = {}
    for leaf in root.leaves:
        by_place.setdefault(leaf.place, []).append(leaf)
    return any(
        len(same) > 1 and any(leaf.join_on or leaf.group_by or leaf.reference for leaf in same)
        for same in by_place.values()
    )


# --- join and group -----------------------------------------------------------------------------------------------

Key = tuple[str, ...]
Bucket = list[list[Combination]]
"""What has one key, for each child."""


def _key(node: Node, combination: Combination) -> Key:
    """A datum of a nested input has the keys of its members, each once, so that joins can be joined."""
    if node.kind == "join":
        return tuple(dict.fromkeys(seen.join_on for seen in combination if seen.join_on))
    return tuple(dict.fromkeys(seen.group_by for seen in combination if seen.group_by))


def _buckets(
    node: Node, pools: Sequence[Iterable[Combination]], wanted: set[Key] | None
) -> dict[Key, Bucket]:
    found: dict[Key, Bucket] = {}
    for number, pool in enumerate(pools):
        for one in pool:
            key = _key(node, one)
            if wanted is None or key in wanted:
                found.setdefault(key, [[] for _ in pools])[number].append(one)
    return found


def _joined(node: Node, bucket: Bucket) -> Iterator[Combination]:
    """All that fits together; where a child has nothing, those that are outer are left to themselves."""
    if not all(bucket):
        bucket = [some for child, some in zip(node.children, bucket, strict=True) if child.is_outer and some]
    return _product(bucket) if bucket else iter(())


def _grouped(node: Node, bucket: Bucket) -> Iterator[Combination]:
    """One datum of all files, each once, in order of leaves and paths: however they were found."""
    order = {leaf.name: number for number, leaf in reversed(list(enumerate(node.leaves)))}
    members = {seen for some in bucket for one in some for seen in one}
    if members:
        yield tuple(sorted(members, key=lambda seen: (order[seen.leaf], *seen)))


# --- what differs -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Versions:
    old: Matches
    new: Matches
    changed: Callable[[Leaf], Sequence[Pair]]


@dataclass(frozen=True)
class _Stream:
    """An iterable that is made again for each round."""

    make: Callable[[], Iterator[Combination]]

    def __iter__(self) -> Iterator[Combination]:
        return self.make()


_Delta = tuple[Iterable[Combination], Iterable[Combination]]


def _delta(node: Node, versions: _Versions) -> _Delta:
    if node.leaf is not None:
        return _delta_of_leaf(node.leaf, versions.changed(node.leaf))
    deltas = [_delta(child, versions) for child in node.children]
    if node.kind == "union":
        return _delta_of_union(node, deltas)
    held = [(list(removed), list(added)) for removed, added in deltas]
    if not any(removed or added for removed, added in held):
        return (), ()
    if node.kind == "cross":
        removed = [one[0] for one in held]
        added = [one[1] for one in held]
        return (
            _Stream(lambda: _delta_of_cross(node, removed, versions.old)),
            _Stream(lambda: _delta_of_cross(node, added, versions.new)),
        )
    return _delta_by_key(node, held, versions)


def _delta_of_leaf(leaf: Leaf, pairs: Sequence[Pair]) -> _Delta:
    real = [
        (old, new) for old, new in pairs if old is None or new is None or _seen(leaf, old) != _seen(leaf, new)
    ]
    return (
        _Stream(lambda: _of_leaf(leaf, (old for old, _ in real if old is not None))),
        _Stream(lambda: _of_leaf(leaf, (new for _, new in real if new is not None))),
    )


def _delta_of_union(node: Node, deltas: Sequence[_Delta]) -> _Delta:
    """Where children overlap, they see one file alike (else the tree is ambiguous): gone from one is gone from all."""

    def part(which: int) -> Iterator[Combination]:
        found = (one for delta in deltas for one in delta[which])
        return _once(found) if node.overlaps else found

    return _Stream(lambda: part(0)), _Stream(lambda: part(1))


def _delta_of_cross(
    node: Node, touched: Sequence[list[Combination]], matches: Matches
) -> Iterator[Combination]:
    """All products of one version with at least one touched factor, each once: by the first factor that is touched."""
    for number, some in enumerate(touched):
        if some:
            pools: list[Iterable[Combination]] = [
                _without(_all(child, matches), gone)
                for child, gone in zip(node.children[:number], touched[:number], strict=True)
            ]
            pools.append(some)
            pools += [_all(child, matches) for child in node.children[number + 1 :]]
            yield from _product(pools)


def _without(found: Iterable[Combination], gone: list[Combination]) -> Iterator[Combination]:
    names = set(gone)
    return (one for one in found if one not in names)


def _delta_by_key(
    node: Node, held: Sequence[tuple[list[Combination], list[Combination]]], versions: _Versions
) -> _Delta:
    """Only the keys that something changed for; one look through the new version gives both sides of them."""
    keys = {_key(node, one) for removed, added in held for one in (*removed, *added)}
    after = _buckets(node, [_all(child, versions.new) for child in node.children], keys)
    removed_of = _buckets(node, [removed for removed, _ in held], None)
    made = _joined if node.kind == "join" else _grouped
    nothing: Bucket = [[] for _ in node.children]
    came = [set(added) for _, added in held]
    gone: list[Combination] = []
    added_all: list[Combination] = []
    for key in sorted(keys):
        now = after.get(key, nothing)
        before = [
            [one for one in some if one not in new] + lost
            for some, new, lost in zip(now, came, removed_of.get(key, nothing), strict=True)
        ]
        old_made, new_made = list(made(node, before)), list(made(node, now))
        old_set, new_set = set(old_made), set(new_made)
        gone += [one for one in old_made if one not in new_set]
        added_all += [one for one in new_made if one not in old_set]
    return gone, added_all
