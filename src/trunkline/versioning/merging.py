"""Three-way merge of trees. Pure: reads nodes, decides file by file, writes nothing. Costs what differs from the base.

A file has three parts that are merged one by one: its content, its executable bit and its modification time. Only contents
can contradict each other; of two executable bits the changed one counts, of two times the later one.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import StrEnum
from typing import NamedTuple

from trunkline.versioning import comparing, trees
from trunkline.versioning.nodes import Entry
from trunkline.versioning.trees import Edit, Load

BOTH_CHANGED = "both changed it"
BOTH_ADDED = "both added it"
DELETED_HERE = "the target deleted it, the source changed it"
DELETED_THERE = "the source deleted it, the target changed it"
FILE_HERE = "a file in the target, a directory in the source"
FILE_THERE = "a directory in the target, a file in the source"
PART = ""
"""Below a file that is a directory on the other side: part of the conflict that was told at that file."""


class Strategy(StrEnum):
    """Who wins where both have changed the same."""

    OURS = "ours"
    """The target."""
    THEIRS = "theirs"
    """The source."""


class Decision(NamedTuple):
    """What is to become of one file that differs between the trees."""

    key: bytes
    ours: Entry | None
    theirs: Entry | None
    merged: Entry | None
    conflict: str | None
    """None: ``merged`` is the result. Else the reason, or ``PART``."""

    def result(self, strategy: Strategy | None) -> Entry | None:
        """What is there afterwards; conflicts need a strategy."""
        if self.conflict is None:
            return self.merged
        assert strategy is not None, "a merge with conflicts is never written"
        return self.ours if strategy is Strategy.OURS else self.theirs


class Summary(NamedTuple):
    added: int
    deleted: int
    changed: int
    conflicts: list[tuple[str, str]]
    """``(path, reason)`` of the first of them."""
    conflict_count: int


def decide(load: Load, base: bytes, ours: bytes, theirs: bytes) -> Iterator[Decision]:
    """A decision for every file that either side has changed, in the order of their keys."""
    colliding: list[bytes] = []
    for key, before, here, there in _changes(load, base, ours, theirs):
        colliding = [prefix for prefix in colliding if key < trees.prefix_end(prefix)]
        if before is None and any(key.startswith(prefix) for prefix in colliding):
            yield Decision(key, here, there, None, PART)
            continue
        merged, conflict = merge_file(before, here, there)
        if conflict is not None or merged is not None:
            file_here = (
                there is None and here not in (None, before) and _changed_below(load, base, theirs, key)
            )
            file_there = (
                here is None and there not in (None, before) and _changed_below(load, base, ours, key)
            )
            if file_here or file_there:
                colliding.append(key + b"/")
                conflict = conflict or (FILE_HERE if file_here else FILE_THERE)
        yield Decision(key, here, there, merged, conflict)


def edits(decisions: Iterable[Decision], strategy: Strategy | None) -> Iterator[Edit]:
    """What the target's tree lacks, for ``trees.edit``."""
    for decision in decisions:
        result = decision.result(strategy)
        if result != decision.ours:
            yield decision.key, result


def summarize(decisions: Iterable[Decision], strategy: Strategy | None, conflicts_max: int) -> Summary:
    """What a merge would do to the target."""
    added = deleted = changed = count = 0
    first: list[tuple[str, str]] = []
    for decision in decisions:
        if decision.conflict is not None:
            if decision.conflict != PART:
                count += 1
                if len(first) < conflicts_max:
                    first.append(("/" + decision.key.decode(), decision.conflict))
            if strategy is None:
                continue
        result = decision.result(strategy)
        if result != decision.ours:
            added += decision.ours is None
            deleted += result is None
            changed += result is not None and decision.ours is not None
    return Summary(added, deleted, changed, first, count)


# --- one file -----------------------------------------------------------------------------------------------------


def merge_file(
    base: Entry | None, ours: Entry | None, theirs: Entry | None
) -> tuple[Entry | None, str | None]:
    """The merged file and no reason, or a reason why there is none."""
    if ours == theirs or theirs == base:
        return ours, None
    if ours == base:
        return theirs, None
    if ours is None or theirs is None:
        left = ours or theirs
        assert left is not None and base is not None, "else both sides would be the same"
        if _is_same(left, base):  # only its time has changed: that does not bring it back
            return None, None
        return None, DELETED_HERE if ours is None else DELETED_THERE
    return _merge_parts(base, ours, theirs)


def _merge_parts(base: Entry | None, ours: Entry, theirs: Entry) -> tuple[Entry | None, str | None]:
    if _content(ours) == _content(theirs):
        winner = ours._replace(mtime=_merge_times(base, ours, theirs))
    elif base is not None and _content(theirs) == _content(base):
        winner = ours
    elif base is not None and _content(ours) == _content(base):
        winner = theirs
    else:
        return None, BOTH_ADDED if base is None else BOTH_CHANGED
    executable = ours.executable
    if ours.executable != theirs.executable:
        executable = True if base is None else not base.executable
    return winner._replace(executable=executable), None


def _merge_times(base: Entry | None, ours: Entry, theirs: Entry) -> int | None:
    if base is not None and ours.mtime == base.mtime:
        return theirs.mtime
    if base is not None and theirs.mtime == base.mtime:
        return ours.mtime
    return max((one for one in (ours.mtime, theirs.mtime) if one is not None), default=None)


def _content(entry: Entry) -> tuple[int, bytes]:
    return entry.level, entry.hash


def _is_same(a: Entry, b: Entry) -> bool:
    return _content(a) == _content(b) and a.executable == b.executable


# --- the trees ----------------------------------------------------------------------------------------------------


def _changes(
    load: Load, base: bytes, ours: bytes, theirs: bytes
) -> Iterator[tuple[bytes, Entry | None, Entry | None, Entry | None]]:
    """``(key, base, ours, theirs)`` of every file that either side has changed, sorted."""
    here, there = comparing.compare(load, base, ours), comparing.compare(load, base, theirs)
    a, b = next(here, None), next(there, None)
    while a is not None or b is not None:
        key = min(_key(pair) for pair in (a, b) if pair is not None)
        before: Entry | None = None
        mine: Entry | None = None
        yours: Entry | None = None
        in_here, in_there = a is not None and _key(a) == key, b is not None and _key(b) == key
        if a is not None and in_here:
            before, mine = a
            a = next(here, None)
        if b is not None and in_there:
            before, yours = b
            b = next(there, None)
        yield key, before, mine if in_here else before, yours if in_there else before


def _key(pair: tuple[Entry | None, Entry | None]) -> bytes:
    found = pair[0] or pair[1]
    assert found is not None, "one of them is there"
    return found.key


def _changed_below(load: Load, base: bytes, other: bytes, key: bytes) -> bool:
    """Whether a side has written something below a path; times do not count, as they do not against a deletion."""
    low, high = key + b"/", trees.prefix_end(key + b"/")
    if not trees.has_any(load, other, low, high):
        return False
    pairs = comparing.compare(load, base, other, low, high)
    return any(new is not None and (old is None or not _is_same(old, new)) for old, new in pairs)


# --- the base -----------------------------------------------------------------------------------------------------

_OURS, _THEIRS = 1, 2


def nearest_common(ours: int, theirs: int, parents_of: Callable[[int], Iterable[int]]) -> int | None:
    """The common ancestor with the greatest key (either of the two, where it is an ancestor of the other). Ancestors have
    smaller keys, so the first commit that both sides reach is one that no other common ancestor descends from, and nothing
    older is looked at."""
    reached: dict[int, int] = {ours: _OURS}
    reached[theirs] = reached.get(theirs, 0) | _THEIRS
    heap = [-pk for pk in reached]
    heapq.heapify(heap)
    while heap:
        pk = -heapq.heappop(heap)
        sides = reached.pop(pk)
        if sides == _OURS | _THEIRS:
            return pk
        for parent in parents_of(pk):
            if parent not in reached:
                heapq.heappush(heap, -parent)
            reached[parent] = reached.get(parent, 0) | sides
    return None


def known_parents(
    fetch: Callable[[int], Mapping[int, Iterable[int]]],
) -> Callable[[int], Iterable[int]]:
    """``parents_of`` for a walk, over a ``fetch`` that also gives those of some commits further up."""
    known: dict[int, Iterable[int]] = {}

    def parents_of(pk: int) -> Iterable[int]:
        if pk not in known:
            known.update(fetch(pk))
        return known[pk]

    return parents_of
