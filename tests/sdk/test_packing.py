from __future__ import annotations

import errno
import os
import random
import shutil
import threading
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core.test_filestream import Arriving, File, stream_of
from trunkline.core import filestream
from trunkline.core.filestream import SMALL_BYTES_MAX
from trunkline.errors import ConflictError, InvalidInputError
from trunkline.sdk.packing import Run, Share, names_of, runs, send_files, send_runs, total_bytes
from trunkline.sdk.unpacking import move_into_place, write_files


def one(name: str, data: bytes = b"x", time: int | None = None, executable: bool = False) -> File:
    return name, data, time, executable


def written(files: list[File], folder: Path, piece: int = 2**30) -> int:
    return write_files(Arriving(stream_of(files), piece), folder)


def names(folder: Path) -> list[str]:
    return list(names_of([("", folder)]))


def open_now() -> tuple[int, int]:
    """Threads and files."""
    return threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))


def make(folder: Path, *paths: str) -> None:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(path)


class Collected:
    """What would go to the server."""

    def __init__(self) -> None:
        self.data = b""

    def write(self, *pieces: bytes) -> None:
        self.data += b"".join(map(bytes, pieces))

    def write_file(self, descriptor: int, size: int):
        while size and (part := os.read(descriptor, min(size, 100_000))):
            self.data += part
            size -= len(part)
            yield len(part)

    def finish_body(self) -> None:
        self.data += b"."


def test_a_folder_is_walked_in_the_order_of_whole_paths(tmp_path: Path) -> None:
    make(tmp_path, "b/x", "b.txt", "a", "b-/y", "b/a/z", "ä", "c")
    assert names(tmp_path) == sorted(names(tmp_path), key=str.encode)
    assert len(names(tmp_path)) == 7
    assert total_bytes([("", tmp_path)]) == (7, sum(len(name.encode()) for name in names(tmp_path)))


def test_shares_are_the_whole(tmp_path: Path) -> None:
    make(tmp_path, *(f"{n}" for n in range(10)))
    sent = [Collected() for _ in range(3)]
    counts = [send_files(one, [("", tmp_path)], share=Share(n, 3)) for n, one in enumerate(sent)]  # type: ignore[arg-type]
    assert sorted(counts) == [3, 3, 4]


def test_what_cannot_be_sent_is_named(tmp_path: Path) -> None:
    make(tmp_path, "a/b")
    (tmp_path / "l").symlink_to(tmp_path / "a")
    with pytest.raises(InvalidInputError, match="l is a link to a folder"):
        names(tmp_path)
    (tmp_path / "l").unlink()
    (tmp_path / "l").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InvalidInputError, match="l is a link to what is not there"):
        names(tmp_path)
    (tmp_path / "l").unlink()
    (tmp_path / "l").symlink_to("l")
    with pytest.raises(InvalidInputError, match="l cannot be read: Too many levels"):
        names(tmp_path)
    (tmp_path / "l").unlink()
    os.mkfifo(tmp_path / "a" / "pipe")
    with pytest.raises(InvalidInputError, match="a/pipe is not a readable regular file"):
        names(tmp_path)
    (tmp_path / "a" / "pipe").unlink()
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))).write_text("")
    with pytest.raises(InvalidInputError, match="not UTF-8"):
        names(tmp_path)


def test_what_cannot_be_sent_is_named_as_it_is_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make(tmp_path, "src/m/a")
    link = tmp_path / "src" / "m" / "l"
    link.symlink_to("nowhere")
    for share in (Share(0, 1), Share(1, 2)):
        for source in ("src", "src/", Path("src")):
            with pytest.raises(InvalidInputError, match=r"^src/m/l is a link to what is not there$"):
                send_files(Collected(), [("in", source)], share=share)  # type: ignore[arg-type]
    link.unlink()
    make(tmp_path, "src/m/b")
    for run in (walked := runs([("in", Path("src"))])):
        assert isinstance(run, Run)
        (tmp_path / "src" / "m" / "b").unlink()
        with pytest.raises(ConflictError, match=r"^src/m/b went away"):
            send_runs(Collected(), [run])  # type: ignore[arg-type]
        os.mkfifo(tmp_path / "src" / "m" / "b")
        with pytest.raises(InvalidInputError, match=r"^src/m/b is not a readable regular file"):
            send_runs(Collected(), [run])  # type: ignore[arg-type]
    assert next(walked, None) is None
    with pytest.raises(InvalidInputError, match=r"^src/m/b is not a readable regular file"):
        send_files(Collected(), [("", "src/m/b")])  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["\udcffz", "in/\udcffz", "\ud800z"])
def test_a_name_that_is_no_text_is_the_same_error_everywhere(tmp_path: Path, name: str) -> None:
    make(tmp_path, "ok")
    bad = tmp_path / "\udcffz"
    bad.write_text("")
    (tmp_path / "link").symlink_to(bad)
    for source in (bad, str(bad), str(tmp_path / "link"), b"content", str(tmp_path)):
        for share in (Share(0, 1), Share(1, 2)):
            with pytest.raises(InvalidInputError, match="\ufffdz has a name that is not UTF-8: rename it"):
                send_files(Collected(), [("ok", tmp_path / "ok"), (name, source)], share=share)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [10, 3_000_000])
def test_a_file_that_shrinks_or_goes_is_noticed(tmp_path: Path, size: int) -> None:
    make(tmp_path, "a", "b")
    (tmp_path / "b").write_bytes(bytes(size))
    real = os.fstat

    def shrinking(descriptor: int) -> os.stat_result:
        found = real(descriptor)
        if found.st_size == size:
            os.truncate(tmp_path / "b", size // 2)
        return found

    with pytest.MonkeyPatch.context() as patch, pytest.raises(ConflictError, match="b became shorter"):
        patch.setattr(
            os, "fstat", shrinking
        )  # the moment between looking and reading cannot be hit otherwise
        send_files(Collected(), [("", tmp_path)])  # type: ignore[arg-type]
    with pytest.raises(ConflictError, match="nowhere went away"):
        send_files(Collected(), [("nowhere", tmp_path / "nowhere")])  # type: ignore[arg-type]


def test_times_and_modes_are_kept(tmp_path: Path) -> None:
    assert written([one("a/b", b"#!", 1_600_000_000_123_456_789, True), one("c", b"")], tmp_path / "o") == 2
    found = (tmp_path / "o" / "a" / "b").stat()
    assert (found.st_mtime_ns, found.st_mode & 0o100) == (1_600_000_000_123_456_789, 0o100)
    assert (tmp_path / "o" / "c").read_bytes() == b""


@pytest.mark.parametrize(
    "name",
    ["../x", "a/../../x", "/etc/x", "a//b", "", "/", "a/", ".", "..", "a/.", "./a", "nul\0", "x\0/y"],
)
def test_nothing_is_written_outside(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidInputError, match="leads out"):
        written([one(name)], tmp_path / "out")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    stream = filestream.MAGIC + filestream.file_head(b"\xff", 0, None, False) + filestream.end(1)
    with pytest.raises(InvalidInputError, match="not UTF-8"):
        write_files(Arriving(stream), tmp_path / "out")


SIZES = st.one_of(st.integers(0, 9000), st.sampled_from([4096, 4097, SMALL_BYTES_MAX, SMALL_BYTES_MAX + 1]))


@settings(deadline=None, max_examples=30)
@given(
    files=st.dictionaries(st.from_regex(r"[abc]/[xyz]/[0-9]{1,3}", fullmatch=True), SIZES, max_size=30),
    piece=st.integers(1000, 600_000),
)
def test_two_writers_leave_what_was_sent(files: dict[str, int], piece: int) -> None:
    sent = [one(name, random.Random(name).randbytes(size), 10**18, False) for name, size in files.items()]
    with TemporaryDirectory() as folder:
        assert written(sent, Path(folder), piece) == len(files)
        assert {name: (Path(folder) / name).read_bytes() for name in files} == {
            one[0]: one[1] for one in sent
        }


def test_what_one_writer_could_not_do_is_an_error_of_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = open_now()
    files = [one(f"{n}", bytes(5000)) for n in range(300)]
    write, left = os.write, 0

    def until_it_is_full(descriptor: int, data: bytes) -> int:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", until_it_is_full)
    for count in (0, 1, 40, 100, 250, 299):
        left = count
        with pytest.raises(OSError, match="No space"):
            written(files, tmp_path / "full", 100_000)
    monkeypatch.undo()
    (tmp_path / "taken" / "200").mkdir(parents=True)
    with pytest.raises(OSError, match="200"):
        written(files, tmp_path / "taken", 100_000)
    assert open_now() == before


@settings(deadline=None, max_examples=20)
@given(sizes=st.lists(st.integers(0, 9000), min_size=2, max_size=100), piece=st.integers(1000, 100_000))
def test_of_files_with_one_name_the_last_stays(sizes: list[int], piece: int) -> None:
    """On some file systems, 'a' and 'A' are one name."""
    sent = [one("same", bytes([number]) * size) for number, size in enumerate(sizes)]
    with TemporaryDirectory() as folder:
        written(sent, Path(folder), piece)
        assert (Path(folder) / "same").read_bytes() == sent[-1][1]


def test_no_link_is_followed(tmp_path: Path) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    out.mkdir()
    elsewhere.mkdir()
    (out / "l").symlink_to(elsewhere)
    with pytest.raises(InvalidInputError, match="a file or a link is there"):
        written([one("l/x")], out)
    (out / "f").symlink_to(elsewhere / "f")
    written([one("f")], out)
    assert (out / "f").read_bytes() == b"x"
    assert not (out / "f").is_symlink()
    make(tmp_path / "new", "l/x")
    with pytest.raises(InvalidInputError, match="is a link"):
        move_into_place(tmp_path / "new", out)
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("piece", [500, 2**30])
def test_more_folders_than_are_kept_open(tmp_path: Path, piece: int) -> None:
    files = [one(f"{n}/{m}/f") for n in range(12) for m in range(12)] + [one("0/0/g"), one("3/h")]
    assert written(files, tmp_path / "out", piece) == 146
    assert len([path for path in (tmp_path / "out").rglob("*") if path.is_file()]) == 146


def test_what_is_there_is_replaced_or_joined(tmp_path: Path) -> None:
    make(tmp_path / "old", "a", "d/b")
    make(tmp_path / "new", "d/b", "d/e/c")
    move_into_place(tmp_path / "new", tmp_path / "old")
    assert names(tmp_path / "old") == ["a", "d/b", "d/e/c"]
    make(tmp_path / "whole", "x")
    move_into_place(tmp_path / "whole", tmp_path / "not" / "there")
    assert names(tmp_path / "not" / "there") == ["x"]


def test_what_is_in_the_way_is_named(tmp_path: Path) -> None:
    for place, said in (
        ("m/5/", "m/5 would be a file"),
        ("m", "m would be a folder"),
        ("", "out would be a folder"),
    ):
        source, out = tmp_path / "source", tmp_path / "out"
        make(source, "a", "m/5")
        if place.endswith("/"):
            (out / place).mkdir(parents=True)
        else:
            make(tmp_path, f"out/{place}".rstrip("/"))
        with pytest.raises(InvalidInputError, match=said) as refused:
            move_into_place(source, out)
        if place == "m/5/":  # is seen when its turn comes
            assert "1 are in their places" in str(refused.value) and (out / "a").is_file()
        else:
            assert not (out / "a").exists()
        shutil.rmtree(source)
        shutil.rmtree(out) if out.is_dir() else out.unlink()
    make(tmp_path, "one")
    (tmp_path / "out" / "one").mkdir(parents=True)
    with pytest.raises(InvalidInputError, match=r"out/one would be a file, but a folder is there: remove it"):
        move_into_place(tmp_path / "one", tmp_path / "out")
    with pytest.raises(InvalidInputError, match="file would be a folder"):
        make(tmp_path, "file")
        move_into_place(tmp_path / "one", tmp_path / "file")
