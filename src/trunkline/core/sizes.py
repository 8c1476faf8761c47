"""Sizes as people write them: ``100MB``, ``1GiB``, ``512``."""

from __future__ import annotations

import re

from trunkline.errors import InvalidInputError

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgtp]?)(i?)b?", re.ASCII | re.IGNORECASE)
BYTES_MAX = 2**62


def parse_size(text: str) -> int:
    """Bytes: ``K``, ``M``, ``G``, ``T`` and ``P`` are powers of 1000, ``Ki``, ``Mi`` … of 1024; a ``B`` may follow.

    :raises InvalidInputError: ``bad_size``.

    >>> parse_size("1.5KiB")
    1536
    """
    found = _SIZE.fullmatch(text.strip()) if len(text) <= 40 else None
    if found is None or (found[3] and not found[2]):
        raise InvalidInputError(
            f"size {text[:40]!r} is not understood: write bytes, or as 100MB or 1GiB", kind="bad_size"
        )
    factor = (1024 if found[3] else 1000) ** " kmgtp".index(found[2].lower() or " ")
    size = int(found[1]) * factor if found[1].isdecimal() else int(float(found[1]) * factor)
    if size > BYTES_MAX:
        raise InvalidInputError(f"size {text[:40]!r} is larger than anything stored", kind="bad_size")
    return size


def size_text(size: float) -> str:
    """``57.27KiB``: four significant digits."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if size < 1024 or unit == "TiB":
            return f"{size:.4g}{unit}"
        size /= 1024
    raise AssertionError("the last unit takes everything")
