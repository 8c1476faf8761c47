"""From changes to a tree, in two steps.

``ingest`` stores the contents; it takes as long as the data takes, and is done once. ``apply`` then edits a tree; it is quick,
and is done again whenever somebody else's commit came in between.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable

from trunkline.core.hashing import from_hex
from trunkline.core.paths import clean_path
from trunkline.errors import ConflictError, InvalidInputError, NotFoundError
from trunkline.versioning import trees
from trunkline.versioning.chunks import ChunkWriter
from trunkline.versioning.files import Content, append_content, write_content
from trunkline.versioning.join import join_contents
from trunkline.versioning.lookalikes import Lookalikes
from trunkline.versioning.model import Change, CopyTree, DeletePath, JoinFiles, PutContent, PutFile, PutStream
from trunkline.versioning.nodes import EMPTY_ROOT, Entry, Ref
from trunkline.versioning.steps import (
    EDITS_MAX,
    Copy,
    Delete,
    PutAll,
    PutEntry,
    PutRun,
    Step,
    Steps,
    collision,
    have_plain_names,
    refuse_below,
    sorted_files,
)
from trunkline.versioning.streams import ingest_stream
from trunkline.versioning.trees import Load

MTIME_SECONDS_MAX = 2**63 / 10**9


def ingest(changes: Iterable[Change], writer: ChunkWriter, load: Load) -> list[Step]:
    """Store the contents of the changes; what is left is small."""
    gathered = Steps(writer)
    for change in changes:
        if isinstance(change, PutFile):
            gathered.add(_ingest_file(change, writer))
        elif isinstance(change, PutStream):
            for entries in ingest_stream(change, writer):
                gathered.add_files(entries, change.append)
        elif isinstance(change, PutContent):
            content = Content(change.size, change.hash, change.level)
            mtime = _nanoseconds(change.path, change.modified_ns, None)
            gathered.add(_put(_named(change.path), content, mtime, change.executable, change.append))
        elif isinstance(change, DeletePath):
            gathered.add(Delete(path=clean_path(change.path)))
        elif isinstance(change, CopyTree):
            path, source = clean_path(change.path), clean_path(change.source_path)
            root = from_hex(change.root, "tree hash")
            gathered.add(
                Copy(path=path, root=root, source_path=source, append=change.append, merge=change.merge)
            )
        elif isinstance(change, JoinFiles):
            gathered.add(_join_files(change, writer, load))
        else:
            raise InvalidInputError(f"{type(change).__name__} is not a change of files", kind="bad_change")
    return gathered.finish()


def _ingest_file(change: PutFile, writer: ChunkWriter) -> PutEntry:
    key = _named(change.path)  # before its content is read
    mtime = _nanoseconds(change.path, change.modified_ns, change.modified_at)
    if change.source is not None:
        content = writer.add_content(change.source.fill)
    else:
        content = write_content(change.parts, writer.add, writer.add_stream)
    return _put(key, content, mtime, change.executable, change.append)


def _join_files(change: JoinFiles, writer: ChunkWriter, load: Load) -> PutEntry:
    key = _named(change.path)
    mtime = _nanoseconds(change.path, None, change.modified_at)
    contents = []
    for root, source in change.sources:
        found = trees.find(load, from_hex(root, "tree hash"), clean_path(source)[1:].encode())
        if found is None:
            raise NotFoundError(f"there is no file {source} in tree {root}", kind="no_file")
        contents.append(Content(found.size, found.hash, found.level))
    content = join_contents(contents, writer.get, writer.add)
    return _put(key, content, mtime, False, False)


def _put(key: bytes, content: Content, mtime: int | None, executable: bool, append: bool) -> PutEntry:
    entry = Entry(key, content.size, content.hash, content.level, mtime, executable)
    return PutEntry(entry=entry, append=append)


def _named(path: str) -> bytes:
    """The key of a file."""
    cleaned = clean_path(path)
    if cleaned == "/":
        raise InvalidInputError("a file cannot be put at '/': name it, as in /data.csv", kind="bad_path")
    return cleaned[1:].encode()


def _nanoseconds(path: str, exact: int | None, seconds: float | None) -> int | None:
    if exact is None and seconds is None:
        return None
    if exact is None and seconds is not None and abs(seconds) < MTIME_SECONDS_MAX:
        exact = round(seconds * 10**9)
    if exact is None or not -(2**63) <= exact < 2**63:
        raise InvalidInputError(
            f"{path}: the modification time {seconds if exact is None else exact} is out of range",
            kind="bad_time",
        )
    return exact


def apply(
    steps: Iterable[Step], base: bytes, writer: ChunkWriter, load: Load, *, lookalikes: bool = False
) -> Ref:
    """The tree that ``base`` becomes. Its nodes are in ``writer``, not yet durable. ``lookalikes``: allow names that differ
    only in how Unicode composes their letters."""
    editor = TreeEditor(base, writer, load, lookalikes=lookalikes)
    for step in steps:
        if isinstance(step, PutEntry):
            if step.append:
                editor.append(step.entry)
            else:
                editor.put(step.entry)
        elif isinstance(step, PutRun):
            editor.put_run(step.entries)
        elif isinstance(step, PutAll):
            editor.put_all(step)
        elif isinstance(step, Delete):
            editor.delete(step.path)
        else:
            editor.copy(step)
    return editor.finish()


class TreeEditor:
    """Changes to one tree, in order. Edits wait in memory, keyed, and reach the tree together."""

    def __init__(self, base: bytes, writer: ChunkWriter, load: Load, *, lookalikes: bool = False) -> None:
        self._names = None if lookalikes else Lookalikes(self._exists)
        self._root = base
        self._writer = writer
        self._load = load
        self._edits: dict[bytes, Entry | None] = {}
        self._dirs: dict[bytes, bool] = {}
        """Directories (with their slash) that no file stands in the way of; whether the tree has any file below."""
        self._leaf_root, self._leaf_keys = b"", [b""]
        """The leaf that was looked into last, and of which tree: the next file is probably in it, too."""
        self._edit_dirs: set[bytes] = set()
        """Directories that some edit put a file into (it may be deleted again)."""

    def put(self, entry: Entry) -> None:
        self._check_collision(entry.key)
        if self._names is not None:
            self._names.check(entry.key)
        self._edits[entry.key] = entry
        if len(self._edits) >= EDITS_MAX:
            self._flush()

    def put_run(self, entries: list[Entry]) -> None:
        """Many files. Into an empty tree quickly: there is nothing that they could meet but each other."""
        if (
            self._root == EMPTY_ROOT
            and not self._edits
            and (self._names is None or have_plain_names(entries))
        ):
            built = trees.OrderedBuilder(self._writer.add, refuse_below)
            try:
                built.add_all(sorted_files(entries))
                self._root = built.finish().hash
                self._dirs.clear()
                return
            except ConflictError:
                pass  # one by one, to say which came first
        for entry in entries:
            self.put(entry)

    def put_all(self, step: PutAll) -> None:
        needs_no_look = step.is_plain or self._names is None
        is_new = self._root == EMPTY_ROOT and not self._edits and needs_no_look
        if is_new and len(step.roots) == 1:
            self._root = step.roots[0]
        elif is_new:
            built = trees.OrderedBuilder(self._writer.add, refuse_below)
            built.add_all(trees.union(self._load, step.roots))
            self._root = built.finish().hash
        else:
            for entry in trees.union(self._load, step.roots):
                self.put(entry)
            return
        self._dirs.clear()

    def append(self, entry: Entry) -> None:
        present = self._find(entry.key)
        if present is None:
            self.put(entry)
            return
        base, added = (Content(e.size, e.hash, e.level) for e in (present, entry))
        content = append_content(base, added, self._writer.get, self._writer.add)
        mtime = entry.mtime if entry.mtime is not None else present.mtime
        self.put(
            Entry(
                entry.key,
                content.size,
                content.hash,
                content.level,
                mtime,
                present.executable or entry.executable,
            )
        )

    def delete(self, path: str) -> None:
        key = path[1:].encode()
        if key and self._find(key) is not None:
            self._edits[key] = None
            self._dirs.clear()
            return
        low, high = trees.directory_range(path)
        if path == "/":
            self._root = EMPTY_ROOT
            self._edits.clear()
            self._edit_dirs.clear()
        else:
            if low in self._edit_dirs:
                for name in [name for name in self._edits if low <= name < (high or b"")]:
                    self._edits[name] = None
            for entry in trees.entries(self._load, self._root, low, high):
                self._edits[entry.key] = None
        self._dirs.clear()
        if len(self._edits) >= EDITS_MAX:
            self._flush()

    def copy(self, step: Copy) -> None:
        """Replaces what is at the path, unless it appends or merges."""
        source = step.source_path[1:].encode()
        entry = trees.find(self._load, step.root, source) if source else None
        add = self.append if step.append else self.put
        keep = step.append or step.merge
        if entry is not None:
            if step.path == "/":
                raise InvalidInputError(
                    f"the file {step.source_path} cannot be copied to '/': name it", kind="bad_path"
                )
            if not keep:
                self.delete(step.path)
            add(entry._replace(key=step.path[1:].encode()))
            return
        low, high = trees.directory_range(step.source_path)
        if source and not trees.has_any(self._load, step.root, low, high):
            raise NotFoundError(
                f"there is no {step.source_path} to copy in tree {step.root.hex()}", kind="no_file"
            )
        if not keep:
            self.delete(step.path)
            if step.path == "/" and not source:
                self._root = step.root
                return
        prefix = trees.directory_range(step.path)[0]
        for entry in trees.entries(self._load, step.root, low, high):
            key = prefix + entry.key[len(low) :]
            clean_path("/" + key.decode())  # longer than it was: it may be too long now
            add(entry._replace(key=key))

    def finish(self) -> Ref:
        self._flush()
        return trees.root_ref(self._load, self._root)

    def _flush(self) -> None:
        if self._edits:
            self._root = trees.edit(
                self._load, self._writer.add, self._root, sorted(self._edits.items())
            ).hash
            self._edits.clear()
            self._edit_dirs.clear()
            self._dirs.clear()

    def _find(self, key: bytes) -> Entry | None:
        if key in self._edits:
            return self._edits[key]
        return trees.find(self._load, self._root, key)

    def _exists(self, key: bytes) -> bool:
        """Whether a file or a directory is at a key."""
        return self._find(key) is not None or self._is_dir(key + b"/")

    def _check_collision(self, key: bytes) -> None:
        """No file may be where a directory is, nor the other way round.

        :raises ConflictError: ``path_collision``.
        """
        parent = key[: key.rfind(b"/") + 1]
        if parent:
            self._check_parents(key, parent)
        has_siblings = self._dirs[parent] if parent else self._root != EMPTY_ROOT
        below = key + b"/"
        if (has_siblings or below in self._edit_dirs) and self._is_dir(below):
            raise collision(key, "a directory of that name exists")

    def _check_parents(self, key: bytes, parent: bytes) -> None:
        directory = parent
        while directory and (directory not in self._dirs or directory not in self._edit_dirs):
            if directory not in self._dirs:
                if self._find(directory[:-1]) is not None:
                    raise collision(key, f"/{directory[:-1].decode()} is a file")
                end = trees.prefix_end(directory)
                self._dirs[directory] = trees.has_any(self._load, self._root, directory, end)
            self._edit_dirs.add(directory)
            directory = directory[: directory.rfind(b"/", 0, -1) + 1]

    def _is_dir(self, below: bytes) -> bool:
        end = trees.prefix_end(below)
        if below in self._edit_dirs and any(
            entry is not None and below <= name < end for name, entry in self._edits.items()
        ):
            return True
        if self._leaf_root != self._root or not self._leaf_keys[0] <= below <= self._leaf_keys[-1]:
            leaf = trees.leaf_around(self._load, self._root, below)
            if leaf is None:
                return False
            self._leaf_root, self._leaf_keys = self._root, leaf.keys
        if not self._leaf_keys[bisect_left(self._leaf_keys, below)].startswith(below):
            return False
        return any(
            entry.key not in self._edits for entry in trees.entries(self._load, self._root, below, end)
        )
