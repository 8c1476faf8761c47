"""Roots: every row that refers to a tree. What none of them reaches is garbage.

Each domain lists its own columns as ``RootSource`` values in its store; the composition root hands all of them to
``VersioningService.learn_roots``. A test fails where a column of the schema that holds a tree is in no list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

ROWS_PER_FETCH = 1000


class Root(NamedTuple):
    """A tree, and who needs it."""

    label: str
    """As a person would name it: ``commit default/images@ID``."""
    root: str
    kind: str
    """The column: ``commits.root``."""
    key: tuple[Any, ...]
    """The row's own keys, as the source's ``keys`` lists them."""


@dataclass(frozen=True, kw_only=True)
class RootSource:
    """One column that holds tree hashes."""

    column: sa.Column[Any]
    label: Callable[[Row[Any]], str]
    keys: tuple[sa.Column[Any], ...]
    """Columns that name the row; ``label`` sees them, and ``join`` may add tables for them."""
    join: tuple[sa.Table, ...] = ()
    where: sa.ColumnElement[bool] | None = None
    read: Callable[[Any], Iterable[str]] | None = None
    """How the trees lie in the column, where it holds more than one hash."""
    is_cache: bool = False
    """Whether a row may be dropped: what it remembers can be computed again."""
    when_changed: Mapping[str, Any] = field(default_factory=dict)
    """What else is written to a row whose tree was replaced, or is damaged."""
    sizes: bool = False
    """Whether ``size`` stands beside it (and ``file_count``, if the table has it)."""

    @property
    def name(self) -> str:
        return f"{self.column.table.name}.{self.column.name}"

    def roots(self, connection: Connection) -> Iterator[Root]:
        """All of them; the same tree may come many times."""
        keys = [key.label(f"k{n}") for n, key in enumerate(self.keys)]
        query = sa.select(self.column.label("tree"), *keys)
        source: Any = self.column.table
        for table in self.join:
            source = source.join(table)
        query = (
            query.select_from(source).where(self.column.is_not(None)).order_by(*self.column.table.primary_key)
        )
        if self.where is not None:
            query = query.where(self.where)
        for row in connection.execute(query.execution_options(yield_per=ROWS_PER_FETCH)):
            for root in self.read(row.tree) if self.read is not None else (row.tree,):
                yield Root(self.label(row), root, self.name, tuple(row)[1:])

    def replace(self, connection: Connection, old: str, new: str, size: int, file_count: int) -> int:
        """Let every row that refers to ``old`` refer to ``new``; returns how many did."""
        if self.read is not None:
            return 0
        values: dict[str, Any] = {self.column.name: new, **self.when_changed}
        if self.sizes:
            values["size"] = size
            if "file_count" in self.column.table.c:
                values["file_count"] = file_count
        return connection.execute(
            sa.update(self.column.table).where(self.column == old).values(values)
        ).rowcount


def all_roots(connection: Connection, sources: Iterable[RootSource]) -> Iterator[Root]:
    """The trees that anything refers to, in the caller's snapshot."""
    for source in sources:
        yield from source.roots(connection)
