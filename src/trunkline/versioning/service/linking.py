"""Import without copying: files whose contents stay where they are."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from trunkline.core.hashing import digest
from trunkline.core.ids import TreeHash
from trunkline.errors import ConflictError
from trunkline.versioning import links
from trunkline.versioning.chunks import ChunkWriter
from trunkline.versioning.files import ONE_CHUNK_BYTES_MAX, Content, ListBuilder, cut
from trunkline.versioning.links import Link
from trunkline.versioning.model import FileInfo, PutContent, TreeInfo
from trunkline.versioning.nodes import Entry, ListRef, content_identity
from trunkline.versioning.service.base import UseCases

ROWS_PER_WRITE = 20_000
FILES_PER_WRITE = 2_000


@dataclass(frozen=True, kw_only=True)
class LinkSource:
    """Something that lies elsewhere and is to be known here under ``path``. ``read`` gives all of its bytes, once."""

    path: str
    url: str
    size: int
    version: str
    read: Callable[[], Iterable[bytes]]
    modified_ns: int | None = None
    executable: bool = False


class Linking(UseCases):
    """Links to contents, and their end."""

    def link(self, sources: Iterable[LinkSource]) -> Iterator[PutContent]:
        """The changes that put linked files; reads every source once, stores none of it. For ``modify``.

        :raises ConflictError: ``file_changed``, if a source is of another size than it was said to be.
        """
        with self._chunks.writer() as writer:
            record = _Record()
            for source in sources:
                content = self._scan(source, writer, record)
                put = PutContent(
                    path=source.path,
                    size=content.size,
                    hash=content.hash,
                    level=content.level,
                    modified_ns=source.modified_ns,
                    executable=source.executable,
                )
                record.changes.append(put)
                if len(record.rows) >= ROWS_PER_WRITE or len(record.changes) >= FILES_PER_WRITE:
                    yield from self._flush(writer, record)
            yield from self._flush(writer, record)

    def linked(self, contents: Sequence[str]) -> dict[str, str]:
        """Those of the contents (``FileInfo.hash``) that lie elsewhere, and where."""
        with self._db.read() as connection:
            return links.linked(connection, contents) if contents and links.any_link(connection) else {}

    def copy_in(self, root: TreeHash, path: str = "/") -> TreeInfo:
        """Store what is linked at or below a path, so that it needs its source no more. Commits stay as they are.

        :raises CorruptionError: ``link_broken``, naming the source that is not what it was.
        """
        size = count = 0
        with self._chunks.writer() as writer:
            for batch in _batches(self.walk(root, path)):
                found = self.linked([info.hash for info in batch])
                for info in batch:
                    if info.hash in found:
                        for part in self.read(root, info.path):
                            writer.add(part)
                        size, count = size + info.size, count + 1
                writer.finish()
                with self._db.write() as connection:
                    links.forget(connection, list(found))
        return TreeInfo(root=root, size=size, file_count=count)

    def _scan(self, source: LinkSource, writer: ChunkWriter, record: _Record) -> Content:
        link = Link(id=secrets.randbits(62), url=source.url, size=source.size, version=source.version)
        record.links.append(link)
        builder = ListBuilder(writer.add)
        offset, name = 0, b""
        for chunk in cut(source.read()):
            name = digest(chunk)
            record.rows.append({"hash": name, "link_id": link.id, "offset": offset, "length": len(chunk)})
            if source.size > ONE_CHUNK_BYTES_MAX:  # a smaller file is its chunk, without a list
                builder.add(ListRef(0, name, len(chunk)))
            offset += len(chunk)
            if len(record.rows) >= ROWS_PER_WRITE:
                self._record(record)
        if offset != source.size:
            raise ConflictError(
                f"{links.shown_link(source.url)} changed while it was read: repeat", kind="file_changed"
            )
        content = builder.finish() if offset > ONE_CHUNK_BYTES_MAX else Content(offset, name, 0)
        entry = Entry(b"", content.size, content.hash, content.level, None, False)
        link.content = content_identity(entry).hex()
        if link not in record.links:
            with self._db.write() as connection:
                links.complete(connection, link)
        return content

    def _flush(self, writer: ChunkWriter, record: _Record) -> Iterator[PutContent]:
        """Chunk lists durable first, then the links, then the files may be named."""
        writer.finish()
        self._record(record)
        changes, record.changes = record.changes, []
        yield from changes

    def _record(self, record: _Record) -> None:
        with self._db.write() as connection:
            known = links.present(connection, record.links)
            fresh = [link for link in record.links if link.id not in known]
            rows = [row for row in record.rows if row["link_id"] not in known]
            links.add(connection, fresh, rows, self._clock.now())
        record.links, record.rows = [], []


class _Record:
    """Links that are not in the database yet."""

    def __init__(self) -> None:
        self.links: list[Link] = []
        self.rows: list[dict[str, Any]] = []
        self.changes: list[PutContent] = []


def _batches(found: Iterable[FileInfo]) -> Iterator[list[FileInfo]]:
    batch: list[FileInfo] = []
    for info in found:
        batch.append(info)
        if len(batch) >= FILES_PER_WRITE:
            yield batch
            batch = []
    if batch:
        yield batch
