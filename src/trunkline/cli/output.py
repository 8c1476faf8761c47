"""All that is printed: data to stdout, talk to stderr. The only module that prints."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from enum import StrEnum
from typing import Any

HEADER_EVERY_LINES = 50


class Format(StrEnum):
    json = "json"
    yaml = "yaml"


def say(text: str) -> None:
    """Talk: goes to stderr; lost where that is a file on a full disk, or closed."""
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)  # noqa: T201 (this is the place for it)


def show(text: str) -> None:
    """Data: goes to stdout, at once even into a pipe."""
    print(text, flush=True)  # noqa: T201 (this is the place for it)


def counted(count: int, noun: str) -> str:
    """``1 file``, ``2 files``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def structured(value: Any, form: Format) -> None:
    """Wire models (or a list of them) as JSON or YAML."""
    plain = _plain(value)
    if form is Format.json:
        show(json.dumps(plain, indent=2, ensure_ascii=False))
    else:
        show(_yaml(plain))


def structured_line(value: Any, form: Format) -> None:
    """One wire model of a stream: a line of JSON, or a YAML document."""
    plain = _plain(value)
    if form is Format.json:
        show(json.dumps(plain, ensure_ascii=False))
    else:
        show("---\n" + _yaml(plain))


def done(value: Any, form: Format | None, text: str) -> None:
    """Say what was done, or print what came of it."""
    if form is not None:
        structured(value, form)
    else:
        say(text)


def _yaml(value: Any) -> str:
    import yaml  # noqa: PLC0415 (most commands write none)

    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True).rstrip()


def _plain(value: Any) -> Any:
    if hasattr(value, "model_dump"):  # a wire model; pydantic takes its time to import
        return value.model_dump(mode="json", exclude_none=False)
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Space-padded columns, the header again every 50 lines; only the header if there is nothing."""
    cells = [[one_line(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in [list(header), *cells]) for i in range(len(header))]
    for number, row in enumerate(cells):
        if number % HEADER_EVERY_LINES == 0:
            show(padded(header, widths))
        show(padded(row, widths))
    if not cells:
        show(padded(header, widths))


def padded(row: Sequence[str], widths: Sequence[int]) -> str:
    """One row of a table."""
    return " ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def one_line(text: str) -> str:
    """Text for a cell of a table."""
    return " ".join(text.split()) or "-"


def described(pairs: Iterable[tuple[str, Any]]) -> None:
    """``Label: value`` lines; lists and mappings as YAML below their label."""
    for label, value in pairs:
        if value is None or value == "" or value == () or value == [] or value == {}:
            continue
        if isinstance(value, dict | list | tuple):
            show(f"{label}:\n  " + _yaml(_plain(value)).replace("\n", "\n  "))
        else:
            show(f"{label}: {value}")


# --- words for numbers ---


def duration_text(seconds: float) -> str:
    """``5 minutes``, as people say it."""
    if seconds < 1:
        return "less than a second"
    for limit, unit, length in (
        (60, "second", 1), (3600, "minute", 60), (48 * 3600, "hour", 3600), (14 * 86400, "day", 86400),
        (60 * 86400, "week", 7 * 86400), (730 * 86400, "month", 30 * 86400), (float("inf"), "year", 365 * 86400),
    ):  # fmt: skip
        if seconds < limit:
            count = int(seconds // length)
            return f"{count} {unit}{'s' if count != 1 else ''}"
    raise AssertionError("the last limit takes everything")


def seconds_text(seconds: float | None) -> str:
    """``4.2ms``, ``1.34s``, ``12.3s``: for what is added up or compared."""
    if seconds is None:
        return "-"
    if seconds < 1:
        return f"{1000 * seconds:.3g}ms"
    return (
        f"{seconds:.2f}s" if seconds < 10 else f"{seconds:.1f}s" if seconds < 100 else duration_text(seconds)
    )


def short_age(seconds: float) -> str:
    """``5m``, ``2h``, ``3d``, as kubectl says it."""
    for limit, unit, length in ((120, "s", 1), (7200, "m", 60), (48 * 3600, "h", 3600)):
        if seconds < limit:
            return f"{int(max(0, seconds) // length)}{unit}"
    return f"{int(seconds // 86400)}d"


def time_text(at: float | None, full: bool) -> str:
    """``5 minutes ago``, or the full time in RFC 3339."""
    if at is None:
        return "-"
    if full:
        from datetime import UTC, datetime  # noqa: PLC0415 (not for commands that must start at once)

        return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return f"{duration_text(time.time() - at)} ago"


def bar(part: float, width: int = 8) -> str:
    """A fixed-width bar for a table."""
    full = round(max(0.0, min(1.0, part)) * width)
    return "▇" * full + "-" * (width - full)


@contextmanager
def progress(total: Callable[[], tuple[int, int]], *, shown: bool = True) -> Iterator[Callable[[int], None]]:
    """A progress bar on a terminal, nothing elsewhere. ``total`` gives files and bytes, and is asked only for a bar."""
    if not shown or not sys.stderr.isatty():
        yield lambda _: None
        return
    import typer  # noqa: PLC0415 (takes longer to import than a small put takes)

    count, size = total()
    with typer.progressbar(length=max(size, 1), label=counted(count, "file"), file=sys.stderr) as bar_shown:
        yield bar_shown.update
