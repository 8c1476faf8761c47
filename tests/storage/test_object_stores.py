"""Every driver against the same suite, and what only files can get wrong."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from trunkline.errors import LimitError, NotFoundError, UnavailableError
from trunkline.storage.objects.base import ObjectStore
from trunkline.storage.objects.local import LocalStore
from trunkline.storage.objects.memory import MemoryStore
from trunkline.testing.faulty import Fault, FaultyStore
from trunkline.testing.objects import ObjectStoreSuite


class TestLocalStore(ObjectStoreSuite):
    @pytest.fixture
    def store(self, tmp_path: Path) -> ObjectStore:
        return LocalStore(tmp_path / "deep" / "objects")


class TestMemoryStore(ObjectStoreSuite):
    @pytest.fixture
    def store(self) -> ObjectStore:
        return MemoryStore()


class TestFaultyStore(ObjectStoreSuite):
    @pytest.fixture
    def store(self) -> ObjectStore:
        return FaultyStore(MemoryStore())


def files_below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_objects_are_plain_files(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.put("packs/ab/abcd", [b"1"])
    assert files_below(tmp_path) == ["packs/ab/abcd"]
    assert LocalStore(tmp_path).get("packs/ab/abcd") == b"1"


def test_parts_of_all_sizes_are_written_in_order(tmp_path: Path) -> None:
    sizes = [1, 2**17 - 1, 2**17, 0, 2**17 + 1, 3 * 2**20 + 5, *[3] * 1500, 2**18]
    parts = [os.urandom(size) for size in sizes]
    LocalStore(tmp_path).put("a/b", iter(parts))
    assert LocalStore(tmp_path).get("a/b") == b"".join(parts)


def test_a_failed_put_leaves_no_file(tmp_path: Path) -> None:
    def parts() -> Iterator[bytes]:
        yield b"1"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        LocalStore(tmp_path).put("a/b", parts())
    assert files_below(tmp_path) == []


def test_what_a_crash_left_is_not_an_object(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.put("a/b", [b"1"])
    (tmp_path / "a" / ".tmp-0011").write_bytes(b"half")
    assert [info.key for info in store.list()] == ["a/b"]


def test_a_folder_that_vanished_is_made_again(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.put("a/b", [b"1"])
    (tmp_path / "a" / "b").unlink()
    (tmp_path / "a").rmdir()
    store.put("a/c", [b"2"])
    assert store.get("a/c") == b"2"


def test_an_unreadable_place_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UnavailableError, match="file"):
        LocalStore(tmp_path / "file" / "objects")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_full_disk_is_told_and_nothing_is_left(tmp_path: Path) -> None:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("this machine does not let us mount a file system")
    try:
        store = LocalStore(tmp_path)
        store.put("small", [b"1"])
        with pytest.raises(LimitError, match="disk is full") as caught:
            store.put("packs/big", [bytes(2**19)] * 4)
        assert caught.value.kind == "disk_full"
        assert files_below(tmp_path) == ["small"]
        store.put("packs/fits", [bytes(2**19)])
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_faults_come_when_they_should() -> None:
    store = FaultyStore(
        MemoryStore(),
        Fault(operation="put", nth=2),
        Fault(operation="put", nth=3, how="lost_response"),
        Fault(operation="put", nth=4, how="disk_full", sticky=True),
        Fault(operation="get", nth=1, how="latency", seconds=0.001),
    )
    store.put("a", [b"1"])
    with pytest.raises(UnavailableError):
        store.put("b", [b"1"])
    with pytest.raises(UnavailableError):
        store.put("c", [b"1"])
    for _ in range(2):
        with pytest.raises(LimitError):
            store.put("d", [b"1"])
    assert store.get("c") == b"1"
    with pytest.raises(NotFoundError):
        store.get("b")
    assert store.calls["put"] == 5
