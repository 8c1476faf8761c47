"""Lists in pages: a service is asked for one item more than a page holds, and the last one shown becomes the cursor.

Cursors say where to go on in words of the domain (an ID, a path), so a page costs what it shows, and what changes between
two pages neither repeats an item nor leaves one out. Callers must not look into them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import fields
from functools import cache
from itertools import islice
from typing import Annotated, Any, TypeVar

from fastapi import Query, Response
from pydantic import TypeAdapter

from trunkline.core.ids import TreeHash
from trunkline.errors import InvalidInputError
from trunkline.wire.base import Page, Wire

PAGE_ITEMS_DEFAULT = 100
PAGE_ITEMS_MAX = 1000
HASH_CHARACTERS = 64

Limit = Annotated[int, Query(ge=1, le=PAGE_ITEMS_MAX, description="At most so many items.")]
Cursor = Annotated[str | None, Query(description="The 'next' of the page before.", max_length=10_000)]

Item = TypeVar("Item", bound=Wire)


def page_of(
    kind: type[Item], found: Iterable[Any], limit: int, cursor_of: Callable[[Item], str]
) -> Page[Item]:
    """One page of what was found, which is ``limit + 1`` items if there are more."""
    items = [kind.model_validate(one) for one in islice(found, limit + 1)]
    shown = items[:limit]
    return Page(items=shown, next=cursor_of(shown[-1]) if len(items) > limit else None)


def answer_rows(
    kind: type[Wire], found: Iterable[Any], limit: int, cursor_of: Callable[[Any], str],
    finish: Callable[[list[Any]], list[Any]] = list,
) -> Response:  # fmt: skip
    """The same for pages that are long: the domain's own dataclasses, which have the fields of the wire model, as they are.
    Checking each of them takes longer than finding it. ``finish`` completes those that are shown."""
    rows = list(islice(found, limit + 1))
    shown = finish(rows[:limit])
    cursor = cursor_of(shown[-1]) if len(rows) > limit else None
    row: Any = type(shown[0]) if shown else None
    data = _writer(kind, row).dump_json(shown) if shown else b"[]"
    return Response(
        b'{"items":%b,"next":%b}' % (data, json.dumps(cursor).encode()), media_type="application/json"
    )


@cache
def _writer(kind: type[Wire], row: type[Any]) -> TypeAdapter[list[Any]]:
    assert list(kind.model_fields) == [field.name for field in fields(row)], f"{row} is not what {kind} says"
    return TypeAdapter(list[row])  # type: ignore[valid-type]


def tree_cursor(cursor: str | None, trees: int) -> tuple[list[TreeHash], str] | None:
    """The trees that a listing began with, and the path that it showed last: its next page reads the same trees, whatever
    was committed meanwhile.

    :raises InvalidInputError: ``bad_cursor``.
    """
    if cursor is None:
        return None
    start = trees * HASH_CHARACTERS
    roots = [TreeHash(cursor[at : at + HASH_CHARACTERS]) for at in range(0, start, HASH_CHARACTERS)]
    if cursor[start : start + 1] != "/":
        raise bad_cursor(cursor)
    return roots, cursor[start:]


def bad_cursor(cursor: str) -> InvalidInputError:
    """The error for a cursor that no page had."""
    return InvalidInputError(
        f"{cursor[:80]!r} is no cursor: send the 'next' of a page, or nothing", kind="bad_cursor"
    )
