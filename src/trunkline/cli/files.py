"""``put``, ``get``, ``copy``, ``diff`` and ``glob file``."""

from __future__ import annotations

import contextlib
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from trunkline.cli.client import client, transfers
from trunkline.cli.grammar import Output, Project, command, new_verb
from trunkline.cli.output import done, progress, say, size_text
from trunkline.core.paths import parse_address
from trunkline.errors import InvalidInputError, LimitError, UnavailableError
from trunkline.sdk.packing import Source, total_bytes
from trunkline.sdk.transfer import copied

STDIN = "-"
FileArgument = Annotated[str, typer.Argument(metavar="REPO@BRANCH[:PATH]")]


def register(app: typer.Typer, get: typer.Typer) -> None:
    put = new_verb(app, "put", "Write files into a repo.")
    register_transfers(put, get)
    copy = new_verb(app, "copy", "Copy files inside the store.")
    command(copy, "file", "trunkline copy file images@staging:/cats images@master:/cats")(copy_file)
    diff = new_verb(app, "diff", "Show what changed.")
    command(diff, "file", "trunkline diff file images@master:/ images@master^:/")(diff_file)
    glob = new_verb(app, "glob", "Find files by pattern.")
    command(glob, "file", "trunkline glob file 'images@master:/**.png'")(glob_file)


def register_transfers(put: typer.Typer, get: typer.Typer) -> None:
    """The two that move data; they need little of the program, and start at once."""
    command(put, "file", "trunkline put file dogs-and-cats@master:/data1 -f dog-cat/ -r")(put_file)
    command(get, "file", "trunkline get file dogs-and-cats@master:/data1 -r -o pictures/")(get_file)


def put_file(
    address: FileArgument,
    files: Annotated[
        list[str], typer.Option("--file", "-f", help="What to put; may be given many times; - is stdin.")
    ],
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Put whole folders.")] = False,
    append: Annotated[bool, typer.Option("--append", "-a", help="Add to what is there.")] = False,
    project: Project = None,
    output: Output = None,
) -> None:
    """Put files, as one commit. Given PATH, a single file is stored under it, a folder's files below it."""
    api = transfers()
    where = parse_address(address, project or api.project)
    if STDIN in files:
        if len(files) > 1 or where.path in (None, "/"):
            raise InvalidInputError(
                "stdin is one file: write REPO@BRANCH:/PATH -f -, and nothing beside it", kind="bad_file"
            )
        commit = api.send_file(address, sys.stdin.buffer, append=append, project=project)
    else:
        into = None if ":" not in address else address.partition(":")[2]
        found = [_target(Path(source), into, len(files), recursive) for source in files]
        with progress(lambda: total_bytes(found)) as count:
            commit = api.send_files(
                address.partition(":")[0], found, append=append, project=project, progress=count
            )
    done(commit, output, f"commit {commit['project']}/{commit['repo']}@{commit['id']} {commit['status']}")


def _target(source: Path, into: str | None, sources: int, recursive: bool) -> tuple[str, Source]:
    """Where a source goes: ``(path in the repo, file or folder)``. As pachctl: without a path, under the source's own
    name; one source takes the path itself; several go below it by their names."""
    name = source.resolve().name
    if into is None:
        top = name
    elif sources == 1 and not (source.is_file() and into.endswith("/")):
        top = into.strip("/")
    else:
        top = f"{into.strip('/')}/{name}".lstrip("/")
    if source.is_dir():
        if not recursive:
            raise InvalidInputError(f"{source} is a folder: put it with -r", kind="is_directory")
    elif not source.is_file():
        raise InvalidInputError(f"there is no file {source}", kind="no_file")
    return top, source


def get_file(
    address: FileArgument,
    target: Annotated[
        Path | None, typer.Option("--output", "-o", help="File or folder; default: stdout.")
    ] = None,
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="A whole directory.")] = False,
    project: Project = None,
) -> None:
    """Get a file to stdout or into a file, or with -r a directory into a folder."""
    api = transfers()
    if recursive:
        if target is None:
            raise InvalidInputError("a directory needs a folder: add -o FOLDER", kind="no_output")
        count = api.get_files(address, target, project=project)
        say(f"{count} files in {target}")
        return
    with api.get_file(address, project=project) as stream:
        if target is None:
            copied(stream, sys.stdout.buffer)
            sys.stdout.buffer.flush()
            return
        size = int(stream.headers.get("content-length") or 0)
        with progress(lambda: (1, size)) as count_bytes, _whole(target) as file:
            copied(stream, file, count_bytes)


@contextlib.contextmanager
def _whole(target: Path) -> Iterator[typer.FileBinaryWrite]:
    """A file that appears under its name only when it is complete."""
    part = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
    try:
        with part.open("wb") as file:
            yield file  # type: ignore[misc]
        part.replace(target)
    except OSError as error:
        kind = LimitError if error.errno == 28 else UnavailableError
        raise kind(f"cannot write {target}: {error.strerror}", kind="not_written") from error
    finally:
        part.unlink(missing_ok=True)


def copy_file(
    source: Annotated[str, typer.Argument(metavar="FROM")],
    target: Annotated[str, typer.Argument(metavar="TO")],
    project: Project = None,
    output: Output = None,
) -> None:
    """Copy a file or directory between repos or branches; free of cost, whatever its size."""
    commit = client().copy_file(source, target, project=project)
    done(commit, output, f"commit {commit.project}/{commit.repo}@{commit.id} {commit.status}")


def diff_file(
    address: FileArgument,
    old: Annotated[str | None, typer.Argument(help="Compare with this; default: the commit before.")] = None,
    project: Project = None,
    output: Output = None,
) -> None:
    """Show which files were added, deleted or changed."""
    from trunkline.cli.listing import shown  # noqa: PLC0415 (not for those who move files)

    signs = {"added": "+", "deleted": "-", "changed": "~"}
    shown(
        client().diff_files(address, old, project=project), output, ("OP", "SIZE", "NAME"),
        lambda entry: (
            signs[entry.op], size_text((entry.new or entry.old).size), entry.path,
        ),
    )  # fmt: skip


def glob_file(
    address: Annotated[str, typer.Argument(metavar="REPO@BRANCH:PATTERN")],
    project: Project = None,
    output: Output = None,
) -> None:
    """Find files: * ? [] {a,b} within a directory, ** across directories."""
    from trunkline.cli.listing import shown  # noqa: PLC0415

    where, colon, pattern = address.partition(":")
    if not colon:
        raise InvalidInputError(f"{address!r} has no pattern: write REPO@BRANCH:PATTERN", kind="bad_glob")
    found = client().list_files(where, glob=pattern, project=project)
    shown(found, output, ("SIZE", "NAME"), lambda file: (size_text(file.size), file.path))
