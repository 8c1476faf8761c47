"""What all benchmarks share: a server of their own, times, medians, generated data."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trunkline.sdk.client import Client

# A shell may forbid Python to keep compiled modules; whoever has installed a program has them.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

TRUNKLINE = (sys.executable, "-m", "trunkline.cli.main")


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
        subprocess.run(
            [*TRUNKLINE, *words],
            env=self.env,
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def client(self) -> Client:
        """In this process: a command of its own, just to ask, would take processor time from what is measured."""
        from trunkline.sdk.client import Client

        url = json.loads((self.home / "home" / "run" / "server.json").read_text())["url"]
        return Client(url=url, token=(self.home / "home" / "token").read_text().strip())

    @property
    def objects_bytes(self) -> int:
        """What the store's objects take on the disk."""
        folder = self.home / "home" / "objects"
        return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())

    @property
    def pid(self) -> int:
        return int(json.loads((self.home / "home" / "run" / "server.json").read_text())["pid"])

    def memory_mb(self, field: str = "VmRSS") -> float:
        return memory_mb(self.pid, field)


def memory_mb(process: int | str, field: str) -> float:
    """Of one process, as the system counts it. (What ``getrusage`` calls the peak of a process may be that of its parent.)"""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise RuntimeError(field)


def timed(action: Callable[[], object]) -> float:
    """Seconds. What others have written is on the disk before."""
    os.sync()
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def run(*argv: str | Path, env: dict[str, str] | None = None, cwd: Path | None = None) -> None:
    """A command that must succeed, silently."""
    words = [str(word) for word in argv]
    done = subprocess.run(
        words, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=env, cwd=cwd
    )
    if done.returncode:
        raise RuntimeError(f"{words}: {done.stderr.decode(errors='replace')[-500:]}")


def median(values: list[float]) -> float:
    return statistics.median(values)


def make_files(folder: Path, count: int, size: int) -> None:
    """Files of random bytes, in folders of a thousand."""
    for number in range(count):
        path = folder / f"{number // 1000:03d}" / f"{number:06d}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(size))


def make_big(path: Path, size: int) -> None:
    """One file of random bytes."""
    with path.open("wb") as file:
        for start in range(0, size, 1 << 20):
            file.write(os.urandom(min(1 << 20, size - start)))
