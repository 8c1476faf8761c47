"""Folders that something is, or shall be, mounted at."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from trunkline.errors import InvalidInputError, StateError


def is_mounted(folder: Path) -> bool:
    """Whether something is mounted there; also where its program has died and the folder does not answer any more."""
    try:
        folder.stat()
    except OSError as error:
        return error.errno == errno.ENOTCONN
    return os.path.ismount(folder)


def check_mountpoint(folder: Path) -> None:
    """:raises InvalidInputError: ``bad_mountpoint``. :raises StateError: ``mounted``."""
    if is_mounted(folder):
        raise StateError(
            f"something is mounted at {folder} already: end it with 'trunkline unmount {folder}'",
            kind="mounted",
        )
    if not folder.is_dir():
        raise InvalidInputError(f"there is no folder {folder}: make it first", kind="bad_mountpoint")
    if any(folder.iterdir()):
        raise InvalidInputError(
            f"{folder} is not empty: what is in it would be hidden", kind="bad_mountpoint"
        )
