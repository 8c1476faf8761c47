"""The bytes of tree nodes and chunk lists, as ``docs/format.md`` specifies them. Pure: bytes in, tuples out.

Entries and references are named tuples, not dataclasses: a large tree makes millions of them, and they cost a third.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from blake3 import blake3

from trunkline.core.hashing import (
    FILE_CONTEXT,
    HASH_BYTES,
    INNER_CONTEXT,
    LEAF_CONTEXT,
    derive,
    digest,
)
from trunkline.errors import CorruptionError

TREE_MAGIC = 0x54
LIST_MAGIC = 0x46
NODE_VERSION = 1

BOUNDARY_BITS = 7
"""A node ends after one key in 128, on average."""
NODE_ITEMS_MAX = 2048
"""A node ends here whatever the keys are, so that none grows without bound."""
LEVEL_MAX = 9

_EXECUTABLE = 0x01
_HAS_MTIME = 0x02
_LEVEL_SHIFT = 4
_RESERVED = 0x0C
_new = tuple.__new__
"""Makes a named tuple of its values in half the time of its own constructor."""


class Entry(NamedTuple):
    """A file in a tree."""

    key: bytes
    """The path in UTF-8, without the leading slash."""
    size: int
    hash: bytes
    """Of the content: of the one chunk (level 0), or of the chunk list's root node (level 1 and up)."""
    level: int
    mtime: int | None
    """Nanoseconds since the epoch."""
    executable: bool


class Ref(NamedTuple):
    """A tree node, seen from the one above it."""

    level: int
    last_key: bytes
    hash: bytes
    identity: bytes
    """Changes exactly when names or contents below change; modification times and executable bits are not in it."""
    size: int
    files: int


class ListRef(NamedTuple):
    """A chunk (level 0) or a chunk list's node (level 1 and up), with the bytes of content below it."""

    level: int
    hash: bytes
    size: int


class TreeNode:
    """A node: a leaf (level 0) has entries as items, others have references. It is decoded when they are asked for: who
    compares two nodes mostly needs a few of them."""

    __slots__ = ("_decoded", "begin", "count", "data", "level")

    def __init__(self, data: bytes) -> None:
        """:raises CorruptionError: if it is not a tree node that this version can read, here or later."""
        self.level, self.count, self.begin = _header(data, TREE_MAGIC, "tree node")
        self.data = data
        self._decoded: tuple[list[Entry] | list[Ref], list[bytes]] | None = None

    @property
    def items(self) -> list[Entry] | list[Ref]:
        return (self._decoded or self.decode())[0]

    @property
    def keys(self) -> list[bytes]:
        """Of each item: its key, or the last key below it."""
        return (self._decoded or self.decode())[1]

    def decode(self) -> tuple[list[Entry] | list[Ref], list[bytes]]:
        data, count, level = self.data, self.count, self.level
        items: list[Entry] | list[Ref]
        try:
            if level == 0:
                items, keys, at = decode_entries(data, self.begin, count)
            else:
                items, keys, at = decode_refs(data, self.begin, count, level)
        except IndexError as error:
            raise CorruptionError("this tree node is cut short", kind="bad_node") from error
        if at != len(data):
            raise CorruptionError("this tree node has the wrong length", kind="bad_node")
        self._decoded = items, keys
        return self._decoded


def closes(key: bytes, level: int) -> bool:
    """Whether a node of ``level`` whose last key is ``key`` ends there. Depends on the key alone, so that trees with the
    same entries have the same nodes, however they came to be."""
    if level == 0:  # as below; most questions are of this kind
        return blake3(key).digest(1)[0] & 0x7F == 0
    bits = BOUNDARY_BITS * (level + 1)
    return level <= LEVEL_MAX - 2 and int.from_bytes(blake3(key).digest(8), "little") & ((1 << bits) - 1) == 0


def content_identity(entry: Entry) -> bytes:
    """The hash of a file's content: plain BLAKE3 for a file of one chunk, else derived from its chunk list."""
    if entry.level == 0:
        return entry.hash
    return derive(FILE_CONTEXT, bytes([entry.level]) + entry.hash)


def leaf_identity(entries: Sequence[Entry]) -> bytes:
    out = bytearray()
    for entry in entries:
        key = entry.key
        if len(key) < 0x80:
            out.append(len(key))
        else:
            _put_varint(out, len(key))
        out += key
        out += entry.hash if entry.level == 0 else content_identity(entry)
    return derive(LEAF_CONTEXT, bytes(out))


def inner_identity(refs: Sequence[Ref]) -> bytes:
    return derive(INNER_CONTEXT, b"".join([ref.identity for ref in refs]))


# --- encoding -----------------------------------------------------------------------------------------------------


def encode_leaf(entries: Sequence[Entry]) -> bytes:
    parts = [bytes((TREE_MAGIC, NODE_VERSION, 0)), _varint_of(len(entries))]
    previous, last_high, high_bytes = b"", -1, b""
    for key, size, content, level, mtime, executable in entries:
        common = min(len(previous), len(key))
        # As in _put_key; spelled out, since a large tree has millions of entries.
        bits = (int.from_bytes(previous[:common]) ^ int.from_bytes(key[:common])).bit_length()
        shared = common - (bits + 7) // 8
        rest = len(key) - shared
        flags = (_EXECUTABLE if executable else 0) | (level << _LEVEL_SHIFT)
        if mtime is None and size < 0x80 and shared < 0x80 and rest < 0x80:
            parts.append(b"%c%c%b%c%c%b" % (shared, rest, key[shared:], flags, size, content))
        elif mtime is not None and mtime >= 0 and shared < 0x80 and rest < 0x80:
            low, high = mtime << 1 & 0xFFFFFFF, mtime >> 27
            if high:
                time = _PAIRS[low & 0x3FFF] + _PAIRS[low >> 14]
                if high != last_high:  # of files that are about as old, the rest is the same
                    last_high, high_bytes = high, _varint_of(high)
                time += high_bytes
            else:
                time = _varint_of(low)
            of_size = _ENDS[size] if size < 0x4000 else _varint_of(size)
            parts.append(
                b"%c%c%b%c%b%b%b" % (shared, rest, key[shared:], flags | _HAS_MTIME, of_size, time, content)
            )
        else:
            head = _varint_of(shared) + _varint_of(rest) + key[shared:]
            if mtime is None:
                parts.append(b"%b%c%b%b" % (head, flags, _varint_of(size), content))
            else:
                time = _varint_of((mtime << 1) if mtime >= 0 else ((-mtime << 1) - 1))
                parts.append(b"%b%c%b%b%b" % (head, flags | _HAS_MTIME, _varint_of(size), time, content))
        previous = key
    return b"".join(parts)


def encode_inner(level: int, refs: Sequence[Ref]) -> bytes:
    out = bytearray((TREE_MAGIC, NODE_VERSION, level))
    _put_varint(out, len(refs))
    previous = b""
    for ref in refs:
        _put_key(out, previous, ref.last_key)
        out += ref.hash
        out += ref.identity
        _put_varint(out, ref.size)
        _put_varint(out, ref.files)
        previous = ref.last_key
    return bytes(out)


def encode_list(level: int, refs: Sequence[ListRef]) -> bytes:
    out = bytearray((LIST_MAGIC, NODE_VERSION, level))
    _put_varint(out, len(refs))
    for ref in refs:
        out += ref.hash
        _put_varint(out, ref.size)
    return bytes(out)


def _put_varint(out: bytearray, value: int) -> None:
    while value > 0x7F:
        out.append((value & 0x7F) | 0x80)
        value >>= 7
    out.append(value)


_PAIRS = [bytes((low | 0x80, high | 0x80)) for high in range(0x80) for low in range(0x80)]
"""14 bits of a varint that goes on, and, next, that ends: a modification time has 9 bytes, and a loop over them shows."""
_ENDS = [
    bytes((low,)) if not high else bytes((low | 0x80, high)) for high in range(0x80) for low in range(0x80)
]


def _varint_of(value: int) -> bytes:
    if value < 0x4000:
        return _ENDS[value]
    out = b""
    while value >= 0x4000:
        out += _PAIRS[value & 0x3FFF]
        value >>= 14
    return out + _ENDS[value]


def _put_key(out: bytearray, previous: bytes, key: bytes) -> None:
    """How many bytes it shares with the key before it, then the rest."""
    common = min(len(previous), len(key))
    differing_bits = int.from_bytes(previous[:common]) ^ int.from_bytes(
        key[:common]
    )  # no loop over bytes: 4 times faster
    shared = common - (differing_bits.bit_length() + 7) // 8
    _put_varint(out, shared)
    _put_varint(out, len(key) - shared)
    out += key[shared:]


# --- decoding -----------------------------------------------------------------------------------------------------


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = data[at]
    at += 1
    if value < 0x80:
        return value, at
    value &= 0x7F
    shift = 7
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _header(data: bytes, magic: int, what: str) -> tuple[int, int, int]:
    if len(data) < 4 or data[0] != magic:
        raise CorruptionError(f"these bytes are not a {what}", kind="bad_node")
    if data[1] != NODE_VERSION:
        raise CorruptionError(
            f"this {what} has format version {data[1]}, this trunkline knows version {NODE_VERSION}: upgrade trunkline",
            kind="unknown_format",
        )
    count, at = _varint(data, 3)
    return data[2], count, at


def decode_tree(data: bytes) -> TreeNode:
    """:raises CorruptionError: if it is not a tree node that this version can read."""
    node = TreeNode(data)
    node.decode()
    return node


def decode_entries(
    data: bytes, at: int, count: int, key: bytes = b""
) -> tuple[list[Entry], list[bytes], int]:
    """So many entries from there on, and where they end. ``key``: of the entry before."""
    items: list[Entry] = []
    for _ in range(count):
        shared, length = data[at], data[at + 1]
        if shared < 0x80 and length < 0x80:  # as in _decode_key; spelled out, since most are short
            at += 2 + length
            previous, key = key, key[:shared] + data[at - length : at]
            if len(key) != shared + length or (key <= previous and previous):
                raise CorruptionError("the keys of a tree node are out of order", kind="bad_node")
        else:
            key, at = _decode_key(data, at, key)
        flags, size = data[at], data[at + 1]
        if flags & _RESERVED:
            raise CorruptionError(
                "a tree entry has flags that this trunkline does not know", kind="unknown_format"
            )
        if size < 0x80:
            at += 2
        else:
            size, at = _varint(data, at + 1)
        mtime: int | None = None
        if flags & _HAS_MTIME:
            mtime, at = _varint(data, at)
            mtime = -((mtime + 1) >> 1) if mtime & 1 else mtime >> 1
        content = data[at : at + HASH_BYTES]
        at += HASH_BYTES
        items.append(
            _new(Entry, (key, size, content, flags >> _LEVEL_SHIFT, mtime, bool(flags & _EXECUTABLE)))
        )
    return items, [item.key for item in items], at


def decode_refs(
    data: bytes, at: int, count: int, level: int, key: bytes = b""
) -> tuple[list[Ref], list[bytes], int]:
    """The same for the references of a node of that level."""
    items: list[Ref] = []
    keys: list[bytes] = []
    for _ in range(count):
        shared, length = data[at], data[at + 1]
        if shared < 0x80 and length < 0x80:  # as among entries
            at += 2 + length
            previous, key = key, key[:shared] + data[at - length : at]
            if len(key) != shared + length or (key <= previous and previous):
                raise CorruptionError("the keys of a tree node are out of order", kind="bad_node")
        else:
            key, at = _decode_key(data, at, key)
        middle, end = at + HASH_BYTES, at + 2 * HASH_BYTES
        size, after = _varint(data, end)
        files, after = _varint(data, after)
        items.append(_new(Ref, (level - 1, key, data[at:middle], data[middle:end], size, files)))
        keys.append(key)
        at = after
    return items, keys, at


def skip_items(data: bytes, at: int, count: int, level: int, limit: int) -> tuple[int, bytes]:
    """Behind those of so many items that end before ``limit``; and the key of the last of them."""
    key = b""
    for _ in range(count):
        start, previous = at, key
        shared, length = data[at], data[at + 1]
        if shared < 0x80 and length < 0x80:
            at += 2 + length
            key = key[:shared] + data[at - length : at]
        else:
            key, at = _decode_key(data, at, key)
        if level:
            _, at = _varint(data, at + 2 * HASH_BYTES)
            _, at = _varint(data, at)
        else:
            flags = data[at]
            _, at = _varint(data, at + 1)
            if flags & _HAS_MTIME:
                _, at = _varint(data, at)
            at += HASH_BYTES
        if at > limit:
            return start, previous
    return at, key


def _decode_key(data: bytes, at: int, previous: bytes) -> tuple[bytes, int]:
    shared, at = _varint(data, at)
    length, at = _varint(data, at)
    end = at + length
    key = previous[:shared] + data[at:end]
    if len(key) != shared + length or (key <= previous and previous):
        raise CorruptionError("the keys of a tree node are out of order", kind="bad_node")
    return key, end


def decode_list(data: bytes, level: int) -> list[ListRef]:
    """:raises CorruptionError: if it is not a chunk list's node of this level."""
    found, count, at = _header(data, LIST_MAGIC, "chunk list")
    if found != level or level < 1:
        raise CorruptionError(f"this chunk list has level {found} where {level} belongs", kind="bad_node")
    refs: list[ListRef] = []
    try:
        for _ in range(count):
            content = data[at : at + HASH_BYTES]
            size, at = _varint(data, at + HASH_BYTES)
            refs.append(ListRef(level - 1, content, size))
    except IndexError as error:
        raise CorruptionError("this chunk list is cut short", kind="bad_node") from error
    if at != len(data):
        raise CorruptionError("this chunk list has the wrong length", kind="bad_node")
    return refs


EMPTY_LEAF = encode_leaf([])
EMPTY_ROOT = digest(EMPTY_LEAF)
"""The tree without files. It is never stored: its hash is known."""
