"""The command line as a program: a grammar, empty at first, and what running one of its lines ends with."""

from __future__ import annotations

from typing import Any

import typer

from trunkline.cli.errors import INTERRUPTED
from trunkline.cli.grammar import Verbs
from trunkline.cli.output import say


def empty() -> typer.Typer:
    """A grammar without commands."""
    return typer.Typer(
        cls=Verbs, name="trunkline", no_args_is_help=True, rich_markup_mode=None, add_completion=True,
        pretty_exceptions_enable=False, context_settings={"help_option_names": ["--help", "-h"]},
        help="Commit data, and get a tested, live model, with one ID that explains, replays or undoes it all.",
        epilog="Example: trunkline up --detach",
    )  # fmt: skip


def run(root: Any, words: list[str]) -> int:
    """Run a command; returns its exit code. A command that was written wrongly is one line and where to read on; a bare
    verb shows its help."""
    try:
        result = root.main(words, prog_name="trunkline", standalone_mode=False)
    except typer.TyperException as error:
        return _usage(error)
    except typer.Abort:
        return INTERRUPTED
    return result if isinstance(result, int) else 0


def _usage(error: Any) -> int:
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
    else:
        context = getattr(error, "ctx", None)
        hint = f"; see '{context.command_path} --help'" if context is not None else ""
        say(f"error: {error.format_message().rstrip('.')}{hint}")
    return 2
