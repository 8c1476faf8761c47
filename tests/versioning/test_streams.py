"""Streams of files, put in batches: the same as putting their files one by one, in any pieces, with little memory."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import FakeClock
from tests.core.test_filestream import Arriving, File, stream_of
from tests.versioning.conftest import open_service
from trunkline.core import filestream
from trunkline.core.filebatches import COPIED_BYTES_MAX, STEP_BYTES, Batch, read_batches
from trunkline.core.filestream import SMALL_BYTES_MAX, failure
from trunkline.core.paths import are_plain, clean_path
from trunkline.errors import InvalidInputError, TrunklineError, UnavailableError
from trunkline.storage.db.engine import Database
from trunkline.storage.objects.memory import MemoryStore
from trunkline.versioning.model import Change, PutFile, PutStream
from trunkline.versioning.service import VersioningService
from trunkline.versioning.slabs import SLAB_BYTES, Slabs

PIECES = st.lists(
    st.sampled_from(["a", "b", "é", "e\u0301", ".", "..", "", "\x01", "\x7f", "x" * 256, "dir", "日" * 90]),
    min_size=1,
    max_size=3,
)
NAMES = st.one_of(st.sampled_from(["a", "a/b", "b", "dir/a", "dir/b"]), PIECES.map("/".join))
FILES = st.lists(
    st.tuples(NAMES, st.binary(max_size=3), st.none() | st.integers(-(2**63), 2**63 - 1), st.booleans()),
    max_size=8,
)


def one_by_one(files: list[File], into: str, append: bool) -> list[Change]:
    """The same files as changes of their own."""
    changes: list[Change] = []
    for name, data, time, executable in files:
        if not name or name[0] == "/" or name[-1] == "/":
            raise InvalidInputError("not relative", kind="bad_path")
        path = into.rstrip("/") + "/" + name
        changes.append(
            PutFile(path=path, parts=[data], modified_ns=time, executable=executable, append=append)
        )
    return changes


@settings(deadline=None)
@given(
    files=FILES, base=FILES, into=st.sampled_from(["/", "/dir", "/é/x"]), append=st.booleans(),
    piece=st.integers(1, 200),
)  # fmt: skip
def test_a_stream_is_what_its_files_are_one_by_one(
    files: list[File],
    base: list[File],
    into: str,
    append: bool,
    piece: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    database = Database(f"sqlite:///{tmp_path_factory.mktemp('stream')}/t.db")
    service = open_service(database, MemoryStore(), FakeClock())
    try:
        below = service.stage(one_by_one(base, "/", False)).root
    except TrunklineError:
        below = None
    found: list[object] = []
    for way in ("batches", "one by one"):
        try:
            if way == "batches":
                source = Arriving(stream_of(files), piece)
                found.append(service.stage([PutStream(source=source, into=into, append=append)], below))
            else:
                found.append(service.stage(one_by_one(files, into, append), below))
        except TrunklineError as error:
            found.append((error.kind, error.details.get("path")))
    database.close()
    assert found[0] == found[1] or (isinstance(found[1], tuple) and found[1][0] == "bad_path" == found[0][0])  # type: ignore[index]


@given(st.lists(PIECES.map("/".join), max_size=4))
def test_plain_names_are_clean(names: list[str]) -> None:
    if are_plain([name.encode() for name in names]):
        assert all(clean_path("/" + name) == "/" + name != "/" for name in names)
    plain = [name for name in names if name.isascii() and name.isprintable() and 0 < len(name) < 256]
    if (
        plain == names
        and names
        and all("" not in n.split("/") and not {".", ".."} & {*n.split("/")} for n in names)
    ):
        assert are_plain([name.encode() for name in names])
    assert not are_plain([b"a"], 4096)


@pytest.mark.parametrize("piece", [100_003, 2**30])
def test_sizes_round_the_buffers(versioning: VersioningService, piece: int) -> None:
    pick = random.Random(3)
    sizes = [
        0, 1, COPIED_BYTES_MAX, COPIED_BYTES_MAX + 1, SMALL_BYTES_MAX, SMALL_BYTES_MAX + 1, 2**20, 2**20 + 1,
        STEP_BYTES, 3 * 2**20, SLAB_BYTES, SLAB_BYTES + 2**20 + 1, 5, *[SMALL_BYTES_MAX - n for n in range(40)],
    ]  # fmt: skip
    files: list[File] = [(f"f{n:03}", pick.randbytes(size), n, n % 2 == 0) for n, size in enumerate(sizes)]
    root = versioning.stage([PutStream(source=Arriving(stream_of(files), piece))]).root
    assert root == versioning.stage(one_by_one(files, "/", False)).root
    for name, data, _, _ in files:
        assert b"".join(versioning.read(root, "/" + name)) == data


@pytest.mark.parametrize("size", [0, 3, 2**20, 2**20 + 1, SLAB_BYTES, 2 * SLAB_BYTES + 5])
@pytest.mark.parametrize("piece", [100_003, 2**30])
def test_one_file_from_a_source_is_the_same_file(
    versioning: VersioningService, size: int, piece: int
) -> None:
    data = random.Random(size).randbytes(size)
    straight = versioning.stage([PutFile(path="/f", source=Arriving(data, piece))]).root
    assert straight == versioning.stage([PutFile(path="/f", parts=[data])]).root
    assert b"".join(versioning.read(straight, "/f")) == data


def test_a_stream_that_is_cut_anywhere_stores_no_tree(versioning: VersioningService) -> None:
    whole = stream_of(
        [("a", b"123", 5, True), ("b/c", b"", None, False), ("big", bytes(600_000), None, False)]
    )
    for length in [*range(120), 300_000, 599_999, len(whole) - 1]:
        with pytest.raises(InvalidInputError) as caught:
            versioning.stage([PutStream(source=Arriving(whole[:length]))])
        assert caught.value.kind == "bad_stream"


def test_a_client_that_gives_up_is_told_from_a_bad_stream(versioning: VersioningService) -> None:
    said = filestream.MAGIC + failure("NotFoundError", "no_file", "it is gone")
    with pytest.raises(UnavailableError, match="it is gone") as caught:
        versioning.stage([PutStream(source=Arriving(said))])
    assert caught.value.kind == "client_gone"


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"TLFILES\x02" + bytes(30), "version 1"),
        (filestream.MAGIC + filestream.end(1), "holds 0 files"),
        (filestream.MAGIC + filestream.end(0) + b"x", "behind its end"),
        (filestream.MAGIC + b"\x09" + bytes(filestream.HEAD.size - 1), "unknown kind"),
        (filestream.MAGIC + filestream.HEAD.pack(3, 0, 0, 0, 3) + b"{{{", "not readable"),
        (filestream.MAGIC + filestream.file_head(b"\xff", 0, None, False) + filestream.end(1), "not UTF-8"),
    ],
)
def test_what_is_no_stream(versioning: VersioningService, data: bytes, why: str) -> None:
    with pytest.raises(InvalidInputError, match=why) as caught:
        versioning.stage([PutStream(source=Arriving(data))])
    assert caught.value.kind == "bad_stream"


@pytest.mark.slow
def test_what_is_stored_already_or_compressed_keeps_no_buffers(
    versioning: VersioningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = 0
    had: set[int] = set()
    real = Slabs.take

    def take(self: Slabs) -> memoryview:
        nonlocal taken
        taken += 1
        slab = real(self)
        had.add(id(slab.obj))
        return slab

    monkeypatch.setattr(Slabs, "take", take)
    pick = random.Random(1)
    files: list[File] = [(f"f{n:04}", pick.randbytes(20_000), None, False) for n in range(4000)]
    versioning.stage([PutStream(source=Arriving(stream_of(files)))])
    for n in range(0, 4000, 100):
        files[n] = (files[n][0], pick.randbytes(20_000), None, False)
    words = [
        (f"w{n:04}", b"%d" % n * 5000 if n % 50 else pick.randbytes(20_000), None, False) for n in range(4000)
    ]
    for again in (files, words):
        taken = 0
        had.clear()
        versioning.stage([PutStream(source=Arriving(stream_of(again)))])
        assert taken >= 9  # so much went through
        assert len(had) <= 5


def test_small_contents_are_copied_and_larger_ones_are_not() -> None:
    files: list[File] = [
        ("a", bytes(COPIED_BYTES_MAX), 1, False),
        ("b", bytes(COPIED_BYTES_MAX + 1), None, True),
    ]
    [batch] = read_batches(Arriving(stream_of(files)), Slabs())
    assert isinstance(batch, Batch)
    assert [type(content) for content in batch.contents] == [bytes, memoryview]
    assert (batch.names, batch.times, batch.executables) == ([b"a", b"b"], [1, None], [False, True])
