"""What JSON columns hold, as text: written and read several times faster than by ``json``, with the same meaning."""

from __future__ import annotations

import json
from typing import Any

from pydantic_core import from_json, to_json


def written(value: Any) -> str:
    """The text for a value of plain types; NaN and the infinities as ``json`` writes them."""
    try:
        return to_json(value, inf_nan_mode="constants").decode()
    except ValueError:  # half a surrogate pair, say, which only an escape can say
        return json.dumps(value)


def read(text: str) -> Any:
    """The value that was written."""
    try:
        return from_json(text)
    except ValueError:
        return json.loads(text)
