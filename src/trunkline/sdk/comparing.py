"""Which files differ from what the server has, by size, modification time and executable bit: none is read for that."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from trunkline.errors import NotFoundError
from trunkline.sdk.packing import Content, Run, encoded, runs

if TYPE_CHECKING:
    from trunkline.sdk.packing import Source

    Head = tuple[bytes, int, int | None, bool]
    """Of a file in a commit: its path without the leading slash, size, modification time, executable bit."""
    Heads = Callable[[str], Iterator[Head]]
    """What is at or below a path, in the order of the paths; nothing, if there is no such path."""

_MAY_RUN = 0o100


def changed(files: Iterable[tuple[str, Source]], into: str, heads: Heads) -> Iterator[Run | Content]:
    """Those of the files that are not as they are below ``into``. What is on no disk has no time, and always differs."""
    into = into.strip("/")
    alone: list[Run] = []
    for name, source in files:
        pair = [(name, source)]
        if not isinstance(source, bytes) and os.path.isdir(source):
            encoded(name, source)  # before it is asked for
            top = _joined(into, name)
            yield from _differing(runs(pair), _joined(into, "").encode(), _there(heads, top))
            continue
        for run in runs(pair):
            if isinstance(run, Content):
                yield run
            else:
                alone.append(run)
    if alone:  # one listing for all of them
        alone.sort(key=lambda run: run.prefix)
        first, last = (run.prefix.decode().strip("/") for run in (alone[0], alone[-1]))
        shared = os.path.commonpath([first, last])
        prefix = _joined(into, "").encode()
        yield from _differing(alone, prefix, _there(heads, _joined(into, shared).rstrip("/")))


def _joined(into: str, name: str) -> str:
    """The path in the repo."""
    return f"{into}/{name}" if into else name


def _there(heads: Heads, path: str) -> Iterator[Head]:
    try:
        yield from heads(path)
    except NotFoundError:
        return  # neither is the branch, perhaps: what is put then says so, if it must


def _differing(files: Iterable[Run | Content], into: bytes, heads: Iterator[Head]) -> Iterator[Run]:
    """Both are in the order of their paths."""
    head = next(heads, None)
    for run in files:
        assert isinstance(run, Run), "content was dealt with before"
        prefix, chosen = into + run.prefix, []
        for name in run.names:
            path = prefix if run.folder is None else prefix + name
            while head is not None and head[0] < path:
                head = next(heads, None)
            if head is None or head[0] != path:
                chosen.append(name)
                continue
            try:
                found = os.stat(name, dir_fd=run.folder)
            except FileNotFoundError:
                chosen.append(name)  # whoever sends it says so
                continue
            if head[1:] != (found.st_size, found.st_mtime_ns, bool(found.st_mode & _MAY_RUN)):
                chosen.append(name)
        if chosen:
            yield Run(run.folder, run.prefix, chosen, run.local)
