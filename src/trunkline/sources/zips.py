"""Zip archives, judged as a whole before the first entry is read: the directory at their end is all there is to go by."""

from __future__ import annotations

import calendar
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from itertools import pairwise
from typing import IO

from trunkline.sources.bounds import Meter, bad_archive, target_of
from trunkline.versioning.model import PutFile

PART_BYTES = 256 * 1024
DIRECTORY_BYTES_MAX = 256 * 2**20
END_BYTES = 22
COMMENT_BYTES_MAX = 65_535
ENCRYPTED = 0x1
UTF8 = 0x800
LOCAL_HEADER_BYTES = 30
EXTENDED_TIME = 0x5455
UNIX = 3


def files_of_zip(file: IO[bytes], into: str, append: bool, meter: Meter) -> Iterator[PutFile]:
    """The files of a whole zip."""
    _check_directory_size(file)
    try:
        archive = zipfile.ZipFile(file)
    except UnicodeDecodeError as error:
        raise bad_archive("a name in it says that it is UTF-8, and is not") from error
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error, OverflowError) as error:
        raise bad_archive(f"it is no whole zip ({str(error)!a})") from error
    with archive:
        entries = archive.infolist()
        named = [(_name_of(entry), entry) for entry in entries]
        _check_overlaps(archive, entries)
        seen: set[str] = set()
        for name, entry in named:
            meter.declare(entry.file_size, ascii(name[:300]))
            _check_entry(name, entry, seen)
        for name, entry in named:
            if not entry.is_dir():
                yield PutFile(
                    path=target_of(into, name),
                    parts=_content(archive, entry, ascii(name[:300]), meter),
                    modified_ns=_modified_ns(entry),
                    executable=entry.create_system == UNIX and bool(entry.external_attr >> 16 & 0o100),
                    append=append,
                )
            elif name.strip("/") not in ("", "."):
                target_of(into, name.rstrip("/"))


def _check_directory_size(file: IO[bytes]) -> None:
    """``zipfile`` reads the directory whole: refuse one that would not fit."""
    end = file.seek(0, 2)
    file.seek(max(0, end - END_BYTES - COMMENT_BYTES_MAX))
    tail = file.read()
    at = tail.rfind(b"PK\5\6")
    size = int.from_bytes(tail[at + 12 : at + 16], "little") if at >= 0 else 0
    if size == 0xFFFFFFFF:  # zip64: the sizes are in a record of their own
        record = tail.rfind(b"PK\6\6", 0, at)
        size = int.from_bytes(tail[record + 40 : record + 48], "little") if record >= 0 else 0
    file.seek(0)
    if size > DIRECTORY_BYTES_MAX:
        raise bad_archive(f"its directory is larger than {DIRECTORY_BYTES_MAX} bytes: make it a tar")


def _name_of(entry: zipfile.ZipInfo) -> str:
    if "\0" in entry.orig_filename:
        raise bad_archive(f"the entry {entry.orig_filename[:300]!a} has a NUL in its name")
    if entry.flag_bits & UTF8 or entry.orig_filename.isascii():
        return entry.orig_filename
    # Programs on Linux write UTF-8 without saying so; zipfile then takes it for the code page of DOS.
    raw = entry.orig_filename.encode("cp437")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise bad_archive(f"the name {ascii(raw)[:300]} of an entry is not UTF-8") from error


def _check_entry(name: str, entry: zipfile.ZipInfo, seen: set[str]) -> None:
    shown = ascii(name[:300])
    if entry.flag_bits & ENCRYPTED:
        raise bad_archive(f"the entry {shown} is encrypted: decrypt the archive first")
    kind = stat.S_IFMT(entry.external_attr >> 16) if entry.create_system == UNIX else 0
    if kind == stat.S_IFLNK:
        raise bad_archive(f"the entry {shown} is a link: links are not taken")
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise bad_archive(f"the entry {shown} is a device or a pipe: only files are taken")
    if name in seen:
        raise bad_archive(f"the entry {shown} is in it twice")
    seen.add(name)


def _check_overlaps(archive: zipfile.ZipFile, entries: list[zipfile.ZipInfo]) -> None:
    """Entries that share their bytes are how a small zip becomes petabytes, ratio by ratio unsuspicious."""
    order = sorted(entries, key=lambda entry: entry.header_offset)
    for one, following in pairwise(order):
        if one.header_offset + LOCAL_HEADER_BYTES + one.compress_size > following.header_offset:
            raise bad_archive(f"the entries {one.filename[:200]!a} and {following.filename[:200]!a} overlap")
    if order and order[-1].header_offset + order[-1].compress_size > archive.start_dir:
        raise bad_archive(f"the entry {order[-1].filename[:200]!a} overlaps the archive's directory")


def _content(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, shown: str, meter: Meter) -> Iterator[bytes]:
    size = 0
    meter.entry = shown
    try:
        with archive.open(entry) as file:
            while part := file.read(PART_BYTES):
                size += len(part)
                meter.grow(len(part))
                yield part
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        NotImplementedError,
        RuntimeError,
        OSError,
        struct.error,
    ) as error:
        raise bad_archive(
            f"the entry {shown} is damaged, or of another size than it says ({str(error)!a})"
        ) from error
    if size != entry.file_size:
        raise bad_archive(f"the entry {shown} has {size} bytes and says {entry.file_size}")


def _modified_ns(entry: zipfile.ZipInfo) -> int | None:
    """Unix seconds where the archive has them; else the time of DOS, which knows no zone, as UTC."""
    extra = entry.extra
    while len(extra) >= 4:
        kind, size = struct.unpack_from("<HH", extra)
        if kind == EXTENDED_TIME and size >= 5 and len(extra) >= 9 and extra[4] & 1:
            return int(struct.unpack_from("<i", extra, 5)[0]) * 10**9
        extra = extra[4 + size :]
    try:
        return calendar.timegm((*entry.date_time, 0, 0, 0)) * 10**9
    except (ValueError, OverflowError):
        return None
