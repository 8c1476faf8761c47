"""When the ticks of a cron input are. Pure: decides from times, and reads no clock."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Literal

from trunkline.core.cron import Every, Schedule

CatchUp = Literal["all", "last", "none"]

TICKS_MAX = 10_000
"""So many missed ticks are made up for, the newest ones: a schedule of seconds and a start years ago are millions."""
ON_TIME_SECONDS = 60.0
"""A tick that is no later than this was not missed."""
_FIRST_SPAN_SECONDS = 8 * 86400.0


def tick_name(at: float) -> str:
    """The file of a tick: its time in RFC 3339, in UTC.

    >>> tick_name(1.5)
    '/1970-01-01T00:00:01.500Z'
    """
    precision = "seconds" if at == math.floor(at) else "milliseconds"
    return "/" + datetime.fromtimestamp(at, UTC).isoformat(timespec=precision).replace("+00:00", "Z")


def next_tick(schedule: Schedule, start: float) -> float | None:
    """The first tick after ``start``, whole seconds of which count; None: never."""
    return schedule.next_after(float(math.floor(start)))


def due_ticks(
    schedule: Schedule, next_at: float, now: float, catch_up: CatchUp
) -> tuple[list[float], float | None]:
    """The ticks to make now, the oldest first, and when to look again. ``next_at``: the first that was not made yet."""
    ticks = _ticks(schedule, next_at, now)
    if not ticks:
        return [], next_at
    following = schedule.next_after(ticks[-1])
    if catch_up == "all":
        return ticks, following
    newest = ticks[-1]
    if catch_up == "none" and now - newest > ON_TIME_SECONDS:
        return [], following
    return [newest], following


def _ticks(schedule: Schedule, first: float, now: float) -> list[float]:
    """The newest ``TICKS_MAX`` ticks from ``first`` to ``now``, both included, without going through all older ones."""
    if first > now:
        return []
    if isinstance(schedule, Every):
        count = math.floor((now - first) / schedule.seconds) + 1
        return [first + number * schedule.seconds for number in range(max(0, count - TICKS_MAX), count)]
    span = _FIRST_SPAN_SECONDS
    while True:
        start = max(first, now - span)
        found = [first] if start == first else []
        at = schedule.next_after(start)
        while at is not None and at <= now:
            found.append(at)
            at = schedule.next_after(at)
        if start == first or len(found) >= TICKS_MAX:
            return found[-TICKS_MAX:]
        span *= 4
