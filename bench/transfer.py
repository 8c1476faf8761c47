"""Measure the front door: files in and out through the real command, with a server of its own, in turns with ``cp``.

    python bench/transfer.py [small] [big] [tiny] [--scale 1.0] [--rounds 3] [--parallel 1] [--dir FOLDER]

Cases: ``small`` (10,000 files of 20 KB), ``big`` (one file of 2 GB), ``tiny`` (1,000,000 files of about 20 bytes). What is put is
new to the store every time. ``put`` is acknowledged and durable, so its peer is ``cp`` and ``sync``; ``get`` of many files is no
more durable than ``cp``, and of one large file both are synced. Ratios are medians of each round's own, since absolute times on
shared machines mean little; the seconds of processor time, of the command and of the server, mean more.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from common import TRUNKLINE, Server, make_big, make_files, median

SMALL_FILES, SMALL_BYTES = 10_000, 20_000
BIG_BYTES = 2 * 10**9
TINY_FILES, TINY_PER_FOLDER = 1_000_000, 1000
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Row:
    """What was measured of one direction of one case."""

    ours: list[float] = field(default_factory=list)
    peer: list[float] = field(default_factory=list)
    command_cpu: list[float] = field(default_factory=list)
    server_cpu: list[float] = field(default_factory=list)

    def line(self, name: str, count: int) -> str:
        ratio = median([a / b for a, b in zip(self.ours, self.peer, strict=True)])
        best = min(self.ours)
        return (
            f"| {name} | {median(self.ours):.2f} | {best:.2f} | {median(self.peer):.2f} | {min(self.peer):.2f} | {ratio:.2f} | "
            f"{median(self.command_cpu):.2f} | {median(self.server_cpu):.2f} | {count / best:,.0f} |"
        )


class Bench:
    """One server and one case after the other."""

    def __init__(self, server: Server, folder: Path, options: argparse.Namespace) -> None:
        self._server = server
        self._folder = folder
        self._options = options
        self._env = server.env
        self._command("version")

    def small(self) -> list[str]:
        def make(source: Path) -> int:
            make_files(source, count := int(SMALL_FILES * self._options.scale), SMALL_BYTES)
            return count

        return self._compare("10,000 files of 20 KB", make, is_folder=True)

    def big(self) -> list[str]:
        def make(source: Path) -> int:
            make_big(source, int(BIG_BYTES * self._options.scale))
            return 1

        return self._compare("one file of 2 GB", make, is_folder=False)

    def tiny(self) -> list[str]:
        def make(source: Path) -> int:
            count = int(TINY_FILES * self._options.scale)
            stamp = time.time_ns()
            for number in range(count):
                path = source / f"d{number // TINY_PER_FOLDER:04}" / f"f{number % TINY_PER_FOLDER:04}"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(b"%d %d" % (stamp, number))
            return count

        return self._compare("1,000,000 files of 20 bytes", make, is_folder=True)

    def _compare(self, name: str, make: Callable[[Path], int], *, is_folder: bool) -> list[str]:
        put, get = Row(), Row()
        count = 0
        copied, got = self._folder / "copied", self._folder / "got"
        recursive = ["-r"] if is_folder else []
        for number in range(self._options.rounds):
            source = self._folder / f"source{number}"
            count = make(source)
            repo = f"{source.name}-{'many' if is_folder else 'one'}-{count}"
            self._command("create", "repo", repo)
            put.peer.append(_seconds(partial(_run, "cp", *recursive, source, copied), sync=True))
            self._measure(put, "put", "file", f"{repo}@master:/x", "-f", source, *recursive, *self._parallel)
            _remove(copied)
            get.peer.append(_seconds(partial(_run, "cp", *recursive, source, copied), sync=not is_folder))
            self._measure(get, "get", "file", f"{repo}@master:/x", "-o", got, *recursive)
            _run("diff", *recursive, source, got) if is_folder else _run("cmp", source, got)
            for path in (copied, got, source):
                _remove(path)
        return [put.line(f"put {name}", count), get.line(f"get {name}", count)]

    @property
    def _parallel(self) -> list[str]:
        return ["-p", str(self._options.parallel)] if self._options.parallel > 1 else []

    def _measure(self, row: Row, *words: str | Path) -> None:
        server, command = self._server_cpu(), _children_cpu()
        is_large_get = words[0] == "get" and "-r" not in words
        row.ours.append(_seconds(lambda: self._command(*words), sync=is_large_get))
        row.command_cpu.append(_children_cpu() - command)
        row.server_cpu.append(self._server_cpu() - server)

    def _server_cpu(self) -> float:
        found = Path(f"/proc/{self._server.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(found[11]) + int(found[12])) / TICKS

    def _command(self, *words: str | Path) -> None:
        _run(*TRUNKLINE, *words, env=self._env)


def _seconds(action: Callable[[], None], *, sync: bool = False) -> float:
    os.sync()
    started = time.perf_counter()
    action()
    if sync:
        os.sync()
    return time.perf_counter() - started


def _children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _run(*argv: str | Path, env: dict[str, str] | None = None) -> None:
    done = subprocess.run([str(word) for word in argv], env=env, check=False, capture_output=True)
    if done.returncode:
        raise SystemExit(f"{argv}: {done.stderr.decode(errors='replace')}")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("case", nargs="*", choices=["small", "big", "tiny", []], help="default: all")
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--parallel", type=int, default=1)
    parser.add_argument("--dir", type=Path, help="where to make the temporary folder")
    options = parser.parse_args()
    print("| | s | best | cp s | best | ratio | command CPU s | server CPU s | files/s |")
    print("|---|---|---|---|---|---|---|---|---|")
    for case in options.case or ["small", "big", "tiny"]:
        folder = Path(tempfile.mkdtemp(prefix="trunkline-transfer-", dir=options.dir))
        os.environ["BENCH_DIR"] = str(folder)
        try:
            with Server() as server:
                for line in getattr(Bench(server, folder, options), case)():
                    print(line, flush=True)
                print(
                    f"| peak memory of the server | {server.memory_mb('VmHWM'):.0f} MB | | | | | | | |",
                    flush=True,
                )
        finally:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
