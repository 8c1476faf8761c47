"""Logs of jobs: what is stored, what is found again, and how long it stays."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from tests.pipelines.conftest import World, lease_of, only, spec
from trunkline.errors import ConflictError, NotFoundError
from trunkline.pipelines.log_index import ALL_LINES, LogFilter
from trunkline.pipelines.logs import LINES_PER_CALL_MAX, JobLogs
from trunkline.pipelines.looking import LogWish

JOB = "a" * 32
ONE, TWO, THREE = ("1" * 64, "2" * 64, "3" * 64)


def lines_of(*texts: str, datum: str = "", ts: float = 1.0) -> list[dict[str, Any]]:
    return [{"ts": ts, "text": text, "stream": "stdout", "datum": datum, "attempt": 1} for text in texts]


def append(logs: JobLogs, source: str, offset: int, lines: list[dict[str, Any]], worker: str = "w") -> int:
    return logs.append(
        project="p",
        pipeline="e",
        job_id=JOB,
        source=source,
        offset=offset,
        lines=lines,
        worker=worker,
        now=9.0,
    )


def texts(logs: JobLogs, wanted: LogFilter = ALL_LINES, offset: int = 0) -> list[str]:
    reader = logs.reader("p", "e", JOB, wanted, offset)
    found = []
    while lines := reader.more():
        found += [line.text for line in lines]
    return found


# --- storing ------------------------------------------------------------------------------------------------------


def test_logs_are_stored_once_however_often_they_are_sent(world: World) -> None:
    world.pipelines.create("default", spec())
    commit = world.put("images@master", {"/a": "1", "/b": "2"})
    (first, one), (second, _) = world.claim("edges")
    datum = only(one)["id"]
    assert world.pipelines.append_log(lease_of(first), 0, lines_of("x", "y", datum=datum)) == 2
    assert world.pipelines.append_log(lease_of(first), 0, lines_of("x", "y", datum=datum)) == 2
    assert world.pipelines.append_log(lease_of(first), 1, lines_of("y", "z", datum=datum)) == 3
    assert world.pipelines.append_log(lease_of(second), 0, lines_of("other")) == 1
    world = world.restart()  # how many there are is read back
    assert world.pipelines.append_log(lease_of(first), 1, lines_of("y", "z", "last", datum=datum)) == 4
    lines, offset, done = world.pipelines.logs("default", "edges", commit)
    assert [(line.text, line.job, line.worker) for line in lines] == [
        (text, commit, "w1") for text in ("x", "y", "z", "other", "last")
    ]
    assert not done
    lines, _, _ = world.pipelines.logs("default", "edges", None, datum[:12])
    assert [line.text for line in lines] == ["x", "y", "z", "last"]
    world.pipelines.stop_job("default", "edges", commit)
    [end], after, done = world.pipelines.logs("default", "edges", commit, None, offset)
    assert (end.text, end.stream, after, done) == (
        "job cancelled: it was stopped by request",
        "trunkline",
        offset,
        True,
    )


def test_a_log_line_cut_short_by_a_crash_is_sent_again(world: World) -> None:
    world.pipelines.create("default", spec())
    commit = world.put("images@master", {"/a": "1"})
    [(task, _)] = world.claim("edges")
    world.pipelines.append_log(lease_of(task), 0, lines_of("whole", "torn"))
    [file] = world.settings.logs_dir.rglob(f"{commit}.jsonl")
    file.write_bytes(file.read_bytes()[:-9])
    world = world.restart()
    assert world.pipelines.append_log(lease_of(task), 1, lines_of("torn")) == 2
    lines, _, _ = world.pipelines.logs("default", "edges", commit)
    assert [line.text for line in lines] == ["whole", "torn"]


def test_logs_of_a_lost_lease_are_refused(world: World) -> None:
    world.pipelines.create("default", spec())
    world.put("images@master", {"/a": "1"})
    [(task, payload)] = world.claim("edges")
    world.succeed(task, payload, {"/a": "made"})
    with pytest.raises(ConflictError):
        world.pipelines.append_log(lease_of(task), 0, lines_of("late"))


@pytest.mark.parametrize(
    "damage", ["no index", "index behind", "index torn", "index ahead", "log torn", "zeros"]
)
def test_whatever_a_crash_leaves_is_put_right(tmp_path: Path, damage: str) -> None:
    logs = JobLogs(tmp_path)
    append(logs, "1:1", 0, lines_of("a", "b", datum=ONE))
    append(logs, "2:1", 0, lines_of("c", datum=TWO))
    append(logs, "1:1", 2, lines_of("d", datum=ONE))
    [log] = tmp_path.rglob("*.jsonl")
    [index] = tmp_path.rglob("*.index")
    whole = index.read_bytes()
    if damage == "no index":  # as the first version left it
        index.unlink()
    elif damage == "index behind":
        index.write_bytes(b"".join(whole.splitlines(keepends=True)[:-1]))
    elif damage == "index torn":
        index.write_bytes(whole[:-3])
    elif damage == "index ahead":
        log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:-1]))
    elif damage == "log torn":
        log.write_bytes(log.read_bytes() + b'{"ts":1.0,"text":"to')
    else:
        log.write_bytes(log.read_bytes() + b"\0" * 100)
    logs = JobLogs(tmp_path)
    assert append(logs, "1:1", 2, lines_of("d", datum=ONE)) == 3
    assert append(logs, "2:1", 0, lines_of("c", "e", datum=TWO)) == 2
    assert texts(logs) == ["a", "b", "c", "d", "e"]
    assert texts(logs, LogFilter(datums=frozenset([TWO]))) == ["c", "e"]
    assert texts(JobLogs(tmp_path)) == ["a", "b", "c", "d", "e"]


def test_lines_that_never_came_are_counted(tmp_path: Path) -> None:
    logs = JobLogs(tmp_path)
    append(logs, "1:1", 0, lines_of("a"))
    assert append(logs, "1:1", 4, lines_of("b")) == 5
    assert texts(logs) == ["a", "3 lines of this log are missing here", "b"]


def test_a_log_ends_at_its_limit_and_says_so(tmp_path: Path) -> None:
    logs = JobLogs(tmp_path, bytes_max=2000)
    many = lines_of(*(f"line {n}" for n in range(100)), datum=ONE)
    assert append(logs, "1:1", 0, many) == 100
    found = texts(logs)
    assert found[:-1] == [f"line {n}" for n in range(len(found) - 1)]
    assert len(found) > 5
    assert "it has reached 2000 bytes, the most that a job may log (setting job_log_bytes_max)" in found[-1]
    for again in (logs, JobLogs(tmp_path, bytes_max=2000)):  # also after a restart
        assert append(again, "1:1", 100, lines_of("more")) == 101
        assert append(again, "2:1", 0, lines_of("others")) == 1
        assert texts(again) == found
    [log] = tmp_path.rglob("*.jsonl")
    assert log.stat().st_size < 2000 + 500


@pytest.mark.slow
def test_a_full_disk_costs_lines_not_the_job(tmp_path: Path) -> None:
    """In a process of its own, whose files may not grow beyond a limit."""
    script = """
        import resource, signal, sys
        from pathlib import Path
        from tests.pipelines.test_logs import append, lines_of, texts
        from trunkline.pipelines.logs import JobLogs
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        logs = JobLogs(Path(sys.argv[1]))
        append(logs, "1:1", 0, lines_of("before"))
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
        assert append(logs, "1:1", 1, lines_of(*["x" * 100] * 50)) == 51
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        assert append(logs, "1:1", 51, lines_of("after")) == 52
        assert texts(logs) == texts(JobLogs(Path(sys.argv[1])))
        print(texts(logs))
    """
    assert resource.RLIMIT_FSIZE is not None
    assert signal.SIGXFSZ
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)],
        capture_output=True, text=True, check=False, cwd=root, env={**os.environ, "PYTHONPATH": str(root)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "['before', '50 lines of this log are missing here', 'after']"


# --- finding ------------------------------------------------------------------------------------------------------


@pytest.fixture
def logs(tmp_path: Path) -> JobLogs:
    made = JobLogs(tmp_path)
    append(made, "1:1", 0, lines_of("a", datum=ONE, ts=10) + lines_of("b", datum=TWO, ts=20))
    append(made, "2:1", 0, lines_of("c", datum=THREE, ts=30), worker="other")
    append(made, "1:1", 2, lines_of("d", datum=TWO, ts=40) + lines_of("e", ts=50))
    return made


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (ALL_LINES, "abcde"),
        (LogFilter(datums=frozenset([TWO])), "bd"),
        (LogFilter(datums=frozenset([ONE, THREE])), "ac"),
        (LogFilter(datums=frozenset()), ""),
        (LogFilter(since=20), "bcde"),
        (LogFilter(until=30), "abc"),
        (LogFilter(since=15, until=45, datums=frozenset([TWO])), "bd"),
        (LogFilter(worker="oth"), "c"),
    ],
)
def test_only_what_is_wanted_is_found(logs: JobLogs, wanted: LogFilter, found: str) -> None:
    assert "".join(texts(logs, wanted)) == found
    for count in range(7):
        reader = logs.reader("p", "e", JOB, wanted)
        assert "".join(line.text for line in reader.last(count)) == (found[-count:] if count else "")
        assert reader.more() == []


def test_the_last_lines_and_then_what_comes(logs: JobLogs) -> None:
    reader = logs.reader("p", "e", JOB, LogFilter(datums=frozenset([TWO])))
    assert [line.text for line in reader.last(1)] == ["d"]
    append(logs, "1:1", 4, lines_of("f", datum=TWO) + lines_of("g", datum=ONE))
    assert [line.text for line in reader.more()] == ["f"]


def test_reading_goes_on_from_a_place_in_the_file(logs: JobLogs) -> None:
    reader = logs.reader("p", "e", JOB)
    assert "".join(line.text for line in reader.more()) == "abcde"
    append(logs, "3:1", 0, lines_of("f"))
    assert texts(logs, offset=reader.offset) == ["f"]
    assert [line.text for line in reader.more()] == ["f"]
    assert reader.more() == []


def test_the_log_of_one_datum_among_many_is_read_alone(tmp_path: Path) -> None:
    """Of 20 MB only the segments of the datum, however large the rest is."""
    logs = JobLogs(tmp_path)
    for number in range(2000):
        datum = f"{number:064x}"[::-1]  # they differ at the beginning, as digests do
        append(logs, f"{number}:1", 0, lines_of(*["x" * 1000] * 10, datum=datum))
    wanted = f"{1234:064x}"[::-1]
    reader = logs.reader("p", "e", JOB, LogFilter(datums=frozenset([wanted])))
    read = 0

    class Counting(type(reader)):  # type: ignore[misc]
        def _data(self, start: int, end: int) -> bytes:
            nonlocal read
            read += end - start
            return bytes(super()._data(start, end))

    reader.__class__ = Counting
    assert len(reader.more()) == 10
    assert reader.more() == []
    [log] = tmp_path.rglob("*.jsonl")
    assert log.stat().st_size > 20_000_000
    assert read < 20_000


def test_long_batches_are_read_in_parts(tmp_path: Path) -> None:
    logs = JobLogs(tmp_path)
    many = [f"{n} " + "x" * 500 for n in range(LINES_PER_CALL_MAX)]
    append(logs, "1:1", 0, lines_of(*many))
    assert texts(logs) == many
    reader = logs.reader("p", "e", JOB)
    assert len(reader.more()) < LINES_PER_CALL_MAX


# --- of jobs ------------------------------------------------------------------------------------------------------


def stream(world: World, commit: str, **wish: Any) -> list[str]:
    lines, _, _ = world.pipelines.open_log("default", "edges", commit, LogWish(**wish))(0)
    return [line.text for line in lines]


def test_by_input_and_with_the_files_of_each_line(world: World) -> None:
    world.pipelines.create("default", spec())
    commit = world.put("images@master", {"/a": "1", "/dir/b": "2"})
    for task, payload in world.claim("edges"):
        datum = only(payload)
        world.pipelines.append_log(lease_of(task), 0, lines_of(datum["files"][0][1], datum=datum["id"]))
    for wanted in ("/a", "a", "images:/a", "default/images:/a", "images@master:/a"):
        assert stream(world, commit, inputs=(wanted,)) == ["/a"]
    assert stream(world, commit, inputs=("/dir/b",)) == ["/dir/"]  # it sees the folder that this is in
    assert stream(world, commit, inputs=("/dir/",)) == ["/dir/"]
    content = world.pipelines.list_datums("default", "edges", commit)[0].inputs[0]
    assert stream(world, commit, inputs=(content.hash,)) == [content.paths[0]]
    for wrong in ("/nothing", "other:/a"):
        with pytest.raises(NotFoundError, match=r"no datum that job .* computed sees"):
            stream(world, commit, inputs=(wrong,))
    lines, _, _ = world.pipelines.open_log("default", "edges", commit, LogWish(files=True))(0)
    assert {line.text: line.files for line in lines} == {"/a": "images:/a", "/dir/": "images:/dir/"}


def whole(world: World, commit: str, pipeline: str = "edges", **wish: Any) -> list[str]:
    tail = world.pipelines.open_log("default", pipeline, commit, LogWish(**wish))
    found, done = [], False
    while not done:
        lines, _, done = tail(0)
        found += [line.text for line in lines]
    return found


def test_a_log_ends_with_why_its_job_did_not_succeed(world: World) -> None:
    world.pipelines.create("default", spec(datum_tries=1))
    world.pipelines.create("default", spec("below", repo="edges"))
    commit = world.put("images@master", {"/a": "1"})
    [(task, payload)] = world.claim("edges")
    datum = only(payload)["id"]
    written = lines_of("one", "two", datum=datum, ts=world.clock.now())
    world.pipelines.append_log(lease_of(task), 0, written)
    follower = world.pipelines.open_log("default", "edges", commit, LogWish())
    assert [line.text for line in follower(0)[0]] == ["one", "two"] and not follower(0)[2]
    world.clock.advance(60)
    world.fail(task, payload, "command not found: x")
    end = "job failed: datum images:/a failed: command not found: x"
    [line], _, done = follower(0)
    assert (line.text, line.stream, line.datum, line.job, done) == (end, "trunkline", "", commit, True)
    for _ in range(2):  # it is not written, so it is never there twice
        assert whole(world, commit) == ["one", "two", end]
    assert whole(world, commit, tail=2) == ["two", end]
    assert whole(world, commit, tail=1) == [end]
    assert whole(world, commit, tail=0) == []
    assert whole(world, commit, since=world.clock.now() - 5) == [end]
    assert whole(world, commit, until=world.clock.now() - 5) == ["one", "two"]
    assert whole(world, commit, datum=datum[:12]) == ["one", "two"]
    assert whole(world, commit, worker="w1") == ["one", "two"]
    [said] = whole(world, commit, pipeline="below")
    assert said.startswith(
        f"job unrunnable: its input default/edges@{commit} has failed: datum images:/a failed"
    )


def test_the_log_of_a_job_that_succeeded_says_no_more_than_was_written(world: World) -> None:
    world.pipelines.create("default", spec())
    commit = world.put("images@master", {"/a": "1"})
    world.work("edges", lambda path: {path: "made"})
    assert whole(world, commit) == []


def test_a_datum_that_was_not_computed_here_names_who_did(world: World) -> None:
    world.pipelines.create("default", spec())
    first = world.put("images@master", {"/a": "1"})
    world.work("edges", lambda path: {path: "made"})
    second = world.put("images@master", {"/b": "2"})
    world.work("edges", lambda path: {path: "made"})
    [datum] = world.pipelines.list_datums("default", "edges", first)
    assert stream(world, first, datum=datum.id[:8]) == []
    with pytest.raises(NotFoundError, match=f"was not computed by job {second}: its log is with job {first}"):
        stream(world, second, datum=datum.id[:8])
    with pytest.raises(NotFoundError, match="there is no datum"):
        stream(world, first, datum="f00f00f00")


@pytest.mark.parametrize("how", ["job", "pipeline", "commit"])
def test_logs_go_with_their_job(world: World, how: str) -> None:
    world.pipelines.create("default", spec())
    kept = world.put("images@master", {"/a": "1"})
    [(task, payload)] = world.claim("edges")
    world.pipelines.append_log(lease_of(task), 0, lines_of("first"))
    world.succeed(task, payload, {"/a": "made"})
    commit = world.put("images@master", {"/b": "2"})
    [(task, _)] = world.claim("edges")
    world.pipelines.append_log(lease_of(task), 0, lines_of("second"))
    follower = world.pipelines.open_log("default", "edges", commit, LogWish())
    assert [line.text for line in follower(0)[0]] == ["second"]
    if how == "job":
        world.pipelines.delete_job("default", "edges", commit)
    elif how == "pipeline":
        world.pipelines.delete("default", "edges")
    else:
        world.versioning.drop("default", commit)
    world = world.restart()  # the server may end right then
    world.settle()
    assert follower(0)[::2] == ([], True)
    left = {path.name for path in world.settings.logs_dir.rglob("*") if path.is_file()}
    assert left == (set() if how == "pipeline" else {f"{kept}.jsonl", f"{kept}.index"})


def test_the_log_of_a_spout_stays_until_the_spout_goes(world: World) -> None:
    """It has no jobs, so nothing of what takes logs of jobs away takes this."""
    made = spec("watch", spout={})
    del made["input"]
    world.pipelines.create("default", made)
    world.settle()
    [(task, _)] = world.claim("watch")
    world.pipelines.append_log(lease_of(task), 0, lines_of("a", "b", ts=world.clock.now()))
    with world.db.write() as connection:
        world.pipelines.looking.forget_logs(connection, "default", "watch")
    world.settle()
    for wish, found in ((LogWish(), ["a", "b"]), (LogWish(tail=1), ["b"]), (LogWish(worker="other"), [])):
        lines, _, done = world.pipelines.open_log("default", "watch", None, wish)(0)
        assert ([line.text for line in lines], done) == (found, False)
    world.pipelines.delete("default", "watch")
    world.settle()
    assert [path for path in world.settings.logs_dir.rglob("*") if path.is_file()] == []


def watching(world: World) -> None:
    made = spec("watch", spout={})
    del made["input"]
    world.pipelines.create("default", made)
    world.settle()


def spout_lines(world: World) -> list[str]:
    return [line.text for line in world.pipelines.open_log("default", "watch", None, LogWish())(0)[0]]


def test_each_run_of_a_spout_is_logged_from_its_first_line(world: World) -> None:
    """Its task is made anew for each, and may well get the number of the one that has gone."""
    watching(world)
    for run in ("one", "two", "three"):
        [(task, _)] = world.claim("watch")
        world.pipelines.append_log(lease_of(task), 0, lines_of(run, f"more of {run}", ts=world.clock.now()))
        world.pipelines.append_log(lease_of(task), 0, lines_of(run, f"more of {run}", ts=world.clock.now()))
        world.clock.advance(1000)
        world.jobs.reap()
        world.clock.advance(2)
    assert spout_lines(world) == ["one", "more of one", "two", "more of two", "three", "more of three"]


def test_the_log_of_a_spout_is_not_that_of_one_that_had_its_name(world: World) -> None:
    watching(world)
    [(task, _)] = world.claim("watch")
    world.pipelines.append_log(lease_of(task), 0, lines_of("old", ts=world.clock.now()))
    world.pipelines.delete("default", "watch")  # what takes its log away waits for its turn
    watching(world)
    with pytest.raises(ConflictError):
        world.pipelines.append_log(lease_of(task), 1, lines_of("old too", ts=world.clock.now()))
    [(task, _)] = world.claim("watch")
    world.pipelines.append_log(lease_of(task), 0, lines_of("new", ts=world.clock.now()))
    assert spout_lines(world) == ["new"]
