"""Archives, unfolded while they stream in: tar, plain or compressed (gzip, bzip2, xz, zstd), and zip.

An archive is hostile until it is read to its end. Every entry's name, type and size is judged before its content is stored;
what it grows to is counted as it grows; the first thing wrong ends it all, and since the caller's commit is atomic, nothing
of it stays.
"""

from __future__ import annotations

import bz2
import importlib
import lzma
import tarfile
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from typing import IO, Any, Protocol

from trunkline.core import tar
from trunkline.errors import TrunklineError
from trunkline.sources.bounds import Bounds, Meter, bad_archive, target_of
from trunkline.sources.zips import files_of_zip
from trunkline.versioning.model import PutFile

PART_BYTES = 256 * 1024
HEAD_BYTES = 512
EXTENSION_BYTES_MAX = 64 * 1024
"""A long name or an extended header may have this size: tarfile reads them whole."""
EXTENSIONS_TOTAL_BYTES_MAX = 2**20
"""All headers together that speak of the rest of an archive: tarfile keeps them."""
XZ_MEMORY_BYTES_MAX = 128 * 2**20

MAGICS = {
    b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",
}  # fmt: skip


def unpacked(
    parts: Iterable[bytes], *, into: str = "/", append: bool = False, bounds: Bounds | None = None
) -> Iterator[PutFile]:
    """The files of an archive as changes, in order; each one's content must be used up before the next is asked for.

    :raises InvalidInputError: ``bad_archive`` or ``bad_path``, naming the entry. :raises LimitError: see ``Meter``.
    """
    meter = Meter(bounds or Bounds())
    source = PartsFile(meter.reading(parts))
    head = source.peek(HEAD_BYTES)
    kind = next((name for magic, name in MAGICS.items() if head.startswith(magic)), "tar")
    if not head:
        raise bad_archive("it is empty")
    try:
        if kind == "zip":
            with tempfile.TemporaryFile(dir=meter.bounds.scratch) as whole:
                _copy(source, whole)
                yield from files_of_zip(whole, into, append, meter)
            return
        inner = source if kind == "tar" else PartsFile(_inflated(kind, source, meter))
        yield from _files_of_tar(inner, into, append, meter)
    except TrunklineError:
        raise
    except tar.CutShortError as error:
        raise bad_archive(str(error)) from error
    except (
        tarfile.TarError,
        zlib.error,
        lzma.LZMAError,
        EOFError,
        ValueError,
        OverflowError,
        RecursionError,
    ) as error:
        raise bad_archive(f"it is damaged, or no {kind} at all ({str(error)!a})") from error


# --- tar ----------------------------------------------------------------------------------------------------------


class _BoundedInfo(tar.TimedInfo):
    """Refuses oversized extension headers before they are read."""

    def _proc_member(self, archive: tarfile.TarFile) -> Any:
        own = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
        if self.type in (*own, tarfile.XGLTYPE):
            total = vars(archive).get("extension_bytes", 0) + (
                self.size if self.type == tarfile.XGLTYPE else 0
            )
            vars(archive)["extension_bytes"] = total
            if not 0 <= self.size <= EXTENSION_BYTES_MAX or total > EXTENSIONS_TOTAL_BYTES_MAX:
                raise bad_archive(f"an extended header of it ({self.name[:100]!a}) is too large")
        return super()._proc_member(archive)  # type: ignore[misc]


class Readable(Protocol):
    """All that a tar reader asks of a stream."""

    def read(self, size: int = -1, /) -> bytes: ...


def _files_of_tar(stream: Readable, into: str, append: bool, meter: Meter) -> Iterator[PutFile]:
    source: Any = stream  # typeshed asks for more methods than tarfile does
    with tarfile.open(fileobj=source, mode="r|", tarinfo=_BoundedInfo, bufsize=PART_BYTES) as archive:
        members: list[tarfile.TarInfo] = vars(archive)["members"]
        while (entry := archive.next()) is not None:
            assert isinstance(entry, _BoundedInfo), "it makes them all"
            members.clear()  # else it remembers every entry it has seen
            shown = ascii(entry.name[:300])
            meter.declare(entry.size, shown)
            if entry.isdir():
                if entry.name.strip("/") not in ("", "."):
                    target_of(into, entry.name.rstrip("/"))
                continue
            _refuse_special(entry, shown)
            yield PutFile(
                path=target_of(into, entry.name),
                parts=_content(archive, entry, meter, shown),
                modified_ns=entry.modified_ns,
                executable=bool(entry.mode & 0o100),
                append=append,
            )
    while stream.read(
        PART_BYTES
    ):  # padding; and only at its end a compressed stream says whether it is whole
        pass


def _refuse_special(entry: tarfile.TarInfo, shown: str) -> None:
    if entry.issparse() or any(name.startswith("GNU.sparse.") for name in entry.pax_headers):
        raise bad_archive(f"the entry {shown} is a sparse file: make the archive without --sparse")
    if entry.issym() or entry.islnk():
        raise bad_archive(
            f"the entry {shown} is a link: links are not taken, make the archive with --dereference"
        )
    if entry.ischr() or entry.isblk() or entry.isfifo():
        raise bad_archive(f"the entry {shown} is a device or a pipe: only files are taken")
    if not entry.isreg():
        raise bad_archive(f"the entry {shown} is of an unknown type")


def _content(archive: tarfile.TarFile, entry: tarfile.TarInfo, meter: Meter, shown: str) -> Iterator[bytes]:
    file = archive.extractfile(entry)
    assert file is not None, "a regular file has content"
    try:
        while part := file.read(PART_BYTES):
            meter.grow(len(part))
            yield part
    except (
        tarfile.TarError,
        zlib.error,
        lzma.LZMAError,
        EOFError,
    ) as error:  # inside whoever stores the parts
        raise bad_archive(f"the entry {shown} is cut short or damaged ({str(error)!a})") from error


# --- streams ------------------------------------------------------------------------------------------------------


class PartsFile:
    """Parts as a file that is read forward."""

    def __init__(self, parts: Iterable[bytes]) -> None:
        self._parts = iter(parts)
        self._part = b""
        self._at = 0

    def peek(self, size: int) -> bytes:
        """What comes next, without taking it."""
        self._part, self._at = self.read(size) + self._part[self._at :], 0
        return self._part[:size]

    def read(self, size: int = -1) -> bytes:
        """Exactly ``size`` bytes unless the end comes; all for -1."""
        found: list[bytes] = []
        left = size
        while left != 0:
            if self._at == len(self._part):
                part = next(self._parts, None)
                if part is None:
                    break
                self._part, self._at = part, 0
            piece = self._part[self._at :] if left < 0 else self._part[self._at : self._at + left]
            self._at += len(piece)
            left -= len(piece) if left > 0 else 0
            found.append(piece)
        return b"".join(found)


def _copy(source: PartsFile, target: IO[bytes]) -> None:
    while part := source.read(PART_BYTES):
        target.write(part)
    target.seek(0)


class _Zlib:
    """``zlib`` with the manners of the other decompressors."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(31)

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + data, max_length)

    @property
    def needs_input(self) -> bool:
        return not self._inner.unconsumed_tail

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data


def _new_decompressor(kind: str) -> Any:
    if kind == "gzip":
        return _Zlib()
    if kind == "bzip2":
        return bz2.BZ2Decompressor()
    if kind == "xz":
        return lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=XZ_MEMORY_BYTES_MAX)
    return importlib.import_module(
        "backports.zstd"
    ).ZstdDecompressor()  # refuses windows above 128 MiB by itself


def _inflated(kind: str, source: PartsFile, meter: Meter) -> Iterator[bytes]:
    """The bytes behind a compression; several streams one after the other are one."""
    decompressor = _new_decompressor(kind)
    data = b""
    while True:
        if not data and decompressor.needs_input:
            data = source.read(PART_BYTES)
            if not data:
                raise bad_archive(f"it is cut short: the {kind} stream has no end")
        try:
            out = decompressor.decompress(data, PART_BYTES)
        except (OSError, ValueError, zlib.error, lzma.LZMAError, MemoryError) as error:
            raise bad_archive(f"its {kind} stream is damaged, or asks for too much memory") from error
        except Exception as error:
            if type(error).__name__ != "ZstdError":
                raise
            raise bad_archive(f"its {kind} stream is damaged, or asks for too much memory") from error
        data = b""
        if out:
            meter.inflate(len(out))
            yield out
        if decompressor.eof:
            rest = decompressor.unused_data.lstrip(b"\0")
            rest = rest or source.read(PART_BYTES).lstrip(b"\0")
            if not rest:
                return
            decompressor, data = _new_decompressor(kind), rest
