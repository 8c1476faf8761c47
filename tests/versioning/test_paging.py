"""A listing that is cut anywhere and gone on with shows the same as one that is not cut."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

import pytest

from tests.versioning.conftest import put, stage
from trunkline.errors import NotFoundError
from trunkline.versioning.model import DeletePath, DiffEntry, FileInfo
from trunkline.versioning.service import VersioningService

FILES = [
    "/a", "/a-b", "/b/c", "/b/d/e", "/b/d/f", "/b-c/x", "/b.txt", "/b0", "/d/s/one.png", "/d/s/two.png", "/d/s-t/x.png",
    "/d/t.png", "/ü/ö/ä", "/z",
]  # fmt: skip
PATTERNS = [
    "/*",
    "/**",
    "/**.png",
    "/*/*",
    "/*/*/*",
    "/d/**",
    "/b*",
    "/b",
    "/d/s/*",
    "/{a,z}",
    "/[bd]/*",
    "/nothing/*",
]

Listing = Callable[[str | None], Iterator[FileInfo]]


def paged(listing: Listing, size: int) -> list[str]:
    found: list[str] = []
    while part := [info.path for info in islice(listing(found[-1] if found else None), size)]:
        found += part
        assert len(found) <= 100, "it goes round in circles"
    return found


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("path", ["/", "/b", "/d", "/d/s", "/b.txt"])
def test_directories_in_pages(versioning: VersioningService, size: int, path: str) -> None:
    root = stage(versioning, {name: name.encode() for name in FILES})
    for listing in (
        lambda after: versioning.list_dir(root, path, after=after),
        lambda after: versioning.walk(root, path, after=after),
        lambda after: versioning.walk(root, path, dirs=True, after=after),
    ):
        whole = [info.path for info in listing(None)]
        assert whole
        assert paged(listing, size) == whole


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_globs_in_pages(versioning: VersioningService, size: int, pattern: str) -> None:
    root = stage(versioning, {name: name.encode() for name in FILES})
    whole = [info.path for info in versioning.glob(root, pattern)]
    assert paged(lambda after: versioning.glob(root, pattern, after=after), size) == whole


def test_differences_in_pages(versioning: VersioningService) -> None:
    old = stage(versioning, dict.fromkeys(FILES, b"old"))
    changes = [
        DeletePath(path="/a"),
        DeletePath(path="/b"),
        put("/b", b"a file now"),
        put("/z", b"new"),
        put("/zz"),
    ]
    new = stage(versioning, changes, old)
    for path in ("/", "/b", "/d"):
        whole = [(entry.op, path_of(entry)) for entry in versioning.diff(old, new, path)]
        found: list[tuple[str, str]] = []
        while part := list(islice(versioning.diff(old, new, path, after=found[-1][1] if found else None), 1)):
            found += [(entry.op, path_of(entry)) for entry in part]
            assert len(found) <= len(whole)
        assert found == whole
    assert len(whole) == 0, "nothing changed in /d"


def path_of(entry: DiffEntry) -> str:
    found = entry.new or entry.old
    assert found is not None
    return found.path


def test_commits_in_pages_while_more_are_made(versioning: VersioningService) -> None:
    versioning.create_repo("default", "data")
    made = [versioning.modify("default", "data@master", [put(f"/{n}")]).id for n in range(5)]
    newest_first = made[::-1]
    for branch in (None, "master"):
        first = [c.id for c in versioning.list_commits("default", "data", branch=branch, limit=2)]
        newest_first.insert(0, versioning.modify("default", "data@master", [put(f"/more-{branch}")]).id)
        rest = [c.id for c in versioning.list_commits("default", "data", branch=branch, after=first[-1])]
        assert first + rest == newest_first[1:]
    sets = [found.id for found in versioning.list_commit_sets(limit=3)]
    assert sets + [found.id for found in versioning.list_commit_sets(after=sets[-1])] == newest_first
    assert [c.id for c in versioning.list_commits("default", "data", branch=made[2])] == made[2::-1]
    for wrong in (lambda: versioning.list_commits("default", "data", after="0" * 32),
                  lambda: versioning.list_commit_sets(after="nonsense")):  # fmt: skip
        with pytest.raises(NotFoundError, match="there is no commit"):
            wrong()
