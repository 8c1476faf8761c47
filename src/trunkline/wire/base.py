"""What all wire models share."""

from __future__ import annotations

import json
import re
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from trunkline.core.suggest import did_you_mean

T = TypeVar("T")

_BROKEN = re.compile("[\ud800-\udfff]")


class Wire(BaseModel):
    """An answer. Made from the domain's dataclasses; unknown fields are ignored, so an older client can read it."""

    model_config = ConfigDict(from_attributes=True, frozen=True, extra="ignore")


class Ask(BaseModel):
    """A request. Unknown fields are errors, so that a typo is never silently dropped."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _refuse_what_cannot_be_meant(cls, data: Any) -> Any:
        if _has_broken_text(data):
            raise PydanticCustomError("broken_text", "text holds half of a surrogate pair")
        unknown = [key for key in data if key not in cls.model_fields] if isinstance(data, dict) else []
        if unknown:
            hint = did_you_mean(str(unknown[0]), cls.model_fields)
            raise PydanticCustomError(
                "unknown_field", "unknown field '{name}'{hint}", {"name": unknown[0], "hint": hint}
            )
        return data


def _has_broken_text(value: Any) -> bool:
    """JSON can say ``"\\ud800"``, which no UTF-8 can: neither a database nor our own answer could hold it."""
    try:  # in C: large bodies are checked on the loop that all requests share
        json.dumps(value, ensure_ascii=False).encode()
        return False
    except UnicodeEncodeError:
        return True
    except (TypeError, ValueError):  # it did not come as JSON
        return _is_broken(value)


def _is_broken(value: Any) -> bool:
    if isinstance(value, str):
        return _BROKEN.search(value) is not None
    if isinstance(value, dict):
        return any(_is_broken(key) or _is_broken(one) for key, one in value.items())
    return isinstance(value, list) and any(map(_is_broken, value))


class Page(Wire, Generic[T]):
    """Part of a list; ``next`` is the cursor of what follows, None at the end."""

    items: list[T]
    next: str | None = None


class ErrorBody(Wire):
    """What went wrong, in words for people and in ``kind`` for programs."""

    kind: str
    message: str
    details: dict[str, object] = Field(default_factory=dict)
    request_id: str = ""


class Error(Wire):
    """The body of every answer that is not a success."""

    error: ErrorBody
