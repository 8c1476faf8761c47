"""The quick reader of the commands that must start at once, beside the full grammar."""

from __future__ import annotations

import shlex
import subprocess
import sys
from typing import Any

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from tests.cli.conftest import run_here
from trunkline import __version__
from trunkline.cli import quick
from trunkline.cli.grammar import SAME
from trunkline.cli.tree import root

OPTIONS = {"put": quick.PUT, "get": quick.GET}


def full(verb: str) -> Any:
    """The command of the full grammar."""
    context = typer.Context(root(), info_name="trunkline")
    return root().get_command(context, verb).commands["file"]


def read_by_both(verb: str, words: list[str]) -> None:
    """What the quick reader understands, the full grammar understands alike."""
    quickly = quick.parsed(words, OPTIONS[verb])
    if quickly is None:
        return
    command = full(verb)
    params = command.make_context("file", list(words)).params
    defaults = {param.name: None if param.multiple else param.default for param in command.params}
    assert {**defaults, **quickly} == {
        name: value or None if isinstance(value, list | tuple) else value for name, value in params.items()
    }


@pytest.mark.parametrize("verb", OPTIONS)
def test_both_have_the_same_options(verb: str) -> None:
    declared = {
        param.name: ({*param.opts}, {*param.secondary_opts})
        for param in full(verb).params
        if param.param_type_name == "option" and param.name not in ("help", "output")
    }
    assert declared == {
        name: ({*option.flags}, {option.off} - {None}) for name, option in OPTIONS[verb].items()
    }


@pytest.mark.parametrize(
    ("verb", "line"),
    [
        ("put", "a@b:/c -f x"), ("put", "-r --file x a@b:/c -f - --project p"), ("put", "a@b --file=x -p 3 -a -i l"),
        ("put", "a@b -f x -f y --changed --untar --full-path --link --unlink --parallel=64"),
        ("get", "a@b:/c"), ("get", "a@b:/c -o - --no-progress"), ("get", "a@b:/c -r --output=x --progress"),
        ("get", "--offset 0 --length=7 a@b:/c --tar --project="),
    ],
)  # fmt: skip
def test_ordinary_lines_are_read_quickly_and_alike(verb: str, line: str) -> None:
    assert quick.parsed(shlex.split(line), OPTIONS[verb]) is not None
    read_by_both(verb, shlex.split(line))


@pytest.mark.parametrize(
    ("verb", "line"),
    [
        ("put", ""), ("put", "--help"), ("put", "a@b -f"), ("put", "a@b c@d -f x"), ("put", "a@b -f x -o json"),
        ("put", "a@b -rf x"), ("put", "a@b -fx"), ("put", "a@b --recurs -f x"), ("put", "a@b -p 0 -f x"),
        ("put", "a@b -p 65 -f x"), ("put", "a@b -p x -f x"), ("put", "a@b -f x -- y"), ("put", "a@b -f --help"),
        ("put", "a@b --recursive=1 -f x"), ("get", "a@b --offset -1"), ("get", "a@b --length 0"),
        ("get", "a@b --length ٣"), ("get", "-h"), ("get", "a@b --nonsense"),
    ],
)  # fmt: skip
def test_the_rest_is_left_to_the_full_grammar(verb: str, line: str) -> None:
    assert quick.parsed(shlex.split(line), OPTIONS[verb]) is None


WORDS = st.sampled_from(
    ["a@b:/c", "-", "--", "-f", "-r", "x", "3", "0", "-p", "--file", "--file=y", "--tar", "-o", "--offset", "--length=9",
     "--progress", "--no-progress", "--project", "-a", "--changed", "", "=", "-i"]
)  # fmt: skip


@pytest.mark.parametrize("verb", OPTIONS)
@given(words=st.lists(WORDS, max_size=6))
def test_no_line_is_read_in_two_ways(verb: str, words: list[str]) -> None:
    read_by_both(verb, words)


def test_errors_are_those_of_the_full_grammar() -> None:
    env = {"TRUNKLINE_HOME": "/nonexistent", "PATH": "/usr/bin:/bin", "HOME": "/nonexistent"}
    for line in ("put file", "put files a@b --nonsense", "get file a@b --length 0", "put file a@b -p x"):
        done = run_here(line, env)
        assert done.code == 2 and "--help'" in done.err, line
    assert run_here("version", env).out.strip() == __version__
    assert run_here("version -o json", env).out.split() == ["{", '"version":', f'"{__version__}"', "}"]
    assert SAME["files"] == "file"


def test_a_small_put_imports_little() -> None:
    """Each of these takes longer to import than such a command's own work."""
    code = "import sys, trunkline.cli.main, trunkline.cli.moving; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    slow = {
        "typer", "click", "pydantic", "urllib3", "yaml", "urllib.parse", "pathlib", "dataclasses", "inspect", "logging",
        "random", "secrets", "uuid", "hashlib", "shutil", "threading", "concurrent.futures", "importlib.metadata", "datetime",
    }  # fmt: skip
    assert not slow & set(done.stdout.split())
