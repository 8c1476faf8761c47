"""Shared trees on disk: whole or not at all, built once, removed only when nobody uses them."""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path

import pytest

from trunkline.workers.trial_cache import cached_tree, evict


def never() -> None:
    return


def test_it_is_built_once_and_read_only(tmp_path: Path) -> None:
    builds: list[Path] = []

    def build(folder: Path) -> None:
        builds.append(folder)
        (folder / "a").write_text("x")

    for _ in range(2):
        with cached_tree(tmp_path, "r" * 64, build, give_up=never) as folder:
            assert folder == tmp_path / "run" / "cache" / ("r" * 64)
            assert (folder / "a").read_text() == "x"
            assert (folder / "a").stat().st_mode & 0o222 == 0
    assert len(builds) == 1


def test_a_build_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def build(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"), cached_tree(tmp_path, "r", build, give_up=never):
        pass
    assert [path.name for path in (tmp_path / "run" / "cache").iterdir()] == ["r.lock"]


def test_two_at_once_build_it_once(tmp_path: Path) -> None:
    builds: list[Path] = []
    both_in = threading.Barrier(2, timeout=10)

    def build(folder: Path) -> None:
        builds.append(folder)
        (folder / "a").write_text("x")

    def use() -> None:
        with cached_tree(tmp_path, "r", build, give_up=never) as folder:
            both_in.wait()
            assert (folder / "a").exists()

    threads = [threading.Thread(target=use) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(builds) == 1
    assert not both_in.broken


def test_whoever_waits_to_build_sees_that_it_is_built(tmp_path: Path) -> None:
    """Two that both saw nothing there: the slower one need not wait until the faster one has done its work."""
    (tmp_path / "run" / "cache").mkdir(parents=True)
    other = os.open(tmp_path / "run" / "cache" / "r.lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(other, fcntl.LOCK_SH)  # it looks, too
    waits = 0

    def build_elsewhere() -> None:
        nonlocal waits
        waits += 1
        assert waits < 100, "the tree is there, and nobody holds it alone"
        (tmp_path / "run" / "cache" / "r").mkdir(exist_ok=True)

    with cached_tree(tmp_path, "r", lambda _: pytest.fail("built twice"), give_up=build_elsewhere) as folder:
        assert folder.is_dir()
    os.close(other)


def test_giving_up_while_another_builds(tmp_path: Path) -> None:
    building, gave_up = threading.Event(), threading.Event()

    def slow(_: Path) -> None:
        building.set()
        gave_up.wait(10)

    def hold() -> None:
        with cached_tree(tmp_path, "r", slow, give_up=never):
            pass

    def give_up() -> None:
        raise InterruptedError

    thread = threading.Thread(target=hold)
    thread.start()
    assert building.wait(10)
    with pytest.raises(InterruptedError), cached_tree(tmp_path, "r", slow, give_up=give_up):
        pass
    gave_up.set()
    thread.join()


def test_the_unused_are_removed_oldest_first(tmp_path: Path) -> None:
    def build(folder: Path) -> None:
        (folder / "a").write_text("x")

    def roots() -> set[str]:
        return {path.name for path in (tmp_path / "run" / "cache").iterdir() if path.is_dir()}

    with cached_tree(tmp_path, "used", build, give_up=never):
        for name in ("a", "b", "c"):
            with cached_tree(tmp_path, name, build, give_up=never):
                pass
        evict(tmp_path / "run" / "cache", keep=1)
        assert roots() == {"used", "c"}
        evict(tmp_path / "run" / "cache", keep=0)
        assert roots() == {"used"}
    with cached_tree(tmp_path, "a", build, give_up=never) as folder:
        assert (folder / "a").exists()
