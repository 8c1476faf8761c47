"""``put``, ``get``, ``copy``, ``diff`` and ``glob file``."""

from __future__ import annotations

import contextlib
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from trunkline.cli.client import client, transfers
from trunkline.cli.grammar import Number, Output, Project, command, new_verb
from trunkline.cli.output import counted, done, progress, say, show, size_text, structured_line
from trunkline.cli.sources import STDIN, Puts, is_url, listed, local_files, opened, put_mixed
from trunkline.core.paths import Address, parse_address
from trunkline.errors import InvalidInputError, LimitError, NotFoundError, UnavailableError
from trunkline.sdk.packing import total_bytes
from trunkline.sdk.transfer import Transfers, copied

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
    walk = new_verb(app, "walk", "Walk through directories.")
    command(walk, "file", "trunkline walk file images@master:/cats")(walk_file)


def register_transfers(put: typer.Typer, get: typer.Typer) -> None:
    """The two that move data; they need little of the program, and start at once."""
    command(put, "file", "trunkline put file dogs-and-cats@master:/data1 -f dog-cat/ -r")(put_file)
    command(get, "file", "trunkline get file dogs-and-cats@master:/data1 -r -o pictures/")(get_file)


def put_file(
    address: FileArgument,
    files: Annotated[
        list[str] | None,
        typer.Option("--file", "-f", help="A file, a URL or - for stdin; may be given many times."),
    ] = None,
    lists: Annotated[
        list[str] | None,
        typer.Option("--input-file", "-i", help="A file (or -) with a path or URL in each line."),
    ] = None,
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Put whole folders.")] = False,
    append: Annotated[bool, typer.Option("--append", "-a", help="Add to what is there.")] = False,
    untar: Annotated[
        bool, typer.Option("--untar", help="Put what is in the archives: tar (gz, bz2, xz, zst) or zip.")
    ] = False,
    full_path: Annotated[
        bool, typer.Option("--full-path", help="Keep the whole path of a source, not only its name.")
    ] = False,
    link: Annotated[
        bool, typer.Option("--link", help="Copy nothing: files of the server's machine, or s3://.")
    ] = False,
    unlink: Annotated[
        bool, typer.Option("--unlink", help="Copy in what was linked at or below PATH.")
    ] = False,
    parallel: Annotated[
        int, typer.Option("--parallel", "-p", min=1, max=64, help="Send over so many connections at once.")
    ] = 1,
    project: Project = None,
    output: Output = None,
) -> None:
    """Put files, as one commit. Given PATH, a single file is stored under it, a folder's files below it; several sources
    go below it by their names."""
    if unlink:
        _copy_in(address, files, lists, project, output)
        return
    api = transfers()
    where = parse_address(address, project or api.project)
    puts = Puts(
        sources=listed(files or [], lists or []), into=None if ":" not in address else address.partition(":")[2],
        recursive=recursive, append=append, unpack=untar, link=link, full_path=full_path, streams=parallel,
    )  # fmt: skip
    if link and (append or untar):
        raise InvalidInputError("--link goes with neither --append nor --untar", kind="bad_option")
    commit = _put(api, address, puts, where, project)
    done(commit, output, f"commit {commit['project']}/{commit['repo']}@{commit['id']} {commit['status']}")


def _put(api: Transfers, address: str, puts: Puts, where: Address, project: str | None) -> dict[str, Any]:
    if puts.link or any(is_url(source) for source in puts.sources):
        if STDIN in puts.sources and not (puts.unpack or puts.link):
            raise InvalidInputError("stdin cannot be put together with URLs: put it alone", kind="bad_file")
        return put_mixed(client(), address, puts, project).model_dump(mode="json")
    if puts.unpack:
        if len(puts.sources) > 1:
            return put_mixed(client(), address, puts, project).model_dump(mode="json")
        with opened(puts.sources[0]) as archive:
            commit = client().unpack_file(address, archive, append=puts.append, project=project)
        return commit.model_dump(mode="json")
    if STDIN in puts.sources:
        if len(puts.sources) > 1 or where.path in (None, "/") or address.endswith("/"):
            raise InvalidInputError(
                "stdin is one file: write REPO@BRANCH:/PATH -f -, and nothing beside it", kind="bad_file"
            )
        return api.send_file(address, sys.stdin.buffer, append=puts.append, project=project)
    found = local_files(puts, puts.sources)
    with progress(lambda: total_bytes(found)) as count:
        return api.send_files(
            address.partition(":")[0],
            found,
            append=puts.append,
            project=project,
            progress=count,
            streams=puts.streams,
        )


def _copy_in(
    address: str, files: list[str] | None, lists: list[str] | None, project: str | None, output: Output
) -> None:
    if files or lists:
        raise InvalidInputError(
            "--unlink takes no -f and no -i: it copies in what was linked", kind="bad_option"
        )
    found = client().copy_in_files(address, project=project)
    done(found, output, f"{counted(found.file_count, 'file')} ({size_text(found.size)}) copied in")


def get_file(
    address: FileArgument,
    target: Annotated[
        Path | None, typer.Option("--output", "-o", help="File or folder; default, or -: stdout.")
    ] = None,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="A whole directory, or all that a glob matches.")
    ] = False,
    offset: Annotated[int, typer.Option("--offset", min=0, help="Bytes to leave out at the start.")] = 0,
    length: Annotated[int | None, typer.Option("--length", min=1, help="At most so many bytes.")] = None,
    as_tar: Annotated[
        bool, typer.Option("--tar", help="As a tar archive; a directory or glob, too.")
    ] = False,
    with_progress: Annotated[
        bool, typer.Option("--progress/--no-progress", help="Show a bar, on a terminal.")
    ] = True,
    project: Project = None,
) -> None:
    """Get a file to stdout or into a file, or with -r a directory into a folder. PATH may be a glob: without -r or --tar
    it must match one file."""
    api = transfers()
    if target == Path(STDIN):
        target = None
    if (recursive or as_tar) and (offset or length is not None):
        raise InvalidInputError("--offset and --length are for one file", kind="bad_option")
    if as_tar:
        source, glob = _as_glob(address, project)
        stream = client().get_archive(source, glob=glob, project=project)
    elif recursive:
        if target is None:
            raise InvalidInputError("a directory needs a folder: add -o FOLDER", kind="no_output")
        source, glob = _as_glob(address, project)
        count = api.get_files(source, target, glob=glob, project=project)
        say(f"{counted(count, 'file')} in {target}")
        return
    else:
        stream = api.get_file(address, offset=offset, length=length, project=project)
    with stream:
        if target is None:
            copied(stream, sys.stdout.buffer)
            sys.stdout.buffer.flush()
            return
        size = int(stream.headers.get("content-length") or 0)
        with progress(lambda: (1, size), shown=with_progress) as count_bytes, _whole(target) as file:
            copied(stream, file, count_bytes)


def _as_glob(address: str, project: str | None) -> tuple[str, str | None]:
    """``(address, glob)``: a path that is there is meant as it is, else as a glob, if it looks like one."""
    where, _, pattern = address.partition(":")
    if any(character in pattern for character in "*?[{("):
        try:
            client().inspect_file(address, project=project)
        except NotFoundError as error:
            if error.kind != "no_file":
                raise
            return where, pattern
    return address, None


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
