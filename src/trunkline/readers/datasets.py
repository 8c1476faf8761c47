"""A commit as a PyTorch dataset: files by number, or as a stream that workers and ranks share; all of them, or only what is
new since an earlier commit."""

from __future__ import annotations

import os
import random
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any

from torch.utils.data import Dataset, IterableDataset, get_worker_info

from trunkline.errors import InvalidInputError
from trunkline.sdk.client import Client

AHEAD_FILES = 16
READERS = 4

Transform = Callable[[str, bytes], Any]
"""``(path in the commit, content) -> item``."""


class _Files:
    """The files that are meant, by path, of one commit. Travels to worker processes; each opens a client of its own."""

    def __init__(
        self,
        address: str,
        glob: str | None,
        since: str | None,
        transform: Transform | None,
        client: Client | None,
    ) -> None:
        if glob is not None and since is not None:
            raise InvalidInputError("name glob or since, not both", kind="bad_dataset")
        self._client = client
        self._pid = os.getpid()
        self._make = (client._url, client._token) if client is not None else (None, None)
        commit = self.client.inspect_commit(address.partition(":")[0])
        self.base = f"{commit.project}/{commit.repo}@{commit.id}"
        path = address.partition(":")[2] or "/"
        self.transform = transform
        if since is not None:
            entries = self.client.diff_files(f"{self.base}:{path}", since)
            found = [entry.new for entry in entries if entry.new is not None]
        else:
            at = self.base if glob is not None else f"{self.base}:{path}"
            found = self.client.list_files(at, walk=glob is None, glob=glob)
        self.paths = [info.path for info in found if not info.is_dir]

    @property
    def client(self) -> Client:
        if self._client is None or self._pid != os.getpid():  # connections do not survive a fork
            url, token = self._make
            self._client, self._pid = Client(url=url, token=token), os.getpid()
        return self._client

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_client": None}

    def read(self, path: str) -> Any:
        with self.client.get_file(f"{self.base}:{path}") as stream:
            content = stream.read()
        return (path, content) if self.transform is None else self.transform(path, content)


class CommitDataset(Dataset[Any]):  # type: ignore[misc]
    """The files of a commit, by number, in the order of their paths.

    ``address``: ``[project/]repo@branch-or-ID[:directory]``; a branch is pinned to the commit that it points to now.
    ``glob``: only files that match, in the whole commit. ``since``: only files that were added or changed after this commit
    (an address, as ``images@ID``). ``transform(path, content)`` makes an item; without it an item is that pair.

    :raises NotFoundError: if there is no such commit or directory.

    >>> dataset = CommitDataset("images@master:/train", transform=decode)
    >>> loader = torch.utils.data.DataLoader(dataset, batch_size=32, num_workers=2)
    """

    def __init__(
        self, address: str, *, glob: str | None = None, since: str | None = None, transform: Transform | None = None,
        client: Client | None = None,
    ) -> None:  # fmt: skip
        self._files = _Files(address, glob, since, transform, client)

    @property
    def address(self) -> str:
        """The commit that is read: ``project/repo@ID``."""
        return self._files.base

    @property
    def paths(self) -> list[str]:
        """The files' paths, in the order of the items."""
        return self._files.paths

    def __len__(self) -> int:
        return len(self._files.paths)

    def __getitem__(self, number: int) -> Any:
        return self._files.read(self._files.paths[number])


class CommitIterableDataset(IterableDataset[Any]):  # type: ignore[misc]
    """The files of a commit as a stream, read ahead; loader workers and ranks get a share each, and every file comes once.

    As ``CommitDataset``; and ``shuffle`` with ``seed`` and ``set_epoch``: another order in every epoch, the same in all
    processes; ``rank`` of ``world_size``: this process's share in distributed training.

    >>> stream = CommitIterableDataset("images@master", since="images@1035715e796f45caae7a1d3ffd1f93ca")
    >>> for path, content in stream: ...
    """

    def __init__(
        self, address: str, *, glob: str | None = None, since: str | None = None, transform: Transform | None = None,
        shuffle: bool = False, seed: int = 0, rank: int = 0, world_size: int = 1, client: Client | None = None,
    ) -> None:  # fmt: skip
        if not 0 <= rank < world_size:
            raise InvalidInputError(f"rank {rank} is not one of {world_size}", kind="bad_dataset")
        self._files = _Files(address, glob, since, transform, client)
        self._shuffle, self._seed, self._epoch = shuffle, seed, 0
        self._rank, self._world_size = rank, world_size

    @property
    def address(self) -> str:
        """The commit that is read: ``project/repo@ID``."""
        return self._files.base

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next pass."""
        self._epoch = epoch

    def __len__(self) -> int:
        """How many files all loader workers of this rank get together."""
        return len(range(self._rank, len(self._files.paths), self._world_size))

    def __iter__(self) -> Iterator[Any]:
        paths = self._files.paths
        if self._shuffle:
            paths = random.Random(f"{self._seed}/{self._epoch}").sample(paths, len(paths))
        worker = get_worker_info()
        workers, number = (worker.num_workers, worker.id) if worker is not None else (1, 0)
        share = islice(paths, self._rank + number * self._world_size, None, self._world_size * workers)
        with ThreadPoolExecutor(READERS, thread_name_prefix="reader") as pool:
            ahead: deque[Future[Any]] = deque(
                pool.submit(self._files.read, path) for path in islice(share, AHEAD_FILES)
            )
            try:
                while ahead:
                    item = ahead.popleft().result()
                    ahead.extend(pool.submit(self._files.read, path) for path in islice(share, 1))
                    yield item
            finally:
                for future in ahead:
                    future.cancel()
