"""The log lines of trials: one file per run in ``logs/trials/<trial>/``, JSON lines, appended to by that run alone.

A position is ``run * 2**40 + bytes``: opaque to readers, and it stays right whatever is appended to whichever run.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trunkline.errors import LimitError
from trunkline.training.model import LogLine

READ_BYTES_MAX = 1 << 20
COUNTED_FILES_MAX = 256
_RUN_SHIFT = 40
_OFFSET_MASK = (1 << _RUN_SHIFT) - 1


class TrialLogs:
    """Appends and reads. One process writes: the control server."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._counts: dict[Path, int] = {}

    def append(self, trial_id: int, run_id: int, offset: int, lines: Sequence[dict[str, Any]]) -> None:
        """Store lines of which ``offset`` others went before; those that are there already are left out. Lines in between
        that never arrived (the disk was full, say) leave a note: a log is not worth stopping a trial for.

        :raises LimitError: ``disk_full``.
        """
        file = self._file(trial_id, run_id)
        with self._lock:
            count = self._count(file)
            missing = offset - count
            new = [*_filler(missing), *lines] if missing > 0 else lines[-missing:]
            if not new:
                return
            file.parent.mkdir(parents=True, exist_ok=True)
            data = b"".join(json.dumps(_stored(line)).encode() + b"\n" for line in new)
            try:
                with file.open("ab") as out:
                    out.write(data)
            except OSError as error:
                del self._counts[file]  # part of it may be there: look again before the next append
                raise LimitError(
                    f"cannot write the log {file}: {error.strerror}", kind="disk_full"
                ) from error
            self._counts[file] = count + len(new)

    def read(self, trial_id: int, position: int) -> tuple[list[LogLine], int]:
        """Lines from a position on (0: the beginning), about ``READ_BYTES_MAX`` of them, and the position after them."""
        run, start = position >> _RUN_SHIFT, position & _OFFSET_MASK
        found: list[LogLine] = []
        budget = READ_BYTES_MAX
        for run_id in self._runs(trial_id):
            if run_id < run or budget <= 0:
                continue
            start = start if run_id == run else 0
            data = _whole_lines(self._file(trial_id, run_id), start, budget)
            found += [_line(run_id, raw) for raw in data.splitlines()]
            budget -= len(data)
            run, start = run_id, start + len(data)
        return found, (run << _RUN_SHIFT) + start

    def _file(self, trial_id: int, run_id: int) -> Path:
        return self._folder / str(trial_id) / f"run-{run_id}.jsonl"

    def _runs(self, trial_id: int) -> list[int]:
        return sorted(
            int(file.stem.removeprefix("run-")) for file in (self._folder / str(trial_id)).glob("run-*.jsonl")
        )

    def _count(self, file: Path) -> int:
        """Lines in a file; a last one that a crash cut short is removed first: the worker sends it again."""
        if file not in self._counts:
            if len(self._counts) >= COUNTED_FILES_MAX:
                self._counts.clear()
            count = whole = 0
            if file.exists():
                with file.open("rb") as lines:
                    for line in lines:
                        if line.endswith(b"\n"):
                            count, whole = count + 1, whole + len(line)
                os.truncate(file, whole)
            self._counts[file] = count
        return self._counts[file]


def _whole_lines(file: Path, start: int, budget: int) -> bytes:
    with file.open("rb") as stream:
        stream.seek(start)
        data = stream.read(budget)
        if len(data) == budget:  # finish the line that the budget cut
            data += stream.readline()
    return data[: data.rfind(b"\n") + 1]


def _filler(missing: int) -> list[dict[str, Any]]:
    """Lines in the place of lost ones, so that positions go on counting right."""
    texts = [f"({missing} lines of the log were lost)", *[""] * (missing - 1)]
    return [{"ts": time.time(), "stream": "trunkline", "text": text} for text in texts]


def _stored(line: dict[str, Any]) -> dict[str, Any]:
    return {"ts": float(line["ts"]), "stream": str(line["stream"]), "text": str(line["text"])}


def _line(run_id: int, raw: bytes) -> LogLine:
    found = json.loads(raw)
    return LogLine(ts=found["ts"], run_id=run_id, stream=found["stream"], text=found["text"])
