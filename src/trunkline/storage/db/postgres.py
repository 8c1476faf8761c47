"""What is special about PostgreSQL: how to connect, how writers queue, how only one server may use a database, and what its
errors mean."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection
from sqlalchemy.exc import DBAPIError

from trunkline.errors import (
    CorruptionError,
    InvalidInputError,
    LimitError,
    TrunklineError,
    UnavailableError,
)
from trunkline.storage.db.schema import meta

DRIVER = "postgresql+psycopg"
LOCK_TIMEOUT_MS = 30_000
CONNECT_SECONDS = 10

# The second number separates installations that share a database, each in a schema of its own.
_SCHEMA = "hashtext(coalesce(current_schema(), ''))"
_SERVER_KEY = "server"
_WRITER_LOCK = f"SELECT pg_advisory_xact_lock(hashtext('trunkline writer'), {_SCHEMA})"
_SERVER_LOCK = f"SELECT pg_try_advisory_lock(hashtext('trunkline server'), {_SCHEMA})"

# A machine that died holds its locks no longer than half a minute. A server that was told
# to lose acknowledged commits in a crash is told otherwise; stricter modes stay as they are.
_SET_UP = f"""
SELECT set_config('lock_timeout', '{LOCK_TIMEOUT_MS}', false), set_config('tcp_keepalives_idle', '15', false),
       set_config('tcp_keepalives_interval', '5', false), set_config('tcp_keepalives_count', '3', false),
       CASE current_setting('synchronous_commit') WHEN 'off' THEN set_config('synchronous_commit', 'on', false) END
"""


def engine_url(url: URL) -> URL:
    """The same place, through the one driver that is supported."""
    return url.set(drivername=DRIVER)


def engine_options() -> dict[str, Any]:
    """Writers read what is newest, because each has waited for the one before it."""
    keepalives = {
        "keepalives": 1,
        "keepalives_idle": 15,
        "keepalives_interval": 5,
        "keepalives_count": 3,
    }
    return {
        "isolation_level": "READ COMMITTED",
        "pool_pre_ping": True,  # a restart of PostgreSQL costs no request
        "connect_args": {
            "connect_timeout": CONNECT_SECONDS,
            "application_name": "trunkline",
            **keepalives,
        },
    }


READER_OPTIONS: dict[str, Any] = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
"""One snapshot for all statements of a ``read()`` block."""


def set_up(connection: Any, _record: Any) -> None:
    """Once for each connection."""
    with connection.cursor() as cursor:
        cursor.execute(_SET_UP)
    connection.commit()


def wait_for_turn(connection: Connection) -> None:
    """Queue at the door of ``write()``. The lock goes with the transaction, however it ends.

    It comes first, and the isolation level is READ COMMITTED: a snapshot that is older than the lock would show what was
    there before the writer in front of us.
    """
    connection.exec_driver_sql(_WRITER_LOCK)


def try_server_lock(connection: Connection) -> bool:
    """Whether this session is now the database's only server; it stays so as long as it lives."""
    return bool(connection.exec_driver_sql(_SERVER_LOCK).scalar_one())


def take_over(connection: Connection, token: str) -> None:
    """Write down which server it is now; for one that holds the lock."""
    connection.execute(sa.delete(meta).where(meta.c.key == _SERVER_KEY))
    connection.execute(sa.insert(meta).values(key=_SERVER_KEY, value=token))


def check_not_replaced(connection: Connection, token: str) -> None:
    """A broken connection takes the lock with it, and another server may have come since.

    :raises UnavailableError: ``replaced``.
    """
    found = connection.execute(sa.select(meta.c.value).where(meta.c.key == _SERVER_KEY)).scalar_one_or_none()
    if found != token:
        raise UnavailableError(
            "another server has taken over this database since the connection to it broke: end this one",
            kind="replaced",
        )


def check_encoding(connection: Connection) -> None:
    """:raises InvalidInputError: ``bad_database``, if the database cannot hold every text."""
    encoding = connection.exec_driver_sql("SHOW server_encoding").scalar_one()
    if encoding != "UTF8":
        raise InvalidInputError(
            f"the database has the encoding {encoding}: create one with ENCODING 'UTF8'", kind="bad_database"
        )


def translate(error: DBAPIError) -> TrunklineError | None:
    """What a driver's error means; None for a programmer's."""
    state: str = getattr(error.orig, "sqlstate", None) or ""
    text = " ".join(str(error.orig).split())
    if state == "53100":
        return LimitError(
            "the disk of the database is full: nothing was written; free some space there and repeat",
            kind="disk_full",
        )
    if state == "22003":
        return InvalidInputError("a number is larger than can be stored: 64 bits", kind="number_too_large")
    if "NUL (0x00)" in text or state == "22021":
        return InvalidInputError(
            "a text has a NUL character (U+0000), which PostgreSQL cannot store: remove it",
            kind="nul_character",
        )
    if state in ("XX001", "XX002"):
        return CorruptionError(f"the database is damaged: {text}", kind="database_damaged")
    if state == "25006":
        return UnavailableError(
            "the database is read-only (a standby?): name its primary server", kind="database_unavailable"
        )
    if state == "55P03":
        return UnavailableError(
            f"other writers held the database for {LOCK_TIMEOUT_MS // 1000} s: try again",
            kind="database_busy",
        )
    if _is_passing(error, state):
        return UnavailableError(f"the database does not answer: {text}", kind="database_unavailable")
    return None


def _is_passing(error: DBAPIError, state: str) -> bool:
    """Connections that broke or were refused, a lack of resources, a missing right; and what has no state at all was the
    driver's, before PostgreSQL could answer."""
    name = type(error).__name__
    return (
        error.connection_invalidated
        or name in ("OperationalError", "InterfaceError")
        or state[:2] in ("08", "28", "40", "53", "57", "58")
        or state in ("42501", "3D000")
    )
