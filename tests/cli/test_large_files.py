"""A file that is too large for one part of anything, through commands, against a real server."""

from __future__ import annotations

import filecmp
import random
from pathlib import Path

import pytest

from tests.cli.conftest import Shell
from tests.conftest import folder_on_disk
from trunkline.sdk.transfer import LARGE_BYTES

pytestmark = pytest.mark.slow
tmp_path = pytest.fixture(folder_on_disk)


def test_a_large_file_comes_back_as_it_was(shell: Shell, tmp_path: Path) -> None:
    """Past the page cache, which asks for whole blocks: it has some bytes more."""
    repo = "large"
    shell(f"create repo {repo}", code=0)
    large = tmp_path / "in" / "large"
    large.parent.mkdir()
    with large.open("wb") as file:
        for number in range(LARGE_BYTES // 2**20 + 1):
            file.write(random.Random(number).randbytes(2**20))
        file.write(b"some more")
    shell(f"put file {repo}@master:/ -r -f {large.parent}")
    shell(f"get file {repo}@master:/large -o {tmp_path}/one")
    shell(f"get file {repo}@master:/ -r -o {tmp_path}/all")
    shell(f"get file {repo}@master:/large -o {tmp_path}/range --offset {2**20} --length {LARGE_BYTES + 1}")
    assert filecmp.cmp(large, tmp_path / "one", shallow=False)
    assert filecmp.cmp(large, tmp_path / "all" / "large", shallow=False)
    data = large.read_bytes()
    assert (tmp_path / "range").read_bytes() == data[2**20 :][: LARGE_BYTES + 1]
