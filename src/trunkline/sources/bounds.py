"""What an archive may become, and the names that its entries may have."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from trunkline.core.paths import clean_path
from trunkline.errors import InvalidInputError, LimitError


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What an archive may become."""

    bytes_max: int = 100 * 2**30
    ratio_max: float = 200.0
    free_bytes: int = 64 * 2**20
    """So much may come out of an archive however small it is."""
    entries_max: int = 10_000_000
    scratch: Path | None = None
    """Where a zip waits until it is whole: it can only be read from its end."""


class Meter:
    """Counts what goes in and what comes out, and stops a bomb while it goes off."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self._read = 0
        self._inflated = 0
        self._grown = 0
        self._entries = 0
        self.entry = "its beginning"
        """The one that is being read, for messages."""

    def reading(self, parts: Iterable[bytes]) -> Iterator[bytes]:
        """The archive's own bytes."""
        for part in parts:
            self._read += len(part)
            yield part

    def inflate(self, size: int) -> None:
        """Bytes that came out of a compressed stream, headers and all.

        :raises LimitError: ``archive_bomb``.
        """
        self._inflated += size
        self._check_ratio(self._inflated)

    def grow(self, size: int) -> None:
        """Bytes of the present entry's content.

        :raises LimitError: ``archive_too_large`` or ``archive_bomb``.
        """
        self._grown += size
        if self._grown > self.bounds.bytes_max:
            raise LimitError(
                f"{self.entry} makes the archive larger than {self.bounds.bytes_max} bytes (setting 'unpack_bytes_max')",
                kind="archive_too_large",
            )
        self._check_ratio(self._grown)

    def declare(self, size: int, entry: str) -> None:
        """The next entry, and what it says that it will have, before any of it is read."""
        self.entry = entry
        self._entries += 1
        if self._entries > self.bounds.entries_max:
            raise LimitError(
                f"the archive has more than {self.bounds.entries_max} entries", kind="archive_too_large"
            )
        if size < 0 or self._grown + size > self.bounds.bytes_max:
            raise LimitError(
                f"{entry} says that it has {size} bytes, which is too much (setting 'unpack_bytes_max')",
                kind="archive_too_large",
            )

    def _check_ratio(self, size: int) -> None:
        if size > self.bounds.free_bytes and size > self._read * self.bounds.ratio_max:
            raise LimitError(
                f"{self.entry} makes the archive more than {self.bounds.ratio_max:g} times as large as it came: it looks "
                "like a bomb (setting 'unpack_ratio_max')",
                kind="archive_bomb",
            )


def bad_archive(why: str) -> InvalidInputError:
    """The error for an archive that cannot be used."""
    return InvalidInputError(f"the archive is not usable: {why}", kind="bad_archive")


def target_of(into: str, name: str) -> str:
    """Where an entry goes.

    :raises InvalidInputError: ``bad_archive``, for a name that leads out of the archive, or is none.
    """
    shown = ascii(name[:300])
    if name.startswith("/"):
        raise bad_archive(f"the entry {shown} has an absolute name")
    parts = [part for part in name.split("/") if part != "."]
    if ".." in parts:
        raise bad_archive(f"the entry {shown} leads out of it")
    if not any(parts):
        raise bad_archive(f"the entry {shown} has no name")
    try:
        return clean_path(f"{into.rstrip('/')}/{'/'.join(parts)}")
    except InvalidInputError as error:
        raise bad_archive(f"the entry {shown}: {error.message}") from error
