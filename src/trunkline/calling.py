"""``python -m trunkline.calling MODULE:FUNCTION``: what a function pipeline runs; calls the function with each datum.

An exception is the end of its datum, not of the process: its reason names the exception and the line of the user's code.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trunkline.batching import Datum, datums

REASON_CHARACTERS_MAX = 1000


def main(argv: list[str] | None = None) -> None:
    """Call a function with the datums that this process is given."""
    words = sys.argv[1:] if argv is None else argv
    if len(words) != 1 or ":" not in words[0]:
        raise SystemExit("usage: python -m trunkline.calling MODULE:FUNCTION")
    function = load(words[0])
    for datum in datums():
        call(function, datum)


def load(target: str) -> Callable[[Datum], object]:
    """The function that ``MODULE:FUNCTION`` names."""
    module_name, _, name = target.partition(":")
    found: Any = importlib.import_module(module_name)
    for part in name.split("."):
        found = getattr(found, part)
    function: Callable[[Datum], object] = getattr(found, "function", found)
    return function


def call(function: Callable[[Datum], object], datum: Datum) -> None:
    """One datum; it fails if the function does."""
    try:
        function(datum)
    except (Exception, SystemExit) as error:  # whatever a user's code raises
        own = _own_frames(error)
        sys.stderr.write("Traceback (most recent call last):\n" + "".join(traceback.format_list(own)))
        sys.stderr.write("".join(traceback.format_exception_only(error)))
        datum.fail(reason_of(error, own))


def reason_of(error: BaseException, frames: list[traceback.FrameSummary]) -> str:
    """``ValueError: no pixels (thumbs.py, line 12: load(path))``: what, and where in the user's code."""
    said = " ".join("".join(traceback.format_exception_only(error)).split())
    where = _users_line(frames)
    if where is None:
        return said[:REASON_CHARACTERS_MAX]
    place = f" ({Path(where.filename).name}, line {where.lineno}: {(where.line or '').strip()})"
    return said[: max(0, REASON_CHARACTERS_MAX - len(place))] + place


def _own_frames(error: BaseException) -> list[traceback.FrameSummary]:
    """All but this module's."""
    return [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__]


def _users_line(frames: list[traceback.FrameSummary]) -> traceback.FrameSummary | None:
    here = str(Path.cwd())
    own = [frame for frame in frames if str(Path(frame.filename).absolute()).startswith(here + "/")]
    candidates = own or frames
    return candidates[-1] if candidates else None


if __name__ == "__main__":
    main()
