"""Measure the version store alone: ``VersioningService`` on a folder and SQLite, without a server.

    python bench/store.py [case ...] [--scale 1.0] [--dir FOLDER] [--profile]

Cases: ``small`` (10,000 files of 20 KB), ``big`` (one file of 2 GB), ``tiny`` (1,000,000 files of about 20 bytes). Each step is
a process of its own, so that its memory is its own and its caches are cold. Printed: seconds by the clock, seconds of all
processors, peak memory, and what the step says of itself.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from trunkline.core.clock import SystemClock
from trunkline.core.ids import TreeHash
from trunkline.jobs.outbox import Outbox
from trunkline.storage.db.engine import Database
from trunkline.storage.objects.local import LocalStore
from trunkline.versioning.model import PutFile
from trunkline.versioning.service import VersioningService

SMALL_FILES, SMALL_BYTES = 10_000, 20_000
BIG_BYTES = 2 * 10**9
TINY_DIRS, TINY_FILES = 1000, 1000
PART_BYTES = 4 * 2**20


class Bench:
    """One store in a folder; every method is a step and returns what it has to say."""

    def __init__(self, folder: Path, scale: float) -> None:
        self.folder = folder
        self.scale = scale
        self.objects = folder / "objects"
        self.db = Database(f"sqlite:///{folder}/trunkline.db")
        clock = SystemClock()
        publish = Outbox(self.db, clock).publish
        self.service = VersioningService(
            db=self.db, objects=LocalStore(self.objects), clock=clock, publish=publish
        )
        if not (folder / "made").exists():
            for name in ("small", "big", "tiny", "one"):
                self.service.create_repo("default", name)
            (folder / "made").touch()
        self.started = (0.0, 0.0)
        self.spent = (0.0, 0.0)

    # --- measuring

    def start(self) -> None:
        self.started = (time.perf_counter(), _cpu_seconds())

    def stop(self) -> None:
        self.spent = (time.perf_counter() - self.started[0], _cpu_seconds() - self.started[1])

    def stored_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.objects.rglob("*") if path.is_file())

    def root(self, address: str) -> TreeHash:
        return self.service.resolve("default", address)[1]

    # --- small files

    def small_data(self, changed: bool = False) -> list[tuple[str, bytes]]:
        pick = random.Random(1)
        files = [
            (f"/d{n // 100:03}/f{n:05}.bin", pick.randbytes(SMALL_BYTES))
            for n in range(int(SMALL_FILES * self.scale))
        ]
        if changed:
            for n in range(0, len(files), 100):
                files[n] = (files[n][0], pick.randbytes(SMALL_BYTES))
        return files

    def small_put(self, changed: bool = False) -> str:
        files = self.small_data(changed)
        before = self.stored_bytes()
        self.start()
        if changed:
            files = files[::100]
        self.service.modify("default", "small@master", (PutFile(path=p, parts=[d]) for p, d in files))
        self.stop()
        return f"{len(files) / self.spent[0]:,.0f} files/s, {(self.stored_bytes() - before) / 1e6:.1f} MB new"

    def small_change(self) -> str:
        return self.small_put(changed=True)

    def small_again(self) -> str:
        """All files once more, 1 % of them changed: what a client does that does not know what is there."""
        files = self.small_data(changed=True)
        self.start()
        self.service.modify("default", "small@master", (PutFile(path=p, parts=[d]) for p, d in files))
        self.stop()
        return f"{len(files) / self.spent[0]:,.0f} files/s"

    def small_get(self) -> str:
        root = self.root("small@master")
        self.start()
        size = count = 0
        for _, parts in self.service.read_files(root, self.service.walk(root)):
            count += 1
            for part in parts:
                size += len(part)
        self.stop()
        assert size == count * SMALL_BYTES
        return f"{count / self.spent[0]:,.0f} files/s"

    # --- one big file

    def big_source(self) -> Path:
        path = self.folder / "big.bin"
        if not path.exists():
            pick = random.Random(2)
            with path.open("wb") as file:
                left = int(BIG_BYTES * self.scale)
                while left > 0:
                    file.write(pick.randbytes(min(left, PART_BYTES)))
                    left -= PART_BYTES
        return path

    def big_put(self, first: bytes = b"", changed: int = 0) -> str:
        source = self.big_source()
        before = self.stored_bytes()
        self.start()
        self.service.modify(
            "default", "big@master", [PutFile(path="/big", parts=_parts_of(source, first, changed))]
        )
        self.stop()
        rate = source.stat().st_size / self.spent[0] / 1e6
        return f"{rate:,.0f} MB/s, {(self.stored_bytes() - before) / 1e6:.1f} MB new"

    def big_insert(self) -> str:
        return self.big_put(first=b"!")

    def big_change(self) -> str:
        """1 % of the bytes, in one place."""
        return self.big_put(changed=int(BIG_BYTES * self.scale / 100))

    def big_get(self) -> str:
        root = self.root("big@master")
        self.start()
        size = sum(len(part) for part in self.service.read(root, "/big"))
        self.stop()
        return f"{size / self.spent[0] / 1e6:,.0f} MB/s"

    # --- a million tiny files

    def tiny_put(self) -> str:
        dirs = int(TINY_DIRS * self.scale)
        self.start()
        self.service.modify("default", "tiny@master", _tiny(dirs))
        self.stop()
        return f"{dirs * TINY_FILES / self.spent[0]:,.0f} files/s, {self.stored_bytes() / 1e6:.1f} MB"

    def tiny_shuffled(self) -> str:
        """The worst order: files come as a hash table would give them."""
        dirs = int(TINY_DIRS * self.scale)
        self.start()
        self.service.stage(_tiny(dirs, shuffle=True))
        self.stop()
        return f"{dirs * TINY_FILES / self.spent[0]:,.0f} files/s, {self.stored_bytes() / 1e6:.1f} MB"

    def tiny_one(self) -> str:
        """One file into the large repo, and into an empty one."""
        said = []
        for address in ("one@master", "tiny@master"):
            before, files = self.stored_bytes(), _count(self.objects)
            self.start()
            self.service.modify("default", address, [PutFile(path="/d005/new", parts=[os.urandom(20)])])
            self.stop()
            said.append(
                f"{self.spent[0] * 1e3:.1f} ms, {self.stored_bytes() - before:,} bytes,"
                f" {_count(self.objects) - files} objects"
            )
        return "empty: " + said[0] + "; large: " + said[1]

    def tiny_list(self) -> str:
        root = self.root("tiny@master")
        self.start()
        assert sum(1 for _ in self.service.list_dir(root, "/d003")) == TINY_FILES
        cold = time.perf_counter() - self.started[0]
        sum(1 for _ in self.service.list_dir(root, "/d003"))
        self.stop()
        return f"cold {cold * 1e3:.1f} ms, warm {(self.spent[0] - cold) * 1e3:.1f} ms"

    def tiny_list_root(self) -> str:
        root = self.root("tiny@master")
        self.start()
        count = sum(1 for _ in self.service.list_dir(root, "/"))
        cold = time.perf_counter() - self.started[0]
        sum(1 for _ in self.service.list_dir(root, "/"))
        self.stop()
        return f"{count} directories; cold {cold * 1e3:.1f} ms, warm {(self.spent[0] - cold) * 1e3:.1f} ms"

    def tiny_change(self) -> str:
        dirs = int(TINY_DIRS * self.scale)
        pick = random.Random(3)
        self.start()
        self.service.modify(
            "default",
            "tiny@master",
            [
                PutFile(path=_tiny_path(pick.randrange(dirs), n * 9), parts=[b"other %d" % n])
                for n in range(100)
            ],
        )
        self.stop()
        return "100 files"

    def tiny_diff(self) -> str:
        old, new = self.root("tiny@master^"), self.root("tiny@master")
        self.start()
        count = sum(1 for _ in self.service.diff(old, new))
        self.stop()
        return f"{count} changes in {self.spent[0] * 1e3:.1f} ms"

    def tiny_walk(self) -> str:
        root = self.root("tiny@master")
        self.start()
        count = sum(1 for _ in self.service.walk(root))
        self.stop()
        return f"{count / self.spent[0]:,.0f} files/s"

    def tiny_get(self) -> str:
        root = self.root("tiny@master")
        self.start()
        count = sum(len(list(parts)) for _, parts in self.service.read_files(root, self.service.walk(root)))
        self.stop()
        return f"{count / self.spent[0]:,.0f} files/s"


STEPS = {
    "small": ["small_put", "small_get", "small_change", "small_again"],
    "big": ["big_put", "big_get", "big_change", "big_insert"],
    "tiny": [
        "tiny_put", "tiny_list", "tiny_list_root", "tiny_one", "tiny_change", "tiny_diff", "tiny_walk",
        "tiny_get", "tiny_shuffled",
    ],
}  # fmt: skip


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _count(folder: Path) -> int:
    return sum(1 for path in folder.rglob("*") if path.is_file())


def _parts_of(source: Path, first: bytes, changed: int) -> Iterator[memoryview]:
    """A file's parts, in one buffer that is used again and again, as a server would do it."""
    buffer = bytearray(PART_BYTES)
    view = memoryview(buffer)
    if first:
        yield memoryview(first)
    at = 0
    with source.open("rb", buffering=0) as file:
        while got := file.readinto(buffer):
            if changed and at >= PART_BYTES and at < PART_BYTES + changed:
                buffer[:got:64] = bytes(len(range(0, got, 64)))
            at += got
            yield view[:got]


def _tiny_path(directory: int, number: int) -> str:
    return f"/d{directory:03}/f{number:04}.txt"


def _tiny(dirs: int, shuffle: bool = False) -> Iterator[PutFile]:
    numbers = range(dirs * TINY_FILES)
    step = 7_368_787  # a prime: visits all numbers in another order
    for n in numbers:
        at = n * step % len(numbers) if shuffle else n
        yield PutFile(path=_tiny_path(*divmod(at, TINY_FILES)), parts=[b"file number %08d" % at])


def _step(name: str, folder: Path, scale: float, profile: bool) -> None:
    bench = Bench(folder, scale)
    action: Callable[[], str] = getattr(bench, name)
    if profile:
        import cProfile

        action = functools.partial(cProfile.Profile().runcall, action)
    said = action()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps({"wall": bench.spent[0], "cpu": bench.spent[1], "peak": peak, "said": said}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("case", nargs="*", choices=[*STEPS, []], help="default: all")
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--dir", type=Path, help="where to make the temporary folder")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    parser.add_argument("--profile", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        _step(options.step, options.dir, options.scale, options.profile)
        return
    print("| step | clock s | CPU s | peak MB | |\n|---|---|---|---|---|")
    for case in options.case or STEPS:
        folder = Path(tempfile.mkdtemp(prefix="trunkline-store-", dir=options.dir))
        try:
            for step in STEPS[case]:
                argv = [sys.executable, __file__, "--step", step, "--dir", str(folder)]
                argv += ["--scale", str(options.scale)]
                done = subprocess.run(argv, check=False, stdout=subprocess.PIPE, text=True)
                if done.returncode:
                    print(f"| {step} | failed | | | |")
                    continue
                found = json.loads(done.stdout.splitlines()[-1])
                print(
                    f"| {step} | {found['wall']:.3f} | {found['cpu']:.3f} | {found['peak']} | {found['said']} |",
                    flush=True,
                )
        finally:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
