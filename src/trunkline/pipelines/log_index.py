"""Reading logs of jobs by their index. Writes nothing; several may read while one writes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from trunkline.pipelines.model import LogLine

READ_BYTES_MAX = 1 << 20
INDEX_BYTES_PER_READ = 1 << 20
DATUM_CHARACTERS = 16
"""So much of a datum's ID is in the index: enough to tell those of a job apart."""


class Segment(NamedTuple):
    """Lines of a log that were added together: all of one source."""

    start: int
    end: int
    first: float
    """The earliest time of a line."""
    last: float
    source: str
    sent: int
    """How many lines the source had sent with these."""
    worker: str
    datums: tuple[str, ...]
    """Whose lines they are; the beginning of each ID, or empty for lines of none."""
    is_end: bool
    """Nothing may follow: the log is full."""

    def line(self) -> bytes:
        """As the index has it."""
        datums = ",".join(one[:DATUM_CHARACTERS] for one in self.datums)
        words = (
            self.start, self.end, repr(self.first), repr(self.last), self.source, self.sent, self.worker or "-",
            int(self.is_end), datums or "-",
        )  # fmt: skip
        return (" ".join(map(str, words)) + "\n").encode()


def _segment(raw: bytes) -> Segment:
    start, end, first, last, source, sent, worker, is_end, datums = raw.decode().split()
    return Segment(
        start=int(start), end=int(end), first=float(first), last=float(last), source=source, sent=int(sent),
        worker="" if worker == "-" else worker, datums=tuple(datums.split(",")) if datums != "-" else ("",),
        is_end=is_end == "1",
    )  # fmt: skip


def segments_in(file: BinaryIO) -> Iterator[tuple[bytes, Segment]]:
    """All that are whole, with the line of the index that says so."""
    for raw in file:
        if not raw.endswith(b"\n"):
            return
        try:
            yield raw, _segment(raw)
        except ValueError:  # a torn write: what follows is found in the log itself
            return


@dataclass(frozen=True, kw_only=True)
class LogFilter:
    """Which lines are wanted; None: whichever."""

    datums: frozenset[str] | None = None
    since: float | None = None
    until: float | None = None
    worker: str | None = None
    """The beginning of its name."""

    def takes(self, line: LogLine) -> bool:
        return (
            (self.datums is None or line.datum in self.datums)
            and (self.since is None or line.ts >= self.since)
            and (self.until is None or line.ts <= self.until)
            and (self.worker is None or line.worker.startswith(self.worker))
        )


ALL_LINES = LogFilter()


class LogReader:
    """One reader of one log: knows how far it has come."""

    def __init__(self, path: Path, index: Path, wanted: LogFilter, offset: int) -> None:
        self.offset = offset
        self._path = path
        self._index = index
        self._index_at = 0
        self._wanted = wanted
        self._datums = None if wanted.datums is None else [one[:DATUM_CHARACTERS] for one in wanted.datums]
        self._waiting: list[Segment] = []
        """Newest first."""

    def more(self) -> list[LogLine]:
        """The next lines, not all at once; none: there are no more yet."""
        found: list[LogLine] = []
        length = 0
        while (not found or length < READ_BYTES_MAX) and (segment := self._next()) is not None:
            start, end = max(segment.start, self.offset), segment.end
            while self._waiting and self._waiting[-1].start == end and end - start < READ_BYTES_MAX:
                end = self._waiting.pop().end  # what lies together is read together
            data = self._data(start, min(end, start + READ_BYTES_MAX))
            if not data:
                self._waiting.clear()  # the log was deleted
                break
            self.offset = start + len(data)
            if self.offset < end:
                self._waiting.append(segment._replace(start=self.offset, end=end))
            length += len(data)
            found += self._lines(data)
        return found

    def last(self, count: int) -> list[LogLine]:
        """The last lines of those that are there; ``more`` goes on behind them."""
        segments = []
        while (segment := self._next()) is not None:
            segments.append(segment)
        found: list[LogLine] = []
        for segment in reversed(segments):
            if len(found) >= count:
                break
            found = self._lines(self._data(segment.start, segment.end)) + found
        if segments:
            self.offset = segments[-1].end
        return found[-count:] if count else []

    def _next(self) -> Segment | None:
        """The next segment that may hold something that is wanted."""
        while not self._waiting:
            part = self._index_part()
            if not part:
                return None
            if self._datums is not None and not any(one.encode() in part for one in self._datums):
                continue
            found = [_segment(raw) for raw in part.splitlines() if self._may_be(raw)]
            self._waiting = [one for one in reversed(found) if self._wants(one)]
        return self._waiting.pop()

    def _may_be(self, raw: bytes) -> bool:
        """A quick look, before the line is taken apart."""
        return self._datums is None or len(self._datums) > 1 or self._datums[0].encode() in raw

    def _wants(self, segment: Segment) -> bool:
        wanted = self._wanted
        return (
            segment.end > self.offset
            and (self._datums is None or not set(self._datums).isdisjoint(segment.datums))
            and (wanted.since is None or segment.last >= wanted.since)
            and (wanted.until is None or segment.first <= wanted.until)
            and (wanted.worker is None or segment.worker.startswith(wanted.worker))
        )

    def _index_part(self) -> bytes:
        """Whole lines of the index."""
        try:
            with self._index.open("rb") as file:
                file.seek(self._index_at)
                data = file.read(INDEX_BYTES_PER_READ)
                if data and b"\n" not in data:
                    data += file.readline()
        except FileNotFoundError:
            return b""
        data = data[: data.rfind(b"\n") + 1]
        self._index_at += len(data)
        return data

    def _data(self, start: int, end: int) -> bytes:
        """Whole lines from ``start`` on, at least one if there is one."""
        try:
            with self._path.open("rb") as file:
                file.seek(start)
                data = file.read(end - start)
                if data and b"\n" not in data:
                    data += file.readline()
        except FileNotFoundError:
            return b""
        return data[: data.rfind(b"\n") + 1]

    def _lines(self, data: bytes) -> list[LogLine]:
        raw_lines = data.splitlines()
        if self._wanted.datums is not None and len(self._wanted.datums) == 1:
            [datum] = self._wanted.datums
            key = datum.encode()
            raw_lines = [raw for raw in raw_lines if key in raw]
        lines = map(_decoded, raw_lines)
        return list(lines if self._wanted == ALL_LINES else filter(self._wanted.takes, lines))


def _decoded(raw: bytes) -> LogLine:
    line = json.loads(raw)
    return LogLine(
        line["ts"], line["text"], line["stream"], line["datum"], line["attempt"], line.get("worker", "")
    )
