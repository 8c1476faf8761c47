"""Names that people cannot tell apart: the same letters, composed differently by Unicode (NFC and NFD).

The store keeps any UTF-8 name as it is, as Linux does. But two such names in one directory are almost always one file that
went through a macOS disk or a zip in between, and on a disk that normalizes one would overwrite the other. So the second is
refused. Cheap: ASCII names cost nothing, others two look-ups for each component that is not there yet.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable

from trunkline.errors import ConflictError
from trunkline.versioning import trees
from trunkline.versioning.trees import Load

SEEN_MAX = 50_000


class Lookalikes:
    """Checks the names that are put into one tree; ``exists`` says whether a file or a directory (without slash) is there."""

    def __init__(self, exists: Callable[[bytes], bool]) -> None:
        self._exists = exists
        self._seen: dict[str, bytes] = {}
        """The place of a name, composed -> the name as it was put."""

    def check(self, key: bytes) -> None:
        """:raises ConflictError: ``lookalike_name``, showing both."""
        if key.isascii():
            return
        parent = ""
        for part in key.decode().split("/"):
            if not part.isascii():
                self._check_part(parent, part)
            parent += part + "/"

    def _check_part(self, parent: str, part: str) -> None:
        key = (parent + part).encode()
        composed = parent + unicodedata.normalize("NFC", part)
        known = self._seen.get(composed)
        if known == key:
            return
        if not self._exists(key):
            forms = {composed, parent + unicodedata.normalize("NFD", part)}
            others = [form.encode() for form in forms] + ([known] if known is not None else [])
            for other in others:
                if other != key and self._exists(other):
                    raise _same(key, other)
        if len(self._seen) >= SEEN_MAX:
            self._seen.clear()
        self._seen[composed] = key


def refuse_lookalikes(load: Load, root: bytes, keys: Iterable[bytes]) -> None:
    """That files which have just come into a tree look like nothing else in it.

    :raises ConflictError: ``lookalike_name``, showing both.
    """
    for key in keys:

        def is_another(name: bytes, key: bytes = key) -> bool:
            if name == key or key.startswith(name + b"/"):
                return False
            return trees.find(load, root, name) is not None or trees.has_any(
                load, root, name + b"/", name + b"0"
            )

        Lookalikes(is_another).check(key)


def _same(key: bytes, other: bytes) -> ConflictError:
    path, present = "/" + key.decode(), "/" + other.decode()
    return ConflictError(
        f"{path} ({path!a}) differs from {present} ({present!a}), which exists, only in how Unicode composes its "
        "letters: use that name, delete it first, or allow both with the setting 'allow_lookalikes'",
        kind="lookalike_name",
        details={"path": path, "other": present},
    )
