"""Archives that mean harm: each is one clear error that names the entry, and nothing of it is stored."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import stat
import struct
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st

from tests.versioning.conftest import contents, put
from trunkline.core.paths import clean_path
from trunkline.errors import InvalidInputError, LimitError, TrunklineError
from trunkline.sources.bounds import Bounds
from trunkline.sources.unpack import unpacked
from trunkline.versioning.service import VersioningService

FILES = {"a.txt": b"alpha", "dir/b.bin": bytes(range(256)) * 900, "dir/sub/ü": b""}
SQUEEZED: dict[str, Any] = {
    "tar": lambda data: data, "gz": gzip.compress, "bz2": bz2.compress, "zst": zstd.compress,
    "xz": lambda data: lzma.compress(data, preset=0),
    "two gz": lambda d: gzip.compress(d[:5000]) + gzip.compress(d[5000:]) + b"\0" * 100,
}  # fmt: skip


def tar_of(*entries: tarfile.TarInfo | tuple[str, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for entry in entries:
            if isinstance(entry, tuple):
                info = tarfile.TarInfo(entry[0])
                info.size = len(entry[1])
                archive.addfile(info, io.BytesIO(entry[1]))
            else:
                archive.addfile(entry, io.BytesIO(b"x" * entry.size))
    return out.getvalue()


def special(name: str, kind: bytes, **more: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    for field, value in more.items():
        setattr(info, field, value)
    return info


def zip_of(*entries: tuple[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return out.getvalue()


def cut(data: bytes, size: int = 1000) -> Iterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


def took(parts: Iterable[bytes], **more: Any) -> dict[str, bytes]:
    return {change.path: b"".join(change.parts) for change in unpacked(parts, **more)}


@pytest.mark.parametrize("name", SQUEEZED)
@pytest.mark.parametrize("size", [1, 511, 10**6])
def test_every_kind_of_tar(name: str, size: int) -> None:
    data = SQUEEZED[name](tar_of(special("dir", tarfile.DIRTYPE), *FILES.items()))
    if len(data) > 20_000 and size == 1:
        size = 97
    assert took(cut(data, size), into="/in/") == {f"/in/{path}": content for path, content in FILES.items()}


def test_a_zip_with_times_and_modes() -> None:
    tool = zipfile.ZipInfo("bin/tool", (2020, 2, 3, 4, 5, 6))
    tool.create_system, tool.external_attr = 3, (stat.S_IFREG | 0o755) << 16
    plain = zipfile.ZipInfo("plain", (2020, 2, 3, 4, 5, 6))
    plain.extra = struct.pack("<HHBi", 0x5455, 5, 1, 1_600_000_000)
    data = zip_of((tool, b"#!"), (plain, b"x" * 100_000), ("dir/", b""))
    found = []
    for change in unpacked(cut(data)):
        found.append((change.path, len(b"".join(change.parts)), change.executable, change.modified_ns))
    assert found == [
        ("/bin/tool", 2, True, 1580702706 * 10**9),
        ("/plain", 100_000, False, 1_600_000_000 * 10**9),
    ]


def test_times_of_foreign_tars_are_exact() -> None:
    info = special("a", tarfile.REGTYPE, mtime=1234567890.987654321, size=0)
    info.pax_headers = {"mtime": "1234567890.987654321"}
    [change] = list(unpacked([tar_of(info)]))
    assert change.modified_ns == 1234567890987654321


WHOLE = tar_of(("a", b"1"), ("b", b"2"), ("c", b"3"))
"""A block for each header and for each content, then zeros."""


def test_one_block_of_zeros_is_an_end() -> None:
    assert [change.path for change in unpacked([WHOLE[: 3 * 1024 + 512]])] == ["/a", "/b", "/c"]


HOSTILE_TARS: dict[str, tuple[bytes, str]] = {
    "out of it": (tar_of(("ok", b"1"), ("../evil", b"2")), "'../evil' leads out of it"),
    "out of it, deeper": (tar_of(("a/../../evil", b"2")), "leads out of it"),
    "a folder out of it": (tar_of(special("../d", tarfile.DIRTYPE), ("ok", b"1")), "'../d' leads out of it"),
    "absolute": (tar_of(("/etc/passwd", b"2")), "'/etc/passwd' has an absolute name"),
    "symlink": (tar_of(special("link", tarfile.SYMTYPE, linkname="/etc/passwd")), "'link' is a link"),
    "symlink, then through it": (
        tar_of(special("d", tarfile.SYMTYPE, linkname="/tmp"), ("d/evil", b"1")), "'d' is a link",
    ),
    "hard link": (tar_of(("a", b"1"), special("b", tarfile.LNKTYPE, linkname="a")), "'b' is a link"),
    "character device": (tar_of(special("null", tarfile.CHRTYPE)), "'null' is a device"),
    "block device": (tar_of(special("sda", tarfile.BLKTYPE)), "'sda' is a device"),
    "pipe": (tar_of(special("p", tarfile.FIFOTYPE)), "'p' is a device or a pipe"),
    "sparse": (tar_of(special("s", tarfile.GNUTYPE_SPARSE)), "'s' is a sparse file"),
    "sparse, new": (
        tar_of(special("s", tarfile.REGTYPE, pax_headers={"GNU.sparse.major": "1", "GNU.sparse.minor": "0"})),
        "'s' is a sparse file|damaged",
    ),
    "unknown type": (tar_of(special("u", b"Z", size=10)), "'u' is of an unknown type"),
    "not UTF-8": (tar_of(("\udcff\udcfe", b"x"), form=tarfile.GNU_FORMAT), r"'\\udcff\\udcfe': .* not valid UTF-8"),
    "control character": (tar_of(("a\x01b", b"x")), r"'a\\x01b': .* control character"),
    "newline": (tar_of(("a\nb", b"x")), r"'a\\nb': .* control character"),
    "long component": (tar_of(("x" * 300, b"x")), "more than 255 bytes"),
    "10,000 characters": (tar_of(("x/" * 5000 + "y", b"x")), "at most 4096 are allowed"),
    "huge extended header": (tar_of(special("a", tarfile.REGTYPE, pax_headers={"comment": "x" * 100_000})), "too large"),
    "no name": (tar_of(("./", b"")), "'./' has no name"),
    "cut short": (tar_of(("a", b"x" * 5000))[:2000], "'a' is cut short"),
    "cut between two entries": (WHOLE[:2048], "it is cut short: the marker of its end is missing"),
    "cut in a header": (WHOLE[: 2048 + 300], "it is cut short or damaged between two entries"),
    "a damaged header": (WHOLE[:1030] + b"?" + WHOLE[1031:], "it is cut short or damaged between two entries"),
    "cut between two entries, in gzip": (gzip.compress(WHOLE[:2048]), "it is cut short: the marker of its end is missing"),
    "a wrong sum behind much padding": (
        gzip.compress(tar_of(("a", b"x")) + bytes(2**20))[:-8] + b"12345678", "damaged",
    ),
    "no archive": (b"just some text, and nothing else" * 40, "no tar at all"),
    "empty": (b"", "it is empty"),
    "cut gzip": (gzip.compress(tar_of(("a", b"x" * 5000)))[:-20], "cut short"),
    "damaged gzip": (gzip.compress(tar_of(("a", b"x" * 5000)))[:-8] + b"12345678", "damaged"),
    "damaged xz": (lzma.compress(tar_of(("a", b"x")))[:-40] + b"x" * 40, "damaged"),
    "xz with a huge dictionary": (
        lzma.compress(b"x", filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 512 * 2**20}]), "too much memory",
    ),
    "damaged zstd": (zstd.compress(tar_of(("a", b"x" * 500)))[:-10], "cut short"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE_TARS)
def test_hostile_tars(versioning: VersioningService, name: str) -> None:
    data, message = HOSTILE_TARS[name]
    refused(versioning, data, message)


def refused(
    versioning: VersioningService, data: bytes, message: str, bounds: Bounds | None = None
) -> TrunklineError:
    """It is refused with one line, and the repo is as it was."""
    versioning.create_repo("default", "r")
    before = versioning.modify("default", "r@master", [put("/kept", b"kept")])
    with pytest.raises((InvalidInputError, LimitError), match=message) as raised:
        versioning.modify("default", "r@master", unpacked(cut(data), bounds=bounds))
    commit, root, _ = versioning.resolve("default", "r@master")
    assert commit.id == before.id and contents(versioning, root) == {"/kept": b"kept"}
    assert len(raised.value.message.splitlines()) == 1 and len(raised.value.message) < 1000
    raised.value.message.encode()
    return raised.value


def test_a_chain_of_extended_headers_does_not_blow_the_stack(versioning: VersioningService) -> None:
    header = tar_of(special("a", tarfile.REGTYPE, pax_headers={"comment": "x"}))[:1024]
    refused(versioning, header * 3000 + tar_of(("a", b"")), "damaged")


def test_global_headers_without_end_are_refused(versioning: VersioningService) -> None:
    header = tarfile.TarInfo.create_pax_global_header({"comment": "x" * 50_000})
    refused(versioning, header * 30 + tar_of(("a", b"")), "too large")


def test_a_size_that_no_file_has(versioning: VersioningService) -> None:
    error = refused(
        versioning,
        tar_of(special("a", tarfile.REGTYPE))[:0] + huge_header("a", 2**62),
        "'a' says that it has",
    )
    assert error.kind == "archive_too_large"


def test_a_negative_size(versioning: VersioningService) -> None:
    refused(versioning, huge_header("a", -512), "'a' says that it has -512 bytes|damaged")


def huge_header(name: str, size: int) -> bytes:
    """A header whose size is in the binary form of GNU."""
    block = bytearray(tarfile.TarInfo(name).tobuf(tarfile.GNU_FORMAT))
    block[124:136] = tarfile.itn(size, 12, tarfile.GNU_FORMAT)  # type: ignore[attr-defined]
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + b"\0" * 1024


@pytest.mark.parametrize("kind", ["gz", "xz", "zst", "zip"])
def test_bombs_are_stopped_while_they_go_off(versioning: VersioningService, kind: str) -> None:
    content = b"\0" * (8 * 2**20)
    data = zip_of(("bomb", content)) if kind == "zip" else SQUEEZED[kind](tar_of(("bomb", content)))
    error = refused(versioning, data, "looks like a bomb", Bounds(ratio_max=150, free_bytes=2**20))
    assert error.kind == "archive_bomb" and "unpack_ratio_max" in error.message


def test_totals_are_bounded(versioning: VersioningService) -> None:
    data = tar_of(*[(f"f{i}", b"x" * 1000) for i in range(10)])
    error = refused(versioning, data, "'f4' says that it has 1000 bytes", Bounds(bytes_max=4500))
    assert error.kind == "archive_too_large"
    with pytest.raises(LimitError, match="more than 5 entries"):
        took([data], bounds=Bounds(entries_max=5))


# --- zip ---


def zip_entry(name: str, **fields: Any) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def patched(data: bytes, old: bytes, new: bytes) -> bytes:
    assert old in data and len(old) == len(new)
    return data.replace(old, new)


def lying_size(data: bytes, size: int) -> bytes:
    """The same zip, whose directory says another size of its first entry."""
    at = data.index(b"PK\1\2") + 24
    return data[:at] + struct.pack("<I", size) + data[at + 4 :]


def doubled() -> bytes:
    with pytest.warns(UserWarning, match="Duplicate name"):
        return zip_of(("a", b"1"), ("a", b"2"))


def overlapping() -> bytes:
    """Two directory entries for one body, as in the densest bombs."""
    data = zip_of(("a", b"1" * 1000), ("b", b"2" * 1000))
    second = data.index(b"PK\1\2", data.index(b"PK\1\2") + 4)
    return data[: second + 42] + struct.pack("<I", 10) + data[second + 46 :]


def flagged(name: str, bit: int) -> bytes:
    data = bytearray(zip_of((name, b"1")))
    for magic, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        at = data.index(magic) + offset
        data[at : at + 2] = struct.pack("<H", struct.unpack_from("<H", data, at)[0] | bit)
    return bytes(data)


LINK = (stat.S_IFLNK | 0o777) << 16
HOSTILE_ZIPS: dict[str, tuple[Any, str]] = {
    "out of it": (lambda: zip_of(("../evil", b"1")), "'../evil' leads out of it"),
    "absolute": (lambda: zip_of(("/etc/passwd", b"1")), "'/etc/passwd' has an absolute name"),
    "link": (lambda: zip_of((zip_entry("l", create_system=3, external_attr=LINK), b"/etc")), "'l' is a link"),
    "pipe": (
        lambda: zip_of((zip_entry("p", create_system=3, external_attr=stat.S_IFIFO << 16), b"")), "'p' is a device",
    ),
    "twice": (doubled, "'a' is in it twice"),
    "encrypted": (lambda: flagged("secret.txt", 1), "'secret.txt' is encrypted"),
    "smaller than it says": (lambda: lying_size(zip_of(("a", b"1" * 1000)), 2000), "'a'"),
    "larger than it says": (lambda: lying_size(zip_of(("a", b"1" * 1000)), 10), "'a' is damaged, or of another size"),
    "a size that no file has": (lambda: lying_size(zip_of(("a", b"1" * 9)), 0xFFFFFFF0), "'a' says that it has"),
    "overlapping": (overlapping, "overlap|damaged"),
    "not UTF-8, and says so": (lambda: patched(zip_of(("üx", b"1")), "ü".encode(), b"\xff\xfe"), "is not"),
    "not UTF-8": (
        lambda: patched(zip_of(("zzx", b"1")), b"zzx", b"\xff\xfex"), "is not UTF-8",
    ),
    "NUL": (lambda: patched(zip_of(("azb", b"1")), b"azb", b"a\0b"), "NUL"),
    "cut short": (lambda: zip_of(("a", b"1" * 1000))[:-30], "no whole zip"),
    "damaged": (lambda: patched(zip_of(("a", b"q1w2" * 9), method=0), b"q1w2q1w2", b"q1w2q1wX"), "'a' is damaged"),
    "a directory too large": (
        lambda: zip_of(("a", b"1"))[:-10] + struct.pack("<II", 0x40000000, 0) + b"\0\0", "directory is larger",
    ),
    "10,000 characters": (lambda: zip_of(("x" * 10_000, b"1")), "at most 4096"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE_ZIPS)
def test_hostile_zips(versioning: VersioningService, name: str) -> None:
    make, message = HOSTILE_ZIPS[name]
    refused(versioning, make(), message, Bounds(bytes_max=10**9))


def test_names_that_linux_writes_are_understood() -> None:
    data = patched(zip_of(("zzx", b"1")), b"zzx", "üx".encode())
    assert took([data]) == {"/üx": b"1"}


@given(
    st.lists(
        st.tuples(
            st.text(max_size=12) | st.sampled_from(["..", "../a", "a/..", "/", ".", "a//b"]),
            st.binary(max_size=9),
        )
    )
)
def test_whatever_the_names_are_paths_stay_inside(entries: list[tuple[str, bytes]]) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT, errors="surrogatepass") as archive:
        for name, data in entries:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    try:
        found = took([out.getvalue()], into="/in")
    except TrunklineError:
        return
    for path in found:
        assert path.startswith("/in/") and clean_path(path) == path
        assert not {"", ".", ".."} & set(path[1:].split("/"))


@given(
    st.binary(max_size=3000)
    | st.binary(max_size=600).map(lambda tail: tar_of(("a", b"b" * 600))[:1500] + tail)
)
def test_noise_is_an_error_of_ours_or_harmless(data: bytes) -> None:
    for head in (b"", b"\x1f\x8b", b"BZh9", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"PK\x03\x04"):
        try:
            took([head + data])
        except TrunklineError as error:
            assert len(error.message.splitlines()) == 1
