"""``demo``."""

from __future__ import annotations

from typing import Annotated

import typer

from trunkline.cli.grammar import command
from trunkline.demo.run import run_demo


def register(app: typer.Typer) -> None:
    command(app, "demo", "trunkline demo --keep")(demo)


def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave it running and say what to try next.")] = False,
) -> None:
    """Run the whole loop on scanned digits: commit, train, deploy, predict, commit more, roll over."""
    run_demo(keep=keep)
