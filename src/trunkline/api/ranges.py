"""The ``Range`` header of HTTP, as far as one range goes (RFC 9110, section 14)."""

from __future__ import annotations

import re

from starlette.responses import Response

from trunkline.api import errors
from trunkline.errors import InvalidInputError

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


def behind_the_end(path: str, size: int) -> Response:
    """The answer to a range of which the file has nothing."""
    why = f"the range lies behind the end of {path}, which has {size} bytes"
    response = errors.answer(InvalidInputError(why, kind="bad_range", details={"size": size}))
    response.status_code = 416
    response.headers["content-range"] = f"bytes */{size}"
    return response
