"""``kill -9`` of the server, of workers and of datum processes at random while commits arrive: every commit ends with the output
of an undisturbed run, nothing is missing or doubled, and no process is left over."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trunkline.errors import TrunklineError
from trunkline.jobs.engines.process import started_at
from trunkline.sdk.client import Client
from trunkline.sdk.transport import path_of
from trunkline.testing.server import ServerHarness

SECONDS = 20.0
NIGHTLY_SECONDS = 300.0
PATIENCE_SECONDS = 120.0
LOOK_SECONDS = 1.0
TRIES = 100
"""A datum whose process is killed has failed that try, rightly; here it must not run out of them."""

UPPER = {
    "pipeline": {"name": "upper"},
    "input": {"pfs": {"repo": "words", "glob": "/*"}},
    "parallelism_spec": {"constant": 2},
    "datum_tries": TRIES,
    "transform": {
        "image": "trunkline",
        "cmd": ["/bin/sh", "-e"],
        "stdin": ["for f in /pfs/words/*; do sleep 0.05; tr a-z A-Z < $f > /pfs/out/$(basename $f); done"],
    },
}
PAIRS = {
    "pipeline": {"name": "pairs"},
    "input": {
        "cross": [
            {"pfs": {"repo": "upper", "glob": "/*"}},
            {"pfs": {"repo": "words", "name": "all", "glob": "/"}},
        ]
    },
    "datum_tries": TRIES,
    "transform": {
        "image": "trunkline",
        "cmd": ["/bin/sh", "-e"],
        # The shell counts by itself: a shell does not mind if a program at the beginning of a pipe is killed.
        "stdin": [
            "f=$(basename /pfs/upper/*); set -- /pfs/all/*; (cat /pfs/upper/$f; echo $#) > /pfs/out/$f"
        ],
    },
}

Content = dict[str, str]


class Disturbance(threading.Thread):
    """Kills something at random, again and again; starts the server anew when it was that."""

    def __init__(self, server: ServerHarness, chance: random.Random) -> None:
        super().__init__(name="disturbance")
        self._server = server
        self._chance = chance
        self.enough = threading.Event()
        self.killed: dict[str, int] = {"server": 0, "worker": 0, "datum": 0}
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            while not self.enough.wait(self._chance.uniform(0.05, 1.0)):
                self._disturb(self._chance.choice(("server", "worker", "worker", "datum", "datum")))
        except BaseException as error:
            self.error = error

    def _disturb(self, what: str) -> None:
        if what == "server":
            self._server.kill()
            time.sleep(self._chance.uniform(0, 0.5))
            self._server.start()
        else:
            found = self._found(what)
            if not found:
                return
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._chance.choice(found), signal.SIGKILL)
        self.killed[what] += 1

    def _found(self, what: str) -> list[int]:
        """Datums are short: look for a while."""
        ending_at = time.monotonic() + LOOK_SECONDS
        while not (found := _processes(self._server.home, what)) and time.monotonic() < ending_at:
            time.sleep(0.01)
        return found


def _processes(home: Path, what: str) -> list[int]:
    """Processes of a data directory: its ``worker`` programs, those that run a ``datum``, or ``any``."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            environment = (entry / "environ").read_bytes()
            command = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if str(home).encode() not in environment or started_at(int(entry.name)) is None:
            continue
        is_datum = b"PACH_DATUM_ID=" in environment
        is_worker = b"trunkline.workers.main" in command
        if what == "any" or (what == "datum" and is_datum) or (what == "worker" and is_worker):
            found.append(int(entry.name))
    return found


def _patiently(action: Callable[[], Any]) -> Any:
    """As a user does it through an outage: try again."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return action()
        except TrunklineError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


class Author:
    """Commits, and remembers what each commit holds."""

    def __init__(self, server: ServerHarness, chance: random.Random) -> None:
        self._server = server
        self._chance = chance
        self._number = 0
        self.present: Content = {}
        self.commits: dict[str, Content] = {}

    @property
    def client(self) -> Client:
        return self._server.client()

    def change(self) -> None:
        """Some files more, changed or fewer, as one commit that is known to have happened."""
        wanted = dict(self.present)
        for _ in range(self._chance.randint(1, 4)):
            self._number += 1
            if wanted and self._chance.random() < 0.3:
                del wanted[self._chance.choice(sorted(wanted))]
            else:
                wanted[f"f{self._chance.randint(0, 15)}"] = f"content {self._number}\n"
        if wanted == self.present or not wanted:
            return
        message = f"change {self._number}"
        while (commit := self._find(message)) is None:
            with contextlib.suppress(TrunklineError):
                self._write(wanted, message)
        self.present = wanted
        self.commits[commit] = wanted

    def _find(self, message: str) -> str | None:
        path = path_of("projects", "default", "repos", "words", "commits")
        listed = _patiently(lambda: self.client.call("GET", path, query={"limit": 5}))["items"]
        return next((str(one["id"]) for one in listed if one["description"] == message), None)

    def _write(self, wanted: Content, message: str) -> None:
        gone = [name for name in self.present if name not in wanted]
        new = {name: text for name, text in wanted.items() if self.present.get(name) != text}
        client = self.client
        fileset = (
            client.upload_files("/v1/filesets", [(name, text.encode()) for name, text in new.items()])
            if new
            else None
        )
        changes: list[dict[str, Any]] = [{"op": "delete", "path": f"/{name}"} for name in gone]
        if fileset is not None:
            changes.append({"op": "take", "root": fileset["root"], "path": "/"})
        client.call(
            "POST",
            path_of("projects", "default", "files", "change"),
            json={"at": "words@master", "changes": changes, "description": message},
        )


def _expected(words: Content) -> tuple[Content, Content]:
    upper = {name: text.upper() for name, text in words.items()}
    return upper, {name: f"{text}{len(words)}\n" for name, text in upper.items()}


def _read(client: Client, address: str, folder: Path) -> Content:
    client.get_files(address, folder)
    return {path.name: path.read_text() for path in folder.iterdir()}


def _wait_for_all(server: ServerHarness) -> list[dict[str, Any]]:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        jobs: list[dict[str, Any]] = _patiently(
            lambda: server.client().call("GET", "/v1/jobs", query={"limit": 1000})
        )["items"]
        if all(job["status"] not in ("queued", "running") for job in jobs):
            return jobs
        assert time.monotonic() < deadline, [job for job in jobs if job["status"] in ("queued", "running")]
        time.sleep(0.2)


def _disturbed_run(tmp_path: Path, seconds: float) -> None:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    chance = random.Random(seed)
    server = ServerHarness(tmp_path / "home", settings={"TRUNKLINE_LEASE_SECONDS": "3"})
    server.start()
    disturbance = Disturbance(server, random.Random(seed + 1))
    try:
        assert server.cli("create", "repo", "words").returncode == 0
        for spec in (UPPER, PAIRS):
            server.client().call("POST", path_of("projects", "default", "pipelines"), json={"spec": spec})
        author = Author(server, chance)
        disturbance.start()
        ending_at = time.monotonic() + seconds
        while time.monotonic() < ending_at and disturbance.error is None:
            author.change()
            time.sleep(chance.uniform(0, 0.5))
        disturbance.enough.set()
        disturbance.join()
        assert disturbance.error is None, disturbance.error
        _check(server, author, tmp_path)
    finally:
        disturbance.enough.set()
        if disturbance.is_alive():
            disturbance.join()
        server.stop()
    print(f"{len(author.commits)} commits, killed {disturbance.killed}")
    assert min(disturbance.killed.values()) > 0, disturbance.killed
    left = [pid for pid in _processes(server.home, "any") if _is_there_for_long(pid)]
    assert left == []


def _is_there_for_long(pid: int) -> bool:
    time.sleep(0.5)
    return started_at(pid) is not None


def _check(server: ServerHarness, author: Author, tmp_path: Path) -> None:
    jobs = _wait_for_all(server)
    assert {job["status"] for job in jobs} == {"succeeded"}, [
        job for job in jobs if job["status"] != "succeeded"
    ]
    for number, (commit, words) in enumerate(author.commits.items()):
        upper, pairs = _expected(words)
        client = server.client()
        assert _read(client, f"upper@{commit}", tmp_path / f"upper-{number}") == upper
        assert _read(client, f"pairs@{commit}", tmp_path / f"pairs-{number}") == pairs
        for name in ("upper", "pairs"):
            job = client.inspect_job(f"{name}@{commit}")  # there may be more than are listed at once
            assert job.status == "succeeded", job
            assert job.total == job.processed + job.skipped == len(words), job


MANY = 3000
COPY = {
    "pipeline": {"name": "copy"},
    "input": {"pfs": {"repo": "numbers", "glob": "/*"}},
    "parallelism_spec": {"constant": 2},
    "transform": {"image": "trunkline", "cmd": ["cp", "-r", "/pfs/numbers/.", "/pfs/out"]},
}


@pytest.mark.slow
@pytest.mark.timeout(2 * PATIENCE_SECONDS)
def test_killed_while_workers_do_the_first_datums_of_a_plan(tmp_path: Path) -> None:
    """Twice: as soon as there are some, and when there are more."""
    server = ServerHarness(tmp_path / "home", settings={"TRUNKLINE_LEASE_SECONDS": "3"})
    server.start()
    try:
        assert server.cli("create", "repo", "numbers").returncode == 0
        server.client().call("POST", path_of("projects", "default", "pipelines"), json={"spec": COPY})
        numbers = {f"{number}": f"{number}\n" for number in range(MANY)}
        root = server.client().upload_files(
            "/v1/filesets", [(name, text.encode()) for name, text in numbers.items()]
        )
        take = {"op": "take", "root": root["root"], "path": "/"}
        change = {"at": "numbers@master", "changes": [take]}
        made = server.client().call("POST", path_of("projects", "default", "files", "change"), json=change)
        killed_at = []
        for datums in (1, 1000):
            killed_at.append(_half_planned(server.client(), made["id"], datums, killed_at))
            server.kill()
            server.start()
        assert 0 < killed_at[0]["total"] < MANY, "it was planned before anybody could look"
        job = next(job for job in _wait_for_all(server) if job["id"] == made["id"])
        assert (job["status"], job["total"], job["processed"] + job["skipped"]) == ("succeeded", MANY, MANY)
        assert _read(server.client(), "copy@master", tmp_path / "copied") == numbers
    finally:
        server.stop()


def _half_planned(client: Client, job_id: str, datums: int, before: list[dict[str, Any]]) -> dict[str, Any]:
    """The job while it is planned, not as the last server left it; or later, if that was quicker than we are."""
    while True:
        for job in client.call("GET", "/v1/jobs")["items"]:
            has_begun = job["id"] == job_id and job["started_at"]
            is_anew = all(one["started_at"] != job["started_at"] for one in before)
            if has_begun and is_anew and (job["phase"] != "planning" or job["total"] >= datums):
                return dict(job)


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 2 * PATIENCE_SECONDS)
def test_kills_for_some_seconds(tmp_path: Path) -> None:
    _disturbed_run(tmp_path, SECONDS)


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.timeout(NIGHTLY_SECONDS + 2 * PATIENCE_SECONDS)
def test_kills_for_five_minutes(tmp_path: Path) -> None:
    _disturbed_run(tmp_path, NIGHTLY_SECONDS)
