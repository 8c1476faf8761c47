"""Which commits touched a path, and what differs at the top of two commits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.versioning.conftest import put, stage
from trunkline.errors import InvalidInputError, NotFoundError
from trunkline.versioning.model import Commit, DeletePath
from trunkline.versioning.service import VersioningService
from trunkline.versioning.service import history as searching


@pytest.fixture
def made(versioning: VersioningService) -> list[Commit]:
    versioning.create_repo("default", "data")
    return [
        versioning.modify("default", "data@master", changes)
        for changes in (
            [put("/cats/1", b"1"), put("/dogs/1", b"1")],
            [put("/dogs/2", b"2")],
            [put("/cats/1", b"2")],
            [put("/cats/1", b"2", modified_at=5.0)],
            [DeletePath(path="/cats")],
            [],
            [put("/cats", b"a file now")],
        )
    ]


def ops(versioning: VersioningService, path: str, **more: str) -> list[tuple[str, str]]:
    found, after = versioning.find_commits("default", f"data@master:{path}", **more)  # type: ignore[arg-type]
    assert after is None
    return [(one.commit.id, one.op) for one in found]


def test_newest_first(versioning: VersioningService, made: list[Commit]) -> None:
    assert ops(versioning, "/cats/1") == [
        (made[4].id, "deleted"), (made[2].id, "changed"), (made[0].id, "added"),
    ]  # fmt: skip
    assert ops(versioning, "/cats") == [
        (made[6].id, "added"), (made[4].id, "deleted"), (made[2].id, "changed"), (made[0].id, "added"),
    ]  # fmt: skip
    assert [one for one, _ in ops(versioning, "/dogs")] == [made[1].id, made[0].id]
    assert [one for one, _ in ops(versioning, "/")] == [made[n].id for n in (6, 4, 2, 1, 0)]
    assert ops(versioning, "/none") == []
    assert [one for one, _ in ops(versioning, "/cats", since=made[2].id)] == [made[6].id, made[4].id]
    found, _ = versioning.find_commits("default", f"data@{made[2].id}:/cats/1")
    assert [one.commit.id for one in found] == [made[2].id, made[0].id]
    assert found[0].old is not None and found[0].new is not None and found[0].old.size == 1


def test_pages(versioning: VersioningService, made: list[Commit], monkeypatch: pytest.MonkeyPatch) -> None:
    first, after = versioning.find_commits("default", "data@master:/cats", limit=2)
    assert [one.commit.id for one in first] == [made[6].id, made[4].id] and after == made[4].id
    rest, after = versioning.find_commits("default", "data@master:/cats", after=after)
    assert [one.commit.id for one in rest] == [made[2].id, made[0].id] and after is None
    monkeypatch.setattr(searching, "SEARCHED_MAX", 3)
    monkeypatch.setattr(searching, "BATCH_COMMITS_MIN", 1)
    seen: list[str] = []
    after = None
    calls = 0
    while True:
        found, after = versioning.find_commits("default", "data@master:/dogs", after=after)
        seen += [one.commit.id for one in found]
        calls += 1
        if after is None:
            break
    assert (seen, calls) == ([made[1].id, made[0].id], 3)


def test_what_is_asked_wrongly(versioning: VersioningService, made: list[Commit]) -> None:
    with pytest.raises(InvalidInputError, match="names no path"):
        versioning.find_commits("default", "data@master")
    with pytest.raises(NotFoundError, match=r"no branch or tag 'mater'.*did you mean 'master'"):
        versioning.find_commits("default", "data@mater:/x")
    with pytest.raises(NotFoundError, match="no commit"):
        versioning.find_commits("default", "data@master:/x", since="0" * 32)


trees = st.dictionaries(
    st.sampled_from(["/a", "/d/a", "/d/b/c", "/d/b/d", "/e/x", "/e-", "/ü/a"]), st.sampled_from([b"1", b"2"])
)


@given(old=trees, new=trees, top=st.sampled_from(["/", "/d", "/e", "/none"]))
def test_a_shallow_diff_is_the_top_of_the_whole_one(
    old: dict[str, bytes], new: dict[str, bytes], top: str
) -> None:
    import tempfile
    from pathlib import Path

    from tests.conftest import FakeClock
    from tests.versioning.conftest import open_service
    from trunkline.storage.db.engine import Database
    from trunkline.storage.objects.memory import MemoryStore

    with tempfile.TemporaryDirectory() as folder:
        db = Database(f"sqlite:///{Path(folder) / 't.db'}")
        versioning = open_service(db, MemoryStore(), FakeClock())
        roots = [stage(versioning, one) for one in (old, new)]
        whole = [(entry.new or entry.old).path for entry in versioning.diff(*roots, top)]  # type: ignore[union-attr]
        found = list(versioning.diff(*roots, top, shallow=True))
        start = 0 if top == "/" else len(top)
        expected = dict.fromkeys(
            path if path.find("/", start + 1) < 0 else path[: path.find("/", start + 1) + 1] for path in whole
        )
        paths = [(entry.new or entry.old).path for entry in found]  # type: ignore[union-attr]
        assert paths == list(expected)
        for entry, path in zip(found, paths, strict=True):
            was, now = (any(p == path or p.startswith(path) for p in one) for one in (old, new))
            if path.endswith("/"):
                assert entry.op == ("added" if not was else "deleted" if not now else "changed")
            for at in range(len(found)):
                rest = list(versioning.diff(*roots, top, shallow=True, after=paths[at]))
                assert rest == found[at + 1 :]
        db.close()
