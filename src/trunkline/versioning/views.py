"""Trees as people see them: files and directories with their sizes and hashes. Reads only.

Every listing can go on ``after`` a path that it showed before (a directory's with its slash), and then costs what is left.
"""

from __future__ import annotations

import contextlib
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain
from typing import cast

from trunkline.core.paths import Glob, clean_path
from trunkline.errors import NotFoundError
from trunkline.versioning import comparing, trees
from trunkline.versioning.model import DiffEntry, FileInfo
from trunkline.versioning.nodes import Entry, content_identity
from trunkline.versioning.trees import Load


def file_info(entry: Entry, groups: tuple[str, ...] | None = None) -> FileInfo:
    return FileInfo(
        path="/" + entry.key.decode(),
        is_dir=False,
        size=entry.size,
        hash=content_identity(entry).hex(),
        modified_at=None if entry.mtime is None else entry.mtime / 10**9,
        executable=entry.executable,
        modified_ns=entry.mtime,
        groups=groups,
    )


def directory_info(load: Load, root: bytes, path: str, groups: tuple[str, ...] | None = None) -> FileInfo:
    """A directory that is known to exist."""
    summary = trees.summarize(load, root, *trees.directory_range(path))
    shown = path if path == "/" else path + "/"
    return FileInfo(
        path=shown, is_dir=True, size=summary.size, hash=summary.identity.hex(), modified_at=None, groups=groups
    )  # fmt: skip


def stat(load: Load, root: bytes, path: str) -> FileInfo:
    path = clean_path(path)
    entry = find_file(load, root, path)
    if entry is not None:
        return file_info(entry)
    _check_directory(load, root, path)
    return directory_info(load, root, path)


def find_file(load: Load, root: bytes, path: str) -> Entry | None:
    return None if path == "/" else trees.find(load, root, path[1:].encode())


def _check_directory(load: Load, root: bytes, path: str) -> None:
    if path != "/" and not trees.has_any(load, root, *trees.directory_range(path)):
        raise no_such_path(path)


def no_such_path(path: str) -> NotFoundError:
    return NotFoundError(f"there is no file or directory {path}", kind="no_file", details={"path": path})


def _key_of(after: str | None) -> bytes:
    """The key of a path that was shown; of a directory, what all keys below it begin with."""
    return b"" if after is None else after[1:].encode()


def _behind(key: bytes) -> bytes:
    """The first key that may come behind a child: behind all of it, if it is a directory."""
    return trees.prefix_end(key) if key.endswith(b"/") else key + b"\0"


def list_dir(load: Load, root: bytes, path: str, *, after: str | None = None) -> Iterator[FileInfo]:
    """The direct children of a directory; of a file: the file itself. Looks before the first item is asked for."""
    path = clean_path(path)
    entry = find_file(load, root, path)
    if entry is not None:
        return iter([file_info(entry)] if after is None else [])
    _check_directory(load, root, path)
    return _list_dir(load, root, path, _behind(_key_of(after)) if after is not None else b"")


def _list_dir(load: Load, root: bytes, path: str, start: bytes) -> Iterator[FileInfo]:
    for child in trees.children(load, root, *trees.directory_range(path), start):
        if child.entry is not None:
            yield file_info(child.entry)
        else:
            yield directory_info(load, root, _join(path, child.name.decode()))


def _join(directory: str, name: str) -> str:
    return f"/{name}" if directory == "/" else f"{directory}/{name}"


def walk(load: Load, root: bytes, path: str, *, dirs: bool, after: str | None = None) -> Iterator[FileInfo]:
    """All files at or below a path, in the order of their paths; with ``dirs`` the directories too, each before its files."""
    path = clean_path(path)
    entry = find_file(load, root, path)
    if entry is not None:
        return iter([file_info(entry)] if after is None else [])
    _check_directory(load, root, path)
    return _walk(load, root, path, dirs=dirs, after=after)


def _walk(load: Load, root: bytes, path: str, *, dirs: bool, after: str | None) -> Iterator[FileInfo]:
    low, high = trees.directory_range(path)
    if dirs and after is None:
        yield directory_info(load, root, path)
    seen = max(low, _key_of(after))
    for entry in trees.entries(load, root, _first_unseen(low, after), high):
        if dirs:
            for directory in _entered(seen, entry.key, len(low)):
                yield directory_info(load, root, "/" + directory.decode())
            seen = entry.key
        yield file_info(entry)


def entries_below(load: Load, root: bytes, path: str) -> Iterator[Entry]:
    """All files at or below a path, as the tree has them. Looks before the first is asked for."""
    path = clean_path(path)
    entry = find_file(load, root, path)
    if entry is not None:
        return iter([entry])
    _check_directory(load, root, path)
    return trees.entries(load, root, *trees.directory_range(path))


def entries_below_each(load: Load, root: bytes, paths: Iterable[str]) -> Iterator[Entry]:
    """All files at or below each of some paths, in order; quick where these are files near each other. Looks before the first is
    asked for."""
    found: list[Iterable[Entry]] = []
    files: list[Entry] = []
    keys: list[bytes] = []
    items: list[Entry] = []
    for path in paths:
        key = clean_path(path)[1:].encode()
        if not keys or not keys[0] <= key <= keys[-1]:
            leaf = trees.leaf_around(load, root, key)
            keys, items = ([], []) if leaf is None else (leaf.keys, cast("list[Entry]", leaf.items))
        at = bisect_left(keys, key)
        if at < len(keys) and keys[at] == key:
            files.append(items[at])
            continue
        found.append(files)
        files = []
        found.append(entries_below(load, root, path))
    return chain.from_iterable([*found, files])


def _first_unseen(low: bytes, after: str | None) -> bytes:
    """Where a walk goes on: behind a file, but inside a directory."""
    key = _key_of(after)
    return max(low, key if key.endswith(b"/") or not key else key + b"\0")


def _entered(before: bytes, key: bytes, start: int) -> Iterator[bytes]:
    """The directories (without slash) that hold ``key`` but not the key before it, outermost first."""
    at = key.find(b"/", start)
    while at >= 0:
        if not before.startswith(key[: at + 1]):
            yield key[:at]
        at = key.find(b"/", at + 1)


def scan(
    load: Load, root: bytes, prefix: bytes, delimiter: bytes, after: bytes
) -> Iterator[tuple[str, FileInfo | None]]:
    """The keys (paths without the leading slash) that begin with ``prefix`` and come behind ``after``. Those that have the
    ``delimiter`` behind the prefix are one item together: the common beginning, with None. What is below it is skipped by
    seeking, so a page costs what it shows."""
    high = _end_of(prefix)
    low: bytes | None = max(prefix, after + b"\0") if after else prefix
    shown = _folded(after, prefix, delimiter)
    if shown is not None and shown == after:  # a common beginning was shown last
        low = _end_of(after)
    while low is not None:
        folded: bytes | None = None
        for entry in trees.entries(load, root, low, high):
            folded = _folded(entry.key, prefix, delimiter)
            if folded is not None:
                break
            yield entry.key.decode(), file_info(entry)
        if folded is None:
            return
        yield folded.decode(), None
        low = _end_of(folded)


def _folded(key: bytes, prefix: bytes, delimiter: bytes) -> bytes | None:
    """The key up to its first delimiter behind the prefix."""
    at = key.find(delimiter, len(prefix)) if delimiter and key.startswith(prefix) else -1
    return None if at < 0 else key[: at + len(delimiter)]


def _end_of(prefix: bytes) -> bytes | None:
    """The end of the range of keys that begin so; None: there is none behind them (UTF-8 has no byte 0xFF)."""
    return prefix[:-1] + bytes([prefix[-1] + 1]) if prefix else None


def glob(load: Load, root: bytes, pattern: str, *, after: str | None = None) -> Iterator[FileInfo]:
    """The files and directories that match, in the order of their paths."""
    compiled = Glob(pattern)
    if compiled.is_literal:
        return _glob_one(load, root, compiled) if after is None else iter(())
    if compiled.depth is None:
        return _glob_everywhere(load, root, compiled, after)
    return _glob_level(load, root, compiled, "/", 1, _key_of(after))


def _glob_one(load: Load, root: bytes, pattern: Glob) -> Iterator[FileInfo]:
    with contextlib.suppress(NotFoundError):
        yield replace(stat(load, root, pattern.literal_prefix), groups=())


def _glob_everywhere(load: Load, root: bytes, pattern: Glob, after: str | None) -> Iterator[FileInfo]:
    start = pattern.literal_prefix.rpartition("/")[0] or "/"
    if start != "/" and not trees.has_any(load, root, *trees.directory_range(start)):
        return
    if after is None and (groups := pattern.match(start)) is not None:
        yield directory_info(load, root, start, groups)
    low, high = trees.directory_range(start)
    seen = max(low, _key_of(after))
    for entry in trees.entries(load, root, _first_unseen(low, after), high):
        for directory in _entered(seen, entry.key, len(low)):
            path = "/" + directory.decode()
            if (groups := pattern.match(path)) is not None:
                yield directory_info(load, root, path, groups)
        seen = entry.key
        if (groups := pattern.match("/" + entry.key.decode())) is not None:
            yield file_info(entry, groups)


def _glob_level(
    load: Load, root: bytes, pattern: Glob, directory: str, depth: int, after: bytes
) -> Iterator[FileInfo]:
    """Descend only where the pattern can still match, down to its own depth."""
    assert pattern.depth is not None
    low, high = trees.directory_range(directory)
    start = b""
    if after > low:  # in or behind this directory
        parts = after.split(b"/")
        start = _behind(after) if depth == pattern.depth else b"/".join(parts[:depth]) + b"/"
    for child in trees.children(load, root, low, high, start):
        path = _join(directory, child.name.decode())
        if depth == pattern.depth:
            if (groups := pattern.match(path)) is None:
                continue
            if child.entry is not None:
                yield file_info(child.entry, groups)
            else:
                yield directory_info(load, root, path, groups)
        elif child.entry is None and (
            depth > len(pattern.levels) or pattern.levels[depth - 1].fullmatch(path)
        ):
            yield from _glob_level(load, root, pattern, path, depth + 1, after)


def diff(load: Load, old: bytes, new: bytes, path: str, *, after: str | None = None) -> Iterator[DiffEntry]:
    """The files that were added, deleted or changed (in content or executable bit) at or below a path."""
    path = clean_path(path)
    pair = (find_file(load, old, path), find_file(load, new, path))
    pairs = [pair] if pair[0] != pair[1] and after is None else []
    low, high = trees.directory_range(path)
    # A path that was a file and became a directory: the file comes first, and its key lies before the directory's.
    return _diff(load, old, new, _first_unseen(low, after), high, pairs)


def _diff(
    load: Load,
    old: bytes,
    new: bytes,
    low: bytes,
    high: bytes | None,
    pairs: list[tuple[Entry | None, Entry | None]],
) -> Iterator[DiffEntry]:
    for some in (pairs, comparing.compare(load, old, new, low, high)):
        for a, b in some:
            if not _is_same(a, b):
                yield _diff_entry(a and file_info(a), b and file_info(b))


def diff_children(
    load: Load, old: bytes, new: bytes, path: str, *, after: str | None = None
) -> Iterator[DiffEntry]:
    """The direct children of a directory that differ, directories as a whole: those below a child are passed over."""
    path = clean_path(path)
    a, b = find_file(load, old, path), find_file(load, new, path)
    if after is None and not _is_same(a, b):
        yield _diff_entry(a and file_info(a), b and file_info(b))
    low, high = trees.directory_range(path)
    at = low if after is None else max(low, _behind(_key_of(after)))
    while True:
        pairs = comparing.compare(load, old, new, at, high)
        key = next(((one or other).key for one, other in pairs if not _is_same(one, other)), None)  # type: ignore[union-attr]
        if key is None:
            return
        slash = key.find(b"/", len(low))
        at = _behind(key if slash < 0 else key[: slash + 1])
        child = "/" + (key if slash < 0 else key[:slash]).decode()
        if slash < 0:
            a, b = find_file(load, old, child), find_file(load, new, child)
            yield _diff_entry(a and file_info(a), b and file_info(b))
        else:
            yield _diff_entry(_directory(load, old, child), _directory(load, new, child))


def _directory(load: Load, root: bytes, path: str) -> FileInfo | None:
    exists = trees.has_any(load, root, *trees.directory_range(path))
    return directory_info(load, root, path) if exists else None


def _diff_entry(old: FileInfo | None, new: FileInfo | None) -> DiffEntry:
    op = "added" if old is None else "deleted" if new is None else "changed"
    return DiffEntry(op=op, old=old, new=new)


def _is_same(a: Entry | None, b: Entry | None) -> bool:
    if a is None or b is None:
        return a is b
    return (a.hash, a.level, a.executable) == (b.hash, b.level, b.executable)
