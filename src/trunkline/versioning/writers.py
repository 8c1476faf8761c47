"""Who relies on what is stored while it is not referred to yet: the seam between writers and garbage collection.

A chunk that a writer finds stored is not stored again, so it must stay until the writer's tree is referred to. Writers and the
collector live in one process (a data directory has one server), so they meet in memory: a writer looks chunks up and notes
their packs under the *sweep lock*; the collector looks at the notes and deletes the rows under the same lock. Whichever comes
first wins, and the other sees it. ``docs/guarantees.md`` has the argument in full.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Self

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from trunkline.storage.db.engine import Database
from trunkline.storage.db.prepared import Prepared
from trunkline.storage.db.schema import condemned_packs, tree_holds
from trunkline.versioning import chunkindex

WAIT_POLL_SECONDS = 0.02
HOLD_SECONDS = 24 * 3600.0
"""How long a staged tree waits to be referred to."""


class Writers:
    """All writers of a store, and what the collection that is going on must know of them."""

    def __init__(self) -> None:
        self.sweep_lock = threading.Lock()
        self.sweeps = 0
        """How often something was deleted; moves under the sweep lock."""
        self.swept_at = float("-inf")
        """When that was last."""
        self._leases: set[WriterLease] = set()
        self._is_collecting = False
        self._late_packs: set[int] = set()
        self._late_names: set[str] = set()
        self._late_roots: set[bytes] = set()

    def begin(self) -> WriterLease:
        """A new writer; ``with`` ends it."""
        lease = WriterLease(self)
        with self.sweep_lock:
            self._leases.add(lease)
        return lease

    def _end(self, lease: WriterLease) -> None:
        with self.sweep_lock:
            self._leases.discard(lease)

    def wait_for_present(self, timeout_seconds: float) -> bool:
        """Wait until every writer that is at work now has ended. False if the time is over first."""
        with self.sweep_lock:
            present = set(self._leases)
        deadline = time.monotonic() + timeout_seconds
        while time.monotonic() < deadline:
            with self.sweep_lock:
                if not present & self._leases:
                    return True
            time.sleep(WAIT_POLL_SECONDS)
        return False

    # --- the collector's side; all but the first two under the sweep lock ---

    def begin_collecting(self) -> None:
        """From now on remember what writers rely on, also after they have ended."""
        with self.sweep_lock:
            self._is_collecting = True
            self._late_packs.clear()
            self._late_names.clear()
            self._late_roots.clear()
            for (
                lease
            ) in self._leases:  # they may end before anything is deleted, and after the roots were read
                self.note(packs=lease.packs, names=lease.names, roots=lease.roots)

    def end_collecting(self) -> None:
        with self.sweep_lock:
            self._is_collecting = False

    def relied_on(self) -> tuple[set[int], set[str]]:
        """The packs that must stay: by key, and by name where they have none yet."""
        packs, names = set(self._late_packs), set(self._late_names)
        for lease in self._leases:
            packs |= lease.packs
            names |= lease.names
        return packs, names

    def take_late_roots(self) -> set[bytes]:
        """Trees that writers began to build on since this was asked last: they must be marked before anything goes."""
        found, self._late_roots = self._late_roots, set()
        return found

    def swept(self, now: float) -> None:
        """Something was deleted."""
        self.sweeps += 1
        self.swept_at = now

    def note(
        self, *, packs: Iterable[int] = (), names: Iterable[str] = (), roots: Iterable[bytes] = ()
    ) -> None:
        if self._is_collecting:
            self._late_packs.update(packs)
            self._late_names.update(names)
            self._late_roots.update(roots)


class WriterLease:
    """What one writer relies on, until it ends."""

    def __init__(self, writers: Writers) -> None:
        self._writers = writers
        self.packs: set[int] = set()
        self.names: set[str] = set()
        self.roots: set[bytes] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def end(self) -> None:
        self._writers._end(self)

    def known(self, db: Database, hashes: Sequence[bytes]) -> set[bytes]:
        """Those chunks that are stored. They stay as long as the writer lives."""
        with self._writers.sweep_lock:
            with db.read() as connection:
                found = chunkindex.packs_of(connection, hashes)
            packs = set(found.values())
            self.packs |= packs
            self._writers.note(packs=packs)
        return set(found)

    def own(self, name: str) -> None:
        """A pack that the writer is about to store stays, too."""
        with self._writers.sweep_lock:
            self.names.add(name)
            self._writers.note(names=[name])

    def build_on(self, root: bytes) -> None:
        """A tree whose parts will be used without being looked up one by one."""
        with self._writers.sweep_lock:
            self.roots.add(root)
            self._writers.note(roots=[root])


# --- what outlives a writer: staged trees, and packs that are being deleted -----------------------------------------


def hold(connection: Connection, root: str, now: float) -> None:
    """Keep a staged tree for a day, in which something will refer to it."""
    connection.execute(sa.insert(tree_holds).values(root=root, expires_at=now + HOLD_SECONDS))


_HELD = Prepared(
    sa.select(tree_holds.c.id)
    .where(tree_holds.c.root == sa.bindparam("root"), tree_holds.c.expires_at > sa.bindparam("now"))
    .limit(1)
)
_CONDEMNED = Prepared(sa.select(condemned_packs.c.name).where(condemned_packs.c.name == sa.bindparam("name")))


def is_held(connection: Connection, root: str, now: float) -> bool:
    return _HELD.first(connection, root=root, now=now) is not None


def is_condemned(connection: Connection, name: str) -> bool:
    return _CONDEMNED.first(connection, name=name) is not None


def condemn(connection: Connection, names: Iterable[str], now: float) -> None:
    rows = [{"name": name, "since": now} for name in names if not is_condemned(connection, name)]
    if rows:
        connection.execute(sa.insert(condemned_packs), rows)


def pardon(connection: Connection, names: Iterable[str]) -> None:
    for name in names:
        connection.execute(sa.delete(condemned_packs).where(condemned_packs.c.name == name))


def list_condemned(connection: Connection) -> list[str]:
    return list(connection.execute(sa.select(condemned_packs.c.name)).scalars())
