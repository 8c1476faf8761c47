"""Logs of jobs: one JSON-lines file for each job under ``logs/pipelines/`` in the data directory.

A worker says how many lines of its datum set it has sent before, so a batch that arrives twice is stored once. How many are
stored is read back from the file when the server has just started: nothing but the file has to survive. An offset for
readers is a place in the file, in bytes; they take it as it is.
"""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trunkline.errors import InvalidInputError
from trunkline.pipelines.model import LogLine

JOBS_REMEMBERED_MAX = 64
READ_BYTES_MAX = 1 << 20
LINES_PER_CALL_MAX = 10_000


class JobLogs:
    """Append and read. Safe to use from several threads; one process writes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._stored: dict[Path, dict[str, int]] = {}

    def append(
        self, *, project: str, pipeline: str, job_id: str, source: str, offset: int,
        lines: Sequence[Mapping[str, Any]],
    ) -> int:  # fmt: skip
        """Store what is new of ``lines``, which are number ``offset`` and on of this source (a lease of a datum set);
        returns how many it now has. Each line says which datum it is of, and of which try.

        :raises InvalidInputError: if lines before ``offset`` are missing.
        """
        if len(lines) > LINES_PER_CALL_MAX:
            raise InvalidInputError(f"send at most {LINES_PER_CALL_MAX} lines at once", kind="too_many_lines")
        path = self._path(project, pipeline, job_id)
        key = source
        with self._lock:
            stored = self._counts(path)
            have = stored.get(key, 0)
            if offset > have:
                raise InvalidInputError(
                    f"lines {have} to {offset - 1} of the log are missing: send them first", kind="log_gap"
                )
            new = lines[have - offset :]
            if new:
                text = "".join(_encoded(line, source) for line in new)
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("ab") as file:
                    file.write(text.encode())
                stored[key] = have + len(new)
            return have + len(new)

    def read(
        self, project: str, pipeline: str, job_id: str, *, datum: str | None = None, offset: int = 0
    ) -> tuple[list[LogLine], int]:
        """Lines from ``offset`` on (not all at once), and the offset to go on from. At the end both stand still."""
        lines: list[LogLine] = []
        while not lines:  # what is not of this datum is passed over
            data = self._read_part(self._path(project, pipeline, job_id), offset)
            if not data:
                break
            offset += len(data)
            decoded = map(_decoded, data.splitlines())
            lines = [line for line in decoded if datum is None or line.datum == datum]
        return lines, offset

    def _read_part(self, path: Path, offset: int) -> bytes:
        """Whole lines from ``offset`` on, at least one if there is one."""
        try:
            with path.open("rb") as file:
                file.seek(offset)
                data = file.read(READ_BYTES_MAX)
                if data and b"\n" not in data:
                    data += file.readline()
        except FileNotFoundError:
            return b""
        return data[: data.rfind(b"\n") + 1]

    def delete(self, project: str, pipeline: str) -> None:
        """All logs of a pipeline."""
        folder = self._folder / project / pipeline
        with self._lock:
            self._stored = {
                path: counts for path, counts in self._stored.items() if folder not in path.parents
            }
        shutil.rmtree(folder, ignore_errors=True)

    def delete_of_job(self, project: str, pipeline: str, job_id: str) -> None:
        """The log of one job."""
        path = self._path(project, pipeline, job_id)
        with self._lock:
            self._stored.pop(path, None)
        path.unlink(missing_ok=True)

    def _path(self, project: str, pipeline: str, job_id: str) -> Path:
        return self._folder / project / pipeline / f"{job_id}.jsonl"

    def _counts(self, path: Path) -> dict[str, int]:
        """Lines stored by try; read from the file the first time."""
        if path not in self._stored:
            while len(self._stored) >= JOBS_REMEMBERED_MAX:
                del self._stored[next(iter(self._stored))]
            self._stored[path] = _recount(path)
        return self._stored[path]


def _recount(path: Path) -> dict[str, int]:
    """Count the lines of a file; a last line that a crash cut short is removed."""
    counts: dict[str, int] = {}
    whole = 0
    try:
        with path.open("r+b") as file:
            for raw in file:
                if not raw.endswith(b"\n"):
                    break
                whole += len(raw)
                line = json.loads(raw)
                key = line.get("source", "")
                counts[key] = counts.get(key, 0) + 1
            file.truncate(whole)
    except FileNotFoundError:
        return {}
    return counts


def _encoded(line: Mapping[str, Any], source: str) -> str:
    stored = {
        "ts": float(line["ts"]), "text": str(line["text"]), "stream": str(line.get("stream", "stdout")),
        "datum": str(line.get("datum") or ""), "attempt": int(line.get("attempt") or 1), "source": source,
    }  # fmt: skip
    return json.dumps(stored, separators=(",", ":")) + "\n"


def _decoded(raw: bytes) -> LogLine:
    line = json.loads(raw)
    return LogLine(
        ts=line["ts"], text=line["text"], stream=line["stream"], datum=line["datum"], attempt=line["attempt"]
    )
