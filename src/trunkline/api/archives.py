"""Tar streams in and out. What comes in is hostile: names, types and sizes are checked entry by entry, and nothing is held
in memory but the part that is being stored."""

from __future__ import annotations

import stat
import tarfile
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any, Protocol

from starlette.responses import Response

from trunkline.api import filestreams
from trunkline.api.stream import StreamedBody, streamed, streamed_batches
from trunkline.core import filestream, tar
from trunkline.core.ids import TreeHash
from trunkline.core.paths import clean_path
from trunkline.errors import InvalidInputError
from trunkline.versioning.model import Change, FileInfo, PutFile, PutStream
from trunkline.versioning.service import VersioningService

PART_BYTES = 256 * 1024
EXTENSION_BYTES_MAX = 64 * 1024
"""A long name or an extended header may have this size; tarfile reads them whole."""


class Readable(Protocol):
    """All that a tar reader asks of a stream."""

    def read(self, size: int = -1, /) -> bytes: ...


class _BoundedInfo(tar.TimedInfo):
    """Refuses oversized extension headers before they are read."""

    def _proc_member(self, archive: tarfile.TarFile) -> Any:
        extensions = (
            tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE,
            tarfile.SOLARIS_XHDTYPE,
        )  # fmt: skip
        if self.type in extensions and self.size > EXTENSION_BYTES_MAX:
            raise _bad("an extended header is too large")
        return super()._proc_member(archive)  # type: ignore[misc]


def files_of(stream: Readable, *, into: str = "/", append: bool = False) -> Iterator[PutFile]:
    """The files of a tar stream as changes, in order; each one's content must be consumed before the next is asked for.

    :raises InvalidInputError: ``bad_archive`` or ``bad_path``, naming the entry.
    """
    try:
        source: Any = stream  # typeshed asks for more methods than tarfile does
        with tarfile.open(fileobj=source, mode="r|", tarinfo=_BoundedInfo) as archive:
            members: list[tarfile.TarInfo] = vars(archive)["members"]
            while (entry := archive.next()) is not None:
                assert isinstance(entry, _BoundedInfo), "it makes them all"
                members.clear()  # else it remembers every entry it has seen
                if entry.isdir():
                    continue
                if not entry.isreg() or entry.issparse():
                    raise _bad(f"{entry.name!r} is not a plain file: links and devices are not taken")
                yield PutFile(
                    path=_target(into, entry.name),
                    parts=_content(archive, entry),
                    modified_ns=entry.modified_ns,
                    executable=bool(entry.mode & stat.S_IXUSR),
                    append=append,
                )
        while stream.read(PART_BYTES):  # what follows the end of an archive is padding
            pass
    except tarfile.TarError as error:
        raise _bad(str(error)) from error


def _target(into: str, name: str) -> str:
    path = clean_path(f"{into.rstrip('/')}/{name.removeprefix('./').lstrip('/')}")
    if path == "/":
        raise _bad(f"the entry {name!r} has no name")
    return path


def _content(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> Iterator[bytes]:
    file = archive.extractfile(entry)
    assert file is not None, "a regular file has content"
    try:
        while part := file.read(PART_BYTES):
            yield part
    except tarfile.TarError as error:  # raised here, inside whoever stores the parts
        raise _bad(f"{entry.name!r}: {error}") from error


def _bad(why: str) -> InvalidInputError:
    return InvalidInputError(f"the archive is not usable: {why}", kind="bad_archive")


def changes_in(
    body: StreamedBody, content_type: str | None, *, into: str = "/", append: bool = False
) -> Iterable[Change]:
    """The files of an uploaded body as changes: our own stream where it says so, else tar."""
    if content_type == filestream.MEDIA_TYPE:
        return [PutStream(source=body, into=into, append=append)]
    return files_of(body, into=into, append=append)


def answer_with(
    versioning: VersioningService, root: TreeHash, tops: Iterable[str], accept: str | None
) -> Response:
    """The files of one tree at or below ``tops`` as a body: our own stream for who asks for it, or its heads, else tar."""
    if accept == filestream.MEDIA_TYPE:
        return streamed_batches(filestreams.stream_of(versioning, root, tops), media_type=accept)
    if accept == filestream.HEADS_MEDIA_TYPE:
        return streamed(filestreams.heads_of(versioning, root, tops), media_type=accept)
    files = chain.from_iterable([versioning.walk(root, top) for top in tops])
    return streamed(archive_of(versioning, root, files), media_type="application/x-tar")


def archive_of(versioning: VersioningService, root: TreeHash, files: Iterable[FileInfo]) -> Iterator[bytes]:
    """A tar stream of files of one tree, under their whole paths (without the leading slash)."""
    for info, parts in versioning.read_files(root, files):
        if info.is_dir:
            continue
        yield tar.header(
            info.path.lstrip("/"), size=info.size, modified_ns=info.modified_ns, executable=info.executable
        )
        yield from parts
        yield tar.padding(info.size)
    yield tar.END
