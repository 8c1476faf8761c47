"""Sets of datums in a real worker process: inputs, tries, limits, batching, and that nothing of a datum reaches the next."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import folder_on_disk
from tests.workers.processes import running
from tests.workers.sets import JOB, SetServer
from trunkline.workers.limits import make_group
from trunkline.workers.zygote import children_of

pytestmark = pytest.mark.slow
tmp_path = pytest.fixture(folder_on_disk)
SOURCE = Path(__file__).parents[2] / "src" / "trunkline" / "batching.py"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SetServer]:
    made = SetServer(tmp_path / "home")
    yield made
    made.close()


def test_each_datum_sees_its_own_inputs_and_leaves_its_own_output(server: SetServer) -> None:
    root = server.tree({f"/{n}": f"text {n}" for n in range(60)})
    script = (
        "cp $images /pfs/out/; ls /pfs/images /pfs/out | wc -w; touch $TMPDIR/left; mkdir /pfs/out/d; touch x"
    )
    results = server.run(script, [server.input(root)], [[(0, f"/{n}")] for n in range(60)])
    assert [result["status"] for result in results] == ["succeeded"] * 60
    assert [server.output(result) for result in results] == [{f"/{n}": f"text {n}"} for n in range(60)]
    assert server.log(7) == ["4"]  # two folders' names, one input, one output
    assert len(set(map(str, (result["root"] for result in results)))) < 20  # many outputs are one upload


def test_folders_whole_trees_and_shared_inputs(server: SetServer) -> None:
    left = server.tree({"/a/1": "a1", "/a/b/2": "b2", "/c": "c"})
    right = server.tree({"/model": "m"})
    inputs = [server.input(left), server.input(right, "models")]
    script = "cd /pfs; find images models -type f | sort; echo $images $models; echo x > $models || true"
    datums = [
        [(0, "/a/"), (1, "/model")],
        [(0, "/a/b/2"), (1, "/model")],
        [(0, "/"), (1, "/model")],
        [(0, "/c")],
    ]
    results = server.run(script, inputs, datums)
    assert [result["status"] for result in results] == ["succeeded"] * 4
    assert server.log(0)[:4] == [
        "images/a/1",
        "images/a/b/2",
        "models/model",
        "/pfs/images/a /pfs/models/model",
    ]
    assert server.log(1)[:2] == ["images/a/b/2", "models/model"]
    assert server.log(2)[:5] == [
        "images/a/1",
        "images/a/b/2",
        "images/c",
        "models/model",
        "/pfs/images /pfs/models/model",
    ]
    assert "images/c" in server.log(3)  # and the other input is not there


def test_small_files_are_laid_out_in_memory(server: SetServer) -> None:
    """Only what commands read, not what they write, and not what is large or may be."""
    root = server.tree({"/a": "AAA", "/b": "BBB", "/d/c": "CCC"})
    script = """
    stat -f -c %T /pfs/images /pfs/out; cat $(find $images -type f); echo
    exec 2> /dev/null; if touch /pfs/images/x || touch /pfs/x || rm -f $images; then echo written; fi
    ln -s $images /pfs/out/linked; ls /pfs
    """
    inputs, own = [server.input(root)], ["images", "out"]
    results = server.run(script, inputs, [[(0, "/a")], [(0, "/b")], [(0, "/a")]])
    on_disk = server.log(0)[1]
    assert on_disk != "tmpfs"
    for number, text in enumerate(("AAA", "BBB", "AAA")):
        assert server.log(number) == ["tmpfs", on_disk, text, *own]
        assert server.output(results[number]) == {"/linked": text}
    # Too large: a new view, on the disk, which then stays.
    server.run(script, inputs, [[(0, "/a", 2**25)]])
    assert server.log() == [on_disk, on_disk, "AAA", *own]
    server.run(script, inputs, [[(0, "/b")], [(0, "/d/")]])
    assert server.log(0) == [on_disk, on_disk, "BBB", *own] and server.log(1) == [
        on_disk,
        on_disk,
        "CCC",
        *own,
    ]


def test_a_view_that_dies_takes_no_inputs_along(server: SetServer, tmp_path: Path) -> None:
    root = server.tree({f"/{n}": f"text {n}" for n in range(9)})
    mark = tmp_path / "mark"
    script = (
        f"cp /pfs/images/* /pfs/out/; if [ -e /pfs/images/2 ] && mkdir {mark}; then echo up; sleep 222.5; fi"
    )
    datums = [[(0, f"/{n}"), (0, "/0")] for n in range(1, 9)]
    server.start(script, [server.input(root)], datums, tries=2)
    server.wait_for("up")
    [worker] = server.services.table.running("worker")
    assert worker.handle is not None
    for view in children_of(worker.handle["pid"]):
        os.kill(view, 9)
    assert server.sets.over.wait(40), server.log()
    results = sorted(server.sets.results, key=lambda result: str(result["id"]))
    assert [(result["status"], result["attempts"]) for result in results] == [
        ("succeeded", 2 if n == 2 else 1) for n in range(1, 9)
    ]
    for n, result in enumerate(results, 1):
        assert server.output(result) == {"/0": "text 0", f"/{n}": f"text {n}"}


def test_lazy_and_empty_files_and_links_to_them(server: SetServer) -> None:
    root = server.tree({"/a": "AAA", "/d/b": "BBB", "/d/c": "CCC"})
    inputs = [server.input(root, lazy=True), server.input(root, "names", empty_files=True)]
    script = """
    test -p $images; cat $images; echo; cat $images; echo
    find /pfs/names -type f -size 0 | sort
    ln -s $images /pfs/out/lazy; ln -s /pfs/names/d /pfs/out/names; echo own > /pfs/out/own
    """
    [result] = server.run(script, inputs, [[(0, "/a"), (1, "/d/")]])
    assert result["status"] == "succeeded", result
    assert server.log() == ["AAA", "AAA", "/pfs/names/d/b", "/pfs/names/d/c"]
    assert server.output(result) == {"/lazy": "AAA", "/names/b": "BBB", "/names/c": "CCC", "/own": "own\n"}


def test_tries_are_used_up_here_then_err_cmd_has_the_last_word(server: SetServer, tmp_path: Path) -> None:
    root = server.tree({"/a": "", "/b": "", "/c": ""})
    script = f"""
    n=$(basename $images); echo x >> {tmp_path}/$n; echo try $(wc -l < {tmp_path}/$n)
    test $n = a && test $(wc -l < {tmp_path}/a) = 2
    """
    transform = {"err_cmd": ["sh"], "err_stdin": ["test $(basename $images) = b"]}
    datums = [[(0, "/a")], [(0, "/b")], [(0, "/c")]]
    results = server.run(script, [server.input(root)], datums, transform=transform, tries=3)
    assert [(one["status"], one["attempts"]) for one in results] == [
        ("succeeded", 2),
        ("recovered", 3),
        ("failed", 3),
    ]
    assert results[2]["reason"] == "exit code 1: try 3; and err_cmd failed: exit code 1"
    assert [line["attempt"] for line in server.sets.lines if line["text"].startswith("try 3")] == [3, 3]


def test_what_cannot_help_is_not_tried_again(server: SetServer) -> None:
    root = server.tree({"/a": ""})
    [result] = server.run(
        "", [server.input(root)], [[(0, "/a")]], transform={"cmd": ["no-such-program"]}, tries=3
    )
    assert (result["status"], result["attempts"]) == ("failed", 1)
    assert result["reason"] == "command not found: no-such-program"
    [result] = server.run(
        "", [server.input(root)], [[(0, "/a")]], transform={"user": "no-such-user"}, tries=3
    )
    assert "there is no user 'no-such-user'" in result["reason"]


def test_a_careful_worker_names_each_datum_before_it_begins(server: SetServer) -> None:
    root = server.tree({f"/{n}": "" for n in range(3)})
    datums = [[(0, f"/{n}")] for n in range(3)]
    results = server.run("true", [server.input(root)], datums, careful=True)
    assert [result["status"] for result in results] == ["succeeded"] * 3
    assert list(dict.fromkeys(server.sets.currents)) == [result["id"] for result in results]


def test_code_is_as_it_was_for_every_datum(server: SetServer) -> None:
    root, code = (
        server.tree({"/a": "", "/b": ""}),
        server.tree({"/tool.sh": "echo tool; echo bad > tool.sh; touch new"}),
    )
    server.run("ls; sh tool.sh", [server.input(root)], [[(0, "/a")], [(0, "/b")]], code_root=code)
    assert server.log(0) == server.log(1) == ["tool.sh", "tool"]


def test_daemons_end_with_their_datum(server: SetServer) -> None:
    root = server.tree({"/a": "", "/b": ""})
    leave = "os.fork() and os._exit(0); os.setsid(); os.fork() and os._exit(0)"
    slip = f"import os; {leave}; os.execvp('sleep', ['sleep', '333.5'])"
    script = f'test $(ps ax | grep -c "[3]33.5") = 0; {sys.executable} -c "{slip}"; while ! pgrep sleep; do :; done'
    results = server.run(script, [server.input(root)], [[(0, "/a")], [(0, "/b")]])
    assert [result["status"] for result in results] == ["succeeded"] * 2, results
    assert running("sleep", "333.5") == 0


@pytest.mark.parametrize("sandbox", ["auto", "paths"])
def test_a_lost_worker_takes_everything_along(tmp_path: Path, sandbox: str) -> None:
    server = SetServer(tmp_path / "home", sandbox=sandbox)
    try:
        lose_a_worker(server)
    finally:
        server.close()


def lose_a_worker(server: SetServer) -> None:
    root = server.tree({"/a": ""})
    server.start("echo up; setsid sleep 444.5 & sleep 444.25", [server.input(root)], [[(0, "/a")]])
    server.wait_for("up")
    [worker] = server.services.table.running("worker")
    assert worker.handle is not None
    os.kill(worker.handle["pid"], 9)
    assert server.sets.over.wait(20) and server.sets.lost_count == 1
    deadline = time.monotonic() + 10
    while running("sleep", "444.5") + running("sleep", "444.25"):
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("sandbox", ["auto", "paths"])
def test_a_datum_makes_no_device(tmp_path: Path, sandbox: str) -> None:
    server = SetServer(tmp_path / "home", sandbox=sandbox)
    try:
        [result] = server.run(
            "mknod /pfs/out/null c 1 3", [server.input(server.tree({"/a": ""}))], [[(0, "/a")]]
        )
    finally:
        server.close()
    assert result["reason"].startswith("exit code 1: mknod: ")
    assert result["reason"].endswith("pfs/out/null: Operation not permitted")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
def test_a_full_disk_is_named(tmp_path: Path) -> None:
    scratch = tmp_path / "home" / "run" / "scratch"
    scratch.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(scratch)], check=True)
    try:
        server = SetServer(tmp_path / "home")
        try:
            root = server.tree({"/big": "x" * 40_000_000, "/small": "x"})  # more than goes into memory
            script = "head -c 5000000 /dev/zero > /pfs/out/x"
            results = server.run(
                script, [server.input(root)], [[(0, "/big", 40_000_000)], [(0, "/small", 1)]]
            )
        finally:
            server.close()
    finally:
        subprocess.run(["umount", str(scratch)], check=True)
    assert [result["status"] for result in results] == ["failed", "failed"]
    assert "its input cannot be had: the disk is full" in results[0]["reason"]
    assert "(the disk is full" in results[1]["reason"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_another_user(server: SetServer) -> None:
    root, code = server.tree({"/a": "AAA"}), server.tree({"/note": "code"})
    script = "id -u; cat $images; cp $images note /pfs/out/; touch $TMPDIR/x; cat note; echo; echo $HOME; pwd"
    [result] = server.run(
        script, [server.input(root)], [[(0, "/a")]], transform={"user": "nobody"}, code_root=code,
        secret_files={"/etc/secret/key": "hidden-value"},
    )  # fmt: skip
    assert result["status"] == "succeeded", result
    assert server.output(result) == {"/a": "AAA", "/note": "code"}
    assert "65534" in server.log() and "AAAcode" in server.log() and "/.trunkline/code" in server.log()


BATCH = """
import os, sys
sys.path.insert(0, SOURCE)
from batching import datums
print("start", flush=True)
for datum in datums():
    path = datum.inputs["images"]
    assert os.environ["images"] == str(path) and os.environ["PACH_DATUM_ID"] == datum.id
    assert "PACH_DATUM_ID=" + datum.id in open("/pfs/.env").read()
    print("datum", path.name)
    if path.name == "bad":
        datum.fail("not a picture")
    if path.name == "crash":
        sys.exit(4)
    if path.name == "leave":
        sys.exit(0)
    if path.name == "slow":
        import time; time.sleep(60)
    open("/pfs/out/" + path.name, "w").write(path.read_text() + os.environ["PACH_JOB_ID"])
"""


def batch(text: str = BATCH) -> dict[str, Any]:
    code = text.replace("SOURCE", repr(str(SOURCE.parent)))
    return {"cmd": [sys.executable, "-I", "-c", code], "datum_batching": True}


def test_batching_gives_one_process_datum_after_datum(server: SetServer) -> None:
    root = server.tree({f"/{n:02}": str(n) for n in range(80)})
    for round_number in range(2):
        results = server.run(
            "", [server.input(root)], [[(0, f"/{n:02}")] for n in range(80)], transform=batch()
        )
        assert [server.output(one) for one in results] == [{f"/{n:02}": f"{n}{JOB}"} for n in range(80)]
        starts = [line for line in server.log() if line == "start"]
        assert len(starts) == (1 if round_number == 0 else 0)  # it outlives a set
        assert server.log(41) == ["datum 41"]
    assert results[3]["stats"]["memory_bytes"] > 2**20


SELDOM = """
import sys, time
sys.path.insert(0, SOURCE)
from batching import datums
for number, datum in enumerate(datums()):
    assert sys.stdin.read() == ""
    if number % 10 == 5:
        time.sleep(0.08)
    if number % 10 in (6, 7, 9):
        open("/pfs/out/it", "w").write(datum.id)
"""


@pytest.mark.parametrize("batching", [True, False])
def test_output_after_many_datums_without_any(server: SetServer, batching: bool) -> None:
    root = server.tree({f"/{n:02}": str(n) for n in range(40)})
    files = [[(0, f"/{n:02}")] for n in range(40)]
    if batching:
        results = server.run("", [server.input(root)], files, transform=batch(SELDOM))
    else:
        script = "read line || case $images in *5) sleep 0.08;; *[679]) echo -n $PACH_DATUM_ID > /pfs/out/it;; esac"
        transform = {"cmd": ["sh", "-ec", script]}
        results = server.run("", [server.input(root)], files, transform=transform)
    expected = [{"/it": f"{n:064x}"} if n % 10 in (6, 7, 9) else {} for n in range(40)]
    assert [server.output(one) for one in results] == expected


def test_batching_and_what_goes_wrong_in_it(server: SetServer) -> None:
    names = ["1", "bad", "2", "crash", "3", "leave", "4", "slow", "5"]
    root = server.tree({f"/{name}": name for name in names})
    results = server.run(
        "", [server.input(root)], [[(0, f"/{name}")] for name in names], transform=batch(), datum_timeout_seconds=1.5
    )  # fmt: skip
    good = [one["status"] == "succeeded" for one in results]
    assert good == [name.isdigit() for name in names], results
    reasons = {name: one["reason"] for name, one in zip(names, results, strict=True)}
    assert reasons["bad"] == "not a picture"
    assert reasons["crash"].startswith("exit code 4")
    assert reasons["leave"] == "the command ended before it asked for the next datum"
    assert reasons["slow"].startswith("ran past its datum_timeout of 1.5 s")
    assert [server.output(one) for one in results if one["root"]] == [{f"/{n}": f"{n}{JOB}"} for n in "12345"]


def test_batching_and_memory_that_ran_out_in_an_earlier_datum(server: SetServer) -> None:
    group = make_group("trunkline-test-of-limits")
    if group is None:
        pytest.skip("no control groups may be made here")
    group.remove()
    names = ["1", "eats", "2", "crash", "eats-and-crashes", "3"]
    root = server.tree({f"/{name}": name for name in names})
    program = BATCH.replace(
        'print("datum", path.name)',
        """print("datum", path.name)
    if "eats" in path.name:
        os.system(f"{sys.executable} -c 'x = bytearray(400000000)[::1]'")
    if "crashes" in path.name:
        sys.exit(4)""",
    )
    limits = {"memory_bytes": 96 * 2**20, "cpus": None, "disk_bytes": None, "network": True}
    results = server.run(
        "", [server.input(root)], [[(0, f"/{name}")] for name in names], transform=batch(program), limits=limits
    )  # fmt: skip
    assert [one["status"] for one in results] == ["succeeded"] * 3 + ["failed"] * 2 + ["succeeded"], results
    assert results[3]["reason"].startswith("exit code 4")
    assert results[4]["reason"].startswith("out of memory: killed by the system, its limit is 96MiB")


def test_batching_with_a_command_that_does_not_ask(server: SetServer) -> None:
    root = server.tree({"/a": ""})
    [result] = server.run(
        "true", [server.input(root)], [[(0, "/a")]], transform={"datum_batching": True}, tries=2
    )
    assert result["reason"] == "the command ended without asking for a datum, as one with datum_batching must"


def test_the_same_loop_without_batching(server: SetServer) -> None:
    root = server.tree({"/1": "1", "/bad": ""})
    transform = batch() | {"datum_batching": False}
    transform["cmd"][-1] = transform["cmd"][-1].replace("print(", "None and print(")
    results = server.run("", [server.input(root)], [[(0, "/1")], [(0, "/bad")]], transform=transform)
    assert server.output(results[0]) == {"/1": f"1{JOB}"}
    assert results[1]["reason"] == "exit code 1: not a picture"
