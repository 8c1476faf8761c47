"""Logs of jobs: below ``logs/pipelines/`` in the data directory, for each job one file of JSON lines and beside it an index.

A line of the index stands for what one call has added: where in the log it lies, the times of its first and last line, whose
lines they are. So the lines of one datum or of one hour are found without reading the rest, and how many lines of each source
are stored need not be counted again. The log is written first; what has no line in the index yet is not there for readers, and
is taken in when the file is next opened. Nothing but the log has to survive.

A worker says how many lines of its datum set it has sent before, so a batch that arrives twice is stored once. An offset for
readers is a place in the file, in bytes; they take it as it is.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trunkline.errors import InvalidInputError
from trunkline.pipelines.log_index import ALL_LINES, LogFilter, LogReader, Segment, segments_in
from trunkline.pipelines.model import LogLine

log = logging.getLogger(__name__)

JOBS_REMEMBERED_MAX = 64
LINES_PER_CALL_MAX = 10_000
LOG, INDEX = ".jsonl", ".index"
REMARK_ROOM_BYTES = 512
"""So much a remark about what is missing may take beyond the limit."""
REMARKS = "-"
"""The source of remarks: nobody sends them again."""


@dataclass(kw_only=True)
class _State:
    """What is known of a job's log that is being written."""

    size: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    """Lines that each source has sent."""
    is_full: bool = False
    dropped: int = 0
    """Lines that found no room on the disk."""


class JobLogs:
    """Append and read. Safe to use from several threads; one process writes."""

    def __init__(self, folder: Path, bytes_max: int = 256 * 2**20) -> None:
        self._folder = folder
        self._bytes_max = bytes_max
        self._lock = threading.Lock()
        self._states: dict[Path, _State] = {}

    def append(
        self, *, project: str, pipeline: str, job_id: str, source: str, offset: int, lines: Sequence[Mapping[str, Any]],
        worker: str = "", now: float = 0.0,
    ) -> int:  # fmt: skip
        """Store what is new of ``lines``, which are number ``offset`` and on of this source (a lease of a datum set);
        returns how many it has sent now. Each line says which datum it is of, and of which try.

        Lines that never came, or for which there is no room, do not stop a job: the log says how many they are, or that it
        ends here.
        """
        if len(lines) > LINES_PER_CALL_MAX:
            raise InvalidInputError(f"send at most {LINES_PER_CALL_MAX} lines at once", kind="too_many_lines")
        path = self._path(project, pipeline, job_id)
        with self._lock:
            state = self._state(path)
            have = state.counts.get(source, 0)
            new = lines[max(0, have - offset) :]
            sent = max(have, offset + len(lines))
            if not new or state.is_full:
                state.counts[source] = sent
                return sent
            missing = max(0, offset - have) + state.dropped
            try:
                if missing:
                    self._remark(path, state, f"{missing} lines of this log are missing here", now)
                self._write(path, state, source, sent, [_stored(line, source, worker) for line in new], now)
                state.dropped = 0
            except OSError as error:
                log.warning("%d lines of the log of job %s were not kept: %s", len(new), job_id, error)
                state.dropped += len(new)
            state.counts[source] = sent
            return sent

    def _write(
        self, path: Path, state: _State, source: str, sent: int, lines: list[dict[str, Any]], now: float
    ) -> None:
        """Into the log, and then into the index; as much of it as there is room for."""
        encoded = [(json.dumps(line, separators=(",", ":")) + "\n").encode() for line in lines]
        room = self._bytes_max - state.size
        is_too_much = sum(map(len, encoded)) > room
        if is_too_much:
            fitting = 0
            for one in encoded:
                room -= len(one)
                if room < 0:
                    break
                fitting += 1
            lines, encoded = lines[:fitting], encoded[:fitting]
        if encoded:
            self._add(path, state, segment_of(lines, state.size, sum(map(len, encoded)), sent), encoded)
        if is_too_much:
            state.is_full = True
            self._remark(
                path, state, f"the log ends here: it has reached {self._bytes_max} bytes, the most that a job may log (setting "
                "job_log_bytes_max); what is written from now on is not kept", now, is_end=True,
            )  # fmt: skip

    def _remark(self, path: Path, state: _State, text: str, now: float, *, is_end: bool = False) -> None:
        line = _stored({"ts": now, "text": text, "stream": "trunkline"}, REMARKS, "")
        data = (json.dumps(line, separators=(",", ":")) + "\n").encode()
        segment = segment_of([line], state.size, len(data), 0)
        self._add(path, state, segment._replace(is_end=is_end), [data])

    def _add(self, path: Path, state: _State, segment: Segment, encoded: Sequence[bytes]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        _extend(path, state.size, b"".join(encoded))
        index = path.with_suffix(INDEX)
        try:
            _extend(index, index.stat().st_size if index.exists() else 0, segment.line())
        except OSError:
            os.truncate(path, state.size)
            raise
        state.size = segment.end

    def reader(
        self, project: str, pipeline: str, job_id: str, wanted: LogFilter = ALL_LINES, offset: int = 0
    ) -> LogReader:
        """Reads the lines that are ``wanted``, from ``offset`` on, as often as it is asked for more."""
        path = self._path(project, pipeline, job_id)
        with self._lock:
            self._state(path)
        return LogReader(path, path.with_suffix(INDEX), wanted, offset)

    def read(
        self, project: str, pipeline: str, job_id: str, *, datum: str | None = None, offset: int = 0
    ) -> tuple[list[LogLine], int]:
        """Lines from ``offset`` on (not all at once), and the offset to go on from. At the end both stand still."""
        wanted = LogFilter(datums=None if datum is None else frozenset([datum]))
        reader = self.reader(project, pipeline, job_id, wanted, offset)
        return reader.more(), reader.offset

    # --- their end ---

    def delete(self, project: str, pipeline: str, jobs: Iterable[str]) -> None:
        """The logs of jobs that are not there any more."""
        for job_id in jobs:
            path = self._path(project, pipeline, job_id)
            with self._lock:
                self._states.pop(path, None)
            path.with_suffix(INDEX).unlink(missing_ok=True)
            path.unlink(missing_ok=True)
        with suppress(OSError):  # there are others
            (self._folder / project / pipeline).rmdir()

    def jobs(self, project: str, pipeline: str) -> set[str]:
        """Those that have a log."""
        folder = self._folder / project / pipeline
        return {path.stem for path in folder.glob("*" + LOG)}

    def _path(self, project: str, pipeline: str, job_id: str) -> Path:
        return self._folder / project / pipeline / f"{job_id}{LOG}"

    def _state(self, path: Path) -> _State:
        """Read from the index the first time; whatever a crash has left is put right then."""
        state = self._states.pop(path, None) or _opened(path)
        while len(self._states) >= JOBS_REMEMBERED_MAX:
            del self._states[next(iter(self._states))]
        self._states[path] = state  # now the one that was used last
        return state


def _opened(path: Path) -> _State:
    state = _State()
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        path.with_suffix(INDEX).unlink(missing_ok=True)
        return state
    index = path.with_suffix(INDEX)
    whole = 0
    if index.exists():
        with index.open("rb") as file:
            for raw, segment in segments_in(file):
                if segment.end > size:
                    break
                whole += len(raw)
                state.size = segment.end
                state.is_full = state.is_full or segment.is_end
                if segment.source != REMARKS:
                    state.counts[segment.source] = segment.sent
        os.truncate(index, whole)
    if state.size < size:
        _take_in(path, state)
    return state


def _take_in(path: Path, state: _State) -> None:
    """Lines that are in the log and not in the index; a last one that a crash cut short is removed."""
    with path.open("rb") as file, path.with_suffix(INDEX).open("ab") as index:
        file.seek(state.size)
        part: list[dict[str, Any]] = []
        length = 0
        for raw in file:
            if not raw.endswith(b"\n"):
                break
            try:
                line = json.loads(raw)
            except ValueError:  # a machine that lost its power
                break
            source = line.setdefault("source", "")
            if part and (source != part[0]["source"] or len(part) >= LINES_PER_CALL_MAX):
                state.size = _note(index, state, part, length)
                part, length = [], 0
            part.append(line)
            length += len(raw)
            if source != REMARKS:
                state.counts[source] = state.counts.get(source, 0) + 1
        if part:
            state.size = _note(index, state, part, length)
    os.truncate(path, state.size)


def _note(index: Any, state: _State, lines: list[dict[str, Any]], length: int) -> int:
    source = lines[0]["source"]
    segment = segment_of(lines, state.size, length, state.counts.get(source, 0))
    index.write(segment.line())
    return segment.end


def segment_of(lines: Sequence[Mapping[str, Any]], start: int, length: int, sent: int) -> Segment:
    """What the index says of lines of one source."""
    times = [line["ts"] for line in lines]
    return Segment(
        start=start, end=start + length, first=min(times), last=max(times), source=lines[0]["source"] or "?", sent=sent,
        worker=lines[0].get("worker") or "", datums=tuple(dict.fromkeys(line["datum"] for line in lines)), is_end=False,
    )  # fmt: skip


def _extend(path: Path, size: int, data: bytes) -> None:
    """Add to a file that has ``size`` bytes: all of it, or nothing."""
    with path.open("ab") as file:
        try:
            file.write(data)
            file.flush()
        except OSError:
            os.truncate(path, size)
            raise


def _stored(line: Mapping[str, Any], source: str, worker: str) -> dict[str, Any]:
    stored = {
        "ts": float(line["ts"]), "text": str(line["text"]), "stream": str(line.get("stream", "stdout")),
        "datum": _word(line.get("datum")), "attempt": int(line.get("attempt") or 1), "source": source,
    }  # fmt: skip
    return stored | {"worker": worker} if worker else stored


def _word(value: Any) -> str:
    """An ID; whatever else is given cannot stand in an index."""
    text = str(value or "")
    return text if text.isascii() and text.isalnum() else ""
