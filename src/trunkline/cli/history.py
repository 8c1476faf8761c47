"""``squash``, ``drop``, ``merge``, ``find``, and tags: naming and changing history."""

from __future__ import annotations

from enum import StrEnum
from itertools import chain
from typing import Annotated

import typer

from trunkline.cli.client import client, in_time
from trunkline.cli.grammar import FullTimestamps, Number, Output, Project, command, new_verb
from trunkline.cli.inspecting import shown as shown_whole
from trunkline.cli.listing import shown
from trunkline.cli.output import counted, done, padded, say, show, structured, table, time_text
from trunkline.errors import ConflictError
from trunkline.wire.history import Merge, MergeConflict, Removed

CommitsArgument = Annotated[str, typer.Argument(metavar="REPO@BRANCH-OR-ID | ID")]
TagArgument = Annotated[str, typer.Argument(metavar="REPO@TAG")]
Recursive = Annotated[bool, typer.Option("--recursive", "-r", help="Also what was made from it.")]
FIND_HEADER = ("COMMIT", "BRANCH", "OP", "FINISHED", "DESCRIPTION")
FIND_WIDTHS = (32, 12, 7, 16, 1)
SIGNS = {"added": "+", "deleted": "-", "changed": "~"}


class Strategy(StrEnum):
    ours = "ours"
    theirs = "theirs"


def register(app: typer.Typer) -> None:
    squash = new_verb(app, "squash", "Take commits out of history without losing what came after.")
    command(squash, "commit", "trunkline squash commit images@master^")(squash_commit)
    drop = new_verb(app, "drop", "Take the newest commits back.")
    command(drop, "commit", "trunkline drop commit images@master -r")(drop_commit)
    command(new_verb(app, "delete"), "commit", "trunkline delete commit images@master -r")(drop_commit)
    merge = new_verb(app, "merge", "Merge a branch into another one.")
    command(merge, "branch", "trunkline merge branch images@feature images@master")(merge_branch)
    find = new_verb(app, "find", "Find the commits that touched a path.")
    command(find, "commit", "trunkline find commit images@master:/cats -n 10")(find_commit)
    command(new_verb(app, "create"), "tag", "trunkline create tag images@v1.0 --commit master")(create_tag)
    command(new_verb(app, "list"), "tag", "trunkline list tags images")(list_tags)
    command(new_verb(app, "inspect"), "tag", "trunkline inspect tag images@v1.0")(inspect_tag)
    command(new_verb(app, "delete"), "tag", "trunkline delete tag images@v1.0")(delete_tag)


# --- squash and drop ---


def squash_commit(
    address: CommitsArgument, recursive: Recursive = False, project: Project = None, output: Output = None
) -> None:
    """Take a commit out of history, or with an ID alone a commit set. Its children stay and show what they showed."""
    _removed(client().squash_commits(address, recursive=recursive, project=project), output, "squashed")


def drop_commit(
    address: CommitsArgument, recursive: Recursive = False, project: Project = None, output: Output = None
) -> None:
    """Take back the newest commit of a branch, or with an ID alone a commit set; heads fall back to its parent."""
    _removed(client().drop_commits(address, recursive=recursive, project=project), output, "dropped")


def _removed(removed: Removed, output: Output, what: str) -> None:
    if output is not None:
        structured(removed, output)
        return
    for commit in removed.commits:
        say(in_time(f"commit {commit.project}/{commit.repo}@{commit.id} {what}"))
    for commit in removed.opened:
        say(in_time(f"commit {commit.project}/{commit.repo}@{commit.id} opened, from what is left"))


# --- merge ---


def merge_branch(
    source: Annotated[str, typer.Argument(metavar="REPO@BRANCH-OR-ID", help="What is merged.")],
    target: Annotated[str, typer.Argument(metavar="REPO@BRANCH", help="The branch that gets it.")],
    message: Annotated[str, typer.Option("--message", "-m", help="What it is about.")] = "",
    strategy: Annotated[
        Strategy | None,
        typer.Option("--strategy", help="Who wins a conflict: ours is the target, theirs the source."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    project: Project = None,
    output: Output = None,
) -> None:
    """Merge what has changed in the first since both were the same into the second, a branch, as one commit. Conflicts
    are listed, and then nothing is merged."""
    try:
        merged = client().merge_branch(
            source, target, description=message, strategy=None if strategy is None else strategy.value,
            dry_run=dry_run, project=project,
        )  # fmt: skip
    except ConflictError as error:
        if error.kind == "merge_conflict":
            _show_conflicts([MergeConflict.model_validate(one) for one in error.details["conflicts"]], output)
        raise
    done(merged, output, _told(merged, target))


def _show_conflicts(conflicts: list[MergeConflict], output: Output) -> None:
    if output is not None:
        structured(conflicts, output)
    else:
        table(("PATH", "CONFLICT"), [(one.path, one.reason) for one in conflicts])


def _told(merged: Merge, target: str) -> str:
    if merged.is_up_to_date:
        return f"{target} has it all already"
    changes = f"{counted(merged.added, 'file')} added, {merged.changed} changed, {merged.deleted} deleted"
    if merged.conflict_count:
        changes += f", {counted(merged.conflict_count, 'conflict')} settled"
    if merged.commit is None:
        return f"a merge would make one commit on {target}: {changes}"
    return f"commit {merged.commit.project}/{merged.commit.repo}@{merged.commit.id} {merged.commit.status}: {changes}"


# --- find ---


def find_commit(
    address: Annotated[str, typer.Argument(metavar="REPO@BRANCH:PATH")],
    since: Annotated[
        str | None, typer.Option("--from", help="Only commits after this one: an ID, branch or tag.")
    ] = None,
    number: Number = None,
    project: Project = None,
    output: Output = None,
    full_timestamps: FullTimestamps = False,
) -> None:
    """Find the commits that added (+), deleted (-) or changed (~) a file or directory, newest first, as they are found."""
    found = client().find_commits(address, since=since, limit=number, project=project)
    if output is not None:
        structured(list(found), output)
        return
    first = next(found, None)  # what is wrong is known before there is a table
    show(padded(FIND_HEADER, FIND_WIDTHS))
    for one in chain([] if first is None else [first], found):
        commit = one.commit
        finished = time_text(commit.finished_at, full_timestamps)
        show(
            padded(
                (commit.id, commit.branch, SIGNS[one.op], finished, commit.description or "-"), FIND_WIDTHS
            )
        )


# --- tags ---


def create_tag(
    address: TagArgument,
    commit: Annotated[
        str, typer.Option("--commit", help="What it names: a branch, tag or ID, also with ^.")
    ] = "master",
    description: Annotated[str, typer.Option("--description", "-d", help="What it is for.")] = "",
    move: Annotated[bool, typer.Option("--move", help="Let a tag that exists name another commit.")] = False,
    project: Project = None,
    output: Output = None,
) -> None:
    """Name a commit. Read it by that name (images@v1.0:/cats); it cannot be squashed, dropped or collected while it has one."""
    made = client().create_tag(address, commit, description=description, move=move, project=project)
    done(made, output, in_time(f"tag {made.project}/{made.repo}@{made.name} names commit {made.commit}"))


def list_tags(
    repo: str, project: Project = None, output: Output = None, full_timestamps: FullTimestamps = False
) -> None:
    """List the tags of a repo."""
    shown(
        client().list_tags(repo, project=project), output, ("TAG", "COMMIT", "CREATED", "DESCRIPTION"),
        lambda t: (t.name, t.commit, time_text(t.created_at, full_timestamps), t.description),
    )  # fmt: skip


def inspect_tag(
    address: TagArgument, project: Project = None, output: Output = None,
    full_timestamps: FullTimestamps = False,
) -> None:  # fmt: skip
    """Show a tag."""
    shown_whole(client().inspect_tag(address, project=project), output, full_timestamps)


def delete_tag(address: TagArgument, project: Project = None) -> None:
    """Delete a tag; its commit stays."""
    client().delete_tag(address, project=project)
    say(in_time(f"tag {address} deleted"))
