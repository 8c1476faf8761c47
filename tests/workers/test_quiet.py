"""Folders that commands write to: what is put there is never missed, and a folder at rest is soon left alone."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from trunkline.workers.quiet import QUIET_NS, Quiet


@pytest.mark.parametrize("stays", [True, False])
def test_a_change_is_never_missed(tmp_path: Path, stays: bool) -> None:
    quiet = Quiet(tmp_path, stays=stays)
    for pause_ns in (0, 2 * QUIET_NS, 0, 0, 2 * QUIET_NS):
        for _ in range(50):
            assert not (quiet.holds() and list(tmp_path.iterdir()))
        time.sleep(pause_ns / 1e9)
        quiet.holds()
        (tmp_path / "file").touch()
        assert not quiet.holds()
        (tmp_path / "file").unlink()
        assert not quiet.holds()
    quiet.close()


@pytest.mark.parametrize("stays", [True, False])
def test_a_folder_at_rest_is_left_alone(tmp_path: Path, stays: bool) -> None:
    quiet = Quiet(tmp_path, stays=stays)
    deadline = time.monotonic() + 10
    while not quiet.holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert quiet.holds()
    quiet.close()


def test_another_folder_in_its_place_is_seen(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    quiet = Quiet(folder, stays=False)
    time.sleep(2 * QUIET_NS / 1e9)
    quiet.holds()
    assert quiet.holds()
    folder.rename(tmp_path / "elsewhere")
    folder.mkdir()
    assert not quiet.holds()
