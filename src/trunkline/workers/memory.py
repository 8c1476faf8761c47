"""A file system in memory for the inputs of small datums. Making and removing files is most of what a datum costs that does
little, and far cheaper there than on a disk."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SET_BYTES_MAX = 32 * 2**20
"""More than this a set of datums may not have to be laid out in memory."""
MEMORY_BYTES = 4 * SET_BYTES_MAX
"""What there is room for: such a set, what stays of others, and some."""
PAGE_BYTES = 4096


class Memory:
    """Holds ``pfs``, which commands see, and ``store``, which they do not. It was made by a sandbox, in a namespace of its own;
    this process gets there through a handle, and when nobody holds that any more, and the sandbox is gone, so is all in it."""

    def __init__(self, handle: int) -> None:
        self.handle = handle
        """The folder itself: from here, the way to what is in it is shortest."""
        self.folder = Path(f"/proc/self/fd/{handle}")
        """Good in this process only."""

    def __del__(self) -> None:
        os.close(self.handle)


def fits(payload: Mapping[str, Any]) -> bool:
    """Whether a set of datums is to be laid out in memory: single files, few bytes, and nothing that stays for long."""
    if payload.get("stays"):
        return False
    files = {(index, path): size for datum in payload["datums"] for index, path, _, size in datum["files"]}
    if any(path.endswith("/") for _, path in files):  # nobody says how many files there are in it
        return False
    return sum(map(in_pages, files.values())) <= SET_BYTES_MAX


def in_pages(size: int) -> int:
    """What a file takes there."""
    return (size // PAGE_BYTES + 1) * PAGE_BYTES
