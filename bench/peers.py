"""The programs that trunkline's data is measured against, each in its own environment, all on the same disk."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from common import Server, run


@dataclass
class Program:
    """One way to keep a folder. ``source`` is the folder that holds the data; ``work`` is the program's own place."""

    name: str
    work: Path
    env: dict[str, str] = field(default_factory=dict)

    def prepare(self) -> None:
        """Make an empty store; not measured."""

    def put(self, source: Path) -> None:
        """Keep what the folder holds now, durably."""
        raise NotImplementedError

    def get(self, target: Path) -> None:
        """Write what was kept last into a new folder; not synced."""
        raise NotImplementedError

    def stored_bytes(self) -> int:
        return sum(path.lstat().st_size for path in self.work.rglob("*") if path.is_file())


class Copy(Program):
    """A whole copy each time: that is how it keeps versions."""

    def prepare(self) -> None:
        self._count = 0

    def put(self, source: Path) -> None:
        self._count += 1
        run("cp", "-r", source, self.work / str(self._count))
        run("sync", "-f", self.work)

    def get(self, target: Path) -> None:
        run("cp", "-r", self.work / str(self._count), target)


class Tar(Program):
    def prepare(self) -> None:
        self._count = 0

    def put(self, source: Path) -> None:
        self._count += 1
        run("tar", "cf", self.work / f"{self._count}.tar", "-C", source, ".")
        run("sync", "-f", self.work)

    def get(self, target: Path) -> None:
        target.mkdir()
        run("tar", "xf", self.work / f"{self._count}.tar", "-C", target)


class Borg(Program):
    def prepare(self) -> None:
        self.env = {**os.environ, "BORG_BASE_DIR": str(self.work), "BORG_RELOCATED_REPO_ACCESS_IS_OK": "yes"}
        run("borg", "init", "--encryption", "none", self.work / "repo", env=self.env)
        self._count = 0

    def put(self, source: Path) -> None:
        self._count += 1
        run("borg", "create", f"{self.work / 'repo'}::{self._count}", ".", env=self.env, cwd=source)
        run("sync", "-f", self.work)

    def get(self, target: Path) -> None:
        target.mkdir()
        run("borg", "extract", f"{self.work / 'repo'}::{self._count}", env=self.env, cwd=target)


class Restic(Program):
    def prepare(self) -> None:
        self.env = {**os.environ, "RESTIC_PASSWORD": "bench", "RESTIC_CACHE_DIR": str(self.work / "cache")}
        run("restic", "init", "--repo", self.work / "repo", env=self.env)

    def put(self, source: Path) -> None:
        run("restic", "--repo", self.work / "repo", "backup", ".", env=self.env, cwd=source)
        run("sync", "-f", self.work)

    def get(self, target: Path) -> None:
        run("restic", "--repo", self.work / "repo", "restore", "latest", "--target", target, env=self.env)


class Dvc(Program):
    """``dvc add`` in a folder of its own; the data is copied there first, unmeasured, as a user's would be there."""

    def prepare(self) -> None:
        self.env = {**os.environ, "DVC_NO_ANALYTICS": "true", "HOME": str(self.work)}
        self._dvc = dvc_program()
        run(self._dvc, "init", "--no-scm", env=self.env, cwd=self.work)

    def place(self, source: Path) -> None:
        run("cp", "-r", "--no-target-directory", source, self.work / "data")

    def put(self, source: Path) -> None:
        run(self._dvc, "add", "data", env=self.env, cwd=self.work)
        run("sync", "-f", self.work)

    def get(self, target: Path) -> None:
        (self.work / "data").rename(target)  # not deleted: see ``compare``
        run(self._dvc, "checkout", "data.dvc", env=self.env, cwd=self.work)


class Trunkline(Program):
    """The real command against a running server; acknowledged means durable, so nothing is synced afterwards."""

    server: Server
    memory_mb = 0.0

    def prepare(self) -> None:
        self.server = Server().__enter__()
        self.server.cli("create", "repo", "bench")

    def put(self, source: Path) -> None:
        self.server.cli("put", "file", "bench@master:/", "-r", "-f", str(source))

    def put_again(self, source: Path) -> None:
        """The whole folder once more, of which some has changed."""
        self.server.cli("put", "file", "bench@master:/", "-r", "-f", str(source), "--changed")

    def get(self, target: Path) -> None:
        self.server.cli("get", "file", "bench@master:/", "-r", "-o", str(target))

    def stored_bytes(self) -> int:
        return self.server.objects_bytes

    def close(self) -> None:
        self.memory_mb = self.server.memory_mb("VmHWM")
        self.server.__exit__()


def dvc_program() -> Path:
    """DVC in an environment of its own, made at the first call."""
    folder = Path(sys.executable).parent.parent / "peers" / "dvc"
    program = folder / "bin" / "dvc"
    if not program.exists():
        run(sys.executable, "-m", "venv", folder)
        run(folder / "bin" / "pip", "install", "--quiet", "dvc")
    return program


def available() -> list[tuple[str, Callable[..., Program]]]:
    """The peers that can run here, ``cp`` first: ratios are to it."""
    found: list[tuple[str, Callable[..., Program]]] = [("cp -r", Copy), ("tar", Tar)]
    for name, kind in (("borg", Borg), ("restic", Restic)):
        if shutil.which(name):
            found.append((name, kind))
        else:
            print(f"({name} is not installed: left out)\n")
    try:
        dvc_program()
        found.append(("dvc", Dvc))
    except (RuntimeError, subprocess.SubprocessError) as error:
        print(f"(dvc cannot be installed, left out: {str(error).splitlines()[0]})\n")
    return [*found, ("trunkline", Trunkline)]
