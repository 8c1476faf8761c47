"""The object store's interface. A key is a relative path of ``[a-z0-9./-]``; an object is written once and never changed,
except through ``put_if``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

GET_SLACK_BYTES = 3 * 4096
"""What a buffer has beyond what is read into it, so that a disk can write to whole blocks."""


@dataclass(frozen=True, kw_only=True)
class ObjectInfo:
    key: str
    size: int
    modified_at: float


class ObjectStore(ABC):
    """A flat store of bytes that survive a crash once ``put`` has returned.

    :raises NotFoundError: from ``get`` and ``head`` of a key that is not there.
    :raises LimitError: ``disk_full``, with nothing left behind.
    """

    readers = 1
    """So many threads read a long sequence of ranges best. A local disk leaves one enough to do; more get in its way."""

    @abstractmethod
    def get(self, key: str, *, offset: int = 0, length: int | None = None) -> bytes:
        """The bytes of a range; shorter only at the object's end."""

    def get_into(self, key: str, buffer: memoryview, *, offset: int, length: int) -> memoryview:
        """The bytes of a range, which lie somewhere in ``buffer``; it has room for them and ``GET_SLACK_BYTES`` more, or they may
        come more slowly. Fewer only at the object's end."""
        data = self.get(key, offset=offset, length=length)
        buffer[: len(data)] = data
        return buffer[: len(data)]

    @abstractmethod
    def put(self, key: str, parts: Iterable[bytes]) -> None:
        """Write durably (the whole or nothing); putting the same key again is harmless."""

    @abstractmethod
    def put_if(self, key: str, data: bytes, *, expected: bytes | None) -> bool:
        """Compare-and-swap: write only if the object now holds ``expected`` (None: is absent). False if it does not."""

    @abstractmethod
    def head(self, key: str) -> ObjectInfo: ...

    @abstractmethod
    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """All objects below a prefix, in no particular order."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Not an error if it is absent."""

    def sweep_temporary(self, before: float, *, dry_run: bool) -> tuple[int, int]:
        """Delete what interrupted writes have left and that is older than ``before``; returns how many files and bytes.
        A store that leaves nothing needs not say so."""
        return 0, 0
