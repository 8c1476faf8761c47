"""A reader of the store that shares no code with it, written from docs/format.md: what it finds is what was committed."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest
from backports import zstd
from blake3 import blake3

from tests.versioning.conftest import put
from trunkline.versioning.service import VersioningService

Entry = tuple[str, bool, int | None, bytes, bytes]


class Reader:
    """Files of a tree, from the object files alone."""

    def __init__(self, objects: Path) -> None:
        self.chunks: dict[bytes, bytes] = {}
        for path in objects.glob("packs/??/*"):
            self.read_pack(path.name, path.read_bytes())

    def read_pack(self, name: str, data: bytes) -> None:
        assert data[:8] == b"TLPACK\x00\x01"
        assert data[-8:] == b"TLPKEND\x01"
        (count,) = struct.unpack("<I", data[-44:-40])
        index = data[-44 - 41 * count : -44]
        assert blake3(index).digest() == data[-40:-8]
        offset, compressed = 8, b""
        for i in range(count):
            name_of_chunk, codec, length, raw_length = struct.unpack("<32sBII", index[41 * i :][:41])
            stored = data[offset : offset + length]
            offset += length
            raw = stored if codec == 0 else zstd.decompress(stored)
            compressed += b"" if codec == 0 else blake3(stored).digest()
            assert len(raw) == raw_length
            assert blake3(raw).digest() == name_of_chunk
            self.chunks[name_of_chunk] = raw
        named = blake3(data[-40:-8] + compressed).hexdigest() if compressed else data[-40:-8].hex()
        assert name in (named, blake3(data).hexdigest())

    def tree(self, name: bytes) -> tuple[list[Entry], bytes]:
        """Entries below a node, and its identity."""
        data = self.chunks[name]
        assert data[:2] == b"\x54\x01"
        level = data[2]
        count, at = varint(data, 3)
        key, entries, identity = b"", list[Entry](), b""
        for _ in range(count):
            shared, at = varint(data, at)
            more, at = varint(data, at)
            key = key[:shared] + data[at : at + more]
            at += more
            if level:
                below, its_identity = self.tree(data[at : at + 32])
                assert below[-1][0].encode() == key
                assert data[at + 32 : at + 64] == its_identity
                size, at = varint(data, at + 64)
                files, at = varint(data, at)
                assert (size, files) == (sum(len(e[3]) for e in below), len(below))
                entries += below
                identity += its_identity
            else:
                entry, at = self.entry(data, at, key)
                entries.append(entry)
                identity += bytes([len(key)]) + key + entry[4]
        context = f"trunkline 2026-11 tree {'inner' if level else 'leaf'} identity v1"
        return entries, blake3(identity, derive_key_context=context).digest()

    def entry(self, data: bytes, at: int, key: bytes) -> tuple[Entry, int]:
        flags = data[at]
        size, at = varint(data, at + 1)
        mtime = None
        if flags & 2:
            zigzag, at = varint(data, at)
            mtime = zigzag >> 1 if zigzag % 2 == 0 else -(zigzag + 1 >> 1)
        name, level = data[at : at + 32], flags >> 4
        content = self.content(name, level)
        assert len(content) == size
        shown = name
        if level:
            context = "trunkline 2026-11 file of several chunks v1"
            shown = blake3(bytes([level]) + name, derive_key_context=context).digest()
        return (key.decode(), bool(flags & 1), mtime, content, shown), at + 32

    def content(self, name: bytes, level: int) -> bytes:
        if level == 0:
            return self.chunks[name]
        data = self.chunks[name]
        assert data[:3] == bytes([0x46, 1, level])
        count, at = varint(data, 3)
        parts = []
        for _ in range(count):
            parts.append(self.content(data[at : at + 32], level - 1))
            size, at = varint(data, at + 32)
            assert len(parts[-1]) == size
        return b"".join(parts)


def varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        shift += 7
        at += 1
        if data[at - 1] < 0x80:
            return value, at


@pytest.mark.local_only
def test_another_program_reads_what_was_committed(versioning: VersioningService, tmp_path: Path) -> None:
    versioning.create_repo("default", "r")
    generator = random.Random(9)
    files = {f"d{i % 7}/f{i}": b"content %d" % i * (i % 50) for i in range(1500)}
    files |= {
        "big": generator.randbytes(5 * 2**20),
        "empty": b"",
        "ünï/cödé": b"x",
        "big-text": b"words " * 400_000,
    }
    made = versioning.modify(
        "default",
        "r@master",
        [
            put(path, data, modified_at=-1.5 if path == "big" else None, executable=path == "empty")
            for path, data in files.items()
        ],
    )
    assert made.root is not None
    entries, identity = Reader(tmp_path / "objects").tree(bytes.fromhex(made.root))
    assert {entry[0]: entry[3] for entry in entries} == files
    assert [entry[0].encode() for entry in entries] == sorted(path.encode() for path in files)
    assert {entry[0] for entry in entries if entry[1]} == {"empty"}
    assert {entry[0]: entry[2] for entry in entries if entry[2] is not None} == {"big": -1_500_000_000}
    assert versioning.stat(made.root).hash == identity.hex()
    assert {"/" + entry[0]: entry[4].hex() for entry in entries} == {
        i.path: i.hash for i in versioning.walk(made.root)
    }
