"""What a target of egress is, and what it is handed. Drivers are in the files beside this one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trunkline.core.ids import TreeHash
from trunkline.errors import NotFoundError
from trunkline.versioning.model import FileInfo
from trunkline.versioning.service import VersioningService

CHECK_FILES = 100
"""After so many files a driver asks whether its work is still wanted."""


class Stopped(Exception):  # noqa: N818  (it is no error)
    """The job was ended meanwhile: nobody wants the rest."""


@dataclass(kw_only=True)
class Written:
    """What was done so far."""

    files_written: int = 0
    files_deleted: int = 0
    bytes_written: int = 0
    rows_written: int = 0
    tables: int = 0

    def shown(self) -> dict[str, int]:
        return {name: value for name, value in vars(self).items() if value or name == "files_written"}


class Parcel:
    """One output, as the difference to what may be at the target: ``old`` are the trees of which files may be there.

    A file counts as there only if it is the same in all of them, so after a cut no file is missed.
    """

    def __init__(
        self,
        versioning: VersioningService,
        old: Sequence[TreeHash],
        new: TreeHash,
        is_wanted: Callable[[], bool],
    ) -> None:
        self._versioning = versioning
        self._old = old
        self._is_wanted = is_wanted
        self.new = new
        self.written = Written()

    def check(self) -> None:
        """:raises Stopped: if the job was ended."""
        if not self._is_wanted():
            raise Stopped

    @property
    def is_empty(self) -> bool:
        """Whether the target holds the output already."""
        return next(self._changed(), None) is None

    def deleted(self) -> Iterator[str]:
        """Files that may be at the target, and are not in the output: paths without the first slash."""
        return (path for path, info in self._changed() if info is None)

    def put(self) -> Iterator[FileInfo]:
        """Files of the output that may not be at the target as they are now."""
        return (info for _, info in self._changed() if info is not None)

    def contents(self) -> Iterator[tuple[FileInfo, Iterator[bytes]]]:
        """The same with their bytes, to be taken one after the other."""
        for number, (info, parts) in enumerate(self._versioning.read_files(self.new, self.put())):
            if number % CHECK_FILES == 0:
                self.check()
            yield info, parts

    def files_of(self, folder: str) -> Iterator[tuple[FileInfo, Iterator[bytes]]]:
        """All files of a top directory of the output, whether they changed or not."""
        files = (info for info in self._versioning.walk(self.new, f"/{folder}/") if not info.is_dir)
        return self._versioning.read_files(self.new, files)

    def folders(self) -> dict[str, bool]:
        """Top directories in which something changed, and whether they still are in the output. A file that is in none has the
        name ``""``."""
        found: dict[str, bool] = {}
        for path, _ in self._changed():
            top, slash, _ = path.partition("/")
            name = top if slash else ""
            if name not in found:
                found[name] = bool(name) and self._has(f"/{name}/")
        return found

    def has_folder(self, path: str) -> bool:
        """Whether a directory of that path (without the first slash) is in the output."""
        return self._has(f"/{path}/")

    def is_file(self, path: str) -> bool:
        """Whether a file of that path is in the output."""
        return self._has(f"/{path}")

    def _has(self, path: str) -> bool:
        try:
            return self._versioning.stat(self.new, path).is_dir == path.endswith("/")
        except NotFoundError:
            return False

    def _changed(self) -> Iterator[tuple[str, FileInfo | None]]:
        seen: set[str] = set()
        for old in self._old:
            for entry in self._versioning.diff(old, self.new):
                info = entry.new or entry.old
                assert info is not None, "a difference has a side"
                if len(self._old) > 1:
                    if info.path in seen:
                        continue
                    seen.add(info.path)
                yield info.path[1:], entry.new


class Target(ABC):
    """A place outside, opened for one egress."""

    @property
    @abstractmethod
    def name(self) -> str:
        """A URL without secrets: how people, and the list of what is there, call it."""

    @abstractmethod
    def send(self, parcel: Parcel) -> None:
        """Make the target hold the output: put what is not there, delete what an earlier egress put there and is gone. Never
        touches other files. What has the name of a file is always whole. May be done again after a cut.

        :raises UnavailableError: if another try may help; any other ``TrunklineError`` if not. ``Stopped``: from ``parcel``.
        """


OpenTarget = Callable[[str, Mapping[str, Any]], Target]
"""``(project, egress of an effective spec)`` -> its target, not yet connected to; raises ``InvalidInputError`` or
``NotFoundError`` for one that cannot be. Given by the composition root, which knows the drivers."""
