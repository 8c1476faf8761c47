"""Datums that do nothing, beside Prefect, Dagster, Metaflow, ``dvc repro`` and ``xargs -P2``: what each costs.

python bench/datums.py [--count 1000 10000] [--rounds 5]

Everybody gets two at a time. Who needs a second and more for each task gets fewer tasks (the table says how many): the cost of
each is what is compared: (many - few) / (their difference), so that nobody's start counts. trunkline's jobs, each from its
commit to its end, and xargs take turns; their figures are medians, and the last column that of the rounds' own ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import Server, median, run

if TYPE_CHECKING:
    from trunkline.wire.jobs import Job

FLOWS = Path(__file__).parent / "flows"
QUIET = {
    "PREFECT_LOGGING_LEVEL": "ERROR",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "DO_NOT_TRACK": "1",
}
COUNTS = (1000, 10_000)
FEW = 10
ROUNDS = 5
STARTS = 9
REST_SECONDS = 0.5


@dataclass(frozen=True)
class Peer:
    name: str
    kind: str
    """``process``: one is started for each task; ``call``: in a process that stays."""
    seconds: Callable[[Path, int], float]
    count_max: int
    """More would take minutes."""


# --- the peers, each in an environment of its own ---


def program(package: str, name: str) -> Path:
    """A program of a peer, installed at the first call."""
    folder = Path(sys.executable).parent.parent / "peers" / package
    if not (folder / "bin" / name).exists():
        run(sys.executable, "-m", "venv", folder)
        run(folder / "bin" / "pip", "install", "--quiet", package)
    return folder / "bin" / name


def timed(*words: Any, env: dict[str, str], cwd: Path) -> tuple[float, str]:
    started = time.perf_counter()
    done = subprocess.run(
        [str(word) for word in words],
        env={**os.environ, **env},
        cwd=cwd,
        check=False,
        capture_output=True,
        text=True,
    )
    seconds = time.perf_counter() - started
    if done.returncode:
        raise RuntimeError(f"{words[0]} failed: {(done.stderr or done.stdout)[-500:]}")
    return seconds, done.stdout


def xargs(folder: Path, count: int) -> float:
    names = "\n".join(map(str, range(count)))
    started = time.perf_counter()
    subprocess.run(["xargs", "-P2", "-n1", "true"], input=names, text=True, check=True, cwd=folder)
    return time.perf_counter() - started


def prefect(kind: str) -> Callable[[Path, int], float]:
    def seconds(folder: Path, count: int) -> float:
        env = {"PREFECT_HOME": str(folder), **QUIET}
        python = program("prefect", "python")
        _, said = timed(python, FLOWS / "prefect_flow.py", kind, count, env=env, cwd=folder)
        return float(said.rpartition("SECONDS ")[2].split()[0])

    return seconds


def dagster(kind: str) -> Callable[[Path, int], float]:
    def seconds(folder: Path, count: int) -> float:
        (folder / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
        env = {"DAGSTER_HOME": str(folder), "FLOW_COUNT": str(count), "FLOW_KIND": kind}
        command = program("dagster", "dagster")
        return timed(command, "job", "execute", "-f", FLOWS / "dagster_job.py", env=env, cwd=folder)[0]

    return seconds


def metaflow(folder: Path, count: int) -> float:
    env = {"METAFLOW_USER": "bench", "METAFLOW_HOME": str(folder)}
    words = (
        "--no-pylint",
        "--quiet",
        "run",
        "--count",
        count,
        "--max-workers",
        "2",
        "--max-num-splits",
        count,
    )
    return timed(program("metaflow", "python"), FLOWS / "metaflow_flow.py", *words, env=env, cwd=folder)[0]


def dvc(folder: Path, count: int) -> float:
    """One stage for each file. ``dvc repro`` runs them one after the other."""
    env = {"DVC_NO_ANALYTICS": "true", "HOME": str(folder)}
    for name in ("in", "out"):
        (folder / name).mkdir()
    for number in range(count):
        (folder / "in" / str(number)).write_text(str(number))
    stage = {"cmd": "cp in/${item} out/${item}", "deps": ["in/${item}"], "outs": ["out/${item}"]}
    stages = {"nothing": {"foreach": [str(number) for number in range(count)], "do": stage}}
    (folder / "dvc.yaml").write_text(json.dumps({"stages": stages}))
    command = program("dvc", "dvc")
    run(command, "init", "--no-scm", "--quiet", env={**os.environ, **env}, cwd=folder)
    return timed(command, "repro", "--quiet", env=env, cwd=folder)[0]


PEERS = (
    Peer("prefect", "call", prefect("call"), 1000),
    Peer("prefect", "process", prefect("process"), 1000),
    Peer("dagster", "call", dagster("call"), 1000),
    Peer("dagster", "process", dagster("process"), 8),
    Peer("metaflow", "process", metaflow, 30),
    Peer("dvc repro", "process", dvc, 60),
)


# --- trunkline ---


class Trunkline:
    """A pipeline of datums that do nothing, on a server that is warm: its worker has just done a small job."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __enter__(self) -> Trunkline:
        self._server = Server().__enter__()
        self._client = self._server.client()
        self._folder = Path(
            tempfile.mkdtemp(prefix="trunkline-bench-datums-", dir=os.environ.get("BENCH_DIR"))
        )
        self._client.create_repo("numbers")
        code = self._folder / "code"
        code.mkdir()
        (code / "batch.py").write_text("import trunkline\nfor datum in trunkline.datums():\n    pass\n")
        batching = {"cmd": ["python", "batch.py"], "code": "code", "datum_batching": True}
        spec = {
            "pipeline": {"name": "nothing"},
            "input": {"pfs": {"repo": "numbers", "glob": "/*"}},
            "parallelism_spec": {"constant": 2},
            "transform": {
                "image": "trunkline",
                **({"cmd": ["true"]} if self.kind == "process" else batching),
            },
        }
        file = self._folder / "spec.json"
        file.write_text(json.dumps(spec))
        self._server.cli("create", "pipeline", "-f", str(file))
        self._number = 0
        self.job(FEW)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.__exit__()
        shutil.rmtree(self._folder)

    def job(self, count: int) -> Job:
        """Commit so many new files, and wait for the job."""
        self._number += 1
        files = [(f"{self._number}-{number}", b"%d %d" % (self._number, number)) for number in range(count)]
        commit = self._client.put_files("numbers@master:/", files)
        job = self._client.wait_job(f"nothing@{commit.id}")
        if job.status != "succeeded" or job.processed != count:
            raise RuntimeError(f"the job did not do its {count} datums: {job}")
        return job

    def seconds(self, count: int) -> float:
        """From the commit to the end of its job."""
        job = self.job(count)
        assert job.finished_at is not None, "it has ended"
        return job.finished_at - job.created_at

    def first_start(self) -> float:
        """Seconds from a commit to the start of its first datum, of a server at rest."""
        time.sleep(REST_SECONDS)
        job = self.job(1)
        commit = self._client.inspect_commit(f"numbers@{job.id}")
        [datum] = [one for one in self._client.list_datums(f"nothing@{job.id}") if one.started_at]
        assert datum.started_at is not None and commit.finished_at is not None, "both are over"
        return datum.started_at - commit.finished_at


# --- the table ---


@dataclass
class Row:
    name: str
    kind: str
    count: int
    whole: list[float] = field(default_factory=list)
    """Seconds, of each round."""
    each: list[float] = field(default_factory=list)
    """Seconds for a task beyond the start."""


def datums(counts: tuple[int, ...] = COUNTS, rounds: int = ROUNDS) -> None:
    """Datums that do nothing."""
    rows = [
        _costs(Row(peer.name, peer.kind, count), lambda number, peer=peer: _in_folder(peer, number))
        for peer in PEERS
        for count in sorted({min(count, peer.count_max) for count in counts})
    ]
    base = Peer("xargs -P2", "process", xargs, max(counts))
    ratios: dict[tuple[str, int], list[float]] = {}
    starts: list[float] = []
    for kind in ("process", "call"):
        with Trunkline(kind) as trunkline:
            for count in counts:
                beside, ours = Row(base.name, base.kind, count), Row("trunkline", kind, count)
                for _ in range(rounds):  # in turns: the machine is now quicker, now slower
                    _costs(beside, lambda number: _in_folder(base, number))
                    _costs(ours, trunkline.seconds)
                rows += [beside, ours] if kind == "process" else [ours]
                ratios[kind, count] = [a / b for a, b in zip(ours.each, beside.each, strict=True)]
            if kind == "process":
                starts = [trunkline.first_start() for _ in range(STARTS)]
    _print(rows, ratios, counts[0])
    print("\nCommit to first datum started, by a server at rest with a warm worker:", end=" ")
    print(f"{median(starts) * 1000:.0f} ms (median of {STARTS}).\n")


def _print(rows: list[Row], ratios: dict[tuple[str, int], list[float]], fewest: int) -> None:
    print("| | one process each? | tasks | seconds in all | milliseconds each | tasks/s | beside xargs |")
    print("|---|---|---|---|---|---|---|")
    base = {row.count: median(row.each) for row in rows if row.name == "xargs -P2"}
    for row in sorted(rows, key=lambda row: (row.kind != "process", median(row.each))):
        each = median(row.each)
        ratio = each / base.get(row.count, base[fewest])
        if row.name == "trunkline":
            ratio = median(ratios[row.kind, row.count])
        shown = "yes" if row.kind == "process" else "no"
        print(
            f"| {row.name} | {shown} | {row.count:,} | {median(row.whole):.1f} | {each * 1000:.2f} | {1 / each:,.0f} | "
            f"{ratio:.1f} |"
        )


def _costs(row: Row, seconds: Callable[[int], float]) -> Row:
    """Another round: seconds in all, and for each task beyond the start."""
    few = min(FEW, row.count // 2)
    whole, small = (seconds(number) for number in (row.count, few))
    row.whole.append(whole)
    row.each.append(max(whole - small, 1e-9) / (row.count - few))
    return row


def _in_folder(peer: Peer, count: int) -> float:
    folder = Path(tempfile.mkdtemp(prefix="trunkline-bench-peer-", dir=os.environ.get("BENCH_DIR")))
    try:
        return peer.seconds(folder, count)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, nargs="+", default=list(COUNTS))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    args = parser.parse_args()
    datums(tuple(args.count), args.rounds)
