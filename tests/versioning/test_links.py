"""Files that stay where they are: the same tree as if they had been put, verified on every read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tests.conftest import folder_on_disk
from tests.versioning.conftest import contents, put
from trunkline.errors import (
    ConflictError,
    CorruptionError,
    InvalidInputError,
    NotFoundError,
    PermissionDeniedError,
)
from trunkline.sources.places import LinkRules, files_to_link
from trunkline.storage.db.engine import Database
from trunkline.storage.db.schema import linked_chunks, links
from trunkline.storage.objects.local import LocalStore
from trunkline.versioning.service import VersioningService

SMALL = b"small\n" * 100
LARGE = os.urandom(3 * 2**20 + 17)


tmp_path = pytest.fixture(folder_on_disk)  # nothing in /dev may be linked


@pytest.fixture
def rules(tmp_path: Path) -> LinkRules:
    (tmp_path / "data" / "deep").mkdir(parents=True)
    return LinkRules(data_dir=tmp_path / "objects", roots=(tmp_path / "data",))


def link(service: VersioningService, rules: LinkRules, source: Path, path: str = "/in", **more: Any) -> Any:
    recursive = more.pop("recursive", source.is_dir())
    changes = service.link(files_to_link(rules, str(source), path, recursive=recursive))
    return service.modify("default", "r@master", changes)


def fill(folder: Path) -> dict[str, bytes]:
    ends_a_list = b"\xa4"  # its hash begins with a zero byte: in a chunk list, a node would end behind it
    files = {
        "zero": ends_a_list,
        "a": SMALL,
        "deep/large": LARGE,
        "deep/empty": b"",
        "ü": b"1",
        "twice": LARGE[: 2**21] * 2,
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    os.utime(folder / "a", ns=(1, 1_700_000_000_123_456_789))
    (folder / "a").chmod(0o755)
    return files


def test_a_linked_folder_is_the_same_tree_and_copies_nothing(
    versioning: VersioningService, rules: LinkRules, tmp_path: Path, objects: LocalStore, db: Database
) -> None:
    files = fill(tmp_path / "data")
    versioning.create_repo("default", "r")
    commit = link(versioning, rules, tmp_path / "data")
    assert contents(versioning, commit.root) == {f"/in/{name}": data for name, data in files.items()}
    stored = sum(info.size for info in objects.list())
    assert stored < 100_000, "only trees and chunk lists"
    assert (
        b"".join(versioning.read(commit.root, "/in/deep/large", offset=2**20 - 5, length=10))
        == LARGE[2**20 - 5 :][:10]
    )
    info = versioning.stat(commit.root, "/in/a")
    assert info.modified_ns == 1_700_000_000_123_456_789 and info.executable
    found = versioning.linked([info.hash, versioning.stat(commit.root, "/in/deep/large").hash])
    assert sorted(found.values()) == [f"file://{tmp_path}/data/a", f"file://{tmp_path}/data/deep/large"]
    assert versioning.fsck() == []
    plain = [
        put(
            file.path,
            b"".join(versioning.read(commit.root, file.path)),
            modified_ns=file.modified_ns,
            executable=file.executable,
        )
        for file in versioning.walk(commit.root)
    ]
    assert versioning.stage(plain).root == commit.root, "the format of trees knows no links"
    with db.read() as connection:
        before = connection.execute(sa.select(sa.func.count()).select_from(links)).scalar_one()
    again = link(versioning, rules, tmp_path / "data")
    assert again.root == commit.root
    with db.read() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(links)).scalar_one() == before


@pytest.mark.parametrize("how", ["changed", "gone", "shorter", "a link now", "a pipe now"])
def test_a_source_that_changed_is_never_an_answer(
    versioning: VersioningService, rules: LinkRules, tmp_path: Path, how: str
) -> None:
    file = tmp_path / "data" / "a"
    file.write_bytes(SMALL)
    versioning.create_repo("default", "r")
    commit = link(versioning, rules, file, "/a")
    if how == "changed":
        file.write_bytes(SMALL[:-1] + b"X")
    elif how == "shorter":
        file.write_bytes(SMALL[:-1])
    else:
        file.unlink()
    if how == "a link now":
        secret = tmp_path / "secret"
        secret.write_bytes(b"secret")
        file.symlink_to(secret)
    elif how == "a pipe now":
        os.mkfifo(file)
    with pytest.raises(CorruptionError, match=str(file)) as raised:
        list(versioning.read(commit.root, "/a"))
    assert raised.value.kind == "link_broken" and "put the content again" in raised.value.message
    [problem] = versioning.fsck()
    assert problem.kind == "link_broken" and problem.referred_by[0].endswith(":/a")
    versioning.modify("default", "r@master", [put("/elsewhere", SMALL)])
    assert b"".join(versioning.read(commit.root, "/a")) == SMALL, "an ordinary put of the content mends it"
    assert versioning.linked([versioning.stat(commit.root, "/a").hash]) == {}


def test_copying_in_makes_the_source_unneeded(
    versioning: VersioningService, rules: LinkRules, tmp_path: Path, db: Database
) -> None:
    files = fill(tmp_path / "data")
    versioning.create_repo("default", "r")
    commit = link(versioning, rules, tmp_path / "data")
    found = versioning.copy_in(commit.root, "/in/deep")
    assert (found.file_count, found.size) == (2, len(LARGE))
    assert versioning.copy_in(commit.root).file_count == 4
    assert versioning.copy_in(commit.root).file_count == 0
    for name in files:
        (tmp_path / "data" / name).unlink()
    assert contents(versioning, commit.root) == {f"/in/{name}": data for name, data in files.items()}
    with db.read() as connection:
        for table in (links, linked_chunks):
            assert connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one() == 0


def test_a_source_that_grows_while_it_is_read(
    versioning: VersioningService, rules: LinkRules, tmp_path: Path
) -> None:
    file = tmp_path / "data" / "a"
    file.write_bytes(SMALL)
    versioning.create_repo("default", "r")
    sources = list(files_to_link(rules, str(file), "/a", recursive=False))
    file.write_bytes(SMALL * 2)
    with pytest.raises(ConflictError, match="changed while it was read"):
        versioning.modify("default", "r@master", versioning.link(sources))
    assert versioning.linked([]) == {}


def test_appending_to_a_linked_file_copies_it(
    versioning: VersioningService, rules: LinkRules, tmp_path: Path
) -> None:
    file = tmp_path / "data" / "a"
    file.write_bytes(LARGE)
    versioning.create_repo("default", "r")
    link(versioning, rules, file, "/a")
    commit = versioning.modify("default", "r@master", [put("/a", b"more", append=True)])
    assert commit.root is not None
    assert b"".join(versioning.read(commit.root, "/a")) == LARGE + b"more"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("/proc/self/environ", "place of the system"), ("/sys", "place of the system"), ("/dev/zero", "place of the system"),
        ("/", "data directory is in it"), ("/etc/passwd", "link_roots"), ("/etc/../etc/passwd", "link_roots"),
    ],
)  # fmt: skip
def test_places_that_are_never_linked(rules: LinkRules, text: str, why: str) -> None:
    with pytest.raises(PermissionDeniedError, match=why) as raised:
        list(files_to_link(rules, text, "/x", recursive=True))
    assert raised.value.kind == "link_refused"


def test_ways_round_the_rules_are_closed(rules: LinkRules, tmp_path: Path) -> None:
    data = tmp_path / "data"
    (tmp_path / "objects").mkdir(exist_ok=True)
    (tmp_path / "objects" / "secret").write_bytes(b"s")
    (tmp_path / "outside").write_bytes(b"o")
    for name, target in (("out", "outside"), ("in", "objects/secret"), ("etc", "/etc")):
        (data / name).symlink_to(tmp_path / target)
    for text in (
        data / "out",
        data / "in",
        data / "etc" / "passwd",
        data / ".." / "outside",
        tmp_path / "objects",
        tmp_path,
    ):
        with pytest.raises(PermissionDeniedError):
            list(files_to_link(rules, str(text), "/x", recursive=True))
    with pytest.raises(InvalidInputError, match="it is a link"):
        list(files_to_link(rules, str(data), "/x", recursive=True))
    for name in ("out", "in", "etc"):
        (data / name).unlink()
    os.mkfifo(data / "pipe")
    with pytest.raises(InvalidInputError, match="no plain file"):
        list(files_to_link(rules, str(data), "/x", recursive=True))
    with pytest.raises(InvalidInputError, match="with -r"):
        list(files_to_link(rules, str(data), "/x", recursive=False))
    with pytest.raises(NotFoundError):
        list(files_to_link(rules, str(data / "nope"), "/x", recursive=False))
    for text in ("relative", "", "a\0b"):
        with pytest.raises(InvalidInputError, match="absolute"):
            list(files_to_link(rules, text, "/x", recursive=False))


def test_without_a_setting_the_home_folder_but_nothing_hidden(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    (home / ".ssh" / "id").write_bytes(b"k")
    (home / "data.csv").write_bytes(b"d")
    rules = LinkRules(data_dir=home / ".trunkline", home=home)
    assert [
        source.path for source in files_to_link(rules, str(home / "data.csv"), "/d", recursive=False)
    ] == ["/d"]
    with pytest.raises(PermissionDeniedError, match="hidden"):
        list(files_to_link(rules, str(home / ".ssh" / "id"), "/k", recursive=False))
    with pytest.raises(PermissionDeniedError, match="link_roots"):
        list(files_to_link(LinkRules(data_dir=home / ".t"), str(home / "data.csv"), "/d", recursive=False))
