"""Questions about trees without a commit that are too long for an address."""

from __future__ import annotations

from pydantic import Field

from trunkline.wire.base import Ask


class Paths(Ask):
    """Files and directories of one tree."""

    paths: list[str] = Field(min_length=1, max_length=100_000)


class Copy(Ask):
    """Make ``path`` what is at ``source_path`` of another tree."""

    path: str
    root: str
    source_path: str


class Copies(Ask):
    copies: list[Copy] = Field(min_length=1, max_length=100_000)
