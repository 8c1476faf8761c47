"""``version``: apart from the rest, so that it is there at once."""

from __future__ import annotations

import typer

from trunkline import __version__
from trunkline.cli.grammar import Output, command
from trunkline.cli.output import show, structured


def register(app: typer.Typer) -> None:
    command(app, "version", "trunkline version")(version)


def version(output: Output = None) -> None:
    """Show the version."""
    if output is not None:
        structured({"version": __version__}, output)
    else:
        show(__version__)
