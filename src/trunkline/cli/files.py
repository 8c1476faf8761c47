"""``copy``, ``diff``, ``glob`` and ``walk file``; and the place of ``put`` and ``get file``, which are in ``moving``."""

from __future__ import annotations

from typing import Annotated

import typer

from trunkline.cli import quick
from trunkline.cli.client import client
from trunkline.cli.grammar import ADDRESS, Number, Output, Project, command, new_verb, with_options
from trunkline.cli.moving import get_file, put_file
from trunkline.cli.output import done, show, structured_line
from trunkline.core.sizes import size_text

FileArgument = Annotated[str, ADDRESS]


def register(app: typer.Typer) -> None:
    put = new_verb(app, "put", "Write files into a repo.")
    command(put, "file", "trunkline put file dogs-and-cats@master:/data1 -f dog-cat/ -r")(
        with_options(put_file, quick.PUT)
    )
    command(new_verb(app, "get"), "file", "trunkline get file dogs-and-cats@master:/data1 -r -o pictures/")(
        with_options(get_file, quick.GET)
    )
    copy = new_verb(app, "copy", "Copy files inside the store.")
    command(copy, "file", "trunkline copy file images@staging:/cats images@master:/cats")(copy_file)
    diff = new_verb(app, "diff", "Show what changed.")
    command(diff, "file", "trunkline diff file images@master:/ images@master^:/")(diff_file)
    glob = new_verb(app, "glob", "Find files by pattern.")
    command(glob, "file", "trunkline glob file 'images@master:/**.png'")(glob_file)
    walk = new_verb(app, "walk", "Walk through directories.")
    command(walk, "file", "trunkline walk file images@master:/cats")(walk_file)


def copy_file(
    source: Annotated[str, typer.Argument(metavar="FROM")],
    target: Annotated[str, typer.Argument(metavar="TO")],
    append: Annotated[bool, typer.Option("--append", "-a", help="Add to what is there.")] = False,
    project: Project = None,
    output: Output = None,
) -> None:
    """Copy a file or directory between repos or branches; free of cost, whatever its size."""
    commit = client().copy_file(source, target, append=append, project=project)
    done(commit, output, f"commit {commit.project}/{commit.repo}@{commit.id} {commit.status}")


def diff_file(
    address: FileArgument,
    old: Annotated[
        str | None,
        typer.Argument(help="Compare with this, of any repo or branch; default: the commit before."),
    ] = None,
    shallow: Annotated[
        bool, typer.Option("--shallow", "-s", help="Directories as a whole, not the files below them.")
    ] = False,
    project: Project = None,
    output: Output = None,
) -> None:
    """Show which files were added (+), deleted (-) or changed (~)."""
    from trunkline.cli.listing import shown  # noqa: PLC0415 (not for those who move files)

    signs = {"added": "+", "deleted": "-", "changed": "~"}
    shown(
        client().diff_files(address, old, shallow=shallow, project=project), output, ("OP", "SIZE", "NAME"),
        lambda entry: (
            signs[entry.op], size_text((entry.new or entry.old).size), entry.path,
        ),
    )  # fmt: skip


def glob_file(
    address: Annotated[str, typer.Argument(metavar="REPO@BRANCH:PATTERN")],
    number: Number = None,
    project: Project = None,
    output: Output = None,
) -> None:
    """Find files: * ? [] {a,b} within a directory, ** across directories; ( ) captures, see -o json."""
    from trunkline.cli.listing import named, shown  # noqa: PLC0415

    found = client().glob_files(address, limit=number, project=project)
    shown(list(found), output, ("SIZE", "NAME"), lambda file: (size_text(file.size), named(file)))


def walk_file(
    address: FileArgument, number: Number = None, project: Project = None, output: Output = None
) -> None:
    """Print everything at or below a path, line by line as it comes: for millions of files, and for pipes."""
    from trunkline.cli.listing import named  # noqa: PLC0415

    for file in client().walk_files(address, limit=number, project=project):
        if output is not None:
            structured_line(file, output)
        else:
            show(f"{size_text(file.size):<9} {named(file)}")
