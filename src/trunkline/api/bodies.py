"""Bodies that are JSON, quickly: large ones are read on the loop that all requests share."""

from __future__ import annotations

import json
import re
from typing import Any

from fastapi import Request
from pydantic_core import from_json

_BROKEN = re.compile("[\ud800-\udfff]")


class JsonRequest(Request):
    """A request whose JSON is read in one go."""

    async def json(self) -> Any:
        if not hasattr(self, "_json"):
            self._json = parsed(await self.body())
        return self._json


def parsed(body: bytes) -> Any:
    """What a body says.

    JSON can say ``"\\ud800"``, which no UTF-8 can: neither a database nor our own answer could hold it.

    :raises json.JSONDecodeError: if it is not JSON, or has half of a surrogate pair.
    """
    try:
        return from_json(body)
    except ValueError:  # the other reader knows where, and takes what is nested deeper
        found = json.loads(body)
    if _is_broken(found):
        raise json.JSONDecodeError("text holds half of a surrogate pair", "", 0)
    return found


def _is_broken(value: Any) -> bool:
    if isinstance(value, str):
        return _BROKEN.search(value) is not None
    if isinstance(value, dict):
        return any(_is_broken(key) or _is_broken(one) for key, one in value.items())
    return isinstance(value, list) and any(map(_is_broken, value))
