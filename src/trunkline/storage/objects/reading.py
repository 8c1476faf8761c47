"""A long range of an object out of its file: past the page cache when it is read for the first time.

Packs are written past it (``writing``), so what was put a while ago is on the disk alone; and to fill the page cache costs the
processor several times what the disk takes, in a virtual machine most of all. So a range that is cached comes from there; one
that is not is read straight into the buffer (``O_DIRECT``), unless it has been read before: then it is worth keeping, and goes
through the page cache.
"""

from __future__ import annotations

import errno
import os
import threading
from collections import OrderedDict

from trunkline.directio import BLOCK_BYTES
from trunkline.storage.objects.aligned import aligned
from trunkline.storage.objects.base import GET_SLACK_BYTES

DIRECT_FROM_BYTES = 256 * 2**10
"""A shorter range is not worth the calls."""
KEYS_KNOWN_MAX = 16 * 2**10
"""Objects of which it is remembered what was read: packs of 256 GiB in all."""
_PART_BYTES = 2**20
_PARTS_MAX = 64

_DIRECT: int = getattr(os, "O_DIRECT", 0)
_CACHED_ONLY: int = getattr(os, "RWF_NOWAIT", 0)


class FirstReads:
    """Which ranges have not been read yet, as far as is known. Safe between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._read: OrderedDict[str, int] = OrderedDict()
        """Of each object, a bit for each MiB in which the middle of a range lay."""

    def is_first(self, key: str, offset: int, length: int) -> bool:
        """Whether this range is read for the first time; from now on it is not."""
        bit = 1 << ((offset + length // 2) // _PART_BYTES % _PARTS_MAX)
        with self._lock:
            before = self._read.pop(key, 0)
            self._read[key] = before | bit
            if len(self._read) > KEYS_KNOWN_MAX:
                self._read.popitem(last=False)
        return not before & bit


def read_into(path: str, buffer: memoryview, offset: int, length: int, firsts: FirstReads) -> memoryview:
    """The bytes of a range, which lie somewhere in ``buffer``; fewer only at the file's end."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        can_be_direct = length >= DIRECT_FROM_BYTES and length + GET_SLACK_BYTES <= len(buffer)
        if (
            can_be_direct and _DIRECT and _CACHED_ONLY and not _is_cached(descriptor, offset + length // 2)
            and firsts.is_first(path, offset, length)
        ):  # fmt: skip
            found = _read_direct(path, buffer, offset, length)
            if found is not None:
                return found
        got = 0
        while got < length and (read := os.preadv(descriptor, [buffer[got:length]], offset + got)):
            got += read
        return buffer[:got]
    finally:
        os.close(descriptor)


def _is_cached(descriptor: int, offset: int) -> bool:
    """Whether a byte is in memory, where the system says. It is asked for no more than that: what it does not have, Linux begins
    to read into memory even for who does not wait for it, as much as was asked for and more."""
    try:
        return os.preadv(descriptor, [bytearray(1)], offset, _CACHED_ONLY) == 1
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            raise
        return False


def _read_direct(path: str, buffer: memoryview, offset: int, length: int) -> memoryview | None:
    """None where the file system cannot."""
    before = offset % BLOCK_BYTES
    target = aligned(buffer)
    wanted = -(-(before + length) // BLOCK_BYTES) * BLOCK_BYTES
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | _DIRECT)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return None
    try:
        got = 0
        # A read that ends inside a block has come to the file's end.
        while got < wanted and (read := os.preadv(descriptor, [target[got:wanted]], offset - before + got)):
            got += read
            if read % BLOCK_BYTES:
                break
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return None
    finally:
        os.close(descriptor)
    return target[before : max(before, min(got, before + length))]
