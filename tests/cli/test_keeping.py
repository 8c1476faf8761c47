"""gc, fsck, purge, backup and restore as people type them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Shell
from tests.keeping.test_gc import noise
from trunkline.cli.keeping import seconds_of
from trunkline.errors import InvalidInputError
from trunkline.testing.server import running_server


def put(shell: Shell, address: str, data: bytes) -> None:
    shell(f"put file {address} -f -", stdin=data)


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """A server that holds nothing but what these tests keep or collect."""
    with running_server(tmp_path_factory.mktemp("home") / "t") as server:
        yield Shell(server)


@pytest.fixture
def folder(shell: Shell) -> Path:
    return shell.server.home / "objects"


def test_lengths_of_time() -> None:
    assert [seconds_of(text) for text in ("0", "90s", "30m", "24h", "7d")] == [0, 90, 1800, 86400, 604800]
    for text in ("soon", "-1", "1y", ""):
        with pytest.raises(InvalidInputError):
            seconds_of(text)


@pytest.mark.slow
def test_gc(shell: Shell, folder: Path) -> None:
    shell("create repo heap")
    put(shell, "heap@master:/a", noise(1))
    shell("delete repo heap")
    planned = json.loads(shell("gc --dry-run --grace 0 -o json").out)
    assert planned["reclaimable_bytes"] > 50_000 and planned["freed_bytes"] == 0
    assert "too young" in shell("gc").out  # by the setting, nothing of today goes
    done = json.loads(shell("gc --grace 0 -o json").out)
    assert done["freed_bytes"] >= planned["reclaimable_bytes"]
    assert "reclaimable   0B" in shell("gc --grace 0s").out
    assert "length of time" in shell("gc --grace never", code=2).err


@pytest.mark.slow
def test_fsck_with_and_without_a_server(tmp_path: Path) -> None:
    with running_server(tmp_path / "t") as server:
        shell = Shell(server)
        shell("create repo checked")
        put(shell, "checked@master:/a", noise(1))
        assert "all is well" in shell("fsck").err
        server.stop()
        assert "no server runs" in shell("fsck").err
        (pack,) = [
            path
            for path in (tmp_path / "t" / "objects").rglob("*")
            if path.is_file() and len(path.name) == 64
        ]
        data = bytearray(pack.read_bytes())
        data[data.index(noise(1)[:40]) + 3] ^= 1
        pack.write_bytes(bytes(data))
        done = shell("fsck", code=70)
        assert "damaged_pack" in done.out and "checked@" in done.out and ":/a" in done.out
        report = json.loads(shell("fsck --repair -o json", code=70).out)
        assert report["repaired"] and report["problems"][0]["kind"] == "lost_chunk"
        assert [line for line in report["advice"] if "--repair" in line] == []  # it has done what it can
        server.start()
        put(shell, "checked@master:/again", noise(1))
        assert "all is well" in shell("fsck").err


@pytest.mark.slow
def test_purge(shell: Shell, folder: Path) -> None:
    shell("create repo people")
    shell("create repo copies")
    put(shell, "people@master:/faces/1", noise(7))
    put(shell, "copies@master:/x", noise(7))
    assert "--everywhere" in shell("purge file people:/faces/1 --dry-run", code=5).err
    asked = shell("purge file people:/faces/1 --everywhere", code=2)
    assert "--yes" in asked.err and "people@" in asked.err
    assert "nothing was changed" in shell("purge file people:/faces/1 --everywhere --dry-run").err
    done = shell("purge file people:/faces/1 --everywhere --yes --why 'asked for'")
    assert "copies@" in done.out and "people@" in done.out
    assert not any(noise(7)[:500] in path.read_bytes() for path in folder.rglob("*") if path.is_file())
    for line in ("get file people@master:/faces/1", "inspect file people@master:/faces/1"):
        assert "was purged on" in shell(line, code=4).err
        assert "(asked for)" in shell(line, code=4).err
    assert "default/people:/faces/1" in shell("list purges").out
    assert "all is well" in shell("fsck").err


@pytest.mark.slow
def test_backup_and_restore(shell: Shell, tmp_path: Path) -> None:
    shell("create repo precious")
    put(shell, "precious@master:/a", noise(9))
    place, home = tmp_path / "copies", tmp_path / "restored"
    first = shell(f"backup {place}")
    assert "copied" in first.out
    again = json.loads(shell(f"backup {place} -o json --keep 2").out)
    assert again["packs_copied"] == 0
    assert "all is well" in shell(f"restore {place} --home {home}").err
    assert "not empty" in shell(f"restore {place} --home {home}", code=5).err
    assert "outside" in shell(f"backup {shell.server.home}/inside", code=2).err
    assert "nowhere" in shell("backup ''", code=2).err
    with running_server(home) as server:
        assert b"".join(server.client().get_file("precious@master:/a")) == noise(9)
        assert Shell(server)("fsck").code == 0
