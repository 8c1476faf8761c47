"""The grammar of the command line as one command: the whole of it, or the part below one verb."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import Any

import typer

from trunkline.cli import program

MODULES = (
    "server", "create", "pipelines", "listing", "inspecting", "files", "apply", "logs", "running", "steering", "jobs", "deleting",
    "keeping", "following", "transactions", "history", "why", "loop", "demo", "mounting",
)  # fmt: skip
"""Each adds its commands with ``register(app)``. The first that adds to a verb says what that is for."""

OF_VERB: Mapping[str, str] = {
    "activate": "steering", "apply": "apply", "backup": "keeping", "cancel": "steering",
    "copy": "files", "create": "create history", "delete": "deleting transactions history", "demo": "demo", "deploy": "loop",
    "diff": "files", "down": "server", "draw": "pipelines", "drop": "history", "edit": "pipelines", "find": "history",
    "finish": "steering transactions", "fsck": "keeping", "gc": "keeping", "get": "listing files", "glob": "files",
    "inspect": "inspecting jobs transactions history", "kill": "steering", "list": "listing jobs transactions history",
    "logs": "logs", "merge": "history", "mount": "mounting", "pause": "steering", "purge": "keeping", "put": "files",
    "rerun": "pipelines", "restart": "pipelines", "restore": "keeping", "resume": "transactions", "run": "pipelines running",
    "squash": "history", "start": "steering transactions", "status": "server", "stop": "steering transactions",
    "subscribe": "following", "train": "loop", "unmount": "mounting", "up": "server", "update": "create", "version": "server",
    "wait": "steering jobs", "walk": "files", "why": "why",
}  # fmt: skip
"""The modules that add to each verb, in their order above. A command that starts with a verb waits for no others."""


def build(verb: str | None = None) -> typer.Typer:
    """The grammar; with one of ``OF_VERB``, as much of it as is below that."""
    app = program.empty()
    for name in MODULES if verb is None else OF_VERB[verb].split():
        import_module(f"trunkline.cli.{name}").register(app)
    if verb is not None:
        app.registered_commands = [one for one in app.registered_commands if one.name == verb]
        app.registered_groups = [one for one in app.registered_groups if one.name == verb]
    return app


@cache
def root(verb: str | None = None) -> Any:
    """The grammar as one command; made once, since the whole takes half a second."""
    app = build(verb)
    return typer.main.get_command(app) if verb is None else typer.main.get_group(app)
