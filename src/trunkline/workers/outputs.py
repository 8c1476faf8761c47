"""What a command left in ``/pfs/out``, as a list of files to upload.

Symbolic links are followed the way the *command* saw the file system, not the way the worker does: a link to ``/pfs/in/x``
leads to that input, and one into the data directory leads to the small folder that lay over it, never to the real one. A link
into an input whose content is not on this machine (``lazy``, ``empty_files``) stands for that file of the input's tree.
And with the command's rights, not the worker's: what its user could not read is not stored for it.
"""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from trunkline.core.paths import clean_path
from trunkline.errors import InvalidInputError
from trunkline.workers.box import Box

LINKS_MAX = 40
DEPTH_MAX = 200
SHOWN_CHARACTERS_MAX = 120
REFUSED_PLACES = ("/proc", "/sys", "/dev")


class Found(NamedTuple):
    """A file of the output."""

    name: str
    path: str
    """Where it is on this machine."""
    source: tuple[str, str] | None
    """Tree and path of what it is a copy of, if its content is not here."""
    size: int
    is_linked: bool
    """It was reached through a link, and so lies somewhere else."""


class View:
    """Paths as the command saw them -> paths on this machine."""

    def __init__(self, box: Box) -> None:
        self.top = str(box.out.resolve()) if box.mode == "paths" else "/pfs/out"
        self._has_host = box.mode != "container"
        self._user = box.user
        self.trees: Mapping[str, str] = {}
        """Folders as the command saw them whose files stand for those of a tree, by its hash."""
        folder, home = str(box.folder.resolve()), str(box.home.resolve())
        places = {"/pfs": _real(box.pfs, box), home: str(box.private_home.resolve())}
        places["/pfs/out"] = str(box.out.resolve())
        places |= {seen: str(box.private_home.resolve()) for seen in box.homes}
        places |= {str(path.resolve()): str(path.resolve()) for path in box.keep}
        if box.mode == "paths":
            places[folder] = folder
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

    def is_readable(self, path: str) -> bool:
        """Whether the command's user could have read a path without links in it."""
        if self._user is None:
            return True
        above = Path(path).parents
        return self._allows(path, 0o4) and all(
            self._allows(str(one), 0o1) for one in above if str(one) not in self._above
        )

    def _allows(self, path: str, bits: int) -> bool:
        assert self._user is not None, "the worker's own rights need no looking at"
        uid, gid, groups = self._user
        status = os.lstat(self.host(path))
        if uid == status.st_uid:
            return bool(status.st_mode & bits << 6)
        return bool(status.st_mode & (bits << 3 if status.st_gid in (gid, *groups) else bits))

    def source(self, path: str) -> tuple[str, str] | None:
        """The tree and the path in it that a place stands for, if it does."""
        for folder, root in self.trees.items():
            if path.startswith(folder + "/"):
                return root, path[len(folder) :]
        return None


def _real(path: Path, box: Box) -> str:
    """Without links, but for the one by which this process gets into memory."""
    return str(path.resolve() if box.memory is None else path)


def files_of(box: Box) -> Iterator[tuple[str, Path]]:
    """Every file below ``/pfs/out`` as ``(name, where it is)``, in order.

    :raises InvalidInputError: ``bad_output``, naming what cannot be stored.
    """
    for found in outputs_of(View(box)):
        yield found.name, Path(found.path)


def outputs_of(view: View) -> Iterator[Found]:
    """The same, and more of each.

    :raises InvalidInputError: ``bad_output``, naming what cannot be stored.
    """
    try:
        yield from _walk(view, view.top, "", 0, is_linked=False)
    except PermissionError as error:
        raise InvalidInputError(f"/pfs/out cannot be read: {error.strerror}", kind="bad_output") from error


def _walk(view: View, folder: str, prefix: str, depth: int, *, is_linked: bool) -> Iterator[Found]:
    if depth > DEPTH_MAX:
        raise _bad(prefix, "is nested too deeply, or a link leads back to a folder above it")
    above = view.host(folder)
    for entry in sorted(os.listdir(above)):  # noqa: PTH208
        name = prefix + entry
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise _bad(
                os.fsencode(name).decode("utf-8", "replace"), "has a name that is not UTF-8"
            ) from error
        if not entry.isprintable():  # said here, where the name is still the one that the program gave
            _check_characters(name)
        path, host = f"{folder}/{entry}", f"{above}/{entry}"
        status = os.lstat(host)
        linked = is_linked
        if stat.S_ISLNK(status.st_mode):
            path, linked = _destination(view, path, name), True
            host = view.host(path)
            status = os.lstat(host)
        if linked and not view.is_readable(path):
            raise _bad(name, "is a link to what its user may not read")
        if stat.S_ISDIR(status.st_mode):
            yield from _walk(view, path, name + "/", depth + 1, is_linked=linked)
        elif linked and (source := view.source(path)) is not None:
            yield Found(name, host, source, 0, linked)
        elif stat.S_ISREG(status.st_mode):
            if not os.access(host, os.R_OK):
                raise _bad(name, "cannot be read: its permissions forbid it")
            yield Found(name, host, None, status.st_size, linked)
        else:
            raise _bad(name, f"is a {_kind(status.st_mode)}; only files and folders can be stored")


def _check_characters(name: str) -> None:
    try:
        clean_path(name)
    except InvalidInputError as error:
        shown = name.encode("unicode_escape").decode()
        raise _bad(shown, f"has a name that is not allowed: {error.message.rpartition(': ')[2]}") from error


def _destination(view: View, path: str, name: str) -> str:
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
