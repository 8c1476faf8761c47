"""What trees reach: every node and chunk once, remembered on disk, so that memory does not grow with the store."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from trunkline.versioning.nodes import EMPTY_ROOT, Entry, Ref, decode_list, decode_tree

CONTENT = 0
"""The kind of a chunk of plain content; chunk lists have their level (1 to 15) as kind."""
TREE = 16
HASHES_PER_QUERY = 500

Get = Callable[[bytes], bytes]


class Marks:
    """A set of ``(chunk, what it was visited as)``, in a temporary file.

    The kind matters: a file may have the very bytes of a tree node, and a mark as content must not keep the walk out of the
    node.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="trunkline-marks-")
        self._db = sqlite3.connect(
            Path(self._folder.name) / "marks", isolation_level=None, check_same_thread=False
        )
        self._db.execute("PRAGMA journal_mode=OFF")
        self._db.execute("PRAGMA synchronous=OFF")
        self._db.execute("PRAGMA cache_size=-32000")
        self._db.execute(
            "CREATE TABLE marked (hash BLOB, kind INTEGER, PRIMARY KEY (hash, kind)) WITHOUT ROWID"
        )
        self._db.execute("CREATE TABLE roots (n INTEGER PRIMARY KEY, root BLOB, label TEXT)")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()
        self._folder.cleanup()

    def visit(self, name: bytes, kind: int) -> bool:
        """Mark it; False if it was marked as that before."""
        return self._db.execute("INSERT OR IGNORE INTO marked VALUES (?, ?)", (name, kind)).rowcount == 1

    def has(self, name: bytes, kind: int) -> bool:
        return (
            self._db.execute("SELECT 1 FROM marked WHERE hash = ? AND kind = ?", (name, kind)).fetchone()
            is not None
        )

    def add_contents(self, names: Iterable[bytes]) -> None:
        self._db.executemany(
            "INSERT OR IGNORE INTO marked VALUES (?, ?)", [(name, CONTENT) for name in names]
        )

    def among(self, names: Sequence[bytes]) -> set[bytes]:
        """Those that are marked as anything."""
        found: set[bytes] = set()
        for start in range(0, len(names), HASHES_PER_QUERY):
            part = names[start : start + HASHES_PER_QUERY]
            marks = ",".join("?" * len(part))
            found.update(
                row[0] for row in self._db.execute(f"SELECT hash FROM marked WHERE hash IN ({marks})", part)
            )
        return found

    def keep_roots(self, roots: Iterable[tuple[bytes, str]]) -> None:
        """Put roots aside, so that the transaction in which they were read can end before they are walked."""
        self._db.executemany("INSERT INTO roots (root, label) VALUES (?, ?)", roots)

    def roots(self) -> Iterator[tuple[bytes, str]]:
        """What was put aside, in that order."""
        last = 0
        while rows := self._db.execute(
            "SELECT n, root, label FROM roots WHERE n > ? ORDER BY n LIMIT 1000", (last,)
        ).fetchall():
            last = rows[-1][0]
            for _, root, label in rows:
                yield root, label

    def count_roots(self) -> int:
        return int(self._db.execute("SELECT count(*) FROM roots").fetchone()[0])


class Marked(Protocol):
    """Where a walk leaves its marks."""

    def visit(self, name: bytes, kind: int) -> bool: ...

    def add_contents(self, names: Iterable[bytes]) -> None: ...


def mark_tree(marks: Marked, get: Get, root: bytes) -> None:
    """Mark all that a tree needs. What was walked before is not walked again.

    :raises CorruptionError: where a part of it is lost: then nothing may be concluded from the marks.
    """
    stack = [root]
    while stack:
        name = stack.pop()
        if name == EMPTY_ROOT or not marks.visit(name, TREE):
            continue
        contents: list[bytes] = []
        for item in decode_tree(get(name)).items:
            if isinstance(item, Ref):
                stack.append(item.hash)
            elif item.level == 0:
                contents.append(item.hash)
            else:
                mark_list(marks, get, item)
        marks.add_contents(contents)


def mark_list(marks: Marked, get: Get, entry: Entry) -> None:
    """The same for the content of one large file."""
    stack = [(entry.hash, entry.level)]
    while stack:
        name, level = stack.pop()
        if not marks.visit(name, level):
            continue
        below = decode_list(get(name), level)
        if level == 1:
            marks.add_contents(ref.hash for ref in below)
        else:
            stack.extend((ref.hash, ref.level) for ref in below)
