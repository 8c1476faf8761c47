"""Which names models, versions and aliases may have. Pure.

A reference to a version is a name, a number, an alias or ``latest``; the rules keep the four apart.
"""

from __future__ import annotations

import re

from trunkline.errors import InvalidInputError
from trunkline.registry.model import LATEST

NAME_LENGTH_MAX = 128
NUMBER_DIGITS_MAX = 9

_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._ -]*[A-Za-z0-9._-])?")


def check_registry_name(what: str, name: str) -> str:
    """Return ``name`` if a model, version or alias (``what``) may be called so.

    :raises InvalidInputError: ``bad_name``, with the rule.
    """
    if not _NAME.fullmatch(name) or len(name) > NAME_LENGTH_MAX:
        raise InvalidInputError(
            f"{what} name {name!r} is not allowed: use letters, digits, '.', '_', '-' and inner spaces, "
            f"start with a letter or digit, at most {NAME_LENGTH_MAX}",
            kind="bad_name",
            details={"kind": what, "name": name},
        )
    if name == LATEST or as_number(name) is not None or (what == "model" and name.isdigit()):
        raise InvalidInputError(
            f"{what} name {name!r} is not allowed: it would be read as a number or as 'latest'; put a letter before it",
            kind="bad_name",
            details={"kind": what, "name": name},
        )
    return name


def as_number(ref: str) -> int | None:
    """The version number that a reference spells, if it is one. Longer runs of digits are names (a commit ID may be all
    digits)."""
    return int(ref) if ref.isdecimal() and ref.isascii() and len(ref) <= NUMBER_DIGITS_MAX else None
