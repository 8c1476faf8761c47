"""Files, trees and differences."""

from __future__ import annotations

from trunkline.wire.base import Ask, Wire


class FileInfo(Wire):
    path: str
    """Absolute inside the commit; a directory's ends with ``/``."""
    is_dir: bool
    size: int
    hash: str
    modified_at: float | None
    executable: bool = False


class TreeInfo(Wire):
    """A stored directory tree that may or may not belong to a commit."""

    root: str
    size: int
    file_count: int


class DiffEntry(Wire):
    op: str
    """``added``, ``deleted`` or ``changed``."""
    old: FileInfo | None
    new: FileInfo | None

    @property
    def path(self) -> str:
        """Where the file is, or was."""
        found = self.new or self.old
        assert found is not None, "one of them is there"
        return found.path


class CopyFile(Ask):
    source: str
    """Address with path, of the same or (with ``project/`` in front) another project."""
    to: str
