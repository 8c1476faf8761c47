"""A tree put together out of parts: what one version had, without the parts that went, with the parts that came.

Every file belongs to one part. Two parts with one path contradict each other, also where the contents are the same: when one
of them goes later, nobody could say whether the file goes with it.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn

from trunkline.core.hashing import from_hex
from trunkline.core.paths import clean_path
from trunkline.errors import ConflictError
from trunkline.versioning import trees
from trunkline.versioning.chunks import ChunkWriter
from trunkline.versioning.model import TreePart
from trunkline.versioning.nodes import EMPTY_ROOT, Entry, Ref
from trunkline.versioning.staging import TreeEditor
from trunkline.versioning.steps import EDITS_MAX
from trunkline.versioning.trees import Load

STREAMS_MAX = 64

Owner = Callable[[str], str | None]
"""The label of the part that a path of the base belongs to; asked only once something is wrong."""


def assemble(
    base: bytes,
    remove: Sequence[TreePart],
    add: Sequence[TreePart],
    writer: ChunkWriter,
    load: Load,
    *,
    owner: Owner,
    lookalikes: bool = False,
) -> Ref:
    """:raises ConflictError: ``duplicate_path`` or ``path_collision``, naming the path and the labels of both parts."""
    if _is_all(base, remove, load):
        base, remove = EMPTY_ROOT, ()
    if base == EMPTY_ROOT and 0 < len(add) <= STREAMS_MAX:
        built = _side_by_side(add, writer, load, lookalikes=lookalikes)
        if built is not None:
            return built
    editor = _Assembler(base, writer, load, lookalikes=lookalikes)
    editor.owner, editor.parts = owner, add
    for part in remove:
        editor.take_out(part)
    for part in add:
        editor.put_in(part)
    return editor.finish()


def entries_of(load: Load, part: TreePart) -> Iterator[Entry]:
    """The files of a part, by their keys in the whole."""
    root = from_hex(part.root, "tree hash")
    if not part.prefix:
        yield from trees.entries(load, root)
        return
    low, high = trees.directory_range(part.prefix)
    cut = len(low)
    for entry in trees.entries(load, root, low, high):
        yield entry._replace(key=entry.key[cut:])


def holds(load: Load, part: TreePart, key: bytes) -> bool:
    """Whether a part has a file at, above or below a key of the whole."""
    root = from_hex(part.root, "tree hash")
    at = (part.prefix.strip("/").encode() + b"/" if part.prefix else b"") + key
    return bool(trees.find(load, root, at)) or trees.has_any(load, root, at + b"/", at + b"0")


def _is_all(base: bytes, remove: Sequence[TreePart], load: Load) -> bool:
    """Whether what goes is all there is: then it need not be taken out file by file."""
    if base == EMPTY_ROOT or len(remove) != 1:
        return False
    [part] = remove
    low, high = trees.directory_range(part.prefix or "/")
    whole = trees.root_ref(load, base)
    gone = trees.summarize(load, from_hex(part.root, "tree hash"), low, high)
    if (gone.files, gone.size) != (whole.files, whole.size):
        return False
    pairs = zip(trees.entries(load, base), entries_of(load, part), strict=True)
    return all(one.key == other.key for one, other in pairs)


def _side_by_side(
    add: Sequence[TreePart], writer: ChunkWriter, load: Load, *, lookalikes: bool
) -> Ref | None:
    """A few parts read at once, in the order of their keys: a large one costs little per file. None if something is wrong, or
    has to be looked at more closely."""

    def refuse(_file: bytes, _key: bytes) -> NoReturn:
        raise _CloserLook

    builder = trees.OrderedBuilder(writer.add, refuse)
    streams = (entries_of(load, part) for part in add)

    def looked_at() -> Iterator[Entry]:
        last: bytes | None = None
        for entry in heapq.merge(*streams, key=lambda entry: entry.key):
            if entry.key == last or (len(add) > 1 and not lookalikes and not entry.key.isascii()):
                raise _CloserLook
            last = entry.key
            yield entry

    try:
        builder.add_all(looked_at())
    except _CloserLook:
        return None
    return builder.finish()


class _CloserLook(Exception):  # noqa: N818  (it is no error yet)
    pass


class _Assembler(TreeEditor):
    owner: Owner
    parts: Sequence[TreePart]

    def take_out(self, part: TreePart) -> None:
        for entry in entries_of(self._load, part):
            self._edits[entry.key] = None
        self._dirs.clear()
        self._flush_if_full()

    def put_in(self, part: TreePart) -> None:
        for entry in entries_of(self._load, part):
            if self._find(entry.key) is not None:
                raise self._conflict(part, entry.key, "duplicate_path", "")
            try:
                self.put(entry)
            except ConflictError as error:
                if error.kind != "path_collision":
                    raise
                components = entry.key.split(b"/")
                above = (b"/".join(components[:n]) for n in range(1, len(components)))
                at = next((key for key in above if self._find(key) is not None), entry.key)
                how = ", once as a file and once as a directory"
                raise self._conflict(part, at, "path_collision", how) from error

    def _flush_if_full(self) -> None:
        if len(self._edits) >= EDITS_MAX:
            self._flush()

    def _conflict(self, part: TreePart, key: bytes, kind: str, how: str) -> ConflictError:
        path = clean_path("/" + key.decode())
        other = next(
            (one.label for one in self.parts if one is not part and holds(self._load, one, key)), None
        ) or self.owner(path)
        labels = [other or "an earlier one", part.label]
        return ConflictError(
            f"{path} is written by both {labels[0]} and {labels[1]}{how}",
            kind=kind,
            details={"path": path, "labels": labels},
        )
