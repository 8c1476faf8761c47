"""The fsspec file system, and the libraries that read through it."""

from __future__ import annotations

import pickle

import duckdb
import fsspec
import pandas
import pyarrow.dataset
import pyarrow.fs
import pyarrow.parquet
import pytest

from tests.readers.conftest import BIG, Sample
from trunkline.readers.filesystem import TrunklineFileSystem

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _server(sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found through the environment, as a user's program finds it."""
    monkeypatch.setenv("TRUNKLINE_HOME", str(sample.server.home))
    TrunklineFileSystem.clear_instance_cache()


def test_listing(sample: Sample) -> None:
    fs = fsspec.filesystem("trunkline")
    assert sorted(fs.find("trunkline://sales@master")) == sorted(
        f"sales@master{path}" for path in sample.files
    )
    assert fs.ls("sales@master/2025", detail=False) == ["sales@master/2025/a.csv", "sales@master/2025/b.csv"]
    assert fs.glob("sales@master/*/[ac].csv") == ["sales@master/2025/a.csv", "sales@master/2026/c.csv"]
    assert fs.isdir("sales@master/2025") and fs.isfile("sales@master/empty")
    assert not fs.exists("sales@master/nothing") and not fs.exists("nothing@master/x")
    assert fs.info("default/sales@master/big.bin")["size"] == len(BIG)
    assert fs.info("sales@master:/big.bin")["name"] == "sales@master/big.bin"
    assert fs.find("sales@master/nothing") == []
    assert [len(names) for _, _, names in fs.walk("sales@master")] == [2, 2, 1, 1]


def test_reading(sample: Sample) -> None:
    fs = fsspec.filesystem("trunkline")
    for path, data in sample.files.items():
        assert fs.cat_file(f"sales@master{path}") == data
    assert fs.cat_file("sales@master/big.bin", 5, 9) == BIG[5:9]
    assert fs.cat_file("sales@master/big.bin", -7) == BIG[-7:]
    assert fs.cat_file("sales@master/big.bin", 9, 9) == b""
    with fs.open("sales@master/big.bin") as file:
        file.seek(len(BIG) - 3)
        assert file.read(10) == BIG[-3:]
        file.seek(5_000_000)
        assert file.read(100) == BIG[5_000_000:5_000_100]
    assert fs.cat_file(f"sales@{sample.first}/2025/b.csv") != sample.files["/2025/b.csv"]
    again = pickle.loads(pickle.dumps(fs))
    assert again.cat_file("sales@master/empty") == b""


def test_an_open_file_stays_with_its_commit(sample: Sample) -> None:
    sample.client.create_repo("moving")
    sample.client.put_file("moving@master:/x", b"one")
    fs = fsspec.filesystem("trunkline")
    with fs.open("moving@master/x", block_size=1) as file:
        sample.client.put_file("moving@master:/x", b"two")
        assert file.read() == b"one"
    assert fs.cat_file("moving@master/x") == b"two"


def test_what_cannot_be(sample: Sample) -> None:
    fs = fsspec.filesystem("trunkline")
    with pytest.raises(FileNotFoundError, match="nothing"):
        fs.open("sales@master/nothing")
    with pytest.raises(IsADirectoryError):
        fs.open("sales@master/2025")
    with pytest.raises(ValueError, match="names no commit"):
        fs.ls("sales/2025")
    with pytest.raises(PermissionError, match="read-only"):
        fs.open("sales@master/new", "wb")
    with pytest.raises(PermissionError, match="read-only"):
        fs.rm("sales@master/big.bin")
    with pytest.raises(OSError, match="does not answer"):
        TrunklineFileSystem(url="http://127.0.0.1:9", token="x").ls("sales@master")


def test_pandas_reads_it(sample: Sample) -> None:
    frame = pandas.read_csv("trunkline://sales@master/2026/c.csv")
    assert frame["amount"].tolist() == [70, 80, 90, 100, 110]
    old = pandas.read_csv(f"trunkline://sales@{sample.first}/2025/b.csv")
    assert old["id"].tolist() == [3, 4, 5, 6]


def test_duckdb_reads_it(sample: Sample) -> None:
    with duckdb.connect() as database:
        database.register_filesystem(fsspec.filesystem("trunkline"))
        query = "SELECT count(*), sum(amount) FROM read_csv('trunkline://sales@master/*/*.csv')"
        assert database.execute(query).fetchone() == (10, 30 + 1010 + 450)


def test_pyarrow_reads_it(sample: Sample) -> None:
    sample.client.create_repo("lake")
    parts = []
    for month in (1, 2):
        sink = pyarrow.BufferOutputStream()
        pyarrow.parquet.write_table(pyarrow.table({"n": [month, month * 10]}), sink)
        parts.append((f"month={month}/part.parquet", sink.getvalue().to_pybytes()))
    sample.client.put_files("lake@master", parts)
    files = pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(fsspec.filesystem("trunkline")))
    found = pyarrow.dataset.dataset("lake@master", filesystem=files, partitioning="hive").to_table()
    assert sorted(found["n"].to_pylist()) == [1, 2, 10, 20]
    assert set(found["month"].to_pylist()) == {1, 2}
    assert pandas.read_parquet("trunkline://lake@master/month=2/part.parquet")["n"].tolist() == [2, 20]
