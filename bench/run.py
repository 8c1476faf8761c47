"""Measure what the documents promise, on this machine, and print it as the tables of ``docs/benchmarks.md``.

    python bench/run.py [start] [data] [plan] [install]      (no word: all)

Peers run in the same minutes on the same disk, and results are ratios to them: absolute times on shared machines mean little.
"""

from __future__ import annotations

import os
import platform
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from common import Server, run, timed
from data import data
from datums import datums

from pipelines import plan

RUNS = 3


def start() -> None:
    """Start, and rest."""
    times, memories, commands = [], [], []
    for _ in range(RUNS):
        with Server() as server:
            times.append(server.start_seconds)
            commands += [timed(lambda: server.cli("list", "repo")) for _ in range(RUNS)]
            time.sleep(3)
            memories.append(server.memory_mb())
    print("| | measured | promised |\n|---|---|---|")
    print(
        f"| `trunkline up --detach`, until it has answered | {statistics.median(times):.1f} s | under 2 s |"
    )
    print(f"| a command: `trunkline list repo` | {statistics.median(commands):.2f} s | |")
    print(f"| resident memory at rest | {statistics.median(memories):.0f} MB | under 150 MB |\n")


def install() -> None:
    """What ``pip install trunkline`` brings."""
    root = Path(__file__).resolve().parent.parent
    with tempfile.TemporaryDirectory() as folder:
        run(sys.executable, "-m", "venv", "--without-pip", folder)
        site = next(Path(folder).glob("lib/python*/site-packages"))
        run(
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-compile",
            "--target",
            str(site),
            str(root),
        )
        packages = len(list(site.glob("*.dist-info")))
        size = sum(path.stat().st_size for path in site.rglob("*") if path.is_file()) / 1e6
    print("| `pip install trunkline` | measured | promised |\n|---|---|---|")
    print(f"| packages, itself included | {packages} | 30 |\n| megabytes installed | {size:.0f} | 60 |\n")


def main() -> None:
    parts = {"start": start, "data": data, "plan": plan, "datums": datums, "install": install}
    chosen = sys.argv[1:] or list(parts)
    when = f"{datetime.now(UTC):%Y-%m-%d}"
    print(f"{when}, {os.cpu_count()} processors, {platform.machine()}, Python {platform.python_version()}\n")
    for name in chosen:
        print(f"## {name}: {(parts[name].__doc__ or '').strip()}\n")
        parts[name]()


if __name__ == "__main__":
    main()
