"""What a command left in ``/pfs/out``, as a list of files to upload.

Symbolic links are followed the way the *command* saw the file system, not the way the worker does: a link to ``/pfs/in/x``
leads to that input, and one into the data directory leads to the small folder that lay over it, never to the real one.
"""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from trunkline.errors import InvalidInputError
from trunkline.workers.sandbox import Box

LINKS_MAX = 40
DEPTH_MAX = 200
SHOWN_CHARACTERS_MAX = 120
REFUSED_PLACES = ("/proc", "/sys", "/dev")


class View:
    """Paths as the command saw them -> paths on this machine."""

    def __init__(self, box: Box) -> None:
        folder, home = str(box.folder.resolve()), str(box.home.resolve())
        places = {"/pfs": str(box.pfs.resolve()), home: str(box.private_home.resolve())}
        places |= {str(path.resolve()): str(path.resolve()) for path in box.keep}
        if box.mode == "paths":
            places[folder] = folder
        self._has_host = box.mode != "container"
        self._places = sorted(places.items(), key=lambda place: -len(place[0]))
        self._above = {str(parent) for seen in places for parent in Path(seen).parents}
        """Folders that a place lies in; no links, and perhaps not there under their mapped name."""

    def host(self, path: str) -> str:
        """Where a path without links in it really is.

        :raises FileNotFoundError: if it was in the image of a container.
        """
        for seen, real in self._places:
            if path == seen or path.startswith(seen + "/"):
                return real + path[len(seen) :]
        if not self._has_host:
            raise FileNotFoundError(path)
        return path

    def follow(self, path: str) -> str:
        """The path that a path leads to, all links followed; still as the command saw it.

        :raises OSError: if it leads nowhere.
        """
        waiting = deque(path.split("/"))
        at, links = "/", 0
        while waiting:
            part = waiting.popleft()
            if part in ("", "."):
                continue
            if part == "..":
                at = os.path.dirname(at)  # noqa: PTH120  (text, not a place on this machine)
                continue
            candidate = at.rstrip("/") + "/" + part
            if candidate in self._above:
                at = candidate
                continue
            host = self.host(candidate)
            if not stat.S_ISLNK(os.lstat(host).st_mode):
                at = candidate
                continue
            links += 1
            if links > LINKS_MAX:
                raise OSError("too many links")
            target = os.readlink(host)  # noqa: PTH115
            if target.startswith("/"):
                at = "/"
            waiting.extendleft(reversed(target.split("/")))
        return at


def files_of(box: Box) -> Iterator[tuple[str, Path]]:
    """Every file below ``/pfs/out`` as ``(name, where it is)``, in order.

    :raises InvalidInputError: ``bad_output``, naming what cannot be stored.
    """
    view = View(box)
    top = str(box.out.resolve()) if box.mode == "paths" else "/pfs/out"
    yield from _walk(view, top, "", 0)


def _walk(view: View, folder: str, prefix: str, depth: int) -> Iterator[tuple[str, Path]]:
    if depth > DEPTH_MAX:
        raise _bad(prefix, "is nested too deeply, or a link leads back to a folder above it")
    for entry in sorted(os.listdir(view.host(folder))):  # noqa: PTH208
        name = prefix + entry
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise _bad(
                os.fsencode(name).decode("utf-8", "replace"), "has a name that is not UTF-8"
            ) from error
        path = _destination(view, f"{folder}/{entry}", name)
        host = view.host(path)
        mode = os.lstat(host).st_mode
        if stat.S_ISDIR(mode):
            yield from _walk(view, path, name + "/", depth + 1)
        elif stat.S_ISREG(mode):
            yield name, Path(host)
        else:
            raise _bad(name, f"is a {_kind(mode)}; only files and folders can be stored")


def _destination(view: View, path: str, name: str) -> str:
    if not stat.S_ISLNK(os.lstat(view.host(path)).st_mode):
        return path
    try:
        found = view.follow(path)
    except OSError as error:
        raise _bad(name, f"is a link that leads nowhere ({os.readlink(view.host(path))})") from error  # noqa: PTH115
    if found.startswith(tuple(place + "/" for place in REFUSED_PLACES)) or found in ("/", *REFUSED_PLACES):
        raise _bad(name, f"is a link to {found}, which cannot be stored")
    return found


def _kind(mode: int) -> str:
    if stat.S_ISFIFO(mode):
        return "named pipe"
    return "socket" if stat.S_ISSOCK(mode) else "device"


def _bad(name: str, why: str) -> InvalidInputError:
    shown = name if len(name) <= SHOWN_CHARACTERS_MAX else name[:SHOWN_CHARACTERS_MAX] + "…"
    return InvalidInputError(f"/pfs/out/{shown.rstrip('/')} {why}", kind="bad_output")
