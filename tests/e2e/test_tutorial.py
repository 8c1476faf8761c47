"""The tutorial does what it says: its commands run, in order, and print what it shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from trunkline.testing.server import running_server

pytestmark = pytest.mark.slow

TUTORIAL = Path(__file__).resolve().parents[2] / "docs" / "tutorial.md"
VARIES = [
    (r"\b[0-9a-f]{32}\b", "ID"),
    (r"\d{8}t\d{6}z-[0-9a-f]{6}", "BACKUP"),
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "TIME"),
    (r"(less than a|\d+) (second|minute)s? ago", "AGO"),
    (r"\d+ packs of [\d.]+[A-Za-z]+, \d+ trees", "SIZES"),
    (r"[ -]+", " "),
]


def steps() -> Iterator[tuple[str, str]]:
    """The commands, each with what is shown below it."""
    for block in re.findall(r"```console\n(.*?)```", TUTORIAL.read_text(), re.DOTALL):
        for step in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, shown = step.partition("\n")
            yield command, shown


def settled(text: str) -> str:
    for pattern, word in VARIES:
        text = re.sub(pattern, word, text)
    return "\n".join(line.strip() for line in text.strip().splitlines())


def test_the_tutorial_is_true(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    with running_server(tmp_path / "home") as server:
        environment = server.env | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        for command, shown in steps():
            if command == "trunkline up --detach":
                continue  # the harness has started it, on ports of its own
            done = subprocess.run(
                ["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False
            )  # fmt: skip
            printed = done.stdout + done.stderr
            assert done.returncode == 0, f"{command}\n{printed}"
            expected = ".*".join(re.escape(part) for part in settled(shown).split("…"))
            assert re.fullmatch(expected, settled(printed), re.DOTALL), (
                f"{command}\n{printed}\ninstead of\n{shown}"
            )
