"""Versioned data beside cp, tar, borg, restic and DVC, through the real command; and what only a store of versions does.

python bench/data.py [--scale 1.0] [--rounds 3]
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from common import Server, make_big, make_files, median, run, timed
from peers import Dvc, Program, Trunkline, available

SMALL_FILES, SMALL_BYTES = 10_000, 20_000
BIG_BYTES = 2 * 10**9
TINY_FILES, TINY_PER_FOLDER = 1_000_000, 1000


def change_files(folder: Path, share: float) -> None:
    """Rewrite so many of the files."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in files[:: max(1, round(1 / share))]:
        path.write_bytes(os.urandom(path.stat().st_size))


def change_big(folder: Path, share: float) -> None:
    """Overwrite a run of so many bytes in the middle."""
    path = folder / "big.bin"
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 2)
        file.write(os.urandom(int(size * share)))


def insert_byte(folder: Path) -> None:
    """One byte more at the start: everything behind it moves."""
    path, moved = folder / "big.bin", folder.parent / "moved.bin"
    with path.open("rb") as source, moved.open("wb") as target:
        target.write(b"!")
        shutil.copyfileobj(source, target, 1 << 20)
    moved.replace(path)


Change = Callable[[Path], None]


def compare(
    make: Callable[[Path], None],
    changes: list[tuple[str, Change]],
    rounds: int,
    *,
    keep: bool,
    sync_gets: bool,
) -> None:
    """Every program: first put, get, then a put after each change; medians of ``rounds``.

    All programs do a step, each round in another order, before any does the next one, so that they meet the same disk and memory.
    ``keep``: nothing is deleted until the end: for a minute or more after files were deleted, ext4 makes new ones at a tenth of
    its speed, whoever asks. ``sync_gets``: what is got has to be on the disk, too.
    """
    names = [name for name, _ in available()]
    times: dict[str, dict[str, list[float]]] = {name: {} for name in names}
    grown: dict[str, dict[str, int]] = {name: {} for name in names}
    memory = 0.0
    top = Path(tempfile.mkdtemp(prefix="trunkline-bench-data-", dir=os.environ.get("BENCH_DIR")))
    try:
        for number in range(rounds):
            folder = top / str(number)
            folder.mkdir()
            kinds = available()
            programs = one_round(
                folder, kinds[number:] + kinds[:number], make, changes, times, grown, sync_gets
            )
            memory = max([memory, *(one.memory_mb for one in programs if isinstance(one, Trunkline))])
            if not keep:
                shutil.rmtree(folder)
    finally:
        shutil.rmtree(top, ignore_errors=True)
    print_table(names, times, grown, ["put", "get", *(name for name, _ in changes)])
    print(f"\nPeak resident memory of trunkline's server: {memory:.0f} MB\n")


def one_round(
    folder: Path, kinds: list[tuple[str, type[Program]]], make: Callable[[Path], None], changes: list[tuple[str, Change]],
    times: dict[str, dict[str, list[float]]], grown: dict[str, dict[str, int]], sync_gets: bool,
) -> list[Program]:  # fmt: skip
    source = folder / "source"
    source.mkdir()
    make(source)
    programs = []
    for name, kind in kinds:
        work = folder / name.replace(" ", "")
        work.mkdir()
        programs.append(kind(name, work))
        programs[-1].prepare()
    try:
        for what, change in [("put", None), ("get", None), *changes]:
            if change is not None:
                change(source)
            for program in programs:
                if isinstance(program, Dvc) and what != "get":
                    program.place(source)
                os.sync()
                before = 0 if what == "get" else program.stored_bytes()
                seconds = timed(_step(program, what, source, folder / f"out-{program.name}", sync_gets))
                times[program.name].setdefault(what, []).append(seconds)
                if what != "get":
                    grown[program.name][what] = program.stored_bytes() - before
    finally:
        for program in programs:
            if isinstance(program, Trunkline):
                program.close()
    return programs


def _step(program: Program, what: str, source: Path, out: Path, sync_gets: bool) -> Callable[[], object]:
    if what == "get":
        return lambda: (program.get(out), sync_gets and run("sync", "-f", out.parent))
    if what != "put" and isinstance(program, Trunkline):
        return lambda: program.put_again(source)
    return lambda: program.put(source)


def print_table(
    names: list[str],
    times: dict[str, dict[str, list[float]]],
    grown: dict[str, dict[str, int]],
    steps: list[str],
) -> None:
    print("| | " + " | ".join(f"{step} | ratio" for step in steps) + " |")
    print("|---" * (1 + 2 * len(steps)) + "|")
    base = {step: median(times[names[0]][step]) for step in steps}
    for name in names:
        cells = [(median(times[name][step]), median(times[name][step]) / base[step]) for step in steps]
        print(
            f"| {name} | " + " | ".join(f"{seconds:.2f} s | {ratio:.2f}" for seconds, ratio in cells) + " |"
        )
    print("\n| stored, MB | " + " | ".join(step for step in steps if step != "get") + " |")
    print("|---" * len(steps) + "|")
    for name in names:
        cells = [f"{grown[name][step] / 1e6:.1f}" for step in steps if step != "get"]
        print(f"| {name} | " + " | ".join(cells) + " |")


def tiny(count: int) -> None:
    """Tiny files from a generator, through the client; one directory listed, two commits compared."""

    def files(start: int = 0, stop: int = count) -> Iterator[tuple[str, bytes]]:
        for number in range(start, stop):
            yield f"{number // TINY_PER_FOLDER:04d}/{number:07d}", b"%d" % number

    with Server() as server:
        client = server.client()
        client.create_repo("tiny")
        seconds = timed(lambda: client.put_files("tiny@master:/", files()))
        again = {
            f"{n * (count // 100) // TINY_PER_FOLDER:04d}/{n * (count // 100):07d}": b"new"
            for n in range(100)
        }
        changed = timed(lambda: client.put_files("tiny@master:/", list(again.items())))
        one = timed(lambda: client.put_file("tiny@master:/0000/one", b"1"))
        client.create_repo("empty")
        fresh = timed(lambda: client.put_file("empty@master:/0000/one", b"1"))
        listing, diffing = [], []
        for _ in range(5):
            started = time.perf_counter()
            found = client.list_files("tiny@master:/0007")
            listing.append(time.perf_counter() - started)
            started = time.perf_counter()
            entries = client.diff_files("tiny@master^:/", "tiny@master^^")
            diffing.append(time.perf_counter() - started)
        assert len(found) == TINY_PER_FOLDER or count < 10 * TINY_PER_FOLDER, len(found)
        assert len(entries) == 100, len(entries)
        rows = [
            (f"put {count:,} files", f"{seconds:.1f} s, {count / seconds:,.0f} files/s", "30,000 files/s"),
            ("put 100 changed files into them", f"{changed * 1000:.0f} ms", ""),
            ("put one file into them", f"{one * 1000:.0f} ms", ""),
            ("put one file into an empty repo", f"{fresh * 1000:.0f} ms", ""),
            ("list a directory of 1,000: first, then median", _first_and_median(listing), "20 ms"),
            ("diff two commits 100 files apart: first, then median", _first_and_median(diffing), "200 ms"),
            ("peak resident memory of the server", f"{server.memory_mb('VmHWM'):.0f} MB", "300 MB"),
        ]
        print("| | measured | promised |\n|---|---|---|")
        for row in rows:
            print(f"| {' | '.join(row)} |")
        print()


def _first_and_median(seconds: list[float]) -> str:
    return f"{seconds[0] * 1000:.0f} ms, {median(seconds[1:]) * 1000:.0f} ms"


def data(scale: float = 1.0, rounds: int = 3) -> None:
    """Versioned data beside other programs: everything is on the disk when the clock stops."""
    count, big, small = round(SMALL_FILES * scale), round(BIG_BYTES * scale), SMALL_BYTES
    print(f"### {count:,} files of {small // 1000} kB\n")
    compare(
        lambda folder: make_files(folder, count, small),
        [("1 % of the files changed", lambda folder: change_files(folder, 0.01))],
        rounds,
        keep=True,
        sync_gets=False,
    )
    print(f"### One file of {big / 1e9:g} GB, on the disk both ways\n")
    compare(
        lambda folder: make_big(folder / "big.bin", big),
        [
            ("1 % of it changed", lambda folder: change_big(folder, 0.01)),
            ("one byte inserted at its start", insert_byte),
        ],
        rounds,
        keep=False,
        sync_gets=True,
    )
    print("### Tiny files\n")
    tiny(round(TINY_FILES * scale))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    data(args.scale, args.rounds)


if __name__ == "__main__":
    main()
