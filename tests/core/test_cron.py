"""Schedules against a table of known times, and against looking at every single minute."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.core.cron import parse_schedule
from trunkline.core.sizes import parse_size
from trunkline.errors import InvalidInputError


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def text_of(time: float | None) -> str | None:
    return None if time is None else datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M:%S")


@pytest.mark.parametrize(
    ("schedule", "start", "expected"),
    [
        ("* * * * *", "2026-11-23 17:30:00", "2026-11-23 17:31:00"),
        ("* * * * *", "2026-11-23 17:30:59.9", "2026-11-23 17:31:00"),
        ("0 * * * *", "2026-11-23 17:00:00", "2026-11-23 18:00:00"),
        ("@hourly", "2026-11-23 17:59:59", "2026-11-23 18:00:00"),
        ("*/15 * * * *", "2026-11-23 17:45:00", "2026-11-23 18:00:00"),
        ("5/20 * * * *", "2026-11-23 17:25:01", "2026-11-23 17:45:00"),
        ("10-30/10 8 * * *", "2026-11-23 08:20:00", "2026-11-23 08:30:00"),
        ("0 9 * * mon-fri", "2026-11-27 09:00:00", "2026-11-30 09:00:00"),
        ("0 9 * * 1-5", "2026-11-27 09:00:00", "2026-11-30 09:00:00"),
        ("30 4 * * 7", "2026-11-23 00:00:00", "2026-11-29 04:30:00"),
        ("30 4 * * SUN", "2026-11-23 00:00:00", "2026-11-29 04:30:00"),
        ("0 0 1,15 * ?", "2026-11-15 00:00:00", "2026-12-01 00:00:00"),
        ("0 0 13 * 5", "2026-11-23 00:00:00", "2026-11-27 00:00:00"),  # both restricted: the 13th or a Friday
        ("0 0 31 * *", "2026-11-23 00:00:00", "2026-12-31 00:00:00"),
        ("0 0 29 2 *", "2026-11-23 00:00:00", "2028-02-29 00:00:00"),
        ("0 0 29 2 *", "2096-03-01 00:00:00", "2104-02-29 00:00:00"),
        ("0 0 1 jan-mar/2 *", "2026-01-01 00:00:00", "2026-03-01 00:00:00"),
        ("59 23 31 12 *", "2026-12-31 23:59:00", "2027-12-31 23:59:00"),
        ("@daily", "2026-12-31 00:00:00", "2027-01-01 00:00:00"),
        ("@weekly", "2026-11-23 00:00:00", "2026-11-29 00:00:00"),
        ("@monthly", "2026-11-23 00:00:00", "2026-12-01 00:00:00"),
        ("@yearly", "2026-11-23 00:00:00", "2027-01-01 00:00:00"),
        ("@every 1h30m", "2026-11-23 17:30:10", "2026-11-23 19:00:10"),
        ("@every 90s", "2026-11-23 17:30:10", "2026-11-23 17:31:40"),
        ("@never", "2026-11-23 17:30:10", None),
    ],
)
def test_known_times(schedule: str, start: str, expected: str | None) -> None:
    assert text_of(parse_schedule(schedule).next_after(at(start))) == expected


@pytest.mark.parametrize(
    "schedule",
    [
        "", " ", "* * * *", "* * * * * *", "60 * * * *", "* 24 * * *", "* * 0 * *", "* * * 13 *", "* * * * 8",
        "*/0 * * * *", "5-1 * * * *", "a * * * *", "* * * * mon-", ",, * * * *", "-1 * * * *", "@sometimes", "@every",
        "@every 5", "@every 0s", "@every 1h -5m", "0 0 31 2 *", "* * * * *" + " " * 300, "@every 99999999999h",
        "1.5 * * * *", "* * * foo *", "٣ * * * *",
    ],
)  # fmt: skip
def test_what_is_no_schedule_is_said_in_one_line(schedule: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        parse_schedule(schedule)
    assert caught.value.kind == "bad_schedule"
    assert "\n" not in caught.value.message


def field(low: int, high: int, last: int | None = None) -> st.SearchStrategy[tuple[str, frozenset[int]]]:
    """A field as text, and the values that it stands for. Numbers up to ``high`` are named; ``*`` goes on to ``last``."""
    end = (high if last is None else last) + 1
    whole = frozenset(range(low, end))
    number = st.integers(low, high)
    ranges = st.tuples(number, number, st.integers(1, 20)).map(lambda r: (min(r[:2]), max(r[:2]), r[2]))
    one = st.one_of(
        st.just(("*", whole)),
        number.map(lambda n: (str(n), frozenset([n]))),
        ranges.map(lambda r: (f"{r[0]}-{r[1]}/{r[2]}", frozenset(range(r[0], r[1] + 1, r[2])))),
        st.integers(1, 30).map(lambda n: (f"*/{n}", frozenset(range(low, end, n)))),
    )
    return st.lists(one, min_size=1, max_size=3).map(
        lambda parts: (",".join(text for text, _ in parts), frozenset().union(*(found for _, found in parts)))
    )


@given(
    minute=field(0, 59), hour=field(0, 23), day=field(1, 28, 31), month=field(1, 12), weekday=field(0, 6),
    start=st.integers(0, 4_000_000_000),
)  # fmt: skip
def test_the_next_time_is_what_looking_at_every_minute_finds(
    minute: tuple[str, frozenset[int]], hour: tuple[str, frozenset[int]], day: tuple[str, frozenset[int]],
    month: tuple[str, frozenset[int]], weekday: tuple[str, frozenset[int]], start: int,
) -> None:  # fmt: skip
    schedule = parse_schedule(" ".join(one[0] for one in (minute, hour, day, month, weekday)))
    free = [one[0].startswith("*") for one in (day, weekday)]
    found = schedule.next_after(start)
    assert found is not None and found > start

    def matches(time: datetime) -> bool:
        days = (time.day in day[1], time.isoweekday() % 7 in weekday[1])
        fits = all(days) if any(free) else any(days)
        return fits and time.month in month[1] and time.hour in hour[1] and time.minute in minute[1]

    then = datetime.fromtimestamp(found, UTC)
    assert matches(then) and then.second == 0
    time = datetime.fromtimestamp(start // 60 * 60, UTC) + timedelta(minutes=1)
    for _ in range(3000):  # two days of minutes before it, or all there are
        if time >= then:
            return
        assert not matches(time)
        time += timedelta(minutes=1)
    time = then - timedelta(minutes=3000)
    while time < then:
        assert not matches(time)
        time += timedelta(minutes=1)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0), ("512", 512), ("1K", 1000), ("1k", 1000), ("10MB", 10_000_000), ("1GiB", 2**30), ("1.5KiB", 1536),
        ("2 TB", 2 * 10**12), ("3Pi", 3 * 2**50), ("7b", 7),
    ],
)  # fmt: skip
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "MB", "-1", "1X", "1e9", "1iB", "1 0", "99999999P", "٣", "1" * 50, "nan"]
)
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        parse_size(text)
    assert caught.value.kind == "bad_size"
