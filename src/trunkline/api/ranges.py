"""The ``Range`` header of HTTP, as far as one range goes (RFC 9110, section 14)."""

from __future__ import annotations

import re

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


def parse_range(header: str | None, size: int) -> tuple[int, int] | None:
    """``(offset, length)`` of a single byte range, cut to ``size``; None where the header asks for the whole or cannot be
    followed, which servers may then ignore. ``length`` 0: the range lies behind the end (status 416)."""
    found = _RANGE.fullmatch(header.replace(" ", "")) if header else None
    if found is None or found.group() == "bytes=-":
        return None
    first, last = found.groups()
    if not first:
        length = min(int(last), size)
        return size - length, length
    start = int(first)
    if last and int(last) < start:
        return None
    return start, max(0, min(int(last) + 1 if last else size, size) - start)
