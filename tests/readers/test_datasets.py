"""The PyTorch datasets, with real loaders and their worker processes."""

from __future__ import annotations

import pickle

import pytest
from torch.utils.data import DataLoader

from tests.readers.conftest import Sample
from trunkline.errors import InvalidInputError, NotFoundError
from trunkline.readers.datasets import CommitDataset, CommitIterableDataset

pytestmark = pytest.mark.slow


def _length(path: str, content: bytes) -> tuple[str, int]:
    return path, len(content)


def _lengths(sample: Sample) -> dict[str, int]:
    return {path: len(data) for path, data in sample.files.items()}


def test_files_by_number(sample: Sample) -> None:
    dataset = CommitDataset("sales@master", client=sample.client)
    assert dataset.address == f"default/sales@{sample.second}"
    assert dataset.paths == sorted(sample.files, key=str.encode)
    assert dict(dataset[n] for n in range(len(dataset))) == sample.files
    assert CommitDataset("sales@master:/2025", client=sample.client).paths == ["/2025/a.csv", "/2025/b.csv"]
    assert CommitDataset("sales@master", glob="**.csv", client=sample.client).paths[-1] == "/2026/c.csv"


def test_only_what_is_new(sample: Sample) -> None:
    since = f"sales@{sample.first}"
    dataset = CommitDataset("sales@master", since=since, client=sample.client)
    assert dataset.paths == ["/2025/b.csv", "/2026/c.csv"]
    below = CommitIterableDataset("sales@master:/2026", since=since, client=sample.client)
    assert [path for path, _ in below] == ["/2026/c.csv"]
    assert len(CommitDataset("sales@master", since="sales@master", client=sample.client)) == 0


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_worker_processes(sample: Sample, method: str) -> None:
    dataset = CommitDataset("sales@master", transform=_length, client=sample.client)
    loader = DataLoader(dataset, batch_size=None, num_workers=2, multiprocessing_context=method)
    assert dict(loader) == _lengths(sample)
    stream = CommitIterableDataset("sales@master", transform=_length, client=sample.client)
    found = list(DataLoader(stream, batch_size=None, num_workers=2, multiprocessing_context=method))
    assert len(found) == len(sample.files)
    assert dict(found) == _lengths(sample)


def test_ranks_share_and_orders_agree(sample: Sample) -> None:
    streams = [
        CommitIterableDataset(
            "sales@master",
            shuffle=True,
            seed=7,
            rank=rank,
            world_size=2,
            transform=_length,
            client=sample.client,
        )
        for rank in (0, 1)
    ]
    for stream in streams:
        stream.set_epoch(3)
    found = [list(stream) for stream in streams]
    assert [len(part) for part in found] == [len(stream) for stream in streams]
    assert dict(found[0] + found[1]) == _lengths(sample)
    assert list(streams[0]) == found[0]
    orders = set()
    for epoch in range(8):
        streams[0].set_epoch(epoch)
        orders.add(tuple(path for path, _ in streams[0]))
    assert len(orders) > 1


def test_it_may_be_left_early(sample: Sample) -> None:
    stream = iter(CommitIterableDataset("sales@master", client=sample.client))
    next(stream)
    stream.close()  # type: ignore[attr-defined]


def test_it_travels_without_its_connections(sample: Sample) -> None:
    dataset = pickle.loads(pickle.dumps(CommitDataset("sales@master", client=sample.client)))
    assert dataset[0][1] == sample.files["/2025/a.csv"]


def test_what_cannot_be(sample: Sample) -> None:
    with pytest.raises(NotFoundError):
        CommitDataset("nothing@master", client=sample.client)
    with pytest.raises(NotFoundError):
        CommitDataset("sales@master:/nothing", client=sample.client)
    with pytest.raises(InvalidInputError, match="not both"):
        CommitDataset("sales@master", glob="*", since=sample.first, client=sample.client)
    with pytest.raises(InvalidInputError, match="rank 2"):
        CommitIterableDataset("sales@master", rank=2, world_size=2, client=sample.client)
