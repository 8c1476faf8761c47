"""The use cases of access: issue, check, revoke. A token is kept only as its SHA-256.

Plain SHA-256 is enough: tokens are 256 random bits, so there is nothing to guess, and salt would slow nobody.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import threading
from pathlib import Path

from sqlalchemy.engine import Connection

from trunkline.access import keys, store
from trunkline.access.keys import KeyPair
from trunkline.access.model import Identity, Scope
from trunkline.core.clock import Clock
from trunkline.core.ids import new_token
from trunkline.errors import InvalidInputError, UnauthenticatedError
from trunkline.storage.db.engine import Database

ADMIN_SUBJECT = "owner"
LINK_SECONDS = 600.0
CONSOLE_SECONDS = 30 * 24 * 3600.0
CACHE_ENTRIES_MAX = 4096
CACHE_SECONDS = 5.0
"""How long a check is remembered, and so how long a revoked token may at worst still be taken."""


class AccessService:
    """Tokens by scope. Checks are remembered in memory for a few seconds."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock
        self._lock = threading.Lock()
        self._known: dict[str, tuple[Identity, float | None, float]] = {}
        self._key_digests: dict[str, tuple[str, float]] = {}
        self._owner_token: str | None = None

    def issue(self, scope: str, subject: str, ttl_seconds: float | None) -> str:
        """A new token; this is the only time it is seen. ``ttl_seconds`` None: it does not expire.

        :raises InvalidInputError: for an unknown scope.
        """
        checked = _scope(scope)
        token = new_token()
        now = self._clock.now()
        # A job's token is known to its processes only, which do not outlive a power cut.
        with self._db.write(wakes=False, syncs=checked is not Scope.JOB) as connection:
            store.delete_expired(connection, now)
            store.insert(
                connection, digest=_digest(token), scope=checked, subject=subject, created_at=now,
                expires_at=None if ttl_seconds is None else now + ttl_seconds,
            )  # fmt: skip
        return token

    def check(self, token: str) -> Identity:
        """Whom a token stands for.

        :raises UnauthenticatedError: if it is unknown, revoked or expired (which of them is not told).
        """
        digest = _digest(token)
        identity, expires_at = self._remembered(digest) or self._load(digest)
        if expires_at is not None and expires_at <= self._clock.now():
            raise _refused()
        return identity

    def is_remembered(self, token: str) -> bool:
        """Whether ``check`` needs no database for this token, so that it may be called on the event loop."""
        return self._remembered(_digest(token)) is not None

    def revoke(self, subject: str) -> int:
        """Make all tokens of a subject worthless; returns how many there were."""
        with self._db.write() as connection:
            count = store.delete_subject(connection, subject)
        with self._lock:
            self._known.clear()
            self._key_digests.clear()
        return count

    def revoke_in(self, connection: Connection, subject: str) -> None:
        """The same inside the caller's transaction; checks may remember such a token for a few seconds more."""
        store.delete_subject(connection, subject)

    def subjects(self, scope: Scope) -> set[str]:
        """Whom tokens of a scope were given to."""
        with self._db.read() as connection:
            return store.subjects(connection, scope)

    def admin_token(self, file: Path) -> str:
        """The owner's token, from its file (made at the first start, readable by the owner alone).

        A file that was replaced by hand counts: the token in it is the one that is valid from then on.
        """
        try:
            token = file.read_text("ascii", errors="replace").strip()
        except FileNotFoundError:
            token = new_token()
            _write_private(file, token)
        if not token or not token.isascii() or not token.isprintable():
            raise InvalidInputError(
                f"{file} holds no token: delete it, and start again", kind="bad_token_file"
            )
        file.chmod(0o600)
        with self._db.write() as connection:
            found = store.find(connection, _digest(token))
            if found is None:
                store.delete_subject(connection, ADMIN_SUBJECT)
                store.insert(
                    connection, digest=_digest(token), scope=Scope.ADMIN, subject=ADMIN_SUBJECT,
                    created_at=self._clock.now(), expires_at=None,
                )  # fmt: skip
        self._owner_token = token
        return token

    def key_pair(self, token: str) -> KeyPair:
        """The access key that stands for a token in signed requests; it may do what the token may, as long as that lives.

        :raises UnauthenticatedError: as ``check``.
        """
        self.check(token)
        return self._pair(_digest(token))

    def check_key(self, identifier: str) -> tuple[Identity, KeyPair]:
        """Whom an access key stands for, and the pair to check a signature with.

        :raises UnauthenticatedError: if its token is unknown, revoked or expired (which of them is not told).
        """
        with self._lock:
            known = self._key_digests.get(identifier)
        digest = known[0] if known is not None and self._clock.now() < known[1] else None
        if digest is None:
            prefix = keys.digest_prefix(identifier)
            with self._db.read() as connection:
                digest = None if prefix is None else store.find_by_prefix(connection, prefix)
            if digest is None:
                raise _refused()
        identity, expires_at = self._remembered(digest) or self._load(digest)
        if expires_at is not None and expires_at <= self._clock.now():
            raise _refused()
        with self._lock:
            if len(self._key_digests) >= CACHE_ENTRIES_MAX:
                self._key_digests.clear()
            self._key_digests[identifier] = digest, self._clock.now() + CACHE_SECONDS
        return identity, self._pair(digest)

    def _pair(self, digest: str) -> KeyPair:
        assert self._owner_token is not None, "admin_token() is called when the server starts"
        return KeyPair(id=keys.key_id(digest), secret=keys.secret_key(self._owner_token, digest))

    def console_link_token(self) -> str:
        """A token for a link that opens the console once, within ten minutes."""
        return self.issue(Scope.LINK, "console-link", LINK_SECONDS)

    def redeem(self, link_token: str) -> str:
        """Exchange a link's token for a console token; the link is worthless afterwards.

        :raises UnauthenticatedError: if it was used or is too old.
        """
        digest = _digest(link_token)
        with self._db.write() as connection:
            row = store.find(connection, digest)
            usable = row is not None and row.scope == Scope.LINK and (row.expires_at or 0) > self._clock.now()
            if not usable or not store.delete(connection, digest):
                raise UnauthenticatedError(
                    "this link was used already or is too old: 'trunkline status' prints a new one",
                    kind="link_used",
                )
        with self._lock:
            self._known.pop(digest, None)
        return self.issue(Scope.CONSOLE, "console", CONSOLE_SECONDS)

    def _remembered(self, digest: str) -> tuple[Identity, float | None] | None:
        with self._lock:
            known = self._known.get(digest)
        return known[:2] if known is not None and self._clock.now() < known[2] else None

    def _load(self, digest: str) -> tuple[Identity, float | None]:
        with self._db.read() as connection:
            row = store.find(connection, digest)
        # Found by index; compared again in constant time, so that no collation of the database can widen it.
        if row is None or not hmac.compare_digest(row.hash, digest):
            raise _refused()
        known = Identity(scope=Scope(row.scope), subject=row.subject), row.expires_at
        with self._lock:
            if len(self._known) >= CACHE_ENTRIES_MAX:
                self._known.clear()
            self._known[digest] = (*known, self._clock.now() + CACHE_SECONDS)
        return known


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _refused() -> UnauthenticatedError:
    return UnauthenticatedError(
        "the token is not valid (any more): the data directory's 'token' file has the owner's",
        kind="bad_token",
    )


def _scope(name: str) -> Scope:
    try:
        return Scope(name)
    except ValueError as error:
        raise InvalidInputError(f"unknown scope {name!r}", kind="bad_scope") from error


def _write_private(file: Path, text: str) -> None:
    """Never readable by others, not even for a moment."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as out:
        out.write(text + "\n")
        out.flush()
        os.fsync(out.fileno())
