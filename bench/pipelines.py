"""Measure pipelines: ``python bench/pipelines.py plan [--datums 100000] [--dir FOLDER]``.

``plan``: a job of many datums, of which ten are new, from the commit to tasks that a worker could take; beside it the job that
had all of them to do; for each kind of input. Each step is a process of its own, so that its memory is its own and its caches are
cold. The worker is one that says of every datum that it made nothing, without a process.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import memory_mb

NEW = 10
FILES_PER_FOLDER = 1000
REPO, PIPELINE = "in", "p"


def _paired(by: str, name: str) -> dict[str, Any]:
    return {"pfs": {"name": name, "repo": REPO, "glob": "/(*)/(*)", by: "$1-$2"}}


INPUTS: dict[str, dict[str, Any]] = {
    "pfs": {"pfs": {"repo": REPO, "glob": "/*/*"}},
    "group": {"group": [_paired("group_by", "a")]},
    "join": {"join": [_paired("join_on", "a"), _paired("join_on", "b")]},
}


def open_services(folder: Path) -> Any:
    from trunkline.core.garbage import keep_what_is_there
    from trunkline.services import build
    from trunkline.settings import Settings

    keep_what_is_there()  # as the server does
    folder.mkdir(exist_ok=True)
    (folder / "run").mkdir(exist_ok=True)
    return build(Settings(home=folder))


def settle(services: Any) -> None:
    while services.jobs.outbox.drain() or services.jobs.step():
        pass


def work(services: Any) -> int:
    """Do all datums there are; returns how many."""
    from trunkline.core.status import Status
    from trunkline.jobs.model import Report
    from trunkline.jobs.queue import Lease

    done = 0
    while claimed := services.jobs.claim(f"pipeline:default/{PIPELINE}", "w", 1):
        for task, payload in claimed:
            lease = Lease(task_id=task.id, token=task.lease_token)
            results = [
                {"id": one["id"], "status": "succeeded", "attempts": 1, "root": None, "stats": {}}
                for one in payload["datums"]
            ]
            services.jobs.progress(lease, results, None)
            services.jobs.report(lease, Report(status=Status.SUCCEEDED))
            done += len(results)
    settle(services)
    return done


def puts(first: int, count: int) -> list[Any]:
    from trunkline.versioning.model import PutFile

    return [
        PutFile(path=f"/{n // FILES_PER_FOLDER:04}/{n:07}", parts=[b"%d" % n])
        for n in range(first, first + count)
    ]


def step_all(folder: Path, datums: int, source: str) -> dict[str, float]:
    """The first job: everything is new."""
    services = open_services(folder)
    services.versioning.create_repo("default", REPO)
    spec = {
        "pipeline": {"name": PIPELINE}, "input": INPUTS[source], "transform": {"cmd": ["true"]},
    }  # fmt: skip
    services.pipelines.create("default", spec)
    settle(services)
    services.versioning.modify("default", f"{REPO}@master", puts(0, datums))
    began = time.perf_counter()
    settle(services)
    planned = time.perf_counter() - began
    began = time.process_time()
    done = work(services)
    assert done == datums
    return {"seconds": planned, "work_seconds": time.process_time() - began, "datums": done}


def step_new(folder: Path, datums: int, source: str) -> dict[str, float]:
    """The next job: ten are new."""
    services = open_services(folder)
    commit = services.versioning.modify("default", f"{REPO}@master", puts(datums, NEW))
    began = time.perf_counter()
    settle(services)
    seconds = time.perf_counter() - began
    job = services.pipelines.inspect_job("default", PIPELINE, commit.id)
    assert (job.total, job.skipped) == (datums + NEW, datums), job
    assert work(services) == NEW
    return {"seconds": seconds, "datums": NEW}


STEPS = {"all": step_all, "new": step_new}


def plan(datums: int = 100_000, folder: Path | None = None) -> None:
    """Planning a job of 100,000 datums, ten of them new, of each kind of input."""
    with tempfile.TemporaryDirectory(dir=folder) as made:
        found = {
            (source, name): _run(name, Path(made) / source, datums, source)
            for source in INPUTS
            for name in STEPS
        }
    print(f"| {datums:,} datums | seconds | peak memory | promised |\n|---|---|---|---|")
    for source in INPUTS:
        first, new = found[source, "all"], found[source, "new"]
        print(f"| of {source}: all of them new | {first['seconds']:.2f} | {first['peak_mb']:.0f} MB | |")
        print(f"| ten of them new | {new['seconds']:.2f} | {new['peak_mb']:.0f} MB | under 1 s and 300 MB |")
    first = found["pfs", "all"]
    each = first["work_seconds"] / datums * 1e6
    print(
        f"| the server's part of doing them (processor) | {first['work_seconds']:.2f} ({each:.0f} us each) | | 150 us each |\n"
    )


def _run(name: str, folder: Path, datums: int, source: str) -> dict[str, float]:
    command = [
        sys.executable, __file__, f"step:{name}", "--datums", str(datums), "--dir", str(folder), "--input", source,
    ]  # fmt: skip
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=["plan", *(f"step:{name}" for name in STEPS)])
    parser.add_argument("--datums", type=int, default=100_000)
    parser.add_argument("--dir", type=Path)
    parser.add_argument("--input", choices=list(INPUTS), default="pfs")
    asked = parser.parse_args()
    if asked.part == "plan":
        plan(asked.datums, asked.dir)
        return
    found = STEPS[asked.part.removeprefix("step:")](asked.dir, asked.datums, asked.input)
    found["peak_mb"] = memory_mb("self", "VmHWM")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
