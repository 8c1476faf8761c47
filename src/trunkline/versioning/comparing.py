"""What differs between two trees, at the cost of what differs: parts that both share are never read, and of two nodes with the
same place only the items that are not the same bytes are decoded."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import islice, takewhile
from typing import cast

from trunkline.errors import CorruptionError
from trunkline.versioning.nodes import Entry, Ref, TreeNode, decode_entries, decode_refs, skip_items
from trunkline.versioning.trees import NODES_AHEAD_MAX, Load


def compare(
    load: Load, old_root: bytes, new_root: bytes, low: bytes = b"", high: bytes | None = None
) -> Iterator[tuple[Entry | None, Entry | None]]:
    """The files that differ in any way, as ``(old, new)``. Parts that both trees share are never read."""
    old, new = _Side(load, old_root, low, high), _Side(load, new_root, low, high)
    while True:
        _skip_equal(old.left, new.left)
        a, b = old.peek(), new.peek()
        if isinstance(a, Ref):
            if isinstance(b, Ref) and a.hash == b.hash:
                old.take()
                new.take()
            elif isinstance(b, Ref) and a[:2] == b[:2]:  # the same place
                old.expand_both(new)
            elif isinstance(b, Ref) and b.level > a.level:
                new.expand(old)
            else:
                old.expand(new)
        elif isinstance(b, Ref):
            new.expand(old)
        elif a is None and b is None:
            return
        elif a is not None and (b is None or a.key < b.key):
            yield a, None
            old.take()
        elif b is not None and (a is None or b.key < a.key):
            yield None, b
            new.take()
        else:
            if a != b:
                yield a, b
            old.take()
            new.take()


def _skip_equal(old: list[Entry | Ref], new: list[Entry | Ref]) -> None:
    """Most of what two trees have is the same, and goes here."""
    while old and new and old[-1] == new[-1]:
        old.pop()
        new.pop()


class _Side:
    """What is left of one tree, next item last: entries, and nodes not opened yet."""

    def __init__(self, load: Load, root: bytes, low: bytes, high: bytes | None) -> None:
        self._load = load
        self._low = low
        self._high = high
        self.left: list[Entry | Ref] = []
        self._ahead: set[bytes] = set()
        node = load(root)
        if node.items:
            last = node.keys[-1]
            self.left.append(Ref(node.level, last, root, b"", 0, 0))

    def peek(self) -> Entry | Ref | None:
        return self.left[-1] if self.left else None

    def take(self) -> None:
        self.left.pop()

    def expand(self, other: _Side) -> None:
        """Open the next node."""
        ref = cast(Ref, self.left[-1])
        node = self._load(ref.hash, self._coming(other))
        self.left.pop()
        self._push(node.items, node.keys, node.level)

    def expand_both(self, other: _Side) -> None:
        """Open the next node of both, which have one place: what they share is left out."""
        name, other_name = (cast(Ref, side.left[-1]).hash for side in (self, other))
        ahead = [*self._coming(other), *other._coming(self), other_name]
        node, other_node = self._load(name, ahead), self._load(other_name)
        for side, items in zip((self, other), differing(node, other_node), strict=True):
            side.left.pop()
            side._push(items, [_key(item) for item in items], node.level)

    def _coming(self, other: _Side) -> list[bytes]:
        """Of those of the next node's level that wait behind it, what the other side does not have as well will be opened
        too: let them come along."""
        ref = cast(Ref, self.left[-1])
        if ref.hash in self._ahead:
            return []
        shared = {item.hash for item in other.left}
        waiting = (item for item in reversed(self.left) if isinstance(item, Ref))
        same = (item.hash for item in takewhile(lambda item: item.level == ref.level, waiting))
        self._ahead = set(islice((name for name in same if name not in shared), NODES_AHEAD_MAX))
        return list(self._ahead)

    def _push(self, items: Sequence[Entry | Ref], keys: list[bytes], level: int) -> None:
        start = bisect_left(keys, self._low) if self._low else 0
        end = len(keys)
        if self._high is not None:
            end = bisect_left(keys, self._high)
            if level:
                end = min(end + 1, len(keys))
        self.left.extend(reversed(items[start:end]))


def differing(old: TreeNode, new: TreeNode) -> tuple[list[Entry | Ref], list[Entry | Ref]]:
    """The items of two nodes of one level without those that both have at their beginning or their end.

    An item's bytes depend on the key before it, so equal bytes behind equal keys are equal items.
    """
    a, b, level = old.data, new.data, old.level
    try:
        same = _common_start(a, old.begin, b, new.begin)
        at, key = skip_items(a, old.begin, min(old.count, new.count), level, old.begin + same)
        return _middles(a, at, b, new.begin + at - old.begin, key, level)
    except IndexError as error:
        raise CorruptionError("this tree node is cut short", kind="bad_node") from error


def _middles(
    a: bytes, at_a: int, b: bytes, at_b: int, key: bytes, level: int
) -> tuple[list[Entry | Ref], list[Entry | Ref]]:
    same = _common_end(a, at_a, b, at_b)
    key_a = key_b = key
    old: list[Entry | Ref] = []
    new: list[Entry | Ref] = []
    while True:
        left_a, left_b = len(a) - at_a, len(b) - at_b
        if left_a == left_b <= same and (key_a == key_b or not left_a):
            return old, new
        if left_a >= left_b:
            item, at_a = _item(a, at_a, level, key_a)
            key_a = _key(item)
            old.append(item)
        else:
            item, at_b = _item(b, at_b, level, key_b)
            key_b = _key(item)
            new.append(item)


def _item(data: bytes, at: int, level: int, key: bytes) -> tuple[Entry | Ref, int]:
    if level:
        refs, _, at = decode_refs(data, at, 1, level, key)
        return refs[0], at
    entries, _, at = decode_entries(data, at, 1, key)
    return entries[0], at


def _key(item: Entry | Ref) -> bytes:
    return item.last_key if isinstance(item, Ref) else item.key


def _common_start(a: bytes, at_a: int, b: bytes, at_b: int) -> int:
    """How many bytes are the same from there on."""
    low, high = 0, min(len(a) - at_a, len(b) - at_b)
    while low < high:
        middle = (low + high + 1) // 2
        if a[at_a + low : at_a + middle] == b[at_b + low : at_b + middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _common_end(a: bytes, at_a: int, b: bytes, at_b: int) -> int:
    """How many bytes are the same before the end, and not before there."""
    low, high = 0, min(len(a) - at_a, len(b) - at_b)
    while low < high:
        middle = (low + high + 1) // 2
        if a[len(a) - middle : len(a) - low] == b[len(b) - middle : len(b) - low]:
            low = middle
        else:
            high = middle - 1
    return low
