"""What the demo shows: a numbered line per step with its time, and a bar while it lasts, where there is a terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn


class Step:
    """One running step: move its bar, say what came of it."""

    def __init__(self, progress: Progress, title: str) -> None:
        self._progress = progress
        self._task = progress.add_task(title, total=None)
        self.result = ""

    def advance_to(self, fraction: float) -> None:
        self._progress.update(self._task, total=1.0, completed=fraction)

    def say(self, text: str) -> None:
        """The result, shown beside the title when the step is done."""
        self.result = text


class Screen:
    """Steps on standard output."""

    def __init__(self) -> None:
        self.console = Console(highlight=False)
        self._count = 0
        self._started = time.monotonic()

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        self._count += 1
        started = time.monotonic()
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        with Progress(
            *columns, console=self.console, transient=True, disable=not self.console.is_terminal
        ) as progress:
            step = Step(progress, title)
            yield step
        seconds = time.monotonic() - started
        self.console.print(
            f"[bold]{self._count:>2}. {title:<44}[/bold] [cyan]{seconds:6.1f} s[/cyan]  {step.result}",
            soft_wrap=True,
        )

    def line(self, text: str = "") -> None:
        self.console.print(text, soft_wrap=True)

    @property
    def elapsed_seconds(self) -> float:
        return time.monotonic() - self._started
