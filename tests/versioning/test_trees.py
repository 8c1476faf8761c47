"""Trees: the same whatever the way there, cheap to change, to compare and to look into."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.versioning.conftest import contents, put, stage
from trunkline.core.hashing import digest
from trunkline.core.ids import TreeHash
from trunkline.errors import ConflictError, InvalidInputError, NotFoundError
from trunkline.versioning import comparing, trees
from trunkline.versioning.model import CopyTree, DeletePath, FileInfo, PutFile
from trunkline.versioning.nodes import EMPTY_LEAF, EMPTY_ROOT, Entry, Ref, TreeNode, decode_tree
from trunkline.versioning.service import VersioningService


class Forest:
    """Tree nodes in a dictionary, with a count of what is read and written."""

    def __init__(self) -> None:
        self.nodes: dict[bytes, bytes] = {EMPTY_ROOT: EMPTY_LEAF}
        self.loaded = 0

    def put(self, data: bytes) -> bytes:
        name = digest(data)
        self.nodes[name] = data
        return name

    def load(self, name: bytes, ahead: Sequence[bytes] = (), /) -> TreeNode:
        self.loaded += 1
        return decode_tree(self.nodes[name])

    def edit(self, root: bytes, edits: dict[bytes, bytes | None]) -> Ref:
        made = [(key, None if data is None else entry(key, data)) for key, data in sorted(edits.items())]
        return trees.edit(self.load, self.put, root, made)

    def counting(self, work: Callable[[], object]) -> tuple[int, int]:
        """Nodes read and nodes written."""
        loaded, nodes = self.loaded, len(self.nodes)
        work()
        return self.loaded - loaded, len(self.nodes) - nodes


def entry(key: bytes, data: bytes) -> Entry:
    return Entry(key, len(data), digest(data), 0, None, False)


MANY = {b"d%02d/s%d/f%04d" % (i % 50, i % 7, i): b"%d" % i for i in range(20_000)}


@pytest.fixture(scope="module")
def forest() -> tuple[Forest, Ref]:
    made = Forest()
    return made, made.edit(EMPTY_ROOT, dict(MANY))


edits = st.dictionaries(
    st.integers(0, 3000).map(lambda i: b"k%d/%d" % (i % 13, i)), st.none() | st.binary(max_size=2)
)


@given(st.lists(edits, max_size=4), st.integers(0, 3000))
def test_a_tree_is_the_same_whatever_the_way_there(
    steps: list[dict[bytes, bytes | None]], start: int
) -> None:
    grove = Forest()
    model: dict[bytes, bytes | None] = {b"k%d/%d" % (i % 13, i): b"" for i in range(start)}
    ref = grove.edit(EMPTY_ROOT, model)
    for step in steps:
        ref = grove.edit(ref.hash, step)
        model.update(step)
    model = {key: data for key, data in model.items() if data is not None}
    assert ref == grove.edit(EMPTY_ROOT, model)
    assert ref.hash == (trees.root_ref(grove.load, ref.hash)).hash
    assert [e.key for e in trees.entries(grove.load, ref.hash)] == sorted(model)
    for prefix in (b"k1/", b"k12/", b"none/"):
        below = {key: data for key, data in model.items() if key.startswith(prefix)}
        alone = grove.edit(EMPTY_ROOT, below)
        summary = trees.summarize(grove.load, ref.hash, prefix, trees.prefix_end(prefix))
        assert summary[3:] == alone[3:]


@given(st.integers(0, 2000), edits, edits)
def test_comparing_finds_exactly_what_differs(
    start: int, left: dict[bytes, bytes | None], right: dict[bytes, bytes | None]
) -> None:
    grove = Forest()
    base: dict[bytes, bytes | None] = {b"k%d/%d" % (i % 13, i): b"" for i in range(start)}
    old, new = ({k: v for k, v in {**base, **side}.items() if v is not None} for side in (left, right))
    a, b = grove.edit(EMPTY_ROOT, dict(old)), grove.edit(EMPTY_ROOT, dict(new))
    found = {(x or y).key for x, y in comparing.compare(grove.load, a.hash, b.hash)}  # type: ignore[union-attr]
    assert found == {key for key in old.keys() | new.keys() if old.get(key) != new.get(key)}
    within = {(x or y).key for x, y in comparing.compare(grove.load, a.hash, b.hash, b"k1/", b"k10")}  # type: ignore[union-attr]
    assert within == {key for key in found if key.startswith(b"k1/")}


def test_a_change_touches_only_the_nodes_around_it(forest: tuple[Forest, Ref]) -> None:
    made, ref = forest
    for step in (
        {b"d07/s0/new": b"x"},
        {b"d07/s0/f0007": b"changed"},
        {b"d07/s0/f0007": None},
        {b"zz": b"last"},
    ):
        read, written = made.counting(lambda step=step: made.edit(ref.hash, step))  # type: ignore[misc]
        assert read <= 8
        assert written <= 6


def test_looking_reads_a_handful_of_nodes(forest: tuple[Forest, Ref]) -> None:
    made, ref = forest
    low, high = b"d07/s0/", b"d07/s00"
    read, _ = made.counting(lambda: list(trees.children(made.load, ref.hash, low, high)))
    assert read <= 8
    read, _ = made.counting(lambda: trees.summarize(made.load, ref.hash, b"d1", b"d4"))
    assert read <= 12
    read, _ = made.counting(lambda: trees.find(made.load, ref.hash, b"d07/s0/f0007"))
    assert read <= 3
    changed = made.edit(ref.hash, {b"d07/s0/f0007": b"y", b"d40/x": b"z"})
    read, _ = made.counting(lambda: list(comparing.compare(made.load, ref.hash, changed.hash)))
    assert read <= 16


@pytest.mark.slow
def test_no_node_grows_without_bound() -> None:
    made = Forest()
    keys = [key for key in (b"f%06d" % i for i in range(30_000)) if not trees.closes(key, 0)]
    ref = made.edit(EMPTY_ROOT, dict.fromkeys(keys, b""))
    assert ref.files == len(keys)
    assert max(len(decode_tree(data).items) for data in made.nodes.values()) == 2048
    again = made.edit(made.edit(ref.hash, {b"f000100x": b""}).hash, {b"f000100x": None})
    assert again == ref


# --- through the service ------------------------------------------------------------------------------------------


def test_directories_as_people_see_them(versioning: VersioningService) -> None:
    root = stage(versioning, {"/a": b"1", "/a-b": b"22", "/b/c": b"333", "/b/d/e": b"4444", "/b0": b""})
    assert [(i.path, i.size) for i in versioning.list_dir(root)] == [
        ("/a", 1),
        ("/a-b", 2),
        ("/b/", 7),
        ("/b0", 0),
    ]
    assert [i.path for i in versioning.list_dir(root, "b/")] == ["/b/c", "/b/d/"]
    assert [i.path for i in versioning.list_dir(root, "/b/c")] == ["/b/c"]
    assert [i.path for i in versioning.walk(root)] == ["/a", "/a-b", "/b/c", "/b/d/e", "/b0"]
    assert [i.path for i in versioning.walk(root, "/b", dirs=True)] == ["/b/", "/b/c", "/b/d/", "/b/d/e"]
    assert [i.path for i in versioning.walk(root, dirs=True)][:2] == ["/", "/a"]
    assert versioning.stat(root).size == 10
    assert versioning.stat(root, "/b").path == "/b/"
    for missing in ("/x", "/b/c/d", "/b/x", "/ab"):
        for look in (versioning.stat, versioning.list_dir, versioning.walk, versioning.read):
            with pytest.raises(NotFoundError, match=missing):
                look(root, missing)
    with pytest.raises(InvalidInputError, match="is a directory"):
        versioning.read(root, "/b")


def test_the_empty_tree(versioning: VersioningService) -> None:
    made = versioning.stage([])
    assert made == versioning.stage([put("/a/b"), DeletePath(path="/a")])
    assert (made.root, made.size, made.file_count) == (EMPTY_ROOT.hex(), 0, 0)
    assert list(versioning.list_dir(made.root)) == list(versioning.walk(made.root)) == []
    assert versioning.stat(made.root).is_dir
    assert list(versioning.glob(made.root, "/**")) == []


def test_a_directorys_hash_is_of_names_and_contents(versioning: VersioningService) -> None:
    def hash_of(*changes: PutFile) -> str:
        return versioning.stat(versioning.stage(changes).root, "/d").hash

    base = hash_of(put("/d/a", b"1"), put("/d/b", b"2"))
    assert base == hash_of(
        put("/d/b", b"2", modified_at=5.0), put("/d/a", b"1", executable=True), put("/e", b"3")
    )
    assert base != hash_of(put("/d/a", b"2"), put("/d/b", b"1"))
    assert base != hash_of(put("/d/a", b"1"), put("/d/c", b"2"))
    assert base != hash_of(put("/d/a", b"1"))
    assert versioning.stat(versioning.stage([put("/d", b"1")]).root, "/d").hash == digest(b"1").hex()


def test_no_file_can_pretend_to_be_a_chunk_list(versioning: VersioningService) -> None:
    big = versioning.stage([put("/f", random.Random(1).randbytes(2 * 2**20))])
    chunk_list = next(trees.entries(versioning._load, bytes.fromhex(big.root)))
    twin = versioning.stage([put("/f", versioning._chunks.get(chunk_list.hash))])
    assert versioning.stat(big.root, "/f").hash != versioning.stat(twin.root, "/f").hash


def test_time_and_executable_bit_survive(versioning: VersioningService) -> None:
    root = versioning.stage(
        [put("/a", b"1", modified_at=1_700_000_000.123456, executable=True), put("/b", b"", modified_at=-1.5)]
    ).root
    a, b = versioning.walk(root)
    assert a.modified_at == pytest.approx(1_700_000_000.123456, abs=1e-6)
    assert (a.executable, b.executable, b.modified_at) == (True, False, -1.5)
    same = versioning.stage([put("/a", b"1", executable=True)], root).root
    assert same == root  # no time is given and nothing else is new: the entry stays as it was
    with pytest.raises(InvalidInputError, match="modification time"):
        versioning.stage([put("/a", modified_at=float("nan"))])


def test_changes_apply_in_order(versioning: VersioningService) -> None:
    base = stage(versioning, {"/a/x": b"1", "/a/y": b"2", "/b": b"3"})
    root = versioning.stage(
        [
            DeletePath(path="/a"), put("/a", b"file now"), put("/b", b"+", append=True), put("/c", b"new", append=True),
            CopyTree(path="/old", root=base), CopyTree(path="/x", root=base, source_path="/a/x"), DeletePath(path="/nothing"),
        ],
        base,
    ).root  # fmt: skip
    assert contents(versioning, root) == {
        "/a": b"file now", "/b": b"3+", "/c": b"new", "/old/a/x": b"1", "/old/a/y": b"2", "/old/b": b"3", "/x": b"1",
    }  # fmt: skip
    assert versioning.stage([CopyTree(path="/", root=base)], root).root == base
    swapped = versioning.stage([put("/b", b"9"), CopyTree(path="/a", root=base, source_path="/b")], base).root
    assert contents(versioning, swapped) == {"/a": b"3", "/b": b"9"}
    assert versioning.stage([DeletePath(path="/")], root).file_count == 0
    with pytest.raises(NotFoundError, match="/none"):
        versioning.stage([CopyTree(path="/x", root=base, source_path="/none")])


@pytest.mark.parametrize(
    "paths", [("/a", "/a/b"), ("/a/b", "/a"), ("/a/b/c", "/a"), ("/a", "/a/b/c"), ("/a-b", "/a/b", "/a")]
)
@pytest.mark.parametrize("separately", [True, False])
def test_a_name_is_a_file_or_a_directory(
    versioning: VersioningService, paths: tuple[str, ...], separately: bool
) -> None:
    *first, last = paths
    base = versioning.stage([put(path) for path in first]).root if separately else None
    changes = [put(last)] if separately else [put(path) for path in paths]
    with pytest.raises(ConflictError, match=last) as caught:
        versioning.stage(changes, base)
    assert caught.value.kind == "path_collision"


def test_globs(versioning: VersioningService) -> None:
    root = stage(
        versioning,
        dict.fromkeys(("/a/1.png", "/a/2.jpg", "/b/1.png", "/b/c/3.png", "/d", "/a*", "/ab/x"), b""),
    )

    def glob(pattern: str) -> list[str]:
        return [info.path for info in versioning.glob(root, pattern)]

    assert glob("/") == ["/"]
    assert glob("/*") == ["/a*", "/a/", "/ab/", "/b/", "/d"]
    assert glob("/*/*.png") == ["/a/1.png", "/b/1.png"]
    assert glob("/**.png") == ["/a/1.png", "/b/1.png", "/b/c/3.png"]
    assert glob("/b/**") == ["/b/1.png", "/b/c/", "/b/c/3.png"]
    assert glob("/{a,b/c}/*") == ["/a/1.png", "/a/2.jpg", "/b/c/3.png"]
    assert glob("/a") == ["/a/"]
    assert glob("/a\\*") == ["/a*"]
    assert glob("/a?") == ["/a*", "/ab/"]
    assert glob("/zz/*") == glob("/zz/**") == glob("/zz") == []
    with pytest.raises(InvalidInputError, match="never closed"):
        versioning.glob(root, "/[a")


def test_differences(versioning: VersioningService) -> None:
    old = stage(versioning, {"/a": b"1", "/b/x": b"2", "/b/y": b"3", "/c": b"4"})
    new = versioning.stage(
        [
            put("/a", b"1", modified_at=9.0),
            put("/b/x", b"!"),
            DeletePath(path="/b/y"),
            put("/c", b"4", executable=True),
            put("/d", b"5"),
        ],
        old,
    ).root

    def diff(path: str = "/") -> list[tuple[str, str]]:
        return [(d.op, (d.new or d.old or _never()).path) for d in versioning.diff(old, new, path)]

    assert diff() == [("changed", "/b/x"), ("deleted", "/b/y"), ("changed", "/c"), ("added", "/d")]
    assert diff("/b") == [("changed", "/b/x"), ("deleted", "/b/y")]
    assert diff("/b/x") == [("changed", "/b/x")]
    assert diff("/a") == diff("/none") == []
    assert list(versioning.diff(old, old)) == []


def _never() -> FileInfo:
    raise AssertionError


def test_what_is_no_tree_is_told(versioning: VersioningService) -> None:
    with pytest.raises(InvalidInputError, match="tree hash"):
        versioning.stat(TreeHash("abc"))
    with pytest.raises(InvalidInputError, match="name it"):
        versioning.stage([put("/")])
