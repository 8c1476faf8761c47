"""How much of the machine a sandbox may use: control groups where this user may make them, else limits of single processes.

Also the answer to the question whether a process was killed because memory ran out.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CGROUPS = Path("/sys/fs/cgroup")
CPU_PERIOD_MICROSECONDS = 100_000
REMOVE_ROUNDS = 50
ADDRESS_SPACE_BYTES_MIN = 64 * 2**20
"""Less, and not even the process that starts commands could go on."""

_OOM_KILLS = re.compile(rb"\noom_kill (\d+)\n")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a pipeline's commands may use; None: as much as there is."""

    memory_bytes: int | None = None
    cpus: float | None = None
    disk_bytes: int | None = None
    network: bool = True

    @classmethod
    def of(cls, given: Mapping[str, Any] | None) -> Limits:
        """From a task's description."""
        known = given or {}
        return cls(
            memory_bytes=known.get("memory_bytes"), cpus=known.get("cpus"), disk_bytes=known.get("disk_bytes"),
            network=known.get("network", True),
        )  # fmt: skip


class OomKills:
    """Counts processes that were killed because memory ran out, by the group or by the whole system, in a group of their own or
    (``is_shared``) where others are killed, too. The file stays open, since it is read
    for every command."""

    def __init__(self, place: Path, *, is_shared: bool) -> None:
        """:raises OSError: if there is no such place."""
        self.is_shared = is_shared
        self._handle = os.open(place, os.O_RDONLY)

    def count(self) -> int:
        """So far; 0 where the system does not say."""
        text = b"\n"
        while not (found := _OOM_KILLS.search(text)):
            part = self._more(len(text) - 1)
            if not part:
                return 0
            text += part
        return int(found[1])

    def _more(self, offset: int) -> bytes:
        try:
            return os.pread(self._handle, 4096, offset)
        except OSError:
            return b""

    def close(self) -> None:
        os.close(self._handle)


def oom_kills_around(*, is_here: bool) -> OomKills | None:
    """For commands without a group of their own: those of the group in which this worker is, if commands are there
    (``is_here``), or else of the whole machine."""
    with contextlib.suppress(OSError, KeyError, ValueError):
        places, is_v2 = _own_places() if is_here else ({}, False)
        # Of version 2, only what happened in this very group, not in those of other workers below it.
        return OomKills(
            places["memory"] / ("memory.events.local" if is_v2 else "memory.oom_control"), is_shared=True
        )
    with contextlib.suppress(OSError):
        return OomKills(Path("/proc/vmstat"), is_shared=True)
    return None


class Group:
    """A control group of its own, for one sandbox."""

    def __init__(self, folders: Mapping[str, Path], *, is_v2: bool) -> None:
        self._folders = folders
        self._is_v2 = is_v2

    def limit(self, limits: Limits) -> None:
        """:raises OSError: if the system refuses."""
        memory, cpu = self._folders["memory"], self._folders["cpu"]
        if limits.memory_bytes is not None:
            _write(memory / ("memory.max" if self._is_v2 else "memory.limit_in_bytes"), limits.memory_bytes)
            swap = "memory.swap.max" if self._is_v2 else "memory.memsw.limit_in_bytes"
            with contextlib.suppress(OSError):  # not every kernel accounts for swap
                _write(memory / swap, 0 if self._is_v2 else limits.memory_bytes)
        if limits.cpus is not None:
            quota = max(1000, int(limits.cpus * CPU_PERIOD_MICROSECONDS))
            if self._is_v2:
                _write(cpu / "cpu.max", f"{quota} {CPU_PERIOD_MICROSECONDS}")
            else:
                _write(cpu / "cpu.cfs_period_us", CPU_PERIOD_MICROSECONDS)
                _write(cpu / "cpu.cfs_quota_us", quota)

    def take(self, pid: int) -> None:
        """Move a process in; what it starts later is in it, too."""
        for folder in set(self._folders.values()):
            _write(folder / "cgroup.procs", pid)

    def oom_kills(self) -> OomKills:
        """How many processes of the group were killed because memory ran out, its own or that of the machine.

        :raises OSError: if the system does not say.
        """
        name = "memory.events" if self._is_v2 else "memory.oom_control"
        return OomKills(self._folders["memory"] / name, is_shared=False)

    def remove(self) -> None:
        """Its processes must be gone; what cannot be removed yet is removed with the next worker's."""
        for folder in set(self._folders.values()):
            for _ in range(REMOVE_ROUNDS):
                with contextlib.suppress(OSError):
                    folder.rmdir()
                    break
                time.sleep(0.01)  # its processes are dead, and the kernel has not noticed everywhere


def make_group(name: str) -> Group | None:
    """A new control group below this process's own; None where that is not allowed."""
    if sys.platform != "linux":
        return None
    try:
        places, is_v2 = _own_places()
        for place in set(places.values()):
            _sweep(place)
        folders = {controller: place / name for controller, place in places.items()}
        for folder in set(folders.values()):
            folder.mkdir(exist_ok=True)
        if is_v2:
            _enable(folders["memory"].parent)
            if not (folders["memory"] / "memory.max").exists():
                folders["memory"].rmdir()
                return None
        return Group(folders, is_v2=is_v2)
    except (OSError, KeyError, ValueError):
        return None


def _own_places() -> tuple[dict[str, Path], bool]:
    """Where this process is in each hierarchy, and whether they are one (version 2)."""
    found: dict[str, Path] = {}
    unified = None
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            unified = CGROUPS / path.lstrip("/")
        for controller in controllers.split(","):
            if controller in ("memory", "cpu"):
                found[controller] = CGROUPS / controllers / path.lstrip("/")
                if not found[controller].is_dir():
                    found[controller] = CGROUPS / controller / path.lstrip("/")
    if "memory" in found and "cpu" in found:
        return found, False
    if unified is None:
        raise OSError("there is no control group")
    return {"memory": unified, "cpu": unified}, True


def _enable(place: Path) -> None:
    with contextlib.suppress(OSError):  # processes in the group itself: not allowed
        _write(place / "cgroup.subtree_control", "+memory +cpu")


def _sweep(place: Path) -> None:
    """Groups of workers that were killed. One with processes cannot be removed."""
    for folder in place.glob("trunkline-*"):
        with contextlib.suppress(OSError):
            folder.rmdir()


def _write(path: Path, value: object) -> None:
    handle = os.open(path, os.O_WRONLY)
    try:
        os.write(handle, str(value).encode())
    finally:
        os.close(handle)


def rlimits_of(limits: Limits, *, has_group: bool) -> dict[str, int]:
    """Limits that each process inherits; memory only where there is no better way."""
    found = {}
    if limits.memory_bytes is not None and not has_group:
        found["RLIMIT_AS"] = max(limits.memory_bytes, ADDRESS_SPACE_BYTES_MIN)
    if limits.disk_bytes is not None:
        found["RLIMIT_FSIZE"] = limits.disk_bytes
    return found
