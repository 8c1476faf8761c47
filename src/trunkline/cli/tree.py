"""The whole grammar of the command line, as one command."""

from __future__ import annotations

from functools import cache
from typing import Any

import typer

from trunkline.cli import (
    apply,
    create,
    deleting,
    files,
    following,
    history,
    inspecting,
    jobs,
    keeping,
    listing,
    logs,
    pipelines,
    running,
    server,
    steering,
    transactions,
    version,
    why,
)
from trunkline.cli.errors import INTERRUPTED
from trunkline.cli.grammar import Output, Verbs, command
from trunkline.cli.output import say


def build() -> typer.Typer:
    """The grammar. Its modules bring the wire models along, which takes half a second."""
    app = typer.Typer(
        cls=Verbs, name="trunkline", no_args_is_help=True, rich_markup_mode=None, add_completion=True,
        pretty_exceptions_enable=False, context_settings={"help_option_names": ["--help", "-h"]},
        help="Commit data, and get a tested, live model, with one ID that explains, replays or undoes it all.",
        epilog="Example: trunkline up --detach",
    )  # fmt: skip
    server.register(app)
    command(app, "version", "trunkline version")(_version)
    create.register(app)
    pipelines.register(app)
    get = listing.register(app)
    inspecting.register(app)
    files.register(app, get)
    apply.register(app)
    logs.register(app)
    running.register(app)
    steering.register(app)
    jobs.register(app)
    deleting.register(app)
    keeping.register(app)
    following.register(app)
    transactions.register(app)
    history.register(app)
    why.register(app)
    return app


def _version(output: Output = None) -> None:
    """Show the version."""
    version.version(output)


@cache
def root() -> Any:
    """The grammar as one command; made once, since that takes a tenth of a second."""
    return typer.main.get_command(build())


def run(words: list[str]) -> int:
    """Run a command; returns its exit code. A command that was written wrongly is one line and where to read on; a bare
    verb shows its help."""
    try:
        result = root().main(words, prog_name="trunkline", standalone_mode=False)
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
