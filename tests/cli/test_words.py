"""The grammar, the help and the words of the output; no server."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from tests.cli.conftest import run_here
from trunkline import errors
from trunkline.cli.errors import EXIT, exit_code
from trunkline.cli.grammar import NOUNS
from trunkline.cli.jobs import job_state
from trunkline.cli.output import bar, duration_text, one_line, short_age
from trunkline.cli.tree import MODULES, OF_VERB, root
from trunkline.core.sizes import size_text
from trunkline.wire.jobs import Job

ROOT = root()
ENV = {"TRUNKLINE_HOME": "/nonexistent", "PATH": "/usr/bin:/bin", "HOME": "/nonexistent"}


def commands(command: Any, words: tuple[str, ...] = ()) -> list[tuple[str, Any]]:
    context = typer.Context(command, info_name=words[-1] if words else "trunkline")
    if not hasattr(command, "list_commands"):
        return [(" ".join(words), command)]
    return [
        found
        for name in command.list_commands(context)
        for found in commands(command.get_command(context, name), (*words, name))
    ]


COMMANDS = commands(ROOT)


@pytest.mark.parametrize(
    ("total", "skipped", "processed", "said"),
    [
        (0, 0, 0, "succeeded: there were no datums to process"),
        (3, 3, 0, "succeeded: all results were known"),
        (3, 2, 1, "succeeded"),
        (1, 0, 0, "succeeded"),  # a service has run for it
    ],
)
def test_how_a_job_went(total: int, skipped: int, processed: int, said: str) -> None:
    job = Job(
        project="default", pipeline="p", id="1", version=1, status="succeeded", phase="", reason="", inputs=(), total=total,
        processed=processed, skipped=skipped, failed=0, recovered=0, stats={}, created_at=0.0, started_at=0.0, finished_at=0.0,
    )  # fmt: skip
    assert job_state(job) == said


def test_every_error_class_has_an_exit_code() -> None:
    classes = {
        found
        for found in vars(errors).values()
        if isinstance(found, type) and issubclass(found, errors.TrunklineError)
    }
    assert set(EXIT) == classes - {errors.TrunklineError}
    assert exit_code(errors.NotFoundError("x")) == 4


@pytest.mark.parametrize("words", [words for words, _ in COMMANDS])
def test_every_help_has_an_example(words: str) -> None:
    done = run_here(f"{words} --help", ENV)
    assert done.code == 0
    shown = " ".join(done.out.split())
    assert f"Example: trunkline {words.split()[0]}" in shown
    assert words == "version" or len(shown.split("Example:")[0].split()) > 8


def test_the_walkthroughs_words_exist() -> None:
    found = {words for words, _ in COMMANDS}
    for words in (
        "create namespace", "apply", "create repo", "list repo", "create pipeline", "list pipeline", "put file",
        "get inferenceservice", "get file", "logs", "inspect ID", "up", "down", "status", "version", "train", "deploy",
        "demo", "start commit", "finish commit", "wait job", "wait inferenceservice", "copy file", "diff file",
    ):  # fmt: skip
        assert words in found


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("lst repos", "did you mean 'list'?"), ("list rpos", "did you mean 'repos'?"), ("create reepo x", "'repo'?"),
        ("get inferenceservces", "'inferenceservices'?"), ("inspect jbo x", "'job'?"),
    ],
)  # fmt: skip
def test_an_unknown_word_names_the_nearest(line: str, hint: str) -> None:
    done = run_here(line, ENV)
    assert done.code == 2
    assert hint in done.err and done.err.count("\n") == 1 and done.out == ""


def test_a_missing_argument_is_one_line() -> None:
    done = run_here("create repo", ENV)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "name" in done.err and "create repo --help" in done.err


def test_singular_and_plural_are_the_same() -> None:
    for singular, plural in NOUNS.items():
        for verb in ("list", "get", "delete"):
            if f"{verb} {singular}" in {words for words, _ in COMMANDS}:
                assert run_here(f"{verb} {plural} --help", ENV).code == 0


def test_without_a_server_it_says_what_to_do() -> None:
    done = run_here("list repos", ENV)
    assert done.code == 7
    assert "trunkline up" in done.err and done.err.startswith("error: ")


def test_a_server_that_is_gone_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("x")
    done = run_here(
        "list repos", {**ENV, "TRUNKLINE_HOME": str(tmp_path), "TRUNKLINE_URL": "http://127.0.0.1:9"}
    )
    assert done.code == 7 and "does not answer" in done.err


def test_a_reader_that_has_enough_is_no_error() -> None:
    line = f"{sys.executable} -m trunkline.cli.main --help | head -1"
    done = subprocess.run(["/bin/sh", "-c", line], capture_output=True, text=True, check=True)
    assert (done.stdout.startswith("Usage:"), done.stderr) == (True, "")


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0B"), (58_644, "57.27KiB"), (1024, "1KiB"), (5 * 2**30, "5GiB"), (2**60, "1048576TiB")],
)
def test_sizes(size: float, text: str) -> None:
    assert size_text(size).replace("1.049e+06", "1048576") == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "less than a second"), (1, "1 second"), (59, "59 seconds"), (300, "5 minutes"), (3600, "1 hour"),
     (3 * 86400, "3 days"), (20 * 86400, "2 weeks"), (70 * 86400, "2 months"), (800 * 86400, "2 years")],
)  # fmt: skip
def test_durations(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


def test_small_words() -> None:
    assert [short_age(s) for s in (5, 119, 300, 7200, 3 * 86400)] == ["5s", "119s", "5m", "2h", "3d"]
    assert (bar(0), bar(0.5), bar(1)) == ("-" * 8, "▇▇▇▇----", "▇" * 8)
    assert (one_line("a\n b"), one_line("")) == ("a b", "-")


def described(command: Any) -> Any:
    """All that there is to see of a command."""
    below = {name: described(one) for name, one in getattr(command, "commands", {}).items()}
    options = [
        (one.name, one.opts, one.secondary_opts, one.metavar, getattr(one, "help", ""))
        for one in command.params
    ]
    return command.name, command.help, command.epilog, options, list(below), below


def test_a_part_of_the_grammar_has_all_that_is_below_its_verb() -> None:
    whole = root().commands
    assert set(OF_VERB) == set(whole)
    for verb, modules in OF_VERB.items():
        assert sorted(modules.split(), key=MODULES.index) == modules.split(), verb
        assert list(root(verb).commands) == [verb]
        assert described(root(verb).commands[verb]) == described(whole[verb])
