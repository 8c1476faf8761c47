from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.core import filestream
from trunkline.core.filebatches import Buffers, LargeFile, read_batches
from trunkline.core.filestream import SMALL_BYTES_MAX, StreamFailureError, end, failure, file_head
from trunkline.errors import InvalidInputError

File = tuple[str, bytes, int | None, bool]
files_ = st.lists(
    st.tuples(
        st.text(st.characters(exclude_categories=("Cs",)), max_size=50), st.binary(max_size=300),
        st.none() | st.integers(-(2**63), 2**63 - 1), st.booleans(),
    ),
    max_size=10,
)  # fmt: skip


class Arriving:
    """Bytes that come in pieces of a given size, as from a network."""

    def __init__(self, data: bytes, piece: int = 2**30) -> None:
        self.data, self.piece, self.at = data, piece, 0

    def readinto(self, buffer: memoryview) -> int:
        part = self.data[self.at : self.at + min(self.piece, len(buffer))]
        buffer[: len(part)] = part
        self.at += len(part)
        return len(part)

    fill = readinto


def stream_of(files: list[File]) -> bytes:
    records = [
        file_head(name.encode(), len(data), time, executable) + data for name, data, time, executable in files
    ]
    return filestream.MAGIC + b"".join(records) + end(len(files))


def taken(source: Arriving) -> list[File]:
    found: list[File] = []
    for item in read_batches(source, Buffers()):
        if isinstance(item, LargeFile):
            content = bytearray(item.size)
            at = 0
            while read := item.fill(memoryview(content)[at : at + 1_000_000]):
                at += read
            found.append((item.name.decode(), bytes(content), item.modified_ns, item.executable))
        else:
            found += [
                (name.decode(), bytes(content), time, executable)
                for name, content, time, executable in zip(*item[1:], strict=True)
            ]
    return found


@given(files_, st.integers(1, 400))
def test_what_goes_in_comes_out_however_it_arrives(files: list[File], piece: int) -> None:
    assert taken(Arriving(stream_of(files), piece)) == files


@pytest.mark.parametrize("piece", [100_003, 2**30])
def test_sizes_round_the_buffer(piece: int) -> None:
    sizes = [0, 1, SMALL_BYTES_MAX, SMALL_BYTES_MAX + 1, 2 * SMALL_BYTES_MAX, 3_000_001, 5]
    files: list[File] = [(f"f{n}", bytes([n]) * size, n, False) for n, size in enumerate(sizes)]
    assert taken(Arriving(stream_of(files), piece)) == files


def test_a_stream_that_is_cut_anywhere_is_an_error() -> None:
    whole = stream_of([("a", b"123", 5, True), ("b/c", b"", None, False)])
    for length in range(len(whole)):
        with pytest.raises(InvalidInputError) as caught:
            taken(Arriving(whole[:length]))
        assert caught.value.kind == "bad_stream"


def test_a_large_file_that_is_cut_is_an_error() -> None:
    whole = stream_of([("a", bytes(3_000_000), 5, True)])
    with pytest.raises(InvalidInputError, match="in the middle of a file"):
        taken(Arriving(whole[:2_000_000]))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (stream_of([]) + b"x", "goes on behind its end"),
        (filestream.MAGIC + end(1), "holds 0 files and says that it holds 1"),
        (b"TLFILES\x02" + end(0), "version 1"),
        (filestream.MAGIC + filestream.HEAD.pack(9, 0, 0, 0, 0), "unknown kind"),
        (filestream.MAGIC + filestream.HEAD.pack(1, 128, 0, 0, 0), "unknown kind"),
        (filestream.MAGIC + filestream.HEAD.pack(3, 0, 0, 0, 2**40), "unknown kind"),
    ],
)
def test_what_is_no_such_stream_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(InvalidInputError, match=why):
        taken(Arriving(data))


def test_the_other_side_can_say_why_it_stopped() -> None:
    with pytest.raises(StreamFailureError) as caught:
        taken(Arriving(filestream.MAGIC + failure("CorruptionError", "lost_chunk", "it is lost")))
    assert caught.value.said == {"class": "CorruptionError", "kind": "lost_chunk", "message": "it is lost"}
