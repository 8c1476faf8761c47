"""The values that a compiled statement is given, as its driver wants them: for one row, or for many."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import repeat
from typing import Any

from sqlalchemy.engine import Dialect


class Binds:
    """Its bound parameters, in their order."""

    def __init__(self, compiled: Any, dialect: Dialect) -> None:
        """:raises TypeError: for columns that get a default in Python, which would be the same for all rows."""
        if compiled.prefetch:
            missing = ", ".join(str(column) for column in compiled.prefetch)
            raise TypeError(f"Python's defaults are not prepared: give a value for {missing}")
        names = compiled.positiontup if compiled.positional else list(compiled.bind_names.values())
        self.order: Sequence[str] = names or []
        """Their names."""
        binds = {name: compiled.binds[name] for name in self.order}
        self.given = [name for name in self.order if binds[name].required]
        """Those of them that are given each time."""
        self._constants = {name: bind.effective_value for name, bind in binds.items() if not bind.required}
        self._processed = [
            (name, binds[name].type.dialect_impl(dialect).bind_processor(dialect)) for name in self.order
        ]

    def row(self, values: Mapping[str, Any]) -> list[Any]:
        """:raises KeyError: for a value that is not there."""
        known = {**self._constants, **values}
        return [known[name] if process is None else process(known[name]) for name, process in self._processed]

    def rows(self, columns: Mapping[str, Sequence[Any]]) -> list[tuple[Any, ...]]:
        """The same for many, which are given by their columns. What is the same object several times on end is made once."""
        count = len(columns[self.given[0]])
        found: list[Iterable[Any]] = []
        for name, process in self._processed:
            column = repeat(self._constants[name], count) if name in self._constants else columns[name]
            found.append(column if process is None else _each(process, column))
        return list(zip(*found, strict=True))


def _each(process: Callable[[Any], Any], column: Iterable[Any]) -> Iterator[Any]:
    last: Any = object()
    done: Any = None
    for value in column:
        if value is not last:
            last, done = value, process(value)
        yield done
