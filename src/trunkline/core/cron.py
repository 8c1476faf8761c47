"""Schedules as people write them for cron: five fields, ``@hourly`` and its like, ``@every 1h30m``. All in UTC.

As in the crons of old, a day must match both day fields, unless both of them are restricted: then one is enough.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import NoReturn, Protocol

from trunkline.errors import InvalidInputError

DAYS_MAX = 9 * 366
"""How far to look for a day: 29 February may be eight years away."""
TEXT_LENGTH_MAX = 200
EVERY_SECONDS_MIN = 1.0
EVERY_SECONDS_MAX = 100 * 366 * 86400.0

NICKNAMES = {
    "@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *", "@monthly": "0 0 1 * *", "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@hourly": "0 * * * *",
}  # fmt: skip
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_FIELDS: tuple[tuple[str, int, int, tuple[str, ...]], ...] = (
    ("minute", 0, 59, ()), ("hour", 0, 23, ()), ("day of the month", 1, 31, ()), ("month", 1, 12, MONTHS),
    ("day of the week", 0, 7, WEEKDAYS),
)  # fmt: skip
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|h|m|s))+")
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|h|m|s)")
_PART = re.compile(r"(?:(\*|\?)|(\w+)(?:-(\w+))?)(?:/(\d+))?", re.ASCII)


class Schedule(Protocol):
    """When something happens."""

    def next_after(self, at: float) -> float | None:
        """The first time after ``at`` (seconds since the Unix epoch); None: never."""


@dataclass(frozen=True)
class Every:
    """``@every``: so many seconds after the last time."""

    seconds: float

    def next_after(self, at: float) -> float | None:
        return at + self.seconds


@dataclass(frozen=True)
class Never:
    """``@never``: only by hand."""

    def next_after(self, at: float) -> float | None:
        return None


@dataclass(frozen=True, kw_only=True)
class Cron:
    """Five fields, each as the values that match."""

    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    """0 is Sunday."""
    any_day_field: bool
    """Both day fields are restricted: one match is enough."""

    def next_after(self, at: float) -> float | None:
        start = datetime.fromtimestamp(at // 60 * 60, UTC) + timedelta(minutes=1)
        day, earliest = start.date(), (start.hour, start.minute)
        for _ in range(DAYS_MAX):
            if self._has(day):
                for hour in self.hours:
                    for minute in self.minutes:
                        if (hour, minute) >= earliest:
                            found = datetime(day.year, day.month, day.day, hour, minute, tzinfo=UTC)
                            return found.timestamp()
            if day == date.max:
                return None
            day, earliest = day + timedelta(days=1), (0, 0)
        return None

    def _has(self, day: date) -> bool:
        if day.month not in self.months:
            return False
        matches = (day.day in self.days, day.isoweekday() % 7 in self.weekdays)
        return any(matches) if self.any_day_field else all(matches)


def parse_schedule(text: str) -> Schedule:
    """A schedule from its text.

    :raises InvalidInputError: ``bad_schedule``, saying what is wrong with it.

    >>> parse_schedule("*/15 9-17 * * mon-fri").next_after(0.0)
    32400.0
    """
    words = text.split()
    if len(text) > TEXT_LENGTH_MAX or not words:
        _fail(text, "it is empty" if not words else f"it has more than {TEXT_LENGTH_MAX} characters")
    if words[0] == "@every":
        return Every(_duration(text, "".join(words[1:])))
    if words == ["@never"]:
        return Never()
    if words[0].startswith("@") and " ".join(words) not in NICKNAMES:
        _fail(text, f"known are {', '.join(NICKNAMES)}, @never and '@every 1h30m'")
    fields = NICKNAMES.get(text.strip(), text).split()
    if len(fields) != len(_FIELDS):
        _fail(text, f"it has {len(fields)} fields, not five: minute hour day month weekday")
    values = [_values(text, field, *about) for field, about in zip(fields, _FIELDS, strict=True)]
    made = Cron(
        minutes=tuple(sorted(values[0])), hours=tuple(sorted(values[1])), days=frozenset(values[2]),
        months=frozenset(values[3]), weekdays=frozenset(value % 7 for value in values[4]),
        any_day_field=not fields[2].startswith(("*", "?")) and not fields[4].startswith(("*", "?")),
    )  # fmt: skip
    if made.next_after(0.0) is None:
        _fail(text, "there is no such day in any year")
    return made


def _duration(text: str, words: str) -> float:
    if not _DURATION.fullmatch(words):
        _fail(text, "write a duration as '@every 1h30m', with h, m, s")
    seconds = sum(float(number) * _UNITS[unit] for number, unit in _DURATION_PART.findall(words))
    if not EVERY_SECONDS_MIN <= seconds <= EVERY_SECONDS_MAX:
        _fail(text, "a duration is at least one second, at most a hundred years")
    return seconds


def _values(text: str, field: str, name: str, low: int, high: int, names: tuple[str, ...]) -> set[int]:
    found: set[int] = set()
    for part in field.split(","):
        match = _PART.fullmatch(part)
        if match is None:
            _fail(text, f"{part!r} is no {name}")
        star, first, last, step = match.groups()
        start = low if star else _number(text, first, name, low, high, names)
        end = _number(text, last, name, low, high, names) if last else start
        if star:
            end = high if high != 7 else 6
        elif step and not last:
            end = high
        every = int(step) if step else 1
        if every < 1 or start > end:
            _fail(
                text,
                f"{part!r} is no {name}: {'a step is at least 1' if every < 1 else 'it ends before it begins'}",
            )
        found.update(range(start, end + 1, every))
    return found


def _number(text: str, word: str, name: str, low: int, high: int, names: tuple[str, ...]) -> int:
    if word.lower() in names:
        return names.index(word.lower()) + (1 if low == 1 else 0)
    if not word.isdecimal() or len(word) > 4 or not low <= int(word) <= high:
        _fail(text, f"{word!r} is no {name} ({low} to {high}{', or a name' if names else ''})")
    return int(word)


def _fail(text: str, why: str) -> NoReturn:
    raise InvalidInputError(f"schedule {text[:TEXT_LENGTH_MAX]!r}: {why}", kind="bad_schedule")
