"""Joining contents: the result is that of writing them in one go, and little of them is read."""

from __future__ import annotations

import random

import pytest

from trunkline.core.hashing import digest
from trunkline.versioning.files import read_content, write_content
from trunkline.versioning.join import join_contents


class Chunks:
    def __init__(self) -> None:
        self.stored: dict[bytes, bytes] = {}
        self.read = 0

    def put(self, data: bytes) -> bytes:
        self.stored[digest(data)] = data
        return digest(data)

    def get(self, name: bytes) -> bytes:
        self.read += len(self.stored[name])
        return self.stored[name]


KINDS = {
    "random": lambda rng, size: rng.randbytes(size),
    "zeros": lambda rng, size: bytes(size),
    "text": lambda rng, size: (b"the same line again\n" * (size // 20 + 1))[:size],
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "sizes",
    [
        (0, 0), (0, 1, 0), (500_000, 500_000), (2**19, 2**19), (2**19, 2**19 + 1), (2**20, 1), (1, 2**20), (3_000_000,),
        (5_000_000, 5_000_000, 17), (1_048_577, 1_048_577, 1_048_577), (64, 5_000_000, 100_000, 3_000_000),
        tuple([70_000] * 40), tuple([1_048_576] * 5),
    ],
)  # fmt: skip
def test_joined_is_as_if_written_at_once(kind: str, sizes: tuple[int, ...]) -> None:
    rng = random.Random(7)
    chunks = Chunks()
    parts = [KINDS[kind](rng, size) for size in sizes]
    contents = [write_content([part], chunks.put) for part in parts]
    joined = join_contents(contents, chunks.get, chunks.put)
    assert joined == write_content([b"".join(parts)], Chunks().put)
    assert b"".join(read_content(joined, chunks.get)) == b"".join(parts)


def test_any_split_makes_the_same_content() -> None:
    rng = random.Random(11)
    data = rng.randbytes(6_000_000)
    whole = write_content([data], Chunks().put)
    for _ in range(12):
        cuts = sorted(rng.sample(range(len(data)), rng.randint(1, 9)))
        chunks = Chunks()
        parts = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
        contents = [write_content([part], chunks.put) for part in parts]
        assert join_contents(contents, chunks.get, chunks.put) == whole


def test_large_parts_are_hardly_read() -> None:
    rng = random.Random(3)
    chunks = Chunks()
    contents = [write_content([rng.randbytes(16_000_000)], chunks.put) for _ in range(4)]
    chunks.read = 0
    join_contents(contents, chunks.get, chunks.put)
    assert chunks.read < 16_000_000  # of 64
