"""The folders of a sandbox, and where its commands see them."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from trunkline.workers.memory import Memory

_PFS = re.compile(r"(?<![\w./-])/pfs(?=/|$|[\s'\";:,)])")
USER_HOME = "/.trunkline"


@dataclass(frozen=True, kw_only=True)
class Box:
    """Folders on this machine, filled from outside while commands see them."""

    folder: Path
    """Holds all of the others; private to the sandbox, an absolute path without links."""
    home: Path
    """The data directory, to be hidden."""
    inputs: tuple[str, ...] = ()
    """Inputs that are there from the beginning."""
    keep: tuple[Path, ...] = ()
    """Folders inside the data directory that the command needs all the same: its Python, say."""
    secret_files: Mapping[str, str] = field(default_factory=dict, repr=False)
    mode: str = "namespace"
    """``namespace``, ``paths`` or ``container``; in all but ``paths``, commands see ``/pfs``."""
    user: tuple[int, int, list[int]] | None = None
    """As whom commands run: user, group and further groups; None: as the worker."""
    memory: Memory | None = None
    """Where ``pfs`` is, if it is not on the disk. The output always is."""

    @cached_property  # asked for many times for each datum
    def pfs(self) -> Path:
        return (self.folder if self.memory is None else self.memory.folder) / "pfs"

    @cached_property
    def pfs_from(self) -> tuple[int | None, str]:
        """The same for what is done for each datum: an open folder, if there is one, and the path from there."""
        return (None, str(self.pfs)) if self.memory is None else (self.memory.handle, "pfs")

    @cached_property
    def beside_pfs(self) -> Path:
        """On the same file system as ``pfs``, and not to be seen by commands that have a view of their own."""
        return self.pfs.parent

    @cached_property
    def out(self) -> Path:
        return self.folder / "pfs" / "out"

    @cached_property
    def private_home(self) -> Path:
        """What lies over the data directory."""
        return self.folder / "home"

    @cached_property
    def seen_pfs(self) -> str:
        return str(self.pfs) if self.mode == "paths" else "/pfs"

    @cached_property
    def seen_home(self) -> str:
        """What the command is told is the data directory: it holds nothing but the server's address."""
        if self.mode == "paths":
            return str(self.private_home)
        return str(self.home) if self.user is None else USER_HOME

    @property
    def homes(self) -> tuple[str, ...]:
        """Where the private folder is seen. Another user may not be able to reach the data directory's place at all."""
        return (str(self.home),) if self.user is None else (str(self.home), USER_HOME)

    def in_mode(self, mode: str) -> Box:
        """The same box in another mode."""
        return dataclasses.replace(self, mode=mode)

    def create(self) -> None:
        for name in (*self.inputs, "out"):
            (self.pfs / name).mkdir(parents=True, exist_ok=True)
        for name in ("home/run", "home/code", "home/tmp", "root"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)

    def note_server(self, url: str) -> None:
        """Tell the command (again) where the server is."""
        target = self.private_home / "run" / "server.json"
        temporary = target.with_suffix(".tmp")
        temporary.write_text(json.dumps({"url": url}))
        temporary.replace(target)

    def rewritten(self, text: str) -> str:
        """A word of the command as it must be in this mode."""
        if self.mode != "paths" or "/pfs" not in text:
            return text
        return _PFS.sub(lambda _: str(self.pfs), text)

    def write_stdin(self, lines: Sequence[str], name: str = "stdin") -> Path:
        """A file with what the command gets to read."""
        path = self.folder / name
        path.write_text("".join(f"{self.rewritten(line)}\n" for line in lines))
        return path

    def secrets(self) -> list[tuple[str, dict[str, str]]]:
        """The secrets by the folder in which they are to be seen."""
        by_folder: dict[str, dict[str, str]] = {}
        for path, value in self.secret_files.items():
            folder, _, name = path.rpartition("/")
            by_folder.setdefault(folder, {})[name] = value
        return sorted(by_folder.items())
