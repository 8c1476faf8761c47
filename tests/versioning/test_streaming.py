"""Files of a tree in batches, for whoever sends them on."""

from __future__ import annotations

import random
import threading
from pathlib import Path

import pytest

from tests.versioning.conftest import stage
from trunkline.core.ids import TreeHash
from trunkline.errors import CorruptionError, NotFoundError
from trunkline.storage.objects.local import LocalStore
from trunkline.versioning.service import VersioningService

MIB = 2**20


def _mixed() -> dict[str, bytes]:
    pick = random.Random(6)
    made = {f"/many/{n:04}": pick.randbytes(pick.randrange(30_000)) for n in range(700)}
    made["/big"] = pick.randbytes(9 * MIB)
    made["/empty"] = b""
    made["/many/twice"] = made["/twice"] = b"the same"
    made["/text"] = b"words and words " * 100_000
    return made


def _read(versioning: VersioningService, root: TreeHash, *tops: str) -> list[tuple[str, bytes]]:
    """Each batch is used up before the next is asked for, as its bytes are good no longer."""
    found: list[tuple[str, bytes]] = []
    for batch in versioning.read_batches(root, tops):
        for file, data in batch:
            if isinstance(data, CorruptionError):
                raise data
            if file is not None:
                found.append(("/" + file.key.decode(), bytes(data)))
            else:
                found[-1] = (found[-1][0], found[-1][1] + data)
    return found


def test_every_file_has_its_bytes(versioning: VersioningService) -> None:
    data = _mixed()
    root = stage(versioning, data)
    assert _read(versioning, root, "/") == sorted(data.items())
    some = _read(versioning, root, "/text", "/many", "/empty")
    inside = sorted((path, content) for path, content in data.items() if path.startswith("/many/"))
    assert some == [("/text", data["/text"]), *inside, ("/empty", b"")]
    assert _read(versioning, root, "/twice") == [("/twice", b"the same")]
    with pytest.raises(NotFoundError, match="/nowhere"):
        _read(versioning, root, "/many", "/nowhere")


def test_many_paths_in_any_order(versioning: VersioningService) -> None:
    data = {f"/d{n % 7}/{n:04}": b"%d" % n for n in range(900)} | {f"/{n:04}": b"" for n in range(300)}
    root = stage(versioning, data)
    paths = sorted(data)
    assert _read(versioning, root, *paths) == sorted(data.items())
    random.Random(3).shuffle(paths)
    assert _read(versioning, root, *paths) == [(path, data[path]) for path in paths]
    inside = [(path, data[path]) for path in sorted(data) if path.startswith("/d3/")]
    assert _read(versioning, root, "/d3/0003", "d3/", "/0001") == [inside[0], *inside, ("/0001", b"")]
    for missing in ("/d3/0004", "/d8", "/9999", "/d3/0003/x"):
        with pytest.raises(NotFoundError, match=missing):
            _read(versioning, root, "/d3/0003", missing)


def test_stopped_in_the_middle_it_leaves_no_thread(versioning: VersioningService) -> None:
    root = stage(versioning, _mixed())
    before = set(threading.enumerate())
    reading = versioning.read_batches(root, ["/"])
    next(reading)
    reading.close()  # type: ignore[attr-defined]
    assert set(threading.enumerate()) <= before


@pytest.mark.local_only
@pytest.mark.parametrize(("where", "read_before"), [(7, 0), (8 * MIB, 1)])
def test_damage_is_named(
    versioning: VersioningService, objects: LocalStore, tmp_path: Path, where: int, read_before: int
) -> None:
    """In a file's first bytes it comes in their place, and the others can be read; behind them there is no going on."""
    big = random.Random(3).randbytes(9 * MIB)
    root = stage(versioning, {"/a": b"x", "/b": big, "/c": b"y"})
    piece = big[where : where + 64]
    for pack in (tmp_path / "objects").rglob("*"):
        if pack.is_file() and (at := pack.read_bytes().find(piece)) >= 0:
            changed = bytearray(pack.read_bytes())
            changed[at] ^= 1
            pack.write_bytes(changed)
    seen: list[tuple[bytes, bool]] = []

    def read() -> None:
        for batch in versioning.read_batches(root, ["/"]):
            for file, data in batch:
                if file is not None:
                    seen.append((file.key, isinstance(data, CorruptionError)))
                    if isinstance(data, CorruptionError):
                        assert data.details["path"] == "/b"

    if read_before:
        with pytest.raises(CorruptionError, match="/b: chunk"):
            read()
        assert seen[:1] == [(b"a", False)] and (b"b", True) not in seen
    else:
        read()
        assert seen == [(b"a", False), (b"b", True), (b"c", False)]
