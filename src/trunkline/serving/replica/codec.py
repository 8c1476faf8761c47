"""JSON in and out, by orjson where it is installed."""

from __future__ import annotations

import importlib.util
import json
from typing import Any

from trunkline.errors import InvalidInputError

if importlib.util.find_spec("orjson") is not None:
    import orjson

    def loads(body: bytes) -> Any:
        """:raises InvalidInputError: if it is not JSON, saying where."""
        try:
            return orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise InvalidInputError(f"the body is not JSON: {error}") from error

    def dumps(value: Any) -> bytes:
        return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)

else:

    def loads(body: bytes) -> Any:
        """:raises InvalidInputError: if it is not JSON, saying where."""
        try:
            return json.loads(body)
        except ValueError as error:
            raise InvalidInputError(f"the body is not JSON: {error}") from error

    def dumps(value: Any) -> bytes:
        return json.dumps(value, default=_plain).encode()


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")
