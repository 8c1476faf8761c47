"""BLAKE3: the one hash of everything that is stored.

Plain BLAKE3 names bytes. Values that are computed from other hashes use BLAKE3's key-derivation mode with a context of their
own, so that no file content, however chosen, can have the hash of a directory or of a chunk list.
"""

from __future__ import annotations

from blake3 import blake3

from trunkline.errors import InvalidInputError

HASH_BYTES = 32

FILE_CONTEXT = "trunkline 2026-11 file of several chunks v1"
LEAF_CONTEXT = "trunkline 2026-11 tree leaf identity v1"
INNER_CONTEXT = "trunkline 2026-11 tree inner identity v1"


def digest(data: bytes | memoryview) -> bytes:
    """The 32-byte BLAKE3 hash of ``data``."""
    return blake3(data).digest()


def derive(context: str, data: bytes) -> bytes:
    """A 32-byte hash in the domain of ``context``."""
    return blake3(data, derive_key_context=context).digest()


def from_hex(text: str, what: str = "hash") -> bytes:
    """The 32 bytes behind 64 lower-case hex digits.

    :raises InvalidInputError: naming ``what`` it should have been.
    """
    try:
        value = bytes.fromhex(text)
    except ValueError:
        value = b""
    if len(value) != HASH_BYTES or value.hex() != text:
        raise InvalidInputError(
            f"{text!r} is not a {what}: 64 lower-case hex digits are expected", kind="bad_hash"
        )
    return value
