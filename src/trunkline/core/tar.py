"""Tar archives, block by block: pure functions, so that both ends of a stream make the same bytes."""

from __future__ import annotations

import tarfile

BLOCK_BYTES = 512
END = b"\0" * (2 * BLOCK_BYTES)
EXECUTABLE_MODE = 0o755
PLAIN_MODE = 0o644


def header(name: str, *, size: int, modified_at: float | None = None, executable: bool = False) -> bytes:
    """What comes before a file's content. Times are kept to the second: finer ones need another header per file, which
    doubles the cost of small files."""
    info = tarfile.TarInfo(name)
    info.size = size
    info.mtime = int(modified_at or 0)
    info.mode = EXECUTABLE_MODE if executable else PLAIN_MODE
    return info.tobuf(tarfile.PAX_FORMAT)


def padding(size: int) -> bytes:
    """What comes after a file's content, up to the next block."""
    return b"\0" * (-size % BLOCK_BYTES)
