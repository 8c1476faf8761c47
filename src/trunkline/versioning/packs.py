"""The bytes of pack files, as ``docs/format.md`` specifies them, and the choice of what to compress. Pure.

A pack is a header, stored chunks one after the other, and an index of them at its end, so that the database's index can be
rebuilt from the packs alone.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from trunkline.core.hashing import HASH_BYTES, digest
from trunkline.errors import CorruptionError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

HEADER = b"TLPACK\x00\x01"
"""Magic, then the version in two bytes."""
FOOTER_MAGIC = b"TLPKEND\x01"
_RECORD = struct.Struct("<32sBII")
_TRAILER = struct.Struct("<I32s8s")

_new = tuple.__new__

PACK_BYTES = 16 * 2**20
"""A pack is closed once it holds this much,"""
SMALL_PARTS_BYTES = 4096
"""Parts that are smaller on average are joined before they are written."""
PACK_RECORDS_MAX = 16_384
"""or so many chunks: their rows are one transaction, and other writers wait for it."""
CHUNK_BYTES_MAX = 64 * 2**20
"""What a reader will decompress at most."""

STORED = 0
ZSTD = 1
ZSTD_LEVEL = 1
COMPRESS_MIN_BYTES = 64
WORTHWHILE = 0.95
MISSES_IN_A_ROW = 16
TRY_EVERY = 16
_SAMPLE_BYTES = 2048
_SAMPLE_FROM_BYTES = 16 * 1024


class PackRecord(NamedTuple):
    """Where a chunk lies in a pack."""

    hash: bytes
    offset: int
    length: int
    raw_length: int
    codec: int


class Compressor:
    """Decides and compresses. Not safe between threads."""

    def __init__(self) -> None:
        self._zstd = zstd.ZstdCompressor(level=ZSTD_LEVEL)
        self._misses = 0

    def _compress(self, raw: bytes | memoryview) -> bytes:
        return self._zstd.compress(
            raw, zstd.ZstdCompressor.FLUSH_FRAME
        )  # one frame; the context is used again

    def __call__(self, raw: bytes | memoryview) -> tuple[int, bytes | memoryview]:
        """``(codec, stored bytes)``. Three samples of a larger chunk tell cheaply that it is a picture or an archive; after
        many such chunks a look at a few bytes tells it more cheaply still, most of the time."""
        size = len(raw)
        if size < COMPRESS_MIN_BYTES:
            return STORED, raw
        if self._misses >= MISSES_IN_A_ROW and self._misses % TRY_EVERY and _looks_random(raw):
            self._misses += 1
            return STORED, raw
        if size >= _SAMPLE_FROM_BYTES:
            middle = size // 2
            places = (raw[:_SAMPLE_BYTES], raw[middle : middle + _SAMPLE_BYTES], raw[-_SAMPLE_BYTES:])
            if len(self._compress(b"".join(places))) > WORTHWHILE * 3 * _SAMPLE_BYTES:
                self._misses += 1
                return STORED, raw
        packed = self._compress(raw)
        if len(packed) > WORTHWHILE * size:
            self._misses += 1
            return STORED, raw
        self._misses = 0
        return ZSTD, packed


def _looks_random(raw: bytes | memoryview) -> bool:
    """Whether the bytes in the middle are about as diverse as random ones, of which 64 have 57 values; of base64 they have 41."""
    middle = len(raw) // 2
    sample = raw[max(0, middle - 32) : middle + 32]
    return len(set(sample)) > 0.75 * len(sample)


def decompress(codec: int, stored: bytes | memoryview, raw_length: int) -> bytes:
    """The chunk's bytes, which are no view of ``stored``.

    :raises CorruptionError: if the bytes do not decompress to ``raw_length`` bytes.
    """
    if codec == STORED:
        raw = bytes(stored)  # of bytes: the same object, no copy
    elif codec == ZSTD:
        if raw_length > CHUNK_BYTES_MAX:
            raise CorruptionError(f"a chunk claims to have {raw_length} bytes", kind="bad_chunk")
        frame = zstd.ZstdDecompressor()
        try:
            raw = frame.decompress(stored, max_length=raw_length + 1)  # one more: room to find the end
        except zstd.ZstdError as error:
            raise CorruptionError(f"a chunk does not decompress: {error}", kind="bad_chunk") from error
        if not frame.eof or frame.unused_data:
            raise CorruptionError("a chunk does not decompress to what it claims", kind="bad_chunk")
    else:
        raise CorruptionError(
            f"a chunk has codec {codec}, which this trunkline does not know", kind="unknown_format"
        )
    if len(raw) != raw_length:
        raise CorruptionError(f"a chunk has {len(raw)} bytes instead of {raw_length}", kind="bad_chunk")
    return raw


class PackBuilder:
    """One pack while it grows, in memory."""

    def __init__(self) -> None:
        self.parts: list[bytes | memoryview] = [HEADER]
        self.views: list[memoryview] = []
        """Those parts that lie in buffers which somebody wants back."""
        self.records: list[PackRecord] = []
        self._compressed: list[bytes] = []
        """Hashes of the bytes of compressed chunks."""
        self.size = len(HEADER)

    def add(self, name: bytes, codec: int, stored: bytes | memoryview, raw_length: int) -> None:
        length = len(stored)
        self.records.append(_new(PackRecord, (name, self.size, length, raw_length, codec)))
        self.parts.append(stored)
        if codec != STORED:
            self._compressed.append(digest(stored))
        if type(stored) is memoryview:
            self.views.append(stored)
        self.size += length

    @property
    def is_full(self) -> bool:
        return self.size >= PACK_BYTES or len(self.records) >= PACK_RECORDS_MAX

    def seal(self) -> str:
        """Append the index; returns the pack's name. Nothing can be added afterwards.

        The index says all about the chunks and their order, so it need not be hashed what is stored as it is.
        """
        pack = _RECORD.pack
        index = b"".join([pack(name, codec, length, raw) for name, _, length, raw, codec in self.records])
        name = _name(digest(index), self._compressed)
        footer = index + _TRAILER.pack(len(self.records), digest(index), FOOTER_MAGIC)
        if self.size < SMALL_PARTS_BYTES * len(self.parts):
            self.parts = [b"".join(self.parts)]
        self.parts.append(footer)
        self.size += len(footer)
        return name


def _name(index: bytes, compressed: Sequence[bytes]) -> str:
    """What a pack is called: by the hash of its index, and by those of the chunks that are compressed in it. A frame of zstd
    has bits that mean nothing, so of such a chunk the hash of its content does not tell whether its bytes are as they were.
    """
    return (digest(index + b"".join(compressed)) if compressed else index).hex()


def object_key(pack_name: str) -> str:
    return f"packs/{pack_name[:2]}/{pack_name}"


TRAILER_BYTES = _TRAILER.size
_COUNT_BYTES = 4
"""Before the hash of the index in the trailer."""


def packed_bytes(lengths: Iterable[int]) -> int:
    """How large a pack is that holds chunks of these stored lengths and nothing else; nothing for none."""
    found = list(lengths)
    return len(HEADER) + sum(found) + len(found) * _RECORD.size + TRAILER_BYTES if found else 0


def index_bytes(trailer: bytes) -> int:
    """How long the index before the trailer is.

    :raises CorruptionError: if these are not the last bytes of a pack.
    """
    if len(trailer) != TRAILER_BYTES or not trailer.endswith(FOOTER_MAGIC):
        raise CorruptionError("this is not the end of a pack: it is cut short or damaged", kind="bad_pack")
    count: int = _TRAILER.unpack(trailer)[0]
    return count * _RECORD.size


def read_index(footer: bytes) -> list[PackRecord]:
    """The records of a pack from its last bytes (index and trailer).

    :raises CorruptionError: if they are damaged.
    """
    length = index_bytes(footer[-TRAILER_BYTES:])
    _, name, _ = _TRAILER.unpack(footer[-TRAILER_BYTES:])
    index = footer[-TRAILER_BYTES - length : -TRAILER_BYTES]
    if len(index) != length or digest(index) != name or len(name) != HASH_BYTES:
        raise CorruptionError("the index of a pack is damaged", kind="bad_pack")
    records: list[PackRecord] = []
    offset = len(HEADER)
    for chunk, codec, stored, raw in _RECORD.iter_unpack(index):
        records.append(PackRecord(chunk, offset, stored, raw, codec))
        offset += stored
    return records


def is_intact(name: str, data: bytes) -> bool:
    """Whether these are the bytes of the pack of that name, to the last one."""
    if not data.startswith(HEADER):
        return False
    try:
        records = read_index(data[-TRAILER_BYTES - index_bytes(data[-TRAILER_BYTES:]) :])
        if packed_bytes(record.length for record in records) != len(data):
            return False
        view = memoryview(data)
        compressed = []
        for _, offset, length, _, codec in records:
            if codec != STORED:
                compressed.append(digest(view[offset : offset + length]))
        if _name(data[-TRAILER_BYTES + _COUNT_BYTES : -len(FOOTER_MAGIC)], compressed) != name:
            return digest(data).hex() == name  # what packs were named by at first
        return all(
            digest(decompress(r.codec, view[r.offset : r.offset + r.length], r.raw_length)) == r.hash
            for r in records
        )
    except CorruptionError:
        return False
