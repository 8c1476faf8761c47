"""The Merkle range tree: sorted files in nodes whose ends depend on the keys alone.

Because of that, the tree of a set of files is the same however it was made, a change touches only the nodes around it, and the
nodes inside a directory are those that a tree of that directory alone would have: its hash and size come from a few nodes.
"""

from __future__ import annotations

import heapq
import threading
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple, NoReturn, Protocol, cast

from trunkline.errors import CorruptionError, InternalError
from trunkline.versioning.nodes import (
    EMPTY_ROOT,
    LEVEL_MAX,
    NODE_ITEMS_MAX,
    Entry,
    Ref,
    TreeNode,
    closes,
    encode_inner,
    encode_leaf,
    inner_identity,
    leaf_identity,
)

CACHED_ITEMS_MAX = 65_536

NODES_AHEAD_MAX = 64
_SLASH = 0x2F


class Load(Protocol):
    """Reads a node. ``ahead`` are others that will probably be asked for next: they may be brought along."""

    def __call__(self, name: bytes, ahead: Sequence[bytes] = (), /) -> TreeNode: ...


Edit = tuple[bytes, Entry | None]
"""A key, and what is to be there: None deletes."""


class NodeCache:
    """Decoded nodes, most recently used last. Nodes never change, so all readers and writers share one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._nodes: OrderedDict[bytes, TreeNode] = OrderedDict()
        self._items = 0

    def loader(
        self,
        get: Callable[[bytes], bytes],
        get_many: Callable[[Sequence[bytes]], Mapping[bytes, bytes]] | None = None,
    ) -> Load:
        """A ``load`` that looks here first. ``get_many`` brings nodes ahead; it may leave some out."""

        def load(name: bytes, ahead: Sequence[bytes] = (), /) -> TreeNode:
            with self._lock:
                node = self._nodes.get(name)
                if node is not None:
                    self._nodes.move_to_end(name)
                    return node
                others = [other for other in ahead if other not in self._nodes] if get_many else []
            if get_many is not None and others:
                for other, data in get_many([*others, name]).items():
                    if other == name:
                        node = TreeNode(data)
                    else:
                        with suppress(CorruptionError):  # whoever asks for it is told
                            self._keep(other, TreeNode(data))
            if node is None:
                node = TreeNode(get(name))
            self._keep(name, node)
            return node

        return load

    def _keep(self, name: bytes, node: TreeNode) -> None:
        with self._lock:
            if name not in self._nodes:
                self._nodes[name] = node
                self._items += node.count
                while self._items > CACHED_ITEMS_MAX and len(self._nodes) > 1:
                    self._items -= self._nodes.popitem(last=False)[1].count


class TreeBuilder:
    """Makes a tree from entries, and whole nodes, in the order of their keys."""

    def __init__(self, put: Callable[[bytes], bytes] | None) -> None:
        """Without ``put`` nothing is encoded or stored: only identity, size and count of the result mean anything."""
        self._put = put
        self._entries: list[Entry] = []
        self._refs: list[list[Ref]] = [[] for _ in range(LEVEL_MAX + 1)]

    def add_entry(self, entry: Entry) -> None:
        self._entries.append(entry)
        if closes(entry.key, 0) or len(self._entries) >= NODE_ITEMS_MAX:
            self._close_leaf()

    def is_aligned(self, level: int) -> bool:
        """Whether a node of ``level`` could start here."""
        return not self._entries and not any(self._refs[:level])

    def can_take(self, ref: Ref) -> bool:
        """Whether a node can be used as it is: it starts where one would start, and it ends by its last key."""
        return closes(ref.last_key, ref.level) and self.is_aligned(ref.level)

    def add_ref(self, ref: Ref) -> None:
        """Add a node for which ``can_take`` holds."""
        self._push(ref)

    def finish(self) -> Ref:
        """The root. Of the empty tree: a leaf without entries."""
        if self._entries:
            self._close_leaf()
        for level in range(LEVEL_MAX + 1):
            refs = self._refs[level]
            if len(refs) == 1 and not any(self._refs[level + 1 :]):
                return refs[0]
            if refs:
                self._close_inner(level)
        return Ref(0, b"", EMPTY_ROOT, leaf_identity([]), 0, 0)

    def _close_leaf(self) -> None:
        entries, self._entries = self._entries, []
        name = self._put(encode_leaf(entries)) if self._put else b""
        size = sum([entry.size for entry in entries])
        self._push(Ref(0, entries[-1].key, name, leaf_identity(entries), size, len(entries)))

    def _close_inner(self, child_level: int) -> None:
        refs, self._refs[child_level] = self._refs[child_level], []
        level = child_level + 1
        if level >= LEVEL_MAX:
            raise InternalError("a tree is nested too deep")
        name = self._put(encode_inner(level, refs)) if self._put else b""
        size, count = sum([ref.size for ref in refs]), sum([ref.files for ref in refs])
        self._push(Ref(level, refs[-1].last_key, name, inner_identity(refs), size, count))

    def _push(self, ref: Ref) -> None:
        refs = self._refs[ref.level]
        refs.append(ref)
        if closes(ref.last_key, ref.level + 1) or len(refs) >= NODE_ITEMS_MAX:
            self._close_inner(ref.level)


class OrderedBuilder:
    """Makes a tree from entries alone, which come in the order of their keys, each once."""

    def __init__(self, put: Callable[[bytes], bytes], refuse: Callable[[bytes, bytes], NoReturn]) -> None:
        """``refuse`` is called with a file, and a key that would make it a directory."""
        self._builder = TreeBuilder(put)
        self._refuse = refuse
        self._prefixes: list[bytes] = []
        """The files so far whose keys the next key may begin with; those that do follow each other."""
        self.last_key = b""

    def add_all(self, entries: Iterable[Entry]) -> None:
        """The entries that follow."""
        prefixes, add_entry = self._prefixes, self._builder.add_entry
        key = self.last_key
        for entry in entries:
            key = entry.key
            while prefixes and not key.startswith(prefixes[-1]):
                prefixes.pop()
            for file in prefixes:
                if key[len(file)] == _SLASH:
                    self._refuse(file, key)
            prefixes.append(key)
            add_entry(entry)
        self.last_key = key

    def finish(self) -> Ref:
        return self._builder.finish()


# --- reading ------------------------------------------------------------------------------------------------------


def find(load: Load, root: bytes, key: bytes) -> Entry | None:
    """The file at ``key``."""
    return find_with_neighbours(load, root, key)[0]


def find_with_neighbours(load: Load, root: bytes, key: bytes) -> tuple[Entry | None, list[Entry]]:
    """The file at ``key``, and the files in the same node."""
    leaf = leaf_around(load, root, key)
    if leaf is None:
        return None, []
    at = bisect_left(leaf.keys, key)
    neighbours = cast("list[Entry]", leaf.items)
    return (neighbours[at], neighbours) if leaf.keys[at] == key else (None, neighbours)


def leaf_around(load: Load, root: bytes, key: bytes) -> TreeNode | None:
    """The leaf in which ``key`` is or would be; None behind the last key."""
    node = load(root)
    while True:
        at = bisect_left(node.keys, key)
        if at == len(node.keys):
            return None
        if node.level == 0:
            return node
        node = load(node.items[at].hash)


def entries(load: Load, root: bytes, low: bytes = b"", high: bytes | None = None) -> Iterator[Entry]:
    """The files with ``low <= key < high``, in order."""
    stack: list[tuple[TreeNode, int]] = []
    node = load(root)
    at = bisect_left(node.keys, low) if low else 0
    seen = 0
    while True:
        if at >= node.count:
            if not stack:
                return
            node, at = stack.pop()
        elif node.level:
            stack.append((node, at + 1))
            node = load(node.items[at].hash, _siblings(node, at, min(2 * seen, NODES_AHEAD_MAX), high))
            seen += 1
            at = bisect_left(node.keys, low) if low else 0
        else:
            keys, items = node.keys, cast("list[Entry]", node.items)
            end = len(keys) if high is None else bisect_left(keys, high)
            yield from items[at:end] if at or end < len(keys) else items
            if end < len(keys):
                return
            low = b""
            at = len(keys)


def union(load: Load, roots: Sequence[bytes]) -> Iterator[Entry]:
    """The files of all the trees, in order; of those with one key the last tree's."""
    if len(roots) == 1:
        yield from entries(load, roots[0])
        return
    ranked = [_ranked(load, root, -number) for number, root in enumerate(roots)]
    previous: bytes | None = None
    for key, _, entry in heapq.merge(*ranked):
        if key != previous:
            yield entry
            previous = key


def _ranked(load: Load, root: bytes, rank: int) -> Iterator[tuple[bytes, int, Entry]]:
    for entry in entries(load, root):
        yield entry.key, rank, entry


def _siblings(node: TreeNode, at: int, count: int, high: bytes | None) -> list[bytes]:
    """The nodes behind an item that a walk up to ``high`` comes to next."""
    end = min(at + 1 + count, len(node.items))
    if count and high is not None:
        end = min(end, bisect_left(node.keys, high) + 1)
    return [item.hash for item in node.items[at + 1 : end]]


def prefix_end(prefix: bytes) -> bytes:
    """The end of the range of keys below a directory, given with its slash: ``/`` is followed by ``0``."""
    return prefix[:-1] + b"0"


def directory_range(path: str) -> tuple[bytes, bytes | None]:
    """The keys below a directory, given by its absolute path."""
    if path == "/":
        return b"", None
    prefix = path[1:].encode() + b"/"
    return prefix, prefix_end(prefix)


def has_any(load: Load, root: bytes, low: bytes, high: bytes | None) -> bool:
    return next(entries(load, root, low, high), None) is not None


class Child(NamedTuple):
    """A direct child of a directory: a file, or (``entry`` None) a directory."""

    name: bytes
    entry: Entry | None


def children(load: Load, root: bytes, low: bytes, high: bytes | None, start: bytes = b"") -> Iterator[Child]:
    """The direct children of the directory whose files are in that range, from the key ``start`` on; what is below a child
    is skipped by seeking."""
    at = max(low, start)
    skip = len(low)
    while True:
        directory: bytes | None = None
        for entry in entries(load, root, at, high):
            slash = entry.key.find(b"/", skip)
            if slash >= 0:
                directory = entry.key[: slash + 1]
                break
            yield Child(entry.key[skip:], entry)
        if directory is None:
            return
        yield Child(directory[skip:-1], None)
        at = prefix_end(directory)


def summarize(load: Load, root: bytes, low: bytes = b"", high: bytes | None = None) -> Ref:
    """Identity, size and count of a range, as of a tree that holds nothing else. Reads the nodes at both ends only."""
    builder = TreeBuilder(None)

    def visit(node: TreeNode, before: bytes | None) -> None:
        start = bisect_left(node.keys, low) if low else 0
        if start:
            before = node.keys[start - 1]
        for position in range(start, len(node.items)):
            key = node.keys[position]
            if node.level == 0:
                if high is not None and key >= high:
                    return
                builder.add_entry(cast(Entry, node.items[position]))
                continue
            ref = cast(Ref, node.items[position])
            starts_inside = not low or (before is not None and before >= low)
            ends_inside = high is None or key < high
            if starts_inside and ends_inside and builder.can_take(ref):
                builder.add_ref(ref)
            else:
                visit(load(ref.hash), before)
            if not ends_inside:
                return
            before = key

    visit(load(root), None)
    return builder.finish()


def root_ref(load: Load, root: bytes) -> Ref:
    """Size and count of a whole tree, from its root node alone."""
    node = load(root)
    size = sum([item.size for item in node.items])
    if node.level == 0:
        items = cast("list[Entry]", node.items)
        return Ref(0, node.keys[-1] if node.keys else b"", root, leaf_identity(items), size, len(items))
    refs = cast("list[Ref]", node.items)
    return Ref(node.level, node.keys[-1], root, inner_identity(refs), size, sum([ref.files for ref in refs]))


# --- changing -----------------------------------------------------------------------------------------------------


def edit(load: Load, put: Callable[[bytes], bytes], root: bytes, edits: Iterable[Edit]) -> Ref:
    """The tree with the edits applied; they come sorted by key, one per key. Nodes without a change are kept as they are.

    A file that is put again with the same content and without a modification time keeps the one it has.
    """
    builder = TreeBuilder(put)
    queue = iter(edits)
    waiting = next(queue, None)

    def merge_leaf(node: TreeNode) -> None:
        nonlocal waiting
        for key, item in zip(node.keys, node.items, strict=True):
            old = cast(Entry, item)
            while waiting is not None and waiting[0] < key:
                if waiting[1] is not None:
                    builder.add_entry(waiting[1])
                waiting = next(queue, None)
            if waiting is not None and waiting[0] == key:
                if waiting[1] is not None:
                    builder.add_entry(_keep_mtime(old, waiting[1]))
                waiting = next(queue, None)
            else:
                builder.add_entry(old)

    def visit(node: TreeNode) -> None:
        if node.level == 0:
            merge_leaf(node)
            return
        for item in node.items:
            ref = cast(Ref, item)
            if (waiting is None or waiting[0] > ref.last_key) and builder.can_take(ref):
                builder.add_ref(ref)
            else:
                visit(load(ref.hash))

    visit(load(root))
    while waiting is not None:
        if waiting[1] is not None:
            builder.add_entry(waiting[1])
        waiting = next(queue, None)
    return builder.finish()


def _keep_mtime(old: Entry, new: Entry) -> Entry:
    if new.mtime is None and new._replace(mtime=old.mtime) == old:
        return old
    return new
