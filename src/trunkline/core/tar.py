"""Tar archives, block by block: pure functions, so that both ends of a stream make the same bytes."""

from __future__ import annotations

import struct
import tarfile
from typing import Self

BLOCK_BYTES = 512
END = b"\0" * (2 * BLOCK_BYTES)
EXECUTABLE_MODE = 0o755
PLAIN_MODE = 0o644
_FINE = struct.Struct(">4sII")
"""The last 12 bytes of a header block, which every tar program leaves alone: ``TLNS``, then nanoseconds. The portable way, an
extended header per file, doubles the cost of small files."""
_FINE_MAGIC = b"TLNS"
_CHECKSUM = slice(148, 156)


def header(name: str, *, size: int, modified_ns: int | None = None, executable: bool = False) -> bytes:
    """What comes before a file's content. ``modified_ns``: nanoseconds since the epoch; other programs see whole seconds."""
    info = tarfile.TarInfo(name)
    info.size = size
    info.mode = EXECUTABLE_MODE if executable else PLAIN_MODE
    if modified_ns is None:
        return info.tobuf(tarfile.PAX_FORMAT)
    info.mtime, rest = divmod(modified_ns, 10**9)
    made = bytearray(info.tobuf(tarfile.PAX_FORMAT))
    block = made[-BLOCK_BYTES:]
    block[-_FINE.size :] = _FINE.pack(_FINE_MAGIC, rest, 0)
    block[_CHECKSUM] = b" " * 8
    block[_CHECKSUM] = b"%06o\0 " % sum(block)
    made[-BLOCK_BYTES:] = block
    return bytes(made)


def padding(size: int) -> bytes:
    """What comes after a file's content, up to the next block."""
    return b"\0" * (-size % BLOCK_BYTES)


class CutShortError(tarfile.ReadError):
    """An archive ends, or cannot be read on, between two entries."""


class TimedInfo(tarfile.TarInfo):
    """An entry that knows its time to the nanosecond, where the archive does: ours, and extended headers of others."""

    fine: int | None = None

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Self:
        """tarfile takes whatever is no header for the archive's end, and what was cut off would be missing without a word.

        :raises CutShortError: unless the end has its marker, a block of zeros (two is the rule, but with one nothing is lost).
        """
        try:
            return super().fromtarfile(archive)
        except tarfile.HeaderError as error:
            kind = type(error).__name__  # tarfile makes no promise of their names, but a test holds each
            is_first = archive.offset == 0  # no archive at all: tarfile says so
            if is_first or kind in ("EOFHeaderError", "SubsequentHeaderError"):
                raise
            if kind == "EmptyHeaderError":
                raise CutShortError("it is cut short: the marker of its end is missing") from error
            raise CutShortError(f"it is cut short or damaged between two entries ({error})") from error

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        found = super().frombuf(buf, encoding, errors)
        magic, rest, _ = _FINE.unpack_from(buf, BLOCK_BYTES - _FINE.size)
        if magic == _FINE_MAGIC and rest < 10**9:
            found.fine = rest
        return found

    @property
    def modified_ns(self) -> int | None:
        """Nanoseconds since the epoch; None where the archive says nothing (zero, that is)."""
        if self.fine is not None:
            return int(self.mtime // 1) * 10**9 + self.fine
        exact = _decimal_ns(self.pax_headers.get("mtime", ""))
        if exact is not None:
            return exact
        return int(self.mtime) * 10**9 if self.mtime > 0 else None


def _decimal_ns(text: str) -> int | None:
    """``1700000000.123456789`` as nanoseconds; a float would lose some of them."""
    whole, _, rest = text.partition(".")
    sign = -1 if whole.startswith("-") else 1
    digits = whole.removeprefix("-")
    if not (digits.isdecimal() and len(digits) <= 12 and (not rest or rest.isdecimal())):
        return None
    return sign * (int(digits) * 10**9 + int(rest[:9].ljust(9, "0")))
