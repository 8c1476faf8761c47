from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.errors import ConflictError, CorruptionError, InvalidInputError
from trunkline.sdk.tar import PART_BYTES, files_below, tar_parts, unpack

names = st.text(
    st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="/"), min_size=1, max_size=200
).filter(lambda name: name not in (".", "..") and len(name.encode()) < 255)


@given(st.dictionaries(names, st.binary(max_size=2000), max_size=8))
def test_what_goes_in_comes_out(tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]) -> None:
    folder = tmp_path_factory.mktemp("out")
    stream = io.BytesIO(b"".join(tar_parts((f"d/{name}", content) for name, content in files.items())))
    assert unpack(stream, folder) == len(files)
    assert {name: (folder / "d" / name).read_bytes() for name in files} == files


def test_times_modes_and_long_names_are_kept(tmp_path: Path) -> None:
    source = tmp_path / "in"
    deep = source / ("x" * 120) / ("y" * 120)
    deep.mkdir(parents=True)
    (deep / "run.sh").write_text("#!")
    (deep / "run.sh").chmod(0o755)
    os.utime(deep / "run.sh", (1_600_000_000, 1_600_000_000))
    unpack(io.BytesIO(b"".join(tar_parts(files_below(source)))), tmp_path / "out")
    found = next((tmp_path / "out").rglob("run.sh")).stat()
    assert (found.st_mode & 0o777, found.st_mtime) == (0o755, 1_600_000_000)


def test_a_large_file_never_sits_in_memory(tmp_path: Path) -> None:
    with (tmp_path / "big").open("wb") as file:
        file.truncate(64 * 2**20)
    largest = max(len(part) for part in tar_parts([("big", tmp_path / "big")]))
    assert largest <= 2 * PART_BYTES


def test_a_file_that_shrinks_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"x" * (3 * PART_BYTES))
    parts = tar_parts([("f", path)])
    next(parts)
    os.truncate(path, PART_BYTES)
    with pytest.raises(ConflictError, match="shorter"):
        list(parts)


@pytest.mark.parametrize(
    ("name", "kind"), [("../x", tarfile.REGTYPE), ("a/../../x", tarfile.REGTYPE), ("l", tarfile.SYMTYPE)]
)
def test_nothing_is_written_outside(tmp_path: Path, name: str, kind: bytes) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
    stream.seek(0)
    with pytest.raises(InvalidInputError):
        unpack(stream, tmp_path / "out")
    assert not [path for path in tmp_path.rglob("*") if path.is_file() or path.is_symlink()]


def test_a_cut_archive_is_an_error(tmp_path: Path) -> None:
    whole = b"".join(tar_parts([("f", b"x" * 10_000)]))
    with pytest.raises(CorruptionError):
        unpack(io.BytesIO(whole[:5000]), tmp_path / "out")


def test_links_to_folders_are_named(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(InvalidInputError, match="b is a link to a folder"):
        list(files_below(tmp_path))
