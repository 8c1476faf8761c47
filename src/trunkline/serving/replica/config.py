"""What a replica is told at its start, and what it tells while it lives."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass, fields
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class ReplicaConfig:
    """The fields of the JSON file that the deployer writes."""

    id: str
    status_file: Path
    model_dir: Path
    work_dir: Path
    """A folder of this replica's own; removed when it is gone."""
    format: str
    protocol: str
    model_name: str
    revision: str
    commit_id: str
    body_bytes_max: int
    drain_seconds: float

    @staticmethod
    def read(path: Path) -> ReplicaConfig:
        known = {field.name for field in fields(ReplicaConfig)}  # hide.py reads the others
        data = {name: value for name, value in json.loads(path.read_text()).items() if name in known}
        places = {k: Path(data[k]) for k in ("status_file", "model_dir", "work_dir")}
        return ReplicaConfig(**{**data, **places})


class StatusFile:
    """Where a replica says what it is doing: replaced whole, so that it never reads half written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._said: dict[str, object] = {"pid": os.getpid(), "started": _started()}

    def say(self, phase: str, **more: object) -> None:
        self._said |= {"phase": phase, **more}
        part = self._path.with_name(f".{self._path.name}.part")
        part.write_text(json.dumps(self._said))
        part.replace(self._path)


def _started() -> str:
    """When this process started, in the words in which the engine that launched it asks the system. (Not shared with it: that
    module needs the database library, which a replica does without.)"""
    try:
        return Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
    except FileNotFoundError:
        command = ["ps", "-o", "stat=,lstart=", "-p", str(os.getpid())]
        return (
            subprocess.run(command, capture_output=True, text=True, check=True)
            .stdout.strip()
            .partition(" ")[2]
            .strip()
        )
