"""Files that are pipes: through a real worker, on the disk and in memory, and what becomes of those that cannot be given."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import folder_on_disk
from tests.workers.sets import SetServer
from tests.workers.test_sets import SOURCE
from trunkline.workers.lazy import LazyPipes

pytestmark = pytest.mark.slow
tmp_path = pytest.fixture(folder_on_disk)


class Words(LazyPipes):
    """Gives each file its own name, without a server; or an error."""

    def _send(self, client: Any, root: str, path: str, pipe: int, written: list[int]) -> None:
        os.write(pipe, path.encode())
        if path == "/broken":
            raise ValueError("it ends too early")


class NoLink:
    def retrying(self, action: Callable[[Any], None], **_: Any) -> None:
        action(None)


def read(place: Path) -> str:
    """What a reader gets, who must get something soon."""
    found: list[str] = []
    reader = threading.Thread(target=lambda: found.append(place.read_text()), daemon=True)
    reader.start()
    reader.join(10)
    assert found, f"{place} is read for ever"
    return found[0]


@pytest.fixture
def pipes(tmp_path: Path) -> Iterator[Words]:
    link: Any = NoLink()
    made = Words(link, tmp_path / "beside")
    for name in ("a", "b", "broken"):
        made.add("root", f"/{name}", str(tmp_path / name))
    yield made
    made.close()


def test_a_file_that_cannot_be_given_stops_no_other(pipes: Words, tmp_path: Path) -> None:
    assert read(tmp_path / "a") == ""  # there is no folder for the pipe that is to follow
    assert pipes.problem == "/a of a lazy input could not be read: No such file or directory"
    (tmp_path / "beside").mkdir()
    assert [read(tmp_path / name) for name in ("b", "a", "b")] == ["/b", "/a", "/b"]
    assert not list((tmp_path / "beside").iterdir())


def test_a_part_does_not_pass_for_the_whole(pipes: Words, tmp_path: Path) -> None:
    (tmp_path / "beside").mkdir()
    assert read(tmp_path / "broken") == "/broken"
    assert pipes.problem == "/broken of a lazy input could not be read: it ends too early"
    assert read(tmp_path / "b") == "/b"


# --- through a worker ---


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SetServer]:
    made = SetServer(tmp_path / "home")
    yield made
    made.close()


@pytest.mark.parametrize(("size", "where"), [(1, "memory"), (2**26, "disk")])
def test_single_files_wherever_inputs_are_laid_out(server: SetServer, size: int, where: str) -> None:
    """Read once, often, not to the end, and not at all; beside files that are there, and others that are not."""
    long = "long " * 100_000
    root = server.tree({"/a": "AAA", "/b": "BBB", "/long": long})
    inputs = [
        server.input(root, lazy=True),
        server.input(root, "models"),
        server.input(root, "more", lazy=True),
    ]
    script = """
    test -p $images; stat -f -c %T /pfs/images > /pfs/out/where
    test $(basename $images) = b || { cat $images $images | head -c 10; echo; head -c 5 $images; echo; wc -c < $images; }
    cat $models; ls -A /pfs; test -z "$more" || cat $more
    """
    datums = [
        [(0, "/a", size), (1, "/b")],
        [(0, "/b", size), (1, "/a")],
        [(0, "/long", size), (1, "/a"), (2, "/b")],
    ]
    results = server.run(script, inputs, datums)
    assert [result["status"] for result in results] == ["succeeded"] * 3, results
    names = [".env", "images", "models", "out"]
    assert server.log(0) == ["AAAAAA", "AAA", "3", "BBB" + names[0], *names[1:]]
    assert server.log(1) == ["AAA" + names[0], *names[1:]]
    assert server.log(2) == [
        "long long ",
        "long ",
        "500000",
        "AAA.env",
        "images",
        "models",
        "more",
        "out",
        "BBB",
    ]
    assert {server.output(result)["/where"] == "tmpfs\n" for result in results} == {where == "memory"}


def test_a_file_that_cannot_be_had_fails_its_datum_only(server: SetServer) -> None:
    root = server.tree({"/a": "AAA"})
    script = """
    cat $images || true
    test $(basename $images) != waits || sleep 100
    """
    names = ["gone", "a", "waits"]
    started = time.monotonic()
    results = server.run(
        script, [server.input(root, lazy=True)], [[(0, f"/{name}")] for name in names],
        transform={"err_cmd": ["sh", "-c", "test $(basename $images) = gone && sleep 0.3"]},
    )  # fmt: skip
    assert [result["status"] for result in results] == ["recovered", "succeeded", "failed"], results
    assert time.monotonic() - started < 50
    assert results[0]["reason"].startswith("/gone of a lazy input could not be read: ")
    assert results[2]["reason"].startswith("/waits of a lazy input could not be read: ")
    assert server.log(1) == ["AAA"]


def test_lazy_files_with_batching(server: SetServer) -> None:
    root = server.tree({"/a": "AAA", "/b": "BBB"})
    program = f"""
import sys
sys.path.insert(0, {str(SOURCE.parent)!r})
from batching import datums
for datum in datums():
    print(datum.inputs["images"].read_text() * 2)
"""
    results = server.run(
        "", [server.input(root, lazy=True)], [[(0, "/a")], [(0, "/gone")], [(0, "/b")]],
        transform={"cmd": [sys.executable, "-I", "-c", program], "datum_batching": True},
    )  # fmt: skip
    assert [result["status"] for result in results] == ["succeeded", "failed", "succeeded"], results
    assert "/gone of a lazy input could not be read" in results[1]["reason"]
    assert (server.log(0), server.log(2)) == (["AAAAAA"], ["BBBBBB"])
