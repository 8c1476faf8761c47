"""Private folders of worker processes under ``run/scratch/`` in the data directory, and the removal of those whose
owner died."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

OWNER_FILE = "owner.json"


def started_at(pid: int) -> str | None:
    """When a process started, in the system's own words; None if it is gone. Same words as the process engine's."""
    if not Path("/proc/self/stat").exists():
        return _started_by_ps(pid)
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in ("Z", "X") else fields[19]


def _started_by_ps(pid: int) -> str | None:
    command = ["ps", "-o", "stat=,lstart=", "-p", str(pid)]
    shown = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    state, _, started = shown.strip().partition(" ")
    return started.strip() if state and not state.startswith("Z") else None


def scratch_root(home: Path) -> Path:
    return home / "run" / "scratch"


def make_scratch(home: Path, process_id: str) -> Path:
    """A folder for this process alone; sweeps those of processes that are gone."""
    root = scratch_root(home)
    root.mkdir(parents=True, exist_ok=True)
    sweep(root)
    own = root / process_id
    own.mkdir(mode=0o700, exist_ok=True)
    owner = {"pid": os.getpid(), "started": started_at(os.getpid())}
    (own / OWNER_FILE).write_text(json.dumps(owner))
    return own


def sweep(root: Path) -> None:
    """Remove the folders whose owner is gone. One without an owner file is being made just now."""
    for folder in root.iterdir():
        try:
            owner = json.loads((folder / OWNER_FILE).read_text())
        except (OSError, ValueError):
            continue
        if started_at(int(owner["pid"])) != owner["started"]:
            remove_tree(folder)


def remove_tree(folder: Path) -> None:
    """Remove a folder, whatever permissions user code left in it. Not an error if it is gone."""

    def unlock(function: Callable[..., object], path: str, _error: object) -> None:
        try:
            Path(path).parent.chmod(stat.S_IRWXU)
            if not Path(path).is_symlink():  # else it would be done to what the link leads to
                Path(path).chmod(stat.S_IRWXU)
            function(path)
        except OSError:
            return

    for _ in range(2):  # a directory that could not be listed is entered on the second round
        shutil.rmtree(folder, onerror=unlock)
        if not folder.exists():
            return
