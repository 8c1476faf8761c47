"""What can be read of jobs, datums and logs at the command line: a real server, real workers."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Shell
from trunkline.cli import logs as logs_module
from trunkline.testing.server import running_server

pytestmark = pytest.mark.slow

SCRIPT = (
    "for f in /pfs/words/*; do echo reading $(basename $f); echo warned >&2; "
    'if grep -q bad "$f"; then echo no such luck >&2; exit 3; fi; cp "$f" /pfs/out/; done'
)


def spec(name: str, repo: str, **more: Any) -> dict[str, Any]:
    return {
        "pipeline": {"name": name},
        "input": {"pfs": {"name": "words", "repo": repo, "glob": "/*"}},
        "transform": {"cmd": ["sh", "-c", SCRIPT], "env": {"WHO": name}},  # else one uses what the other made
        "datum_tries": 1,
        **more,
    }


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """On a server of its own: all of its jobs are listed."""
    with running_server(tmp_path_factory.mktemp("home") / "t") as server:
        yield Shell(server)


@pytest.fixture(scope="module")
def done(shell: Shell, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Two pipelines in a row: IDs of a commit that went well, and of one whose second datum failed."""
    folder = tmp_path_factory.mktemp("specs")
    shell("create repo words")
    for name, repo in (("read", "words"), ("again", "read")):
        file = folder / f"{name}.json"
        file.write_text(json.dumps(spec(name, repo)))
        shell(f"create pipeline -f {file}")
    ids = {}
    for name, path, text in (("good", "/a", b"fine"), ("bad", "/b", b"bad")):
        shell(f"put file words@master:{path} -f -", stdin=text)
        ids[name] = json.loads(shell("inspect commit words@master -o json").out)["id"]
        shell(f"wait job {ids[name]}", code=0 if name == "good" else 5)
    return ids


def data(shell: Shell, line: str) -> Any:
    return json.loads(shell(f"{line} -o json").out)


def rows(shell: Shell, line: str) -> list[list[str]]:
    """The cells of a table: columns start where they do in its header."""
    header, *lines = shell(line).out.splitlines()
    starts = [match.start() for match in re.finditer(r"(?:(?<=^)|(?<= ))[A-Z]", header)]
    return [[row[a:b].strip() for a, b in zip(starts, [*starts[1:], None], strict=True)] for row in lines]


# --- jobs ---------------------------------------------------------------------------------------------------------


def test_what_happened_a_line_for_each_change(shell: Shell, done: dict[str, str]) -> None:
    header = shell("list jobs").out.splitlines()[0].split()
    assert header == ["ID", "SUBJOBS", "PROGRESS", "CREATED", "MODIFIED"]
    sets = data(shell, "list jobs")
    assert [one["id"] for one in sets][:2] == [done["bad"], done["good"]]
    assert "2 failed" in shell("list jobs -n 1").out
    assert [job["pipeline"] for job in sets[1]["jobs"]] == ["read", "again"]
    assert sets[1]["cost"]["datums"] == 2


def test_jobs_by_pipeline_state_and_input(shell: Shell, done: dict[str, str]) -> None:
    header = shell("list jobs -p read").out.splitlines()[0].split()
    assert header == [
        "PROJECT",
        "PIPELINE",
        "ID",
        "STARTED",
        "DURATION",
        "RESTART",
        "PROGRESS",
        "DL",
        "UL",
        "STATE",
    ]
    [failed] = data(shell, "list jobs -p read --state failed")
    assert failed["id"] == done["bad"]
    assert "no such luck" in failed["reason"]
    line = next(one for one in shell("list jobs -x").out.splitlines() if "unrunnable" in one)
    assert "again" in line
    assert [one["id"] for one in data(shell, "list jobs --state unrunnable")] == [done["bad"]]
    assert [one["id"] for one in data(shell, f"list jobs -i words@{done['good']}")] == [done["good"]]
    both = data(shell, f"list jobs -i words@{done['bad']} --state failed --state succeeded")
    assert [one["pipeline"] for one in both] == ["read"]
    assert [one["pipeline"] for one in data(shell, f"list jobs {done['good']}")] == ["read", "again"]
    assert "known are queued, running" in shell("list jobs --state done", code=2).err
    assert data(shell, "list jobs -p read --history none") == data(shell, "list jobs -p read")
    assert "none, a number or all" in shell("list jobs --history some", code=2).err


def test_one_job_in_full(shell: Shell, done: dict[str, str]) -> None:
    found = dict(
        line.split(": ", 1)
        for line in shell(f"inspect job read@{done['bad']}").out.splitlines()
        if ": " in line
    )
    for label in (
        "ID", "Pipeline", "Project", "Started", "Duration", "State", "Reason", "Processed", "Failed", "Skipped", "Recovered",
        "Total", "Data Downloaded", "Data Uploaded", "Download Time", "Process Time", "Upload Time", "CPU Time",
        "Peak Memory", "Restarts", "ParallelismSpec", "Input", "Transform", "Output Commit",
    ):  # fmt: skip
        assert label in found, label
    counts = [found[label] for label in ("Processed", "Failed", "Skipped", "Recovered", "Total")]
    assert counts == ["0", "1", "1", "0", "2"]
    assert json.loads(found["Input"])["pfs"]["repo"] == "words"
    assert json.loads(found["Transform"])["cmd"][0] == "sh"
    assert found["Output Commit"] == f"default/read@{done['bad']}"


def test_what_a_change_took(shell: Shell, done: dict[str, str]) -> None:
    cost = data(shell, f"inspect {done['good']}")["cost"]
    assert (cost["jobs"], cost["datums"]) == (2, 2)
    assert cost["stats"]["download_bytes"] == 8  # "fine", twice
    assert cost["stats"]["upload_bytes"] == 8
    assert cost["stats"]["cpu_seconds"] > 0
    assert cost["stats"]["process_seconds"] > 0
    jobs = data(shell, f"list jobs {done['good']}")
    assert cost["stats"]["cpu_seconds"] == pytest.approx(sum(job["stats"]["cpu_seconds"] for job in jobs))
    assert data(shell, f"inspect job {done['good']}")["cost"] == cost
    for line in (f"inspect {done['good']}", f"inspect commit {done['good']}", f"inspect job {done['good']}"):
        assert "Datums Computed: 2" in shell(line).out
    assert shell("inspect job " + "0" * 32, code=4).err.startswith("error: there is no job 0000")


def test_waiting_for_all_jobs_of_an_id(shell: Shell, done: dict[str, str]) -> None:
    assert "job again@" in shell(f"wait job {done['good']}").err
    assert "job read@" in shell(f"wait job {done['bad']}", code=5).err
    assert len(data(shell, f"wait job {done['good']}")["jobs"]) == 2


def test_pipelines_say_how_their_last_job_went(shell: Shell, done: dict[str, str]) -> None:
    assert done
    [line] = [one for one in shell("list pipeline").out.splitlines() if one.startswith("default read ")]
    assert re.match(r"default +read +1 +default/words:/\* +.* ago +running / failed", line)
    shown = shell("inspect pipeline read").out
    assert "Reason: " in shown
    assert "no such luck" in shown
    assert f"Last Job: {done['bad']} failed" in shown


# --- datums -------------------------------------------------------------------------------------------------------


def test_datums_with_what_they_took_and_why(shell: Shell, done: dict[str, str]) -> None:
    job = f"read@{done['bad']}"
    header = shell(f"list datum {job}").out.splitlines()[0].split()
    assert header == ["ID", "FILES", "STATUS", "TIME", "CPU", "MEMORY", "WHY", "REASON"]
    found = {row[1].rpartition(":")[2]: row for row in rows(shell, f"list datum {job}")}
    assert found["/a"][2] == "skipped"
    assert found["/a"][6] == "unchanged"
    assert (found["/b"][2], found["/b"][6]) == ("failed", "new")
    assert found["/b"][1] == f"default/words@{done['bad']}:/b"
    assert re.fullmatch(r"[\d.]+m?s", found["/b"][4])
    assert found["/b"][5].endswith("iB")
    [failed] = data(shell, f"list datum {job} --state failed")
    assert "no such luck" in failed["reason"]
    assert data(shell, f"list datum {job} --state succeeded") == []


def test_one_datum_in_full_with_its_last_words(shell: Shell, done: dict[str, str]) -> None:
    job = f"read@{done['bad']}"
    [failed] = data(shell, f"list datum {job} --state failed")
    shown = shell(f"inspect datum {job} {failed['id'][:8]}").out
    for text in (
        "Status: failed",
        "Why: new",
        "Tries: 1",
        "Exit Code: 3",
        "Reason: ",
        "CPU Time: ",
        "Peak Memory: ",
    ):
        assert text in shown
    assert sorted(shown.partition("Log:\n")[2].split("\n"))[1:] == [
        "  no such luck",
        "  reading b",
        "  warned",
    ]
    [skipped] = data(shell, f"list datum {job} --state skipped")
    assert f"Computed By Job: {done['good']}" in shell(f"inspect datum {job} {skipped['id']}").out
    assert "there is no datum" in shell(f"inspect datum {job} ffffff00000", code=4).err


# --- by branch ----------------------------------------------------------------------------------------------------


def test_a_branch_stands_for_the_job_of_its_head(shell: Shell, done: dict[str, str]) -> None:
    bad, good = f"read@{done['bad']}", f"read@{done['good']}"
    for branch, job in (
        ("read@master", bad),
        ("default/read@master", bad),
        ("read@master^", good),
        (f"{bad}^", good),
    ):
        assert data(shell, f"inspect job {branch}") == data(shell, f"inspect job {job}")
        assert data(shell, f"list datum {branch}") == data(shell, f"list datum {job}")
        assert data(shell, f"why {branch}") == data(shell, f"why {job}")
        assert shell(f"logs -j {branch}").out == shell(f"logs -j {job}").out
    assert shell("logs -p read -j master").out == shell(f"logs -j {bad}").out
    [failed] = data(shell, "list datum read@master --state failed")
    shown = shell(f"inspect datum read@master {failed['id'][:8]} --full-timestamps").out
    assert shown == shell(f"inspect datum {bad} {failed['id'][:8]} --full-timestamps").out and "Log:" in shown
    assert bad in shell("wait job read@master", code=5).err
    assert good in shell("wait job read@master^").err
    assert "has ended already" in shell("stop job read@master", code=5).err
    assert "has ended already" in shell("restart datum read@master /b", code=5).err


@pytest.mark.parametrize(
    ("job", "code", "said"),
    [
        ("read@nosuch", 4, "there is no job read@nosuch: "),
        ("read@master^9", 4, "there is no job read@master^9: "),
        ("nosuch@master", 4, "there is no job nosuch@master: "),
        ("words@master", 4, "there is no pipeline default/words"),
        ("read", 2, "'read' names no job: write pipeline@ID or pipeline@branch"),
        ("read@", 2, "a branch or commit ID is missing after '@'"),
        ("read@master:/a", 2, "names no job"),
        ("read@a/b", 2, "'a/b' is not allowed"),
    ],
)
def test_what_names_no_job(shell: Shell, done: dict[str, str], job: str, code: int, said: str) -> None:
    for command in ("inspect job", "list datum", "why", "wait job", "stop job", "delete job", "logs -j"):
        if command == "logs -j" and "@" not in job:
            continue  # there it may be an ID
        found = shell(f"{command} {job}", code=code).err
        assert said in found and len(found.splitlines()) == 1


def test_the_job_of_a_branch_is_stopped_and_deleted(shell: Shell, tmp_path: Path) -> None:
    shell("create repo naps")
    shell("put file naps@master:/a -f -", stdin=b"1")
    file = tmp_path / "sleep.json"
    made = spec("sleep", "naps") | {"transform": {"cmd": ["sleep", "600"]}}
    file.write_text(json.dumps(made))
    shell(f"create pipeline -f {file}")
    job = data(shell, "inspect job sleep@master")
    assert f"sleep@{job['id']} cancelled" in shell("stop job sleep@master").err
    assert f"sleep@{job['id']} deleted" in shell("delete job sleep@master").err
    assert "there is no job" in shell("delete job sleep@master", code=4).err
    assert data(shell, "list jobs -p sleep") == []
    shell("delete pipeline sleep")
    shell("delete repo naps")


# --- logs ---------------------------------------------------------------------------------------------------------


def lines(shell: Shell, line: str) -> list[dict[str, Any]]:
    return [json.loads(one) for one in shell(f"{line} --raw").out.splitlines()]


def test_logs_of_the_newest_job_of_another_and_of_all(shell: Shell, done: dict[str, str]) -> None:
    *written, end = lines(shell, "logs -p read")
    assert {line["text"] for line in written} == {"reading b", "warned", "no such luck"}
    assert (end["stream"], end["datum"]) == ("trunkline", "")
    assert end["text"].startswith("job failed: datum words:/b failed: exit code 3: ")
    first = lines(shell, f"logs -j read@{done['good']}")
    assert sorted(line["text"] for line in first) == ["reading a", "warned"]
    assert {line["job"] for line in first} == {done["good"]}
    assert {line["files"] for line in first} == {"words:/a"}
    assert {line["attempt"] for line in first} == {1}
    assert {line["text"]: line["stream"] for line in first} == {"reading a": "stdout", "warned": "stderr"}
    assert {line["worker"] for line in first} != {""}
    every = lines(shell, "logs -p read --all-jobs")
    assert [line["job"] for line in every] == [done["good"]] * 2 + [done["bad"]] * 4
    assert (
        shell(f"logs -j read@{done['good']} -o json").out == shell(f"logs -j read@{done['good']} --raw").out
    )


def test_logs_of_all_pipelines_of_a_change(shell: Shell, done: dict[str, str]) -> None:
    found = lines(shell, f"logs {done['good']}")
    assert {line["pipeline"] for line in found} == {"read", "again"}
    assert shell(f"logs -j {done['good']} -f").out == shell(f"logs {done['good']}").out
    shown = shell(f"logs {done['good']} --prefix").out.splitlines()
    datum = found[0]["datum"]
    assert f"read@{done['good'][:12]} {datum[:12]} words:/a | reading a" in shown


def test_logs_of_a_datum_by_id_and_by_input(shell: Shell, done: dict[str, str]) -> None:
    job = f"read@{done['good']}"
    datum = lines(shell, f"logs -j {job}")[0]["datum"]
    whole = shell(f"logs -j {job}").out
    assert shell(f"logs -j {job} --datum {datum[:10]}").out == whole
    for flag in ("--inputs /a", "--data words:/a", "--inputs a"):
        assert shell(f"logs -j {job} {flag}").out == whole
    assert "no datum that job" in shell(f"logs -j {job} --inputs /zzz", code=4).err
    said = shell(f"logs -j read@{done['bad']} --datum {datum}", code=4).err
    assert f"its log is with job {done['good']}" in said
    assert shell("logs -p read --all-jobs --inputs /b --raw").out.count("\n") == 3


def test_logs_by_time_worker_and_the_last_lines(shell: Shell, done: dict[str, str]) -> None:
    whole = lines(shell, "logs -p read")
    of_workers = whole[:-1]
    assert lines(shell, "logs -p read --since 24h") == whole
    assert lines(shell, "logs -p read --until 1h") == []
    assert lines(shell, "logs -p read --since 2020-01-01 --until 2030-01-01T00:00:00Z") == whole
    assert "is no time" in shell("logs -p read --since yesterday", code=2).err
    assert lines(shell, "logs -p read --tail 1") == whole[-1:]
    assert lines(shell, "logs -p read --tail 0") == []
    assert lines(shell, f"logs -p read --worker {whole[0]['worker'][:8]}") == of_workers
    assert lines(shell, "logs -p read --worker nobody") == []
    assert "say whose log" in shell(f"logs -p read {done['good']}", code=2).err
    assert "say whose log" in shell("logs --all-jobs", code=2).err


def test_on_a_terminal_lines_say_whose_they_are(
    shell: Shell, done: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    out = Terminal()
    monkeypatch.setattr("sys.stdout", out)
    with monkeypatch.context() as patch:
        patch.setattr("os.environ", shell.server.env)
        logs_module.logs(words=None, pipeline="read")
        logs_module.logs(words=None, pipeline="read", job=done["good"])
    several, one = out.getvalue().splitlines()[:3], out.getvalue().splitlines()[4:]
    assert all(re.match(r"[0-9a-f]{12} words:/b \| ", line) for line in several)
    assert sorted(one) == ["reading a", "warned"]


def test_following_ends_with_the_job(shell: Shell, done: dict[str, str], tmp_path: Path) -> None:
    assert done
    file = tmp_path / "slow.json"
    slow = spec("slow", "words")
    slow["transform"] = {"cmd": ["sh", "-c", "for n in 1 2 3; do echo $n; sleep 0.1; done"]}
    file.write_text(json.dumps(slow))
    shell(f"create pipeline -f {file}")
    assert shell("logs -p slow -f").out.split() == ["1", "2", "3"] * 2
    [job] = data(shell, "list jobs -p slow")
    assert job["status"] == "succeeded"
    shell(f"delete job slow@{job['id']}")
    assert "has no job" in shell("logs -p slow", code=4).err
    shell("delete pipeline slow")


def test_logs_survive_their_worker_and_their_server(
    shell: Shell, done: dict[str, str], tmp_path: Path
) -> None:
    """What was written before a worker was killed stays, and says which worker it was."""
    assert done
    mark, go = tmp_path / "mark", tmp_path / "go"
    script = (
        f"echo begun; if [ -e {mark} ]; then echo again; while [ ! -e {go} ]; do sleep 0.05; done; exit 0; fi; "
        f"touch {mark}; sleep 100"
    )
    file = tmp_path / "killed.json"
    one_datum = {"pfs": {"repo": "words", "glob": "/a"}}
    file.write_text(
        json.dumps(spec("killed", "words", input=one_datum, transform={"cmd": ["sh", "-c", script]}))
    )
    shell(f"create pipeline -f {file}")
    _until(lambda: "begun" in shell("logs -p killed").out)
    [job] = data(shell, "list jobs -p killed")
    shown = shell(f"inspect job killed@{job['id']}").out.splitlines()
    workers = shown[shown.index("Worker Status:") + 1 :]
    assert workers[0].split() == ["WORKER", "JOB", "DATUM", "STARTED"]
    assert "words:/a" in workers[1]
    name = workers[1].split()[0]
    [victim] = [one for one in data(shell, "status")["processes"] if one["id"] == name]
    assert victim["kind"] == "worker"
    os.kill(victim["pid"], signal.SIGKILL)
    _until(lambda: "again" in shell("logs -p killed").out)
    shell.server.kill()
    shell.server.start()
    go.touch()
    shell(f"wait job killed@{job['id']}")
    found = lines(shell, "logs -p killed")
    assert [line["text"] for line in found if line["stream"] != "trunkline"] == ["begun", "begun", "again"]
    assert found[0]["worker"] == name != found[-1]["worker"]
    assert [line["text"] for line in lines(shell, f"logs -p killed --worker {name}")] == ["begun"]
    [job] = data(shell, "list jobs -p killed")
    assert (job["restarts"], job["status"]) == (1, "succeeded")
    shell("delete pipeline killed")


def _until(condition: Any) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)
