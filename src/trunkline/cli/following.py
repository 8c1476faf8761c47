"""``subscribe``: what comes, as it comes."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from trunkline.cli.client import client
from trunkline.cli.grammar import FullTimestamps, Project, command, new_verb
from trunkline.cli.output import Format, show, structured_line, time_text
from trunkline.core.sizes import size_text
from trunkline.wire.commits import Commit


class OriginWord(StrEnum):
    user = "user"
    auto = "auto"


class State(StrEnum):
    started = "started"
    finished = "finished"


Origin = Annotated[
    OriginWord | None,
    typer.Option("--origin", help="Only commits that people made (user) or that followed (auto)."),
]
AllOrigins = Annotated[bool, typer.Option("--all", help="Commits of every origin; the default.")]


def register(app: typer.Typer) -> None:
    verb = new_verb(app, "subscribe", "Print what comes, as it comes.")
    command(verb, "commit", "trunkline subscribe commit images@master --new")(subscribe_commit)


def subscribe_commit(
    address: Annotated[str, typer.Argument(metavar="REPO@BRANCH")],
    since: Annotated[
        str | None, typer.Option("--from", "-f", help="Only commits newer than this ID.")
    ] = None,
    new: Annotated[bool, typer.Option("--new", help="Only commits that come from now on.")] = False,
    state: Annotated[State, typer.Option("--state", help="When to print a commit.")] = State.finished,
    origin: Origin = None,
    all_origins: AllOrigins = False,
    number: Annotated[int | None, typer.Option("--number", "-n", min=1, help="End after so many.")] = None,
    project: Project = None,
    output: Annotated[
        Format | None, typer.Option("--output", "-o", help="One json (or yaml) text a commit.")
    ] = None,
    full_timestamps: FullTimestamps = False,
) -> None:
    """Print the commits of a branch, oldest first, and go on with those that come; each once, also over a server's restart."""
    found = client().subscribe_commits(
        address, after=since, new=new, finished=state is State.finished,
        origin=None if origin is None or all_origins else origin.value, project=project,
    )  # fmt: skip
    for count, commit in enumerate(found, start=1):
        if output is not None:
            structured_line(commit, output)
        else:
            show(_line(commit, full_timestamps))
        if count == number:
            return


def _line(commit: Commit, full: bool) -> str:
    words = (
        commit.project, commit.repo, commit.branch, commit.id, time_text(commit.finished_at, full),
        size_text(commit.size), commit.origin.upper(), commit.error or commit.description or "-",
    )  # fmt: skip
    return " ".join(words)
