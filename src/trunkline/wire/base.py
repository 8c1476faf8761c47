"""What all wire models share."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from trunkline.core import starting
from trunkline.core.suggest import did_you_mean

T = TypeVar("T")

_BUILT_LATE = ConfigDict(defer_build=starting.is_one_command)
"""A command uses a few of the models, and to build them all would take it longer than to do what it is for. Other programs use
many, and some of them from several threads: pydantic before 2.14 does not lock what it builds late."""


class Wire(BaseModel):
    """An answer. Made from the domain's dataclasses; unknown fields are ignored, so an older client can read it."""

    model_config = ConfigDict(from_attributes=True, frozen=True, extra="ignore", **_BUILT_LATE)


class Ask(BaseModel):
    """A request. Unknown fields are errors, so that a typo is never silently dropped."""

    model_config = ConfigDict(extra="forbid", **_BUILT_LATE)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_fields(cls, data: Any) -> Any:
        unknown = [key for key in data if key not in cls.model_fields] if isinstance(data, dict) else []
        if unknown:
            hint = did_you_mean(str(unknown[0]), cls.model_fields)
            raise PydanticCustomError(
                "unknown_field", "unknown field '{name}'{hint}", {"name": unknown[0], "hint": hint}
            )
        return data


class AskPart(BaseModel):
    """What a program sends very many of in one request: as ``Ask``, without a hint what an unknown field should have been."""

    model_config = ConfigDict(extra="forbid", **_BUILT_LATE)


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
