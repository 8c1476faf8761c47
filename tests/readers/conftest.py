"""A real server with a small repo of two commits, for all readers."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from trunkline.sdk.client import Client
from trunkline.testing.server import ServerHarness, running_server

BIG = bytes(range(256)) * 40_000  # three blocks of a reader, and many chunks


@dataclass(frozen=True, kw_only=True)
class Sample:
    server: ServerHarness
    client: Client
    files: dict[str, bytes]
    """What ``sales@master`` holds, by path."""
    first: str
    second: str


def table(rows: int, start: int = 0) -> bytes:
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["id", "amount"])
    writer.writerows([n, n * 10] for n in range(start, start + rows))
    return out.getvalue().encode()


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sample]:
    home: Path = tmp_path_factory.mktemp("readers") / "home"
    with running_server(home) as server:
        client = server.client()
        client.create_repo("sales")
        files = {
            "/2025/a.csv": table(3),
            "/2025/b.csv": table(4, 3),
            "/big.bin": BIG,
            "/empty": b"",
            "/grüße/日本.txt": "hällo".encode(),
        }
        first = client.put_files("sales@master", [(path[1:], data) for path, data in files.items()])
        later = {"/2026/c.csv": table(5, 7), "/2025/b.csv": table(2, 50)}
        second = client.put_files("sales@master", [(path[1:], data) for path, data in later.items()])
        yield Sample(server=server, client=client, files={**files, **later}, first=first.id, second=second.id)
