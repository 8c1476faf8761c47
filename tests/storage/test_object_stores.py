"""Every driver against the same suite, and what only files can get wrong."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from trunkline import directio
from trunkline.errors import LimitError, NotFoundError, UnavailableError
from trunkline.storage.objects.base import ObjectStore
from trunkline.storage.objects.local import LocalStore
from trunkline.storage.objects.memory import MemoryStore
from trunkline.testing.faulty import Fault, FaultyStore
from trunkline.testing.objects import ObjectStoreSuite
from trunkline.testing.points import FaultPoints, How, in_a_fork


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


@pytest.mark.parametrize("size", [2**20, 2**20 + 1, 4 * 2**20 - 1, 4 * 2**20, 8 * 2**20 + 4096, 9_000_001])
def test_large_objects_have_exactly_their_bytes(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    pieces = [data[at : at + 250_001] for at in range(0, size, 250_001)]
    LocalStore(tmp_path).put("a/b", pieces)
    assert (tmp_path / "a" / "b").read_bytes() == data


def test_large_objects_go_past_the_page_cache_where_they_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []
    real = os.write

    def write(descriptor: int, data: memoryview) -> int:
        seen.append(directio.is_direct(descriptor))
        return real(descriptor, data)

    monkeypatch.setattr(os, "write", write)
    with (tmp_path / "probe").open("wb") as probe:
        agreed = directio.turn_direct(probe.fileno(), on=True)
    LocalStore(tmp_path).put("a/b", [bytes(2**20)])
    LocalStore(tmp_path).put("a/c", [bytes(2**20 - 1)])
    assert seen == ([True] if agreed else [])


@pytest.mark.parametrize("how", ["error", "lost_response"])
def test_a_large_put_that_fails_at_any_call_leaves_the_whole_or_nothing(tmp_path: Path, how: How) -> None:
    data = os.urandom(5 * 2**20 + 17)
    counting = FaultPoints()
    with counting.armed(tmp_path):
        LocalStore(tmp_path / "0").put("a/b", [data])
    assert sum(point.startswith("write") for point in counting.trail) == 2
    assert any(point.startswith("ftruncate") for point in counting.trail)
    for at in range(1, len(counting.trail) + 1):
        folder = tmp_path / str(at)
        points = FaultPoints(at, how)
        with (
            points.armed(tmp_path),
            suppress(UnavailableError),
        ):  # a folder that was made all the same is no failure
            LocalStore(folder).put("a/b", [data])
        assert points.has_struck
        left = [path for path in folder.rglob("*") if path.is_file()] if folder.exists() else []
        assert all(path.name == "b" and path.read_bytes() == data for path in left)


@pytest.mark.parametrize("how", ["kill", "power_cut"])
def test_a_large_put_that_dies_at_any_call_leaves_the_whole_or_nothing(tmp_path: Path, how: How) -> None:
    data = os.urandom(5 * 2**20 + 17)
    LocalStore(tmp_path / "a")
    counting = FaultPoints()
    with counting.armed(tmp_path):
        LocalStore(tmp_path / "a").put("counted", [data])
    for at in range(1, len(counting.trail) + 1):
        points, key = FaultPoints(at, how), f"died-{at}"

        def put(points: FaultPoints = points, key: str = key) -> bool:
            with points.armed(tmp_path):
                LocalStore(tmp_path / "a").put(key, [data])
            return True

        assert os.WIFSIGNALED(in_a_fork(put))
        path = tmp_path / "a" / key
        assert not path.exists() or path.read_bytes() == data


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
