"""A commit as a folder, mounted for real."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.readers.conftest import BIG, Sample
from trunkline.testing.server import PROGRAM

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(sample: Sample, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    target = tmp_path_factory.mktemp("mount") / "sales"
    target.mkdir()
    done = sample.server.cli("mount", "sales@master", str(target), "--detach")
    if b"FUSE library" in done.stderr or not Path("/dev/fuse").exists():
        pytest.skip(f"this machine cannot mount: {done.stderr.decode()}")
    assert done.returncode == 0, done.stderr
    try:
        yield target
    finally:
        done = sample.server.cli("unmount", str(target))
    assert done.returncode == 0, done.stderr
    assert not any(target.iterdir())


def test_it_holds_what_the_commit_holds(sample: Sample, folder: Path) -> None:
    found = {
        f"/{path.relative_to(folder)}": path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }
    assert found == sample.files
    assert sorted(path.name for path in folder.iterdir()) == ["2025", "2026", "big.bin", "empty", "grüße"]
    assert (folder / "big.bin").stat().st_size == len(BIG)
    assert (folder / "big.bin").stat().st_mode & 0o777 == 0o444


def test_programs_read_ranges(folder: Path) -> None:
    with (folder / "big.bin").open("rb") as file:
        file.seek(4 * 2**20 - 5)
        assert file.read(10) == BIG[4 * 2**20 - 5 :][:10]
    command = ["cmp", str(folder / "big.bin"), "-"]
    assert subprocess.run(command, input=BIG, check=False).returncode == 0


def test_it_stays_with_its_commit(sample: Sample, folder: Path) -> None:
    sample.client.create_branch("sales@aside", head="master")
    sample.client.put_file("sales@aside:/later", b"x")
    assert not (folder / "later").exists()


@pytest.mark.parametrize("act", [
    lambda folder: (folder / "new").write_bytes(b"x"),
    lambda folder: (folder / "empty").write_bytes(b"x"),
    lambda folder: (folder / "empty").unlink(),
    lambda folder: (folder / "made").mkdir(),
    lambda folder: (folder / "empty").rename(folder / "other"),
])  # fmt: skip
def test_it_is_read_only(folder: Path, act: object) -> None:
    with pytest.raises(OSError) as raised:
        act(folder)  # type: ignore[operator]
    assert raised.value.errno == errno.EROFS


def test_what_is_not_there(folder: Path) -> None:
    assert not (folder / "nothing").exists()
    assert not (folder / "2025" / "nothing").exists()
    assert not (folder / ("x" * 250)).exists()
    with pytest.raises(NotADirectoryError):
        list((folder / "empty").iterdir())


def test_wrong_commands(sample: Sample, folder: Path, tmp_path: Path) -> None:
    full, empty = tmp_path / "full", tmp_path / "empty"
    full.mkdir()
    empty.mkdir()
    (full / "x").touch()
    cases = [
        (["mount", "sales@master", str(folder)], "is mounted"),
        (["mount", "sales@master", str(full)], "not empty"),
        (["mount", "sales@master", str(tmp_path / "none"), "--detach"], "no folder"),
        (["mount", "sales@nothing", str(tmp_path)], "no branch"),
        (["mount", "sales@master:/big.bin", str(empty)], "is a file: mount the directory"),
        (["mount", "sales@master:/big.bin", str(empty), "--detach"], "is a file: mount the directory"),
        (["unmount", str(full)], "nothing is mounted"),
    ]
    for words, why in cases:
        done = sample.server.cli(*words)
        assert done.returncode in (2, 4, 5), done
        assert why in done.stderr.decode()
        assert done.stderr.decode().count("\n") == 1


def test_an_open_commit_is_refused(sample: Sample, tmp_path: Path) -> None:
    sample.client.create_repo("writing")
    sample.client.start_commit("writing@master")
    done = sample.server.cli("mount", "writing@master", str(tmp_path))
    assert done.returncode == 5
    assert b"still open" in done.stderr


def test_what_a_dead_mount_leaves_can_be_unmounted(sample: Sample, folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    command = [*PROGRAM, "mount", "sales@master", str(target)]
    process = subprocess.Popen(command, env=sample.server.env, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 30
    while not target.is_mount():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.communicate()  # from here on its folder answers nothing
    assert b"is mounted" in sample.server.cli("mount", "sales@master", str(target)).stderr
    assert sample.server.cli("unmount", str(target)).returncode == 0
    assert list(target.iterdir()) == []


def test_ctrl_c_ends_a_mount(sample: Sample, folder: Path, tmp_path: Path) -> None:
    command = [*PROGRAM, "mount", "sales@master", str(tmp_path)]
    process = subprocess.Popen(command, env=sample.server.env, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 30
    while not tmp_path.is_mount():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert not tmp_path.is_mount()


def test_its_importing_costs_the_cli_nothing() -> None:
    code = "import sys, trunkline.cli.main; print('mfusepy' in sys.modules, 'fsspec' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False False"
