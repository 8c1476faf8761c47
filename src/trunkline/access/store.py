"""All SQL on ``tokens``."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from trunkline.storage.db.prepared import Prepared
from trunkline.storage.db.schema import tokens

_INSERT = Prepared(sa.insert(tokens).values({column.name: sa.bindparam(column.name) for column in tokens.c}))
_FIND = Prepared(sa.select(tokens).where(tokens.c.hash == sa.bindparam("hash")))
_DELETE_SUBJECT = Prepared(sa.delete(tokens).where(tokens.c.subject == sa.bindparam("subject")))
_DELETE_EXPIRED = Prepared(sa.delete(tokens).where(tokens.c.expires_at <= sa.bindparam("now")))


def insert(
    connection: Connection,
    *,
    digest: str,
    scope: str,
    subject: str,
    created_at: float,
    expires_at: float | None,
) -> None:
    _INSERT.run(
        connection, hash=digest, scope=scope, subject=subject, created_at=created_at, expires_at=expires_at
    )


def find(connection: Connection, digest: str) -> Row[tuple[str, str, str, float, float | None]] | None:
    found: Row[tuple[str, str, str, float, float | None]] | None = _FIND.first(connection, hash=digest)
    return found


def find_by_prefix(connection: Connection, prefix: str) -> str | None:
    """The one token hash that begins so; hashes are lower-case hex, so ``g`` is behind all digits."""
    query = sa.select(tokens.c.hash).where(tokens.c.hash >= prefix, tokens.c.hash < prefix + "g").limit(2)
    found = list(connection.execute(query).scalars())
    return found[0] if len(found) == 1 else None


def delete(connection: Connection, digest: str) -> bool:
    return connection.execute(sa.delete(tokens).where(tokens.c.hash == digest)).rowcount == 1


def delete_subject(connection: Connection, subject: str) -> int:
    return _DELETE_SUBJECT.run(connection, subject=subject)


def delete_expired(connection: Connection, now: float) -> int:
    return _DELETE_EXPIRED.run(connection, now=now)


def subjects(connection: Connection, scope: str) -> set[str]:
    return set(connection.execute(sa.select(tokens.c.subject).where(tokens.c.scope == scope)).scalars())
