"""Contents that were linked instead of copied in: where they lie, and reading them there, verified like everything else.

Owns the tables ``links`` and ``linked_chunks``. They are asked only for a chunk that no pack holds, so a later ordinary put of
the same content takes over by itself.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from trunkline.core.hashing import digest
from trunkline.errors import CorruptionError, TrunklineError
from trunkline.storage.buckets import Buckets, parse_place
from trunkline.storage.db.engine import Database
from trunkline.storage.db.prepared import Prepared
from trunkline.storage.db.schema import chunks, linked_chunks, links
from trunkline.storage.db.upsert import upsert

FILE_SCHEME = "file://"
PER_QUERY = 500

_PLACES = (
    sa.select(links.c.url, linked_chunks.c.offset, linked_chunks.c.length)
    .join_from(linked_chunks, links)
    .where(linked_chunks.c.hash == sa.bindparam("name"))
    .order_by(links.c.created_at.desc())
)
_IS_STORED = sa.exists().where(chunks.c.hash == linked_chunks.c.hash)
_IS_NEEDED = sa.exists().where(linked_chunks.c.link_id == links.c.id, ~_IS_STORED)
_LINKED = sa.select(links.c.content, links.c.url).where(
    links.c.content.in_(sa.bindparam("contents", expanding=True)), _IS_NEEDED
)


@dataclass(kw_only=True)
class Link:
    """One linked content, while it is being recorded."""

    id: int
    url: str
    size: int
    version: str
    content: str | None = None


class Links:
    """Reads linked contents. Safe between threads."""

    def __init__(self, db: Database, buckets: Buckets | None = None) -> None:
        self._db = db
        self._buckets = buckets or Buckets()

    def read(self, name: bytes) -> bytes | None:
        """The bytes of a chunk; None if no link has it.

        :raises CorruptionError: ``link_broken``, naming what was linked and what to do.
        """
        with self._db.read() as connection:
            places = connection.execute(_PLACES, {"name": name}).all()
        broken: list[str] = []
        for url, offset, length in places:
            why = "it was changed since it was linked"
            try:
                data = self._fetch(url, offset, length)
                if digest(data) == name:
                    return data
            except OSError as error:
                why = "it is gone" if isinstance(error, FileNotFoundError) else str(error.strerror)
            except TrunklineError as error:
                why = error.message
            broken.append(f"{shown_link(url)} cannot be read as it was linked ({why})")
        if not broken:
            return None
        raise CorruptionError(
            f"{'; '.join(broken)}: bring it back as it was, or put the content again ('trunkline put file')",
            kind="link_broken",
            details={"chunk": name.hex(), "links": [url for url, _, _ in places]},
        )

    def _fetch(self, url: str, offset: int, length: int) -> bytes:
        if not url.startswith(FILE_SCHEME):
            return self._buckets.read_range(parse_place(url), offset, length) if length else b""
        descriptor = open_plain(url.removeprefix(FILE_SCHEME))
        try:
            found: list[bytes] = []
            while length:
                part = os.pread(descriptor, length, offset)
                if not part:
                    break
                found.append(part)
                offset, length = offset + len(part), length - len(part)
            return b"".join(found)
        finally:
            os.close(descriptor)


def open_plain(path: str) -> int:
    """Open a plain file for reading; never waits, as opening a pipe would, and never follows a link at the end.

    :raises OSError: also if it is no plain file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(0, "it is no plain file")
    return descriptor


def shown_link(url: str) -> str:
    """A link for messages: paths as paths."""
    return url.removeprefix(FILE_SCHEME)


def linked(connection: Connection, contents: Sequence[str]) -> dict[str, str]:
    """Those of the contents (hashes as people see them) that are linked and not stored, with their URLs."""
    found: dict[str, str] = {}
    for start in range(0, len(contents), PER_QUERY):
        rows = connection.execute(_LINKED, {"contents": contents[start : start + PER_QUERY]})
        found.update((str(content), str(url)) for content, url in rows)
    return found


def lengths(connection: Connection, names: Sequence[bytes]) -> dict[bytes, int]:
    """Those of the chunks that some link has, with their lengths."""
    found: dict[bytes, int] = {}
    for start in range(0, len(names), PER_QUERY):
        query = sa.select(linked_chunks.c.hash, linked_chunks.c.length)
        part = query.where(linked_chunks.c.hash.in_(names[start : start + PER_QUERY]))
        found.update((bytes(name), int(length)) for name, length in connection.execute(part))
    return found


def drop_chunks(connection: Connection, names: Sequence[bytes]) -> None:
    """Forget every link that holds any of the chunks."""
    for start in range(0, len(names), PER_QUERY):
        holding = sa.select(linked_chunks.c.link_id).where(
            linked_chunks.c.hash.in_(names[start : start + PER_QUERY])
        )
        connection.execute(sa.delete(links).where(links.c.id.in_(holding)))


def older_than(connection: Connection, before: float, after: int | None, limit: int) -> list[int]:
    """Links of before that time, in the order of their ids."""
    query = sa.select(links.c.id).where(links.c.created_at < before).order_by(links.c.id).limit(limit)
    return list(connection.execute(query if after is None else query.where(links.c.id > after)).scalars())


def chunks_of(connection: Connection, link_id: int) -> list[bytes]:
    """The chunks of one link."""
    query = sa.select(linked_chunks.c.hash).where(linked_chunks.c.link_id == link_id)
    return [bytes(name) for name in connection.execute(query).scalars()]


def remove(connection: Connection, ids: Sequence[int]) -> None:
    """Forget links."""
    for start in range(0, len(ids), PER_QUERY):
        connection.execute(sa.delete(links).where(links.c.id.in_(ids[start : start + PER_QUERY])))


_ANY = Prepared(sa.select(links.c.id).limit(1))


def any_link(connection: Connection) -> bool:
    """Whether anything was ever linked; cheap."""
    return _ANY.first(connection) is not None


def add(connection: Connection, found: Iterable[Link], rows: Sequence[dict[str, Any]], now: float) -> None:
    """Record links and where their chunks lie."""
    values = [
        {
            "id": link.id, "url": link.url, "content": link.content, "size": link.size, "version": link.version,
            "created_at": now,
        }
        for link in found
    ]  # fmt: skip
    if values:
        connection.execute(sa.insert(links), values)
    if rows:
        connection.execute(upsert(linked_chunks).on_conflict_do_nothing(), list(rows))


def complete(connection: Connection, link: Link) -> None:
    """Say what a link that was recorded before it was read to its end turned out to be."""
    values = {"content": link.content, "size": link.size}
    connection.execute(sa.update(links).where(links.c.id == link.id).values(**values))


def present(connection: Connection, found: Sequence[Link]) -> set[int]:
    """The ids of those links that are recorded already, by URL and content."""
    known: set[tuple[str, str | None]] = set()
    urls = iter([link.url for link in found])
    while part := list(islice(urls, PER_QUERY)):
        query = sa.select(links.c.url, links.c.content).where(links.c.url.in_(part))
        known.update((url, content) for url, content in connection.execute(query))
    return {link.id for link in found if link.content is not None and (link.url, link.content) in known}


def forget(connection: Connection, contents: Sequence[str]) -> int:
    """Remove the links of contents that are stored now; returns how many there were."""
    count = 0
    for start in range(0, len(contents), PER_QUERY):
        part = links.c.content.in_(contents[start : start + PER_QUERY])
        count += connection.execute(sa.delete(links).where(part)).rowcount
    return count
