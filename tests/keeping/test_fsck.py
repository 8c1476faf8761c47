"""Every kind of damage is found and named; what can be mended is."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.conftest import FakeClock
from tests.keeping.test_gc import fill, noise, stored
from tests.versioning.conftest import contents, open_service, put, shown
from trunkline.storage.db import schema
from trunkline.storage.db.engine import Database
from trunkline.storage.objects.local import LocalStore
from trunkline.versioning.nodes import Entry, decode_tree, encode_inner, encode_leaf
from trunkline.versioning.packs import object_key
from trunkline.versioning.service import VersioningService

pytestmark = pytest.mark.local_only

FILES = {"/a": noise(1, 400), "/d/b": b"text " * 80, "/d/c": b""}


def kinds(service: VersioningService) -> set[str]:
    return {problem.kind for problem in service.check().problems}


def change(db: Database, statement: sa.Update | sa.Delete) -> None:
    with db.write() as connection:
        connection.exec_driver_sql("PRAGMA defer_foreign_keys=ON")
        connection.execute(statement)


def test_all_is_well(versioning: VersioningService, objects: LocalStore) -> None:
    fill(versioning, "r", {**FILES, "/big": noise(2, 3 * 2**20)})
    versioning.modify("default", "r@master", [put(f"/many/{i}", b"%d" % i) for i in range(3000)])
    objects.put(object_key("ab" * 32), [b"an orphan"])
    report = versioning.check()
    assert (report.problems, report.roots, report.orphans, report.orphan_bytes) == ((), 2, 1, 9)
    assert report.packs == len(stored(objects)) - 1


@pytest.mark.parametrize("more", [4, pytest.param(40, marks=pytest.mark.slow)])
def test_any_flipped_byte_and_any_cut_is_found(
    versioning: VersioningService, objects: LocalStore, tmp_path: Path, more: int
) -> None:
    fill(versioning, "r", FILES)
    ((key, _),) = stored(objects).items()
    path = tmp_path / "objects" / key
    whole = path.read_bytes()
    generator = random.Random(1)
    places = {
        0,
        7,
        8,
        len(whole) - 1,
        len(whole) - 9,
        len(whole) - 45,
        *generator.sample(range(len(whole)), more),
    }
    for at in sorted(places):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << generator.randrange(8)
        path.write_bytes(bytes(damaged))
        assert "damaged_pack" in kinds(versioning), at
    for size in (0, 1, 8, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        assert "damaged_pack" in kinds(versioning), size
    path.write_bytes(whole)
    assert kinds(versioning) == set()


def test_rows_that_lie_are_found_and_corrected(
    versioning: VersioningService, db: Database, objects: LocalStore, clock: FakeClock
) -> None:
    root = fill(versioning, "r", FILES)
    table = schema.chunks
    for values in ({"offset": 9}, {"length": 5}, {"raw_length": 7}, {"codec": 1 - 1}):
        change(db, sa.update(table).values(values).where(table.c.raw_length > 100))
        service = open_service(db, objects, clock)
        found = kinds(service)
        assert found & {"wrong_index", "damaged_pack"} or values == {"codec": 0}
        assert service.check(repair=True).problems == (), values
        assert contents(open_service(db, objects, clock), root) == FILES


def test_lost_rows_come_back_from_the_packs(
    versioning: VersioningService, db: Database, objects: LocalStore, clock: FakeClock
) -> None:
    root = fill(versioning, "r", FILES)
    change(db, sa.delete(schema.chunks))
    change(db, sa.delete(schema.packs))
    service = open_service(db, objects, clock)
    report = service.check()
    assert {p.kind for p in report.problems} == {"lost_chunk"}
    assert report.problems[0].referred_by[0].startswith("commit default/r@")
    mended = service.check(repair=True)
    assert mended.problems == () and mended.repaired and mended.orphans == 0
    assert contents(open_service(db, objects, clock), root) == FILES


def test_a_damaged_pack_gives_up_what_is_good_in_it(
    versioning: VersioningService, db: Database, objects: LocalStore, clock: FakeClock, tmp_path: Path
) -> None:
    root = fill(versioning, "r", {"/a": noise(1), "/b": noise(2), "/c": noise(3)})
    ((key, _),) = stored(objects).items()
    path = tmp_path / "objects" / key
    data = bytearray(path.read_bytes())
    data[data.index(noise(2)[:50]) + 7] ^= 4
    path.write_bytes(bytes(data))
    service = open_service(db, objects, clock)
    report = service.check(repair=True)
    (problem,) = report.problems
    assert problem.kind == "lost_chunk"
    assert problem.referred_by[0].endswith(":/b")
    assert b"".join(service.read(root, "/a")) == noise(1)
    assert any("put the same files again" in line for line in report.advice)
    fill(service, "elsewhere", {"/copy": noise(2)})  # a new put of the same content
    assert service.check().problems == ()
    assert contents(open_service(db, objects, clock), root)["/b"] == noise(2)


def test_a_good_copy_in_another_pack_is_used(
    versioning: VersioningService, db: Database, objects: LocalStore, clock: FakeClock
) -> None:
    root = fill(versioning, "r", FILES)
    ((key, _),) = stored(objects).items()
    copy = objects.get(key)
    objects.delete(key)
    objects.put(object_key("cd" * 32), [copy])  # under another name: its chunks are good all the same
    service = open_service(db, objects, clock)
    assert "lost_pack" in kinds(service)
    service.check(repair=True)
    assert contents(open_service(db, objects, clock), root) == FILES


def test_a_lost_pack(
    versioning: VersioningService, db: Database, objects: LocalStore, clock: FakeClock
) -> None:
    root = fill(versioning, "r", FILES)
    ((key, _),) = stored(objects).items()
    objects.delete(key)
    service = open_service(db, objects, clock)
    report = service.check()
    assert {p.kind for p in report.problems} == {"lost_pack"}
    left = service.check(repair=True)
    assert {p.kind for p in left.problems} == {"lost_chunk"}
    fill(service, "again", FILES)
    assert service.check().problems == ()
    assert contents(open_service(db, objects, clock), root) == FILES


def test_references_that_lead_nowhere(
    versioning: VersioningService, db: Database, objects: LocalStore, clock: FakeClock
) -> None:
    fill(versioning, "r", FILES)
    last = versioning.modify("default", "r@master", [put("/z", b"z")])
    change(db, sa.update(schema.branches).values(head=77))
    change(db, sa.update(schema.commits).values(parent=88).where(schema.commits.c.id == last.id))
    change(db, sa.update(schema.commits).values(size=1).where(schema.commits.c.id == last.id))
    report = versioning.check()
    assert sorted(p.kind for p in report.problems) == ["dangling", "dangling", "wrong_size"]
    assert any(f"default/r@{last.id}" in p.message for p in report.problems)
    mended = versioning.check(repair=True)
    assert mended.problems == () and len(mended.repaired) == 3
    assert shown(versioning, "r@master") == {**FILES, "/z": b"z"}


def _store_node(service: VersioningService, data: bytes) -> bytes:
    with service._chunks.writer() as writer:
        name = writer.add(data)
        writer.finish()
    return name


@pytest.mark.parametrize("how", ["reordered", "empty", "summary", "garbage", "size"])
def test_nodes_that_are_not_as_they_should_be(versioning: VersioningService, db: Database, how: str) -> None:
    root = fill(versioning, "r", {f"/{i:05}": b"%d" % i for i in range(2000)})
    top = decode_tree(versioning._chunks.get(bytes.fromhex(root)))
    leaf = decode_tree(versioning._chunks.get(top.items[0].hash))
    entries = [item for item in leaf.items if isinstance(item, Entry)]
    refs = list(top.items)
    bad = {
        "reordered": lambda: encode_inner(1, [refs[0]._replace(size=refs[0].size + 1), *refs[1:]]),  # type: ignore[union-attr, arg-type]
        "empty": lambda: bytes([0x54, 1, 1, 0]),
        "summary": lambda: encode_inner(1, [refs[0]._replace(files=1), *refs[1:]]),  # type: ignore[union-attr, arg-type]
        "garbage": lambda: b"these are no nodes",
        "size": lambda: encode_leaf([entries[0]._replace(size=99)]),
    }[how]()
    name = _store_node(versioning, bad)
    change(db, sa.update(schema.commits).values(root=name.hex()))
    found = versioning.check().problems
    assert {p.kind for p in found} & {"bad_node", "wrong_summary", "wrong_size"}
    assert any(label.startswith("commit default/r@") for p in found for label in p.referred_by)


@pytest.mark.slow
def test_the_report_is_bounded(
    versioning: VersioningService, objects: LocalStore, db: Database, clock: FakeClock
) -> None:
    fill(versioning, "r", {f"/{i}": b"content %d" % i for i in range(1500)})
    nodes = set()
    for n in range(30):
        nodes.add(versioning.modify("default", "r@master", [put("/0", b"%d" % n)]).root)
    with db.write() as connection:
        connection.execute(sa.delete(schema.chunks).where(schema.chunks.c.raw_length < 14))
    report = open_service(db, objects, clock).check()
    assert len(report.problems) == 1000 and report.problems_more > 400
    assert max(len(p.referred_by) for p in report.problems) == 10
