"""Habits that nobody has to remember: sizes, where the environment is read, what the core installs."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "src" / "trunkline").rglob("*.py"))
FILE_LINES_MAX = 500
FUNCTION_LINES_MAX = 70

MAY_READ_THE_ENVIRONMENT = {
    "cli/editor.py": "which editor a user wants",
    "settings.py": "the control server's settings",
    "sdk/config.py": "how a client finds its server",
    "cli/server.py": "'up' hands the environment on to the server it starts",
    "sdk/job.py": "what a job knows of itself",
    "training/context.py": "what a trial knows of itself",
    "batching.py": "what a datum knows of itself",
    "demo/run.py": "starts commands as a user would",
}
"""Files, or folders that end with ``/``, that read ``os.environ``; all others get what they need from their caller."""
WHOLE_FOLDERS = ("workers/", "serving/replica/", "testing/", "demo/digits/")


@dataclass(frozen=True)
class Seen:
    """What one walk through a file finds; trees of all files, kept, would slow down every collection of garbage."""

    lines: int
    has_words: bool
    docstring: str | None
    long: tuple[str, ...]
    of_os: frozenset[str]


@functools.cache
def _seen(path: Path) -> Seen:
    text = path.read_text()
    tree = ast.parse(text)
    long, of_os = [], set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
            if node.end_lineno - node.lineno >= FUNCTION_LINES_MAX:
                long.append(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os":
            of_os.add(node.attr)
    docstring = ast.get_docstring(tree)
    return Seen(len(text.splitlines()), bool(text.strip()), docstring, tuple(long), frozenset(of_os))


def _name(path: Path) -> str:
    return path.relative_to(ROOT / "src" / "trunkline").as_posix()


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_files_and_functions_stay_readable(path: Path) -> None:
    assert _seen(path).lines <= FILE_LINES_MAX
    assert _seen(path).long == ()


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_only_the_edges_read_the_environment(path: Path) -> None:
    name = _name(path)
    if name in MAY_READ_THE_ENVIRONMENT or name.startswith(WHOLE_FOLDERS):
        return
    assert not _seen(path).of_os & {"environ", "getenv", "putenv"}


def test_every_module_says_what_it_owns() -> None:
    silent = [_name(p) for p in SOURCES if _seen(p).has_words and not _seen(p).docstring]
    assert silent == []


def test_the_server_never_imports_what_is_heavy() -> None:
    heavy = ("torch", "numpy", "sklearn", "ray", "kubernetes", "pandas")
    code = (
        f"import sys, trunkline.services, trunkline.api.app; print([m for m in {heavy} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_user_code_gets_a_light_training_module() -> None:
    code = (
        "import sys; from trunkline import training; training.init; "
        "sys.exit(any(m in sys.modules for m in ('sqlalchemy', 'fastapi', 'pydantic', 'urllib3', 'typer')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
