"""What is left of changes once their contents are stored: steps, to be applied to a tree in order."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple, NoReturn

from trunkline.errors import ConflictError
from trunkline.versioning import trees
from trunkline.versioning.chunks import ChunkWriter
from trunkline.versioning.nodes import Entry

EDITS_MAX = 32_000
"""So many changes are held in memory; then they are worked into the tree, which bounds memory."""


class PutEntry(NamedTuple):
    """A file whose content is stored. (Named tuples cost less than dataclasses, and there may be a million.)"""

    entry: Entry
    append: bool


@dataclass(frozen=True, kw_only=True)
class PutAll:
    """Files put one after the other, gathered in trees of their own because they are many; a later tree wins."""

    roots: tuple[bytes, ...]
    is_plain: bool
    """All names are ASCII."""


@dataclass(frozen=True, kw_only=True)
class Delete:
    path: str


@dataclass(frozen=True, kw_only=True)
class Copy:
    path: str
    root: bytes
    source_path: str
    append: bool = False
    merge: bool = False


@dataclass(frozen=True, kw_only=True)
class PutRun:
    """Files put one after the other."""

    entries: list[Entry]


Step = PutEntry | PutRun | PutAll | Delete | Copy


class Steps:
    """Steps in order. A long run of plain puts is kept as trees, so that a million of them need no memory: as one tree, where
    they come in the order of their keys."""

    def __init__(self, writer: ChunkWriter) -> None:
        self._writer = writer
        self._steps: list[Step] = []
        self._run: list[Entry] = []
        self._roots: list[bytes] = []
        self._is_plain = True
        self._tree: trees.OrderedBuilder | None = None

    def add(self, step: Step) -> None:
        if isinstance(step, PutEntry):
            self.add_files([step.entry], step.append)
        else:
            self._end_run()
            self._steps.append(step)

    def add_files(self, entries: list[Entry], append: bool) -> None:
        if append:
            self._end_run()
            self._steps += [PutEntry(entry, append) for entry in entries]
            return
        self._run += entries
        if len(self._run) >= EDITS_MAX:
            self._gather()

    def finish(self) -> list[Step]:
        self._end_run()
        return self._steps

    def _gather(self) -> None:
        """Work the run into trees."""
        run = sorted_files(self._run)
        self._run.clear()
        self._is_plain = self._is_plain and have_plain_names(run)
        if self._tree is not None and run[0].key <= self._tree.last_key:
            self._end_tree()
        if self._tree is None:
            self._tree = trees.OrderedBuilder(self._writer.add, refuse_below)
        self._tree.add_all(run)

    def _end_tree(self) -> None:
        if self._tree is not None:
            self._roots.append(self._tree.finish().hash)
            self._tree = None

    def _end_run(self) -> None:
        if self._tree is None and not self._roots:
            if self._run:
                self._steps.append(PutRun(entries=self._run))
                self._run = []
            return
        if self._run:
            self._gather()
        self._end_tree()
        self._steps.append(PutAll(roots=tuple(self._roots), is_plain=self._is_plain))
        self._roots.clear()
        self._is_plain = True


def sorted_files(entries: Iterable[Entry]) -> list[Entry]:
    """In the order of their keys, each key once: as it was put last."""
    latest = {entry.key: entry for entry in entries}
    return [latest[key] for key in sorted(latest)]


def have_plain_names(entries: Iterable[Entry]) -> bool:
    return all(entry.key.isascii() for entry in entries)


def refuse_below(file: bytes, key: bytes) -> NoReturn:
    raise collision(key, f"/{file.decode()} is a file")


def collision(key: bytes, why: str) -> ConflictError:
    path = "/" + key.decode()
    return ConflictError(
        f"{path} cannot be written: {why}; delete that first", kind="path_collision", details={"path": path}
    )
