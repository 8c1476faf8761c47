"""One commit, pinned, for readers that ask for small things often: listings and blocks are kept, and never go stale, because
a finished commit never changes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

from trunkline.core.paths import parse_address
from trunkline.errors import NotFoundError, StateError
from trunkline.sdk.client import Client
from trunkline.wire.files import FileInfo

BLOCK_BYTES = 4 * 2**20
"""What is fetched at once of a larger file."""
BLOCKS_BYTES_MAX = 64 * 2**20
LISTED_FILES_MAX = 200_000

Value = TypeVar("Value")


class Kept(Generic[Value]):
    """The values used last, up to a total weight. Safe between threads; two may make the same value at once."""

    def __init__(self, weight_max: int, weigh: Callable[[Value], int]) -> None:
        self._lock = threading.Lock()
        self._values: OrderedDict[tuple[str, int], Value] = OrderedDict()
        self._weight = 0
        self._weight_max = weight_max
        self._weigh = weigh

    def find(self, key: tuple[str, int]) -> Value | None:
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def get(self, key: tuple[str, int], make: Callable[[], Value]) -> Value:
        found = self.find(key)
        if found is not None:
            return found
        made = make()
        with self._lock:
            if key not in self._values:
                self._values[key] = made
                self._weight += self._weigh(made)
            while self._weight > self._weight_max and len(self._values) > 1:
                self._weight -= self._weigh(self._values.popitem(last=False)[1])
        return made


class CommitFiles:
    """The files of one finished commit, below a directory of it. Safe between threads.

    :raises StateError: ``commit_open``. :raises NotFoundError: ``no_file``, where the directory is not there.
    """

    def __init__(self, client: Client, address: str, *, project: str | None = None) -> None:
        self._client = client
        where = parse_address(address, project or client.project)
        commit = client.inspect_commit(address.partition(":")[0], project=project)
        if not commit.is_finished:
            raise StateError(
                f"commit {commit.id} of {commit.project}/{commit.repo} is still open, so its files may change: finish it "
                "first, or name the commit before it, as in repo@branch^",
                kind="commit_open",
            )
        self.commit = commit
        self._base = f"{commit.project}/{commit.repo}@{commit.id}:"
        self._top = (where.path or "/").rstrip("/")
        self._listings: Kept[dict[str, FileInfo]] = Kept(LISTED_FILES_MAX, lambda found: len(found) + 1)
        self._blocks: Kept[bytes] = Kept(BLOCKS_BYTES_MAX, len)
        self.top = client.inspect_file(self._at("/"))

    def stat(self, path: str) -> FileInfo:
        """A file or directory by its path below the top: ``/a/b``. :raises NotFoundError: ``no_file``."""
        if path == "/":
            return self.top
        folder, _, name = path.rpartition("/")
        listing = self._listings.find((folder or "/", 0))
        if listing is None:
            return self._client.inspect_file(self._at(path))
        if name not in listing:
            raise NotFoundError(f"there is no {path}", kind="no_file")
        return listing[name]

    def list(self, path: str) -> dict[str, FileInfo]:
        """The direct children of a directory, by name."""

        def load() -> dict[str, FileInfo]:
            found = self._client.list_files(self._at(path))
            return {info.path.rstrip("/").rpartition("/")[2]: info for info in found}

        return self._listings.get((path, 0), load)

    def read(self, path: str, info: FileInfo, offset: int, length: int) -> bytes:
        """The bytes of a range, shorter only at the end; ``info`` is what ``stat`` said."""
        end = min(offset + length, info.size)
        parts = []
        while offset < end:
            number = offset // BLOCK_BYTES
            start = number * BLOCK_BYTES
            block = self._blocks.get((path, number), lambda start=start: self._fetch(path, info, start))  # type: ignore[misc]
            part = block[offset - start : end - start]
            parts.append(part)
            offset += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _fetch(self, path: str, info: FileInfo, start: int) -> bytes:
        length = min(BLOCK_BYTES, info.size - start)
        with self._client.get_file(self._at(path), offset=start, length=length) as stream:
            return stream.read()

    def _at(self, path: str) -> str:
        return self._base + (self._top + path if path != "/" else self._top or "/")
