"""Commits as an ``fsspec`` file system: ``trunkline://[project/]repo@branch-or-ID/path``, read-only.

Registered as an entry point, so that pandas, pyarrow, DuckDB and torch open such addresses by themselves. A branch is looked
up anew at every call, an open file stays with the commit it was opened on; name a commit's ID where many files must agree.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fsspec.spec import AbstractBufferedFile, AbstractFileSystem

from trunkline.errors import InvalidInputError, NotFoundError, TrunklineError
from trunkline.sdk.client import Client
from trunkline.wire.files import FileInfo

PROTOCOL = "trunkline"
READ_ONLY = "a commit is read-only here: write with 'trunkline put file' or Client.put_files"


class TrunklineFileSystem(AbstractFileSystem):  # type: ignore[misc]
    """Reads commits. Without arguments it finds the server as every client does.

    ``url``: the server's address; ``token``: what calls are signed with; better left to the environment, because
    fsspec keeps and pickles what a file system was made with.

    >>> pandas.read_csv("trunkline://sales@master/2026.csv")
    """

    protocol = PROTOCOL
    root_marker = ""

    def __init__(self, url: str | None = None, token: str | None = None, **options: Any) -> None:
        super().__init__(**options)
        self._client = Client(url=url, token=token)

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(one) for one in path]
        text = str(path).removeprefix(f"{PROTOCOL}://").removeprefix(f"{PROTOCOL}:")
        top, colon, rest = text.partition(":/")
        return (f"{top}/{rest}" if colon and "@" in top else text).strip("/")

    # --- what is there ---

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        path = self._strip_protocol(path)
        with _translated(path):
            return _entry(path, self._client.inspect_file(_address(path)))

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        path = self._strip_protocol(path)
        with _translated(path):
            found = self._client.list_files(_address(path))
        entries = [_entry(_joined(path, info), info) for info in found]
        return entries if detail else [entry["name"] for entry in entries]

    def find(
        self,
        path: str,
        maxdepth: int | None = None,
        withdirs: bool = False,
        detail: bool = False,
        **options: Any,
    ) -> Any:
        if maxdepth is not None or withdirs:
            return super().find(path, maxdepth=maxdepth, withdirs=withdirs, detail=detail, **options)
        path = self._strip_protocol(path)
        try:
            with _translated(path):
                found = self._client.list_files(_address(path), walk=True)
        except FileNotFoundError:
            found = []
        entries = {_joined(path, info): info for info in found if not info.is_dir}
        return {name: _entry(name, info) for name, info in entries.items()} if detail else list(entries)

    def modified(self, path: str) -> datetime.datetime:
        return datetime.datetime.fromtimestamp(self.info(path)["mtime"] or 0.0, tz=datetime.UTC)

    def checksum(self, path: str) -> int:
        return int(self.info(path)["hash"], 16)

    def ukey(self, path: str) -> str:
        return str(self.info(path)["hash"])

    # --- what it holds ---

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        path = self._strip_protocol(path)
        if (start is not None and start < 0) or (end is not None and end < 0):
            size = self.info(path)["size"]
            start = max(0, size + start) if start is not None and start < 0 else start
            end = max(0, size + end) if end is not None and end < 0 else end
        with _translated(path):
            return self._read(_address(path), start or 0, end)

    def _read(self, address: str, start: int, end: int | None) -> bytes:
        if end is not None and end <= start:
            return b""
        length = None if end is None else end - start
        with self._client.get_file(address, offset=start, length=length) as stream:
            return stream.read()

    def _open(
        self, path: str, mode: str = "rb", block_size: int | str | None = None, autocommit: bool = True,
        cache_options: dict[str, Any] | None = None, **options: Any,
    ) -> CommitFile:  # fmt: skip
        if mode != "rb":
            raise PermissionError(READ_ONLY)
        block_size = self.blocksize if block_size in (None, "default") else block_size
        return CommitFile(self, path, mode, block_size, cache_options=cache_options, **options)

    def pinned(self, path: str) -> str:
        """The path with its commit's ID in place of the branch."""
        repo, slash, rest = _split(path)
        with _translated(path):
            commit = self._client.inspect_commit(repo)
        return f"{commit.project}/{commit.repo}@{commit.id}{slash}{rest}"

    # --- what is refused ---

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise PermissionError(READ_ONLY)

    rm_file = rm = mkdir = makedirs = rmdir = cp_file = mv = touch = pipe_file = put_file = _refuse


class CommitFile(AbstractBufferedFile):  # type: ignore[misc]
    """An open file; it stays with the commit that the address named when it was opened."""

    def __init__(
        self, fs: TrunklineFileSystem, path: str, mode: str, block_size: Any, **options: Any
    ) -> None:
        self._at = _address(fs.pinned(path))
        with _translated(path):
            info = fs._client.inspect_file(self._at)
        if info.is_dir:
            raise IsADirectoryError(path)
        super().__init__(fs, path, mode, block_size, size=info.size, **options)
        self.details = _entry(path, info)

    def _fetch_range(self, start: int, end: int) -> bytes:
        with _translated(self.path):
            return bytes(self.fs._read(self._at, start, end))


def _split(path: str) -> tuple[str, str, str]:
    """``[project/]repo@ref``, the slash (if there is one) and the path in the commit.

    :raises ValueError: where it names no commit.
    """
    parts = path.split("/")
    for count in (1, 2):
        if "@" in "".join(parts[count - 1 : count]):
            rest = "/".join(parts[count:])
            return "/".join(parts[:count]), "/" if rest else "", rest
    raise ValueError(f"{path!r} names no commit: write trunkline://[project/]repo@branch/path")


def _address(path: str) -> str:
    repo, _, rest = _split(path)
    return f"{repo}:/{rest}"


def _joined(path: str, info: FileInfo) -> str:
    return f"{_split(path)[0]}{info.path}".rstrip("/")


def _entry(name: str, info: FileInfo) -> dict[str, Any]:
    return {
        "name": name, "size": info.size, "type": "directory" if info.is_dir else "file", "hash": info.hash,
        "mtime": info.modified_at, "executable": info.executable,
    }  # fmt: skip


@contextmanager
def _translated(path: str) -> Iterator[None]:
    """Our errors as those that users of file systems expect."""
    try:
        yield
    except NotFoundError as error:
        raise FileNotFoundError(f"{path}: {error.message}") from error
    except InvalidInputError as error:
        kind = IsADirectoryError if error.kind == "is_directory" else ValueError
        raise kind(f"{path}: {error.message}") from error
    except TrunklineError as error:
        raise OSError(f"{path}: {error.message}") from error
