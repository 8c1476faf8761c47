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
    program,
    running,
    server,
    steering,
    transactions,
    version,
    why,
)
from trunkline.cli.grammar import Output, command


def build() -> typer.Typer:
    """The grammar. Its modules bring the wire models along, which takes half a second."""
    app = program.empty()
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
