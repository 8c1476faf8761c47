"""The bytes: packs, nodes and chunks are what docs/format.md says, for good."""

from __future__ import annotations

import random
from contextlib import suppress
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.core.hashing import digest
from trunkline.errors import CorruptionError
from trunkline.versioning import files
from trunkline.versioning.files import append_content, cut, read_content, write_content
from trunkline.versioning.nodes import (
    EMPTY_LEAF,
    EMPTY_ROOT,
    Entry,
    ListRef,
    Ref,
    closes,
    decode_list,
    decode_tree,
    encode_inner,
    encode_leaf,
    encode_list,
)
from trunkline.versioning.packs import (
    TRAILER_BYTES,
    Compressor,
    PackBuilder,
    decompress,
    index_bytes,
    is_intact,
    read_index,
)

# Fixed for good: another value here would be another format.
ENDS = [201, 415, 494, 673, 731, 735, 769, 942]
UPPER_ENDS = [735, 2216, 7238, 70080, 72172, 79487]
CUTS = [264465, 269475, 176658, 137620, 285505, 288350, 289407, 323042, 262381, 306980, 345500, 156604, 39741]

keys = st.binary(min_size=1, max_size=12)
hashes = st.binary(min_size=32, max_size=32)
sizes = st.integers(0, 2**50)
entries = st.builds(
    Entry, keys, sizes, hashes, st.integers(0, 15), st.none() | st.integers(-(2**63), 2**63), st.booleans()
)


@given(st.lists(entries, max_size=30, unique_by=lambda entry: entry.key))
def test_leaves_survive(items: list[Entry]) -> None:
    items.sort()
    node = decode_tree(encode_leaf(items))
    assert (node.level, node.items, node.keys) == (0, items, [entry.key for entry in items])


@given(
    st.lists(
        st.builds(Ref, st.just(2), keys, hashes, hashes, sizes, sizes),
        max_size=20,
        unique_by=lambda r: r.last_key,
    )
)
def test_inner_nodes_survive(items: list[Ref]) -> None:
    items.sort(key=lambda ref: ref.last_key)
    assert decode_tree(encode_inner(3, items)).items == items


@given(st.lists(st.builds(ListRef, st.just(1), hashes, sizes), max_size=20))
def test_chunk_lists_survive(items: list[ListRef]) -> None:
    assert decode_list(encode_list(2, items), 2) == items


@given(st.lists(entries, min_size=1, max_size=5, unique_by=lambda entry: entry.key), st.data())
def test_damaged_nodes_never_do_worse_than_a_clear_error(items: list[Entry], data: st.DataObject) -> None:
    encoded = bytearray(encode_leaf(sorted(items)))
    at = data.draw(st.integers(0, len(encoded) - 1))
    with pytest.raises(CorruptionError):
        decode_tree(bytes(encoded[:at]))
    encoded[at] ^= 1 << data.draw(st.integers(0, 7))
    with suppress(CorruptionError):
        decode_tree(bytes(encoded))


def test_the_bytes_of_a_leaf_are_fixed() -> None:
    leaf = encode_leaf(
        [
            Entry(b"a/b.txt", 300, bytes(range(32)), 0, None, False),
            Entry(b"a/c", 5, bytes(32), 2, -1, True),
        ]
    )
    assert leaf.hex() == (
        "54010002"
        + "0007612f622e747874"
        + "00"
        + "ac02"
        + bytes(range(32)).hex()
        + "020163"
        + "23"
        + "05"
        + "01"
        + "00" * 32
    )
    assert EMPTY_LEAF.hex() == "54010000"
    assert EMPTY_ROOT.hex() == "1f5387d07f264470833b19a1c802f5d84310c7fa8ea6015dd78f14115492d268"


def test_what_is_newer_says_so() -> None:
    with pytest.raises(CorruptionError, match="version 2") as caught:
        decode_tree(b"\x54\x02\x00\x00")
    assert caught.value.kind == "unknown_format"
    with pytest.raises(CorruptionError, match="flags"):
        decode_tree(
            encode_leaf([Entry(b"a", 0, bytes(32), 0, None, False)]).replace(b"a\x00\x00", b"a\x04\x00")
        )


def test_boundaries_are_fixed() -> None:
    ends = [i for i in range(1000) if closes(b"file%d" % i, 0)]
    assert ends == ENDS
    assert [i for i in range(100_000) if closes(b"file%d" % i, 1)] == UPPER_ENDS


def test_cuts_are_fixed() -> None:
    data = random.Random(7).randbytes(3 * 2**20)
    assert [len(chunk) for chunk in cut([data])] == CUTS


@pytest.mark.parametrize("size", [0, 1, 2**20 - 1, 2**20, 2**20 + 1, 5 * 2**20 + 12345])
def test_cutting_does_not_depend_on_the_parts(size: int) -> None:
    data = random.Random(size).randbytes(size)
    whole = list(cut([data]))
    assert b"".join(whole) == data
    assert len(whole) == 1 or size > 2**20
    assert list(cut(data[i : i + 70_001] for i in range(0, size, 70_001))) == whole
    assert list(cut([b"", data[: size // 3], b"", data[size // 3 :]])) == whole
    assert all(len(chunk) <= files.CUT_MAX_BYTES for chunk in whole)


class Bag:
    """Chunks in a dictionary."""

    def __init__(self) -> None:
        self.chunks: dict[bytes, bytes] = {}

    def put(self, data: bytes) -> bytes:
        name = digest(data)
        self.chunks[name] = data
        return name

    def get(self, name: bytes) -> bytes:
        return self.chunks[name]


@pytest.mark.parametrize(
    ("first", "second"),
    [(0, 10), (10, 0), (100, 200), (2**20, 1), (900_000, 900_000), (3 * 2**20, 5), (7 * 2**20, 3 * 2**20)],
)
def test_appending_gives_what_writing_at_once_gives(first: int, second: int) -> None:
    bag, generator = Bag(), random.Random(first)
    a, b = generator.randbytes(first), generator.randbytes(second)
    whole = write_content([a, b], bag.put)
    base, added = write_content([a], bag.put), write_content([b], bag.put)
    assert append_content(base, added, bag.get, bag.put) == whole
    assert b"".join(read_content(whole, bag.get)) == a + b


def test_long_lists_are_nested_and_any_range_can_be_read() -> None:
    bag = Bag()
    pieces = [b"%07d" % i for i in range(40_000)]
    builder = files.ListBuilder(bag.put)
    for piece in pieces:
        builder.add(ListRef(0, bag.put(piece), len(piece)))
    content = builder.finish()
    assert content.level >= 2
    assert content.size == 280_000
    assert max(len(data) for data in bag.chunks.values()) < 100_000
    whole = b"".join(pieces)
    for offset, length in ((0, 10), (6, 2), (139_993, 21), (279_995, 100), (280_000, 1), (5, 0)):
        assert b"".join(read_content(content, bag.get, offset, length)) == whole[offset : offset + length]


def test_an_insert_at_the_start_costs_a_few_chunks() -> None:
    bag = Bag()
    data = random.Random(3).randbytes(12 * 2**20)
    write_content([data], bag.put)
    before = sum(map(len, bag.chunks.values()))
    content = write_content([b"!", data], bag.put)
    assert sum(map(len, bag.chunks.values())) - before < 1_200_000
    assert content.size == len(data) + 1


def test_packs_can_be_read_without_the_database() -> None:
    compress, pack = Compressor(), PackBuilder()
    raws = [b"text " * 1000, random.Random(1).randbytes(50_000), b"", b"x"]
    for raw in raws:
        codec, stored = compress(raw)
        pack.add(digest(raw), codec, stored, len(raw))
    name = pack.seal()
    data = b"".join(pack.parts)
    assert len(data) == pack.size
    assert data.startswith(b"TLPACK\x00\x01")
    length = index_bytes(data[-TRAILER_BYTES:])
    records = read_index(data[-TRAILER_BYTES - length :])
    assert records == pack.records
    assert [r.codec for r in records] == [1, 0, 0, 0]
    first = records[0]
    index = data[-TRAILER_BYTES + 4 : -8]
    assert name == digest(index + digest(data[first.offset : first.offset + first.length])).hex()
    for raw, r in zip(raws, records, strict=True):
        assert r.hash == digest(raw)
        assert decompress(r.codec, data[r.offset : r.offset + r.length], r.raw_length) == raw


def test_a_pack_is_intact_to_the_last_byte() -> None:
    compress, pack = Compressor(), PackBuilder()
    for raw in (b"text " * 20, random.Random(1).randbytes(40)):
        pack.add(digest(raw), *compress(raw), len(raw))
    name = pack.seal()
    data = b"".join(pack.parts)
    assert is_intact(name, data)
    assert is_intact(digest(data).hex(), data)  # as the first versions named packs
    assert not is_intact(digest(b"").hex(), data)
    for at, bit in product(range(len(data)), range(8)):
        broken = data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]
        assert not is_intact(name, broken)
        assert not is_intact(digest(data).hex(), broken)
    for at in range(len(data)):
        assert not is_intact(name, data[:at])
    assert not is_intact(name, data[:8] + b"x" + data[8:])


def test_a_damaged_pack_index_is_noticed() -> None:
    pack = PackBuilder()
    pack.add(digest(b"x"), 0, b"x", 1)
    pack.seal()
    footer = pack.parts[-1]
    for at in range(len(footer)):
        with pytest.raises(CorruptionError):
            read_index(footer[:at] + bytes([footer[at] ^ 1]) + footer[at + 1 :])
    with pytest.raises(CorruptionError):
        read_index(footer[:-1])


def test_chunks_that_do_not_decompress() -> None:
    codec, stored = Compressor()(b"abc" * 1000)
    assert codec == 1
    for broken, length in (
        (stored[:-3], 3000),
        (stored, 2999),
        (stored, 3001),
        (b"junk" + stored, 3000),
        (stored, 2**40),
    ):
        with pytest.raises(CorruptionError):
            decompress(1, broken, length)
    with pytest.raises(CorruptionError, match="codec 9"):
        decompress(9, b"", 0)
