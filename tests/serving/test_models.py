"""The cache of models and what ``file://`` means."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from trunkline.errors import ConflictError, InvalidInputError, NotFoundError
from trunkline.serving.models import FRESH_SECONDS, ModelCache, open_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "my model"
    (made / "sub").mkdir(parents=True)
    (made / "a.txt").write_text("a")
    (made / "sub" / "b.txt").write_text("b")
    return made


def test_pulled_once_per_content(tmp_path: Path, folder: Path) -> None:
    cache = ModelCache(tmp_path / "models")
    source = open_folder(folder.as_uri())
    target = cache.ensure(source.identity, lambda: source)
    assert target == tmp_path / "models" / source.identity
    assert sorted(p.relative_to(target).as_posix() for p in target.rglob("*")) == [
        "a.txt",
        "sub",
        "sub/b.txt",
    ]

    def never() -> None:
        raise AssertionError("it is there already")

    assert cache.ensure(source.identity, never) == target  # type: ignore[arg-type]
    (folder / "sub" / "b.txt").write_text("c")
    with pytest.raises(ConflictError, match="apply the service again"):
        cache.ensure("0" * 64, lambda: open_folder(folder.as_uri()))
    assert list((tmp_path / "models").iterdir()) == [target], "nothing half pulled is left"


def test_a_single_file(tmp_path: Path, folder: Path) -> None:
    source = open_folder((folder / "a.txt").as_uri())
    assert source.identity != open_folder(folder.as_uri()).identity
    target = ModelCache(tmp_path / "models").ensure(source.identity, lambda: source)
    assert [p.name for p in target.iterdir()] == ["a.txt"]


def test_what_no_revision_needs_is_removed(tmp_path: Path, folder: Path) -> None:
    cache = ModelCache(tmp_path / "models")
    first = open_folder(folder.as_uri())
    cache.ensure(first.identity, lambda: first)
    (tmp_path / "models" / f"{'1' * 64}.part-x").mkdir()
    cache.keep_only([])
    assert len(list((tmp_path / "models").iterdir())) == 2, "fresh: its row may not have been there yet"
    for entry in (tmp_path / "models").iterdir():
        os.utime(entry, (0.0, time.time() - FRESH_SECONDS - 1))
    cache.keep_only([first.identity])
    assert [p.name for p in (tmp_path / "models").iterdir()] == [first.identity]
    cache.keep_only([])
    assert list((tmp_path / "models").iterdir()) == []


def test_addresses_that_are_wrong(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="there is no file or folder /no/such on this machine"):
        open_folder("file:///no/such")
    with pytest.raises(InvalidInputError, match="write file:///path/to/folder"):
        open_folder("file://relative/path")


def test_links_out_of_the_folder_and_files_that_never_end(tmp_path: Path, folder: Path) -> None:
    """Who may apply a service may not have the owner's token copied for a model, and must not hang the server."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "token").write_text("secret")
    (folder / "link.txt").symlink_to(folder / "a.txt")
    source = open_folder(folder.as_uri(), home)
    for path in (home, home / "token", tmp_path):
        with pytest.raises(InvalidInputError, match=r"token lies in trunkline's own data directory"):
            open_folder(path.as_uri(), home)
    (folder / "link.txt").unlink()
    (folder / "link.txt").symlink_to(home / "token")
    with pytest.raises(InvalidInputError, match=r"link.txt lies in trunkline's own data directory"):
        open_folder(folder.as_uri(), home)
    with pytest.raises(InvalidInputError, match=r"link.txt lies in trunkline's own data directory"):
        ModelCache(tmp_path / "models").ensure(source.identity, lambda: source)
    assert list((tmp_path / "models").iterdir()) == []
    (folder / "link.txt").unlink()
    (folder / "more").symlink_to(folder / "sub")
    with pytest.raises(InvalidInputError, match="more is a link to a folder"):
        open_folder(folder.as_uri(), home)


@pytest.mark.skipif(not Path("/proc/kmsg").exists(), reason="reading it never ends, on Linux")
def test_a_file_of_no_size_is_not_read(tmp_path: Path) -> None:
    source = open_folder("file:///proc/kmsg")
    target = ModelCache(tmp_path / "models").ensure(source.identity, lambda: source)
    assert (target / "kmsg").read_bytes() == b""
