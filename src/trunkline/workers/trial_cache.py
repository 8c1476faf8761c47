"""Trees on disk that several trials read: ``run/cache/<root>`` in the data directory, built once, whole or not at all.

Whoever uses a tree holds a shared lock on ``<root>.lock`` (it goes with the process, however that ends); whoever builds or
evicts one holds it alone.
"""

from __future__ import annotations

import fcntl
import os
import random
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from trunkline.workers.scratch import remove_tree

UNUSED_TREES_MAX = 8
"""Unused trees that are kept for the next trial on the same data."""
HALF_BUILT_SECONDS_MAX = 24 * 3600.0
LOCK_POLL_SECONDS = 0.1

_READ_ONLY = ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH)


@contextmanager
def cached_tree(
    home: Path, root: str, build: Callable[[Path], None], *, give_up: Callable[[], None]
) -> Iterator[Path]:
    """The folder with a tree's files, read only, for as long as the block runs.

    ``build`` fills a new folder if there is none; ``give_up`` is called while another process builds it, and may raise.
    """
    cache = home / "run" / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    folder = cache / root
    lock = os.open(cache / f"{root}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        while True:
            _wait_for(lock, fcntl.LOCK_SH, give_up)
            if folder.is_dir():
                break
            # Not waited for: who was faster may have built it meanwhile, and reads it for as long as a trial takes.
            if not _is_taken(lock, fcntl.LOCK_EX):
                give_up()
                time.sleep(LOCK_POLL_SECONDS * random.random())
            elif not folder.is_dir():
                _build(cache, folder, build)
        os.utime(lock)
        evict(cache)
        yield folder
    finally:
        os.close(lock)


def evict(cache: Path, *, keep: int = UNUSED_TREES_MAX) -> None:
    """Remove the trees that nobody uses, but for the ``keep`` used last; and what a crash left half built."""
    locks = sorted(cache.glob("*.lock"), key=_modified_at, reverse=True)
    unused = 0
    for path in locks:
        with suppress(OSError):
            lock = os.open(path, os.O_RDWR)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails if it is in use
                unused += 1
                if unused > keep:
                    _remove(path.with_suffix(""))
                    # The lock file stays: another process may be waiting on it, and a new file would be a second lock.
            finally:
                os.close(lock)
    for folder in cache.glob(".new-*"):
        if time.time() - _modified_at(folder) > HALF_BUILT_SECONDS_MAX:
            remove_tree(folder)


def _build(cache: Path, folder: Path, build: Callable[[Path], None]) -> None:
    new = Path(tempfile.mkdtemp(prefix=".new-", dir=cache))
    try:
        build(new)
        for where, _, names in os.walk(new):
            for name in names:
                path = Path(where, name)
                path.chmod(path.stat().st_mode & _READ_ONLY)
        new.chmod(0o755)
        new.rename(folder)
    finally:
        remove_tree(new)


def _remove(folder: Path) -> None:
    """Out of the way in one step, then gone."""
    if folder.is_dir():
        doomed = folder.with_name(f".new-gone-{folder.name}-{os.getpid()}")
        folder.rename(doomed)
        remove_tree(doomed)


def _modified_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _wait_for(lock: int, mode: int, give_up: Callable[[], None]) -> None:
    while not _is_taken(lock, mode):
        give_up()
        time.sleep(LOCK_POLL_SECONDS)


def _is_taken(lock: int, mode: int) -> bool:
    """Whether the lock could be had just now. If not, one that was held before is lost."""
    try:
        fcntl.flock(lock, mode | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
