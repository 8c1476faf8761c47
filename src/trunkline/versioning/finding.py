"""Which commits touched a path: compares that one path in a commit and its parent, and nothing else of their trees. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from trunkline.errors import NotFoundError
from trunkline.versioning import trees, views
from trunkline.versioning.historystore import Step
from trunkline.versioning.model import FileInfo
from trunkline.versioning.nodes import EMPTY_ROOT
from trunkline.versioning.trees import Load


class Touch(NamedTuple):
    """A commit that changed the path."""

    pk: int
    op: str
    old: FileInfo | None
    new: FileInfo | None


def touches(
    load: Load, steps: Sequence[Step], root_above: str | None, path: str, stop: Callable[[Step], bool]
) -> Iterator[Touch | None]:
    """For each commit of a chain, nearest first, what it did to the path (None: nothing). ``root_above``: what is shown by
    the parent of the last one. The first step at which ``stop`` says so ends it."""
    _read_together(load, [step.root for step in steps] + [root_above], path)
    seen: dict[str, FileInfo | None] = {}
    for at, step in enumerate(steps):
        if stop(step):
            return
        above = next((other.root for other in steps[at + 1 :] if other.root is not None), root_above)
        if step.root is None or step.root == above:
            yield None
            continue
        new, old = _look(load, step.root, path, seen), _look(load, above, path, seen)
        yield None if _is_same(old, new) else Touch(step.pk, _op(old, new), old, new)


def _read_together(load: Load, roots: Sequence[str | None], path: str) -> None:
    """The nodes that lead to the path in all these trees, level by level: one by one each would cost a trip to the store."""
    low, high = trees.directory_range(path)
    keys = [key for key in (path[1:].encode(), low, high) if key is not None]
    level = [bytes.fromhex(root) for root in dict.fromkeys(roots) if root is not None]
    while len(level) > 1:
        below: dict[bytes, None] = {}
        for at, name in enumerate(level):
            node = load(name, level[at + 1 : at + 1 + trees.NODES_AHEAD_MAX])
            for key in keys if node.level else ():
                place = bisect_left(node.keys, key)
                if place < len(node.keys):
                    below[node.items[place].hash] = None
        level = list(below)


def _look(load: Load, root: str | None, path: str, seen: dict[str, FileInfo | None]) -> FileInfo | None:
    name = root or EMPTY_ROOT.hex()
    if name not in seen:
        seen.clear()  # a root is looked at twice in a row: as the parent's, then as the commit's own
        try:
            found = views.stat(load, bytes.fromhex(name), path)
        except NotFoundError:
            found = None
        seen[name] = found
    return seen[name]


def _is_same(old: FileInfo | None, new: FileInfo | None) -> bool:
    """A time alone is no change, as in a diff. (Of a directory the hash says nothing of executable bits.)"""
    if old is None or new is None:
        return old is new
    return (old.hash, old.is_dir, old.executable) == (new.hash, new.is_dir, new.executable)


def _op(old: FileInfo | None, new: FileInfo | None) -> str:
    return "added" if old is None else "deleted" if new is None else "changed"
