"""All SQL on ``uploads`` and ``upload_parts``. Each function works in its caller's transaction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from trunkline.core.ids import TreeHash
from trunkline.storage.db.schema import upload_parts, uploads
from trunkline.versioning.model import Upload, UploadPart


@dataclass(frozen=True, kw_only=True)
class UploadRow:
    upload: Upload
    commit_id: str | None
    """What it ended in."""
    root: TreeHash | None


def insert(connection: Connection, repo_id: int, upload: Upload, expires_at: float) -> None:
    connection.execute(
        sa.insert(uploads).values(
            id=upload.id, repo_id=repo_id, address=upload.address, path=upload.path, modified_at=upload.modified_at,
            created_at=upload.created_at, expires_at=expires_at,
        )
    )  # fmt: skip


def find(connection: Connection, upload_id: str, now: float) -> UploadRow | None:
    query = sa.select(uploads).where(uploads.c.id == upload_id, uploads.c.expires_at > now)
    row = connection.execute(query).one_or_none()
    return None if row is None else UploadRow(upload=_upload(row), commit_id=row.commit_id, root=row.root)


def list_open(
    connection: Connection, address: str, prefix: str, after: tuple[str, str], limit: int, now: float
) -> list[Upload]:
    """Those that go on, by path and then ID, behind ``after``."""
    query = sa.select(uploads).where(
        uploads.c.address == address,
        uploads.c.commit_id.is_(None),
        uploads.c.expires_at > now,
        uploads.c.path.startswith(prefix, autoescape=True),
        sa.or_(uploads.c.path > after[0], sa.and_(uploads.c.path == after[0], uploads.c.id > after[1])),
    )
    rows = connection.execute(query.order_by(uploads.c.path, uploads.c.id).limit(limit))
    return [_upload(row) for row in rows]


def _upload(row: Row[Any]) -> Upload:
    return Upload(
        id=row.id, address=row.address, path=row.path, modified_at=row.modified_at, created_at=row.created_at
    )


def put_part(connection: Connection, upload_id: str, part: UploadPart, expires_at: float) -> bool:
    """Record a part, in place of one that had its number. False if the upload has ended."""
    alive = sa.update(uploads).where(uploads.c.id == upload_id, uploads.c.commit_id.is_(None))
    if connection.execute(alive.values(expires_at=expires_at)).rowcount != 1:
        return False
    values = {"root": part.root, "hash": part.hash, "size": part.size, "created_at": part.created_at}
    same = (upload_parts.c.upload_id == upload_id, upload_parts.c.number == part.number)
    if connection.execute(sa.update(upload_parts).where(*same).values(values)).rowcount == 0:
        connection.execute(sa.insert(upload_parts).values(upload_id=upload_id, number=part.number, **values))
    return True


def list_parts(
    connection: Connection, upload_id: str, after: int = 0, limit: int | None = None
) -> list[UploadPart]:
    query = sa.select(upload_parts).where(
        upload_parts.c.upload_id == upload_id, upload_parts.c.number > after
    )
    return [
        UploadPart(number=row.number, root=row.root, hash=row.hash, size=row.size, created_at=row.created_at)
        for row in connection.execute(query.order_by(upload_parts.c.number).limit(limit))
    ]


def end(connection: Connection, upload_id: str, commit_id: str, root: str) -> None:
    """It is a file in a commit now; remembered until it expires, so that the last step may be repeated."""
    connection.execute(sa.delete(upload_parts).where(upload_parts.c.upload_id == upload_id))
    connection.execute(
        sa.update(uploads).where(uploads.c.id == upload_id).values(commit_id=commit_id, root=root)
    )


def delete(connection: Connection, upload_id: str) -> bool:
    """False if there was none, or it has ended."""
    statement = sa.delete(uploads).where(uploads.c.id == upload_id, uploads.c.commit_id.is_(None))
    return connection.execute(statement).rowcount == 1


def delete_expired(connection: Connection, now: float) -> None:
    connection.execute(sa.delete(uploads).where(uploads.c.expires_at <= now))


def all_roots(connection: Connection) -> list[tuple[str, str]]:
    """``(what refers to it, tree hash)`` of every part."""
    query = sa.select(uploads.c.path, upload_parts.c.upload_id, upload_parts.c.number, upload_parts.c.root)
    rows = connection.execute(query.join_from(upload_parts, uploads))
    return [(f"part {number} of upload {upload_id} ({path})", root) for path, upload_id, number, root in rows]
