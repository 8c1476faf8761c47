"""Measure what the documents promise, on this machine, and print it as the tables of ``docs/benchmarks.md``.

    python bench/run.py [start] [files] [install]      (no word: all)

Peers run in the same minutes on the same disk, and results are ratios to them: absolute times on shared machines mean little.
"""

from __future__ import annotations

import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

RUNS = 3
SMALL_FILES, SMALL_BYTES = 10_000, 20_000
BIG_BYTES = 1 << 30
TRUNKLINE = str(Path(sys.executable).with_name("trunkline"))


class Server:
    """A control server of its own, on free ports, gone at the end."""

    def __enter__(self) -> Server:
        self.home = Path(tempfile.mkdtemp(prefix="trunkline-bench-", dir=os.environ.get("BENCH_DIR")))
        self.env = {**os.environ, "TRUNKLINE_HOME": str(self.home / "home")}
        started = time.perf_counter()
        self.cli("up", "--detach", "--port", "0", "--gateway-port", "0")
        self.start_seconds = time.perf_counter() - started
        return self

    def __exit__(self, *_: object) -> None:
        self.cli("down")
        shutil.rmtree(self.home)

    def cli(self, *words: str) -> None:
        subprocess.run([TRUNKLINE, *words], env=self.env, check=True, stdout=subprocess.DEVNULL)

    @property
    def pid(self) -> int:
        import json

        return int(json.loads((self.home / "home" / "run" / "server.json").read_text())["pid"])

    def memory_mb(self, field: str = "VmRSS") -> float:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) / 1024
        raise RuntimeError(field)


def timed(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def run(*argv: str) -> None:
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)


def start() -> None:
    """Start, and rest."""
    times, memories = [], []
    for _ in range(RUNS):
        with Server() as server:
            times.append(server.start_seconds)
            time.sleep(3)
            memories.append(server.memory_mb())
    print("| | measured | promised |\n|---|---|---|")
    print(
        f"| `trunkline up --detach`, until it has answered | {statistics.median(times):.1f} s | under 2 s |"
    )
    print(f"| resident memory at rest | {statistics.median(memories):.0f} MB | under 150 MB |\n")


def files() -> None:
    """Bytes in and out, beside ``cp``, each with everything synced to disk."""
    with Server() as server:
        server.cli("create", "repo", "bench")
        small = server.home / "small"
        small.mkdir()
        for number in range(SMALL_FILES):
            (small / f"{number:05d}.bin").write_bytes(os.urandom(SMALL_BYTES))
        big = server.home / "big.bin"
        with big.open("wb") as file:
            for _ in range(BIG_BYTES >> 20):
                file.write(os.urandom(1 << 20))
        os.sync()
        rows = []
        for name, source in (
            (f"{SMALL_FILES:,} files of {SMALL_BYTES // 1000} kB", small),
            ("one file of 1 GiB", big),
        ):
            puts, gets, copies = [], [], []
            for turn in range(RUNS):
                copy = server.home / "copy"
                copies.append(timed(lambda s=source, c=copy: (run("cp", "-r", str(s), str(c)), os.sync())))
                run("rm", "-rf", str(copy))
                recursive = ("-r",) if source.is_dir() else ()
                target = f"bench@turn{turn}{name[0]}:/{'' if recursive else 'big.bin'}"
                puts.append(
                    timed(
                        lambda t=target, s=source, r=recursive: server.cli("put", "file", t, *r, "-f", str(s))
                    )
                )
                out = server.home / "out"
                gets.append(
                    timed(lambda t=target, o=out, r=recursive: server.cli("get", "file", t, *r, "-o", str(o)))
                )
                run("rm", "-rf", str(out))
                # the same bytes again would cost nothing: change them
                for path in sorted(source.iterdir()) if source.is_dir() else [source]:
                    with path.open("r+b") as file:
                        file.seek(0)
                        for _ in range(max(1, path.stat().st_size >> 16)):
                            file.write(os.urandom(8))
                            file.seek(65528, 1)
                os.sync()
            rows.append((name, statistics.median(copies), statistics.median(puts), statistics.median(gets)))
        print("| | cp -r + sync | put file | ratio | get file | ratio |\n|---|---|---|---|---|---|")
        for name, copied, put, got in rows:
            print(
                f"| {name} | {copied:.2f} s | {put:.2f} s | {put / copied:.2f} | {got:.2f} s | {got / copied:.2f} |"
            )
        print(f"\nPeak resident memory of the server meanwhile: {server.memory_mb('VmHWM'):.0f} MB\n")


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
    parts = {"start": start, "files": files, "install": install}
    chosen = sys.argv[1:] or list(parts)
    when = f"{datetime.now(UTC):%Y-%m-%d}"
    print(f"{when}, {os.cpu_count()} processors, {platform.machine()}, Python {platform.python_version()}\n")
    for name in chosen:
        print(f"## {name}: {(parts[name].__doc__ or '').strip()}\n")
        parts[name]()


if __name__ == "__main__":
    main()
