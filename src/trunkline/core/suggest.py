"""The nearest known word, for messages about unknown fields and names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` if a known word is close, else the empty string."""
    match = nearest(word, known)
    return f"; did you mean {match!r}?" if match is not None else ""


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that is closest, if one is close."""
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return found[0] if found else None
