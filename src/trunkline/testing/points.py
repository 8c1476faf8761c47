"""Every point at which something becomes durable, in turn: system calls on files, statements and commits of a database.

``FaultPoints`` counts them, and at the one that it is told of it fails the call, loses its answer, or ends the process as
``kill -9`` or a power cut would. A power cut also takes what was written but not synced.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import os
import shutil
import signal
import sqlite3
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import psycopg
import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import OperationalError

from trunkline.errors import UnavailableError

How = Literal["error", "lost_response", "kill", "power_cut"]


def in_a_fork(run: Callable[[], bool]) -> int:
    """The wait status of a forked process that runs this, which a fault may end: 0 if it comes to True, 512 to False. Threads do
    not survive a fork: close what has any before."""
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # of forking with threads; the child uses none of them
        pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = 0 if run() else 2
        finally:
            os._exit(code)
    return os.waitpid(pid, 0)[1]


_ON_DESCRIPTORS = ("write", "writev", "fsync", "fdatasync", "ftruncate")
_ON_PATHS = ("replace", "rename", "link", "mkdir", "unlink", "rmdir")


class FaultPoints:
    """``with points.armed(folder): …`` counts the calls on files below ``folder`` and all statements of databases.

    ``at``: the number of the point where it goes wrong, counted from 1; None only counts.
    """

    def __init__(self, at: int | None = None, how: How = "error") -> None:
        self.at = at
        self.how = how
        self.trail: list[str] = []
        """What was reached, in order."""
        self._lock = threading.RLock()
        self._folder = Path("/")
        self._armed = False
        self._real_write = os.write
        self._unsynced_files: set[str] = set()
        self._unsynced_names: set[str] = set()

    @property
    def has_struck(self) -> bool:
        return self.at is not None and len(self.trail) >= self.at

    @contextlib.contextmanager
    def armed(self, folder: Path) -> Iterator[None]:
        self._folder = folder.resolve()
        self._armed = True
        real = {name: getattr(os, name) for name in (*_ON_DESCRIPTORS, *_ON_PATHS) if hasattr(os, name)}
        listeners: list[tuple[str, Callable[..., None]]] = [
            ("before_cursor_execute", self._at_statement),
            ("commit", self._at_commit),
        ]
        try:
            for name, call in real.items():
                wrap = self._on_descriptor if name in _ON_DESCRIPTORS else self._on_path
                setattr(os, name, functools.partial(wrap, name, call))
            for event, listener in listeners:
                sa.event.listen(sa.Engine, event, listener)
            yield
        finally:
            self._armed = False
            for name, call in real.items():
                setattr(os, name, call)
            for event, listener in listeners:
                sa.event.remove(sa.Engine, event, listener)

    # --- files ---

    def _on_descriptor(self, name: str, call: Callable[..., Any], descriptor: int, *args: Any) -> Any:
        path = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        if not path.startswith(f"{self._folder}/") and path != str(self._folder):
            return call(descriptor, *args)
        with self._lock:
            strikes = self._reach(f"{name} {self._short(path)}")
            if strikes and name in ("write", "writev") and self.how != "lost_response":
                data = b"".join(args[0]) if name == "writev" else bytes(args[0])
                _go_through_the_cache(descriptor)
                self._real_write(descriptor, data[: len(data) // 2])  # torn
                self._unsynced_files.add(path)
            self._strike_call(strikes, lambda: call(descriptor, *args))
            done = call(descriptor, *args)
            if name in ("write", "writev", "ftruncate"):
                self._unsynced_files.add(path)
            else:
                self._unsynced_files.discard(path)
                self._unsynced_names = {one for one in self._unsynced_names if str(Path(one).parent) != path}
            return done

    def _on_path(self, name: str, call: Callable[..., Any], path: Any, *args: Any, **more: Any) -> Any:
        full = str(Path(path).absolute())
        if not full.startswith(f"{self._folder}/"):
            return call(path, *args, **more)
        with self._lock:
            self._strike_call(self._reach(f"{name} {self._short(full)}"), lambda: call(path, *args, **more))
            done = call(path, *args, **more)
            if name in ("replace", "rename", "link"):
                target = str(Path(args[0]).absolute())
                if full in self._unsynced_files:
                    self._unsynced_files.discard(full)
                    self._unsynced_files.add(target)
                self._unsynced_names.add(target)
            elif name == "mkdir":
                self._unsynced_names.add(full)
            return done

    def _strike_call(self, strikes: bool, call: Callable[[], Any]) -> None:
        if strikes:
            if self.how == "lost_response":
                with contextlib.suppress(OSError):
                    call()
            self._strike()
            raise OSError(errno.EIO, "fails on purpose")

    # --- databases ---

    def _at_statement(self, connection: Connection, _cursor: Any, statement: str, *_: Any) -> None:
        with self._lock:
            if self._reach(f"statement {' '.join(statement.split())[:60]}"):
                self._strike()
                raise _database_error(connection)

    def _at_commit(self, connection: Connection) -> None:
        with self._lock:
            if self._reach("commit"):
                if self.how == "lost_response":
                    connection.connection.commit()
                self._strike()
                raise _database_error(connection)

    # --- object stores, through FaultyStore ---

    def at_operation(self, name: str) -> bool:
        """To be called before an operation; True: it is to be done, and then its answer to be lost."""
        with self._lock:
            if not self._armed or not self._reach(f"object {name}"):
                return False
            if self.how == "lost_response":
                return True
            self._strike()
            raise UnavailableError(f"{name} fails on purpose", kind="fault")

    # --- all ---

    def _short(self, path: str) -> str:
        return path.removeprefix(str(self._folder))[:24]

    def _reach(self, what: str) -> bool:
        """Note the point; whether it is the one."""
        self.trail.append(what)
        return len(self.trail) == self.at

    def _strike(self) -> None:
        if self.how == "power_cut":
            self._lose_what_is_not_synced()
        if self.how in ("kill", "power_cut"):
            os.kill(os.getpid(), signal.SIGKILL)

    def _lose_what_is_not_synced(self) -> None:
        self.at = None  # what follows is not the program's doing
        for name in self._unsynced_names:
            if Path(name).is_dir():
                shutil.rmtree(name, ignore_errors=True)
            else:
                Path(name).unlink(missing_ok=True)
        for file in self._unsynced_files:
            with contextlib.suppress(FileNotFoundError):
                os.truncate(file, Path(file).stat().st_size // 2)


def _go_through_the_cache(descriptor: int) -> None:
    """Half of a write has no whole blocks, which a direct write asks for."""
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    fcntl.fcntl(descriptor, fcntl.F_SETFL, flags & ~getattr(os, "O_DIRECT", 0))


def _database_error(connection: Connection) -> OperationalError:
    kind = sqlite3.OperationalError if connection.dialect.name == "sqlite" else psycopg.OperationalError
    return OperationalError("a statement", {}, kind("fails on purpose"))
