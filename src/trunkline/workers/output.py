"""What commands write: both streams, line by line, as it comes, from two pipes that outlive each command."""

from __future__ import annotations

import contextlib
import os
import select
from collections import deque
from collections.abc import Callable, Mapping

LINE_BYTES_MAX = 64 * 1024
TAIL_LINES = 5
TAIL_CHARACTERS_MAX = 600

OnLine = Callable[[str, str], None]
"""``(text, stream)``."""


class Output:
    """Reads without waiting; whoever owns it knows when to."""

    def __init__(self, pipes: Mapping[str, int]) -> None:
        self._names = {number: name for name, number in pipes.items()}
        self._rest = dict.fromkeys(pipes.values(), b"")
        self._tails: dict[str, deque[str]] = {name: deque(maxlen=TAIL_LINES) for name in pipes}
        self._on_line: OnLine = lambda *_: None
        self._shown: Callable[[str], str] = lambda text: text
        self._poll = select.poll()
        for number in pipes.values():
            os.set_blocking(number, False)
            self._poll.register(number, select.POLLIN)

    def listen(self, on_line: OnLine, shown: Callable[[str], str]) -> None:
        """Who gets the lines from now on; ``shown`` makes of a line what others may see of it."""
        self._on_line, self._shown = on_line, shown

    def begin(self) -> None:
        """What comes now is of something new."""
        for tail in self._tails.values():
            tail.clear()

    def read(self, number: int) -> bool:
        """Pass on what has come in one pipe; whether there may be more."""
        try:
            data = os.read(number, LINE_BYTES_MAX)
        except BlockingIOError:
            return False
        if not data:
            return False
        *lines, rest = (self._rest[number] + data).split(b"\n")
        while len(rest) >= LINE_BYTES_MAX:
            lines.append(rest[:LINE_BYTES_MAX])
            rest = rest[LINE_BYTES_MAX:]
        self._rest[number] = rest
        for line in lines:
            self._pass_on(line, self._names[number])
        return True

    def drain(self) -> None:
        """All that has been written so far; what is not a whole line yet waits."""
        for number, _ in self._poll.poll(0):
            while self.read(number):
                pass

    def finish(self) -> None:
        """Everything, and the end of the last line."""
        self.drain()
        for number, name in self._names.items():
            if rest := self._rest[number]:
                self._rest[number] = b""
                self._pass_on(rest, name)

    def _pass_on(self, raw: bytes, stream: str) -> None:
        for at in range(0, len(raw) or 1, LINE_BYTES_MAX):
            text = self._shown(raw[at : at + LINE_BYTES_MAX].decode("utf-8", "replace").rstrip("\r"))
            if text.strip():
                self._tails[stream].append(text)
            self._on_line(text, stream)

    def tail(self) -> str:
        """The last words on stderr, else on stdout, in one line."""
        lines = self._tails["stderr"] or self._tails["stdout"]
        return " | ".join(line.strip() for line in lines)[-TAIL_CHARACTERS_MAX:]

    def close(self) -> None:
        """Read no more."""
        for number in self._names:
            with contextlib.suppress(OSError):
                os.close(number)
