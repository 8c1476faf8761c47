"""A data directory on a disk that is full: one line, exit code 6, nothing half-written, and all is well once there is room."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

UNSHARE = ["unshare", "--user", "--map-root-user", "--mount"]
SCRIPT = """
mkdir disk && mount -t tmpfs -o size=24m tmpfs disk && export TRUNKLINE_HOME=$PWD/disk/home
t() { "$0" -m trunkline.cli.main "$@"; echo "exit $?" >&2; }
trap 't down >/dev/null 2>&1' EXIT
head -c 30000000 /dev/urandom > large
t up --detach --port 0 --gateway-port 0 2>/dev/null
{ t create repo r; echo kept | t put file r@master:/a -f -; } 2>/dev/null
t put file r@master:/large -f large
t list files r@master
cat /dev/zero > disk/filler 2>/dev/null
t create repo s
rm disk/filler
t create repo s
t put file r@master:/b -f large -f large 2>/dev/null
t fsck
t down
cat /dev/zero > disk/filler 2>/dev/null
t up --detach --port 0 --gateway-port 0
t up --port 0 --gateway-port 0
rm disk/filler
t up --detach --port 0 --gateway-port 0 2>/dev/null
t get file r@master:/a
"""


def test_a_full_disk(tmp_path: Path) -> None:
    if subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mounts of one's own here")
    argv = [*UNSHARE, "sh", "-c", SCRIPT, sys.executable]
    done = subprocess.run(
        argv, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    # The put that failed may have stored a pack before the disk was full: fsck then says that gc deletes it.
    lines = iter(line for line in done.stdout.splitlines() if "of failed writes" not in line)

    def said(*starts: str) -> None:
        for start in starts:
            line = next(lines)
            assert line.startswith(start), f"{line!r} is not {start!r} in:\n{done.stdout}"

    full = ("error: the disk is full: ", "exit 6")
    said(*full)
    said("SIZE", "5B   /a", "exit 0")
    said(*full)
    said("repo default/s created", "exit 0")
    said("all is well", "exit 0")
    said("stopped", "exit 0")
    said(*full, *full)
    said("kept", "exit 0")
    assert list(lines) == []
