"""Files, trees and differences."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from trunkline.wire.base import Ask, Wire


class FileInfo(Wire):
    path: str
    """Absolute inside the commit; a directory's ends with ``/``."""
    is_dir: bool
    size: int
    hash: str
    modified_at: float | None
    executable: bool = False
    modified_ns: int | None = None
    """The time exactly: nanoseconds since the epoch."""
    groups: tuple[str, ...] | None = None
    """What the brackets ``( )`` of a glob have captured."""
    linked: str | None = None
    """Where the content lies, if it was linked and never copied in."""


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
    append: bool = False


class Fetch(Ask):
    """The server fetches a URL: http, https, or (with ``recursive`` as a folder) s3, gs."""

    op: Literal["fetch"] = "fetch"
    url: str
    path: str
    recursive: bool = False
    append: bool = False
    unpack: bool = False
    """It is an archive: what is in it goes below ``path``."""


class Link(Ask):
    """A file or folder of the server's machine, or of a bucket, whose content stays where it is."""

    op: Literal["link"] = "link"
    source: str
    path: str
    recursive: bool = False


class Take(Ask):
    """The files of a fileset, which were uploaded before."""

    op: Literal["take"] = "take"
    root: str
    path: str = "/"
    append: bool = False


class Copy(Ask):
    """A file or directory of any commit."""

    op: Literal["copy"] = "copy"
    source: str
    path: str
    append: bool = False


class Delete(Ask):
    """A file; with ``recursive`` also a directory; with ``glob`` all that matches the path."""

    op: Literal["delete"] = "delete"
    path: str
    recursive: bool = False
    glob: bool = False


class ChangeFiles(Ask):
    """Several changes, in order, as one commit: all or none."""

    at: str
    changes: list[Annotated[Fetch | Link | Take | Copy | Delete, Field(discriminator="op")]] = Field(
        min_length=1
    )
    description: str = ""


class CopyIn(Ask):
    """Store what is linked at or below an address."""

    at: str
