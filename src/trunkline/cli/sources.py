"""What ``put file`` is given, and where it goes in the repo. As pachctl has it: without a path, under its own name; one source
takes the path itself; several go below it by their names."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import IO, TYPE_CHECKING, NamedTuple

from trunkline.errors import AlreadyExistsError, InvalidInputError, NotFoundError, UnavailableError
from trunkline.sdk import packing

if TYPE_CHECKING:
    from trunkline.sdk.client import Client
    from trunkline.sdk.files import FileChange
    from trunkline.sdk.packing import Source
    from trunkline.wire.commits import Commit
    from trunkline.wire.files import Link

STDIN = "-"
WEB = ("http://", "https://")
BUCKETS = ("s3://", "gs://")
LIST_BYTES_MAX = 64 * 2**20


class Puts(NamedTuple):
    """What was asked for. ``into`` is the address's path, None if it has none."""

    sources: Sequence[str]
    into: str | None
    recursive: bool = False
    append: bool = False
    unpack: bool = False
    link: bool = False
    full_path: bool = False
    streams: int = 1


def is_url(source: str) -> bool:
    return source.startswith(WEB + BUCKETS)


def listed(files: Sequence[str], lists: Sequence[str]) -> list[str]:
    """All sources: those given, and those that the lists hold, one per line.

    :raises InvalidInputError: ``no_source``, ``bad_list``, or ``bad_file`` for stdin that is asked for twice.
    """
    found = list(files)
    for name in lists:
        lines = _lines(name)
        if STDIN in lines:
            raise InvalidInputError(f"the list {name} names '-': stdin cannot be in a list", kind="bad_list")
        if not lines:
            raise InvalidInputError(f"the list {name} is empty", kind="bad_list")
        found += lines
    if [*files, *lists].count(STDIN) > 1:
        raise InvalidInputError("stdin can be read once: give '-' once", kind="bad_file")
    if not found:
        raise InvalidInputError(
            "nothing to put: name it with -f, or a list of names with -i", kind="no_source"
        )
    if "" in found:
        raise InvalidInputError("a name to put is empty", kind="no_source")
    return found


def _lines(name: str) -> list[str]:
    try:
        if name == STDIN:
            raw = sys.stdin.buffer.read(LIST_BYTES_MAX + 1)
        else:
            with open(name, "rb") as file:
                raw = file.read(LIST_BYTES_MAX + 1)
        text = raw.decode()
    except UnicodeDecodeError as error:
        _refuse_names(os.fsdecode(raw).split("\n"))
        raise InvalidInputError(f"the list {name} is not UTF-8", kind="bad_list") from error
    except OSError as error:
        raise InvalidInputError(
            f"the list {name} cannot be read: {error.strerror}", kind="bad_list"
        ) from error
    if len(raw) > LIST_BYTES_MAX:
        raise InvalidInputError(f"the list {name} has more than {LIST_BYTES_MAX} bytes", kind="bad_list")
    return [line.rstrip("\r") for line in text.split("\n") if line.strip()]


def _refuse_names(lines: Sequence[str]) -> None:
    """Of a list that is not UTF-8: if a file has such a name, it is not the list that is to be mended."""
    for line in lines:
        if not line.isascii() and "\0" not in line and os.path.lexists(line):
            packing.encoded(line, line)


def local_files(puts: Puts, sources: Iterable[str]) -> list[tuple[str, Source]]:
    """Where the files of local sources go: ``(path in the repo, file or folder)``. Folders are not looked into before
    they are sent.

    :raises InvalidInputError: for a folder without -r, or what cannot be read. :raises AlreadyExistsError: ``same_target``.
    """
    found = [_where(puts, source) for source in sources]
    if not puts.append and len(found) > 1:
        _refuse_doubles(found)
    return found


def _refuse_doubles(found: list[tuple[str, Source]]) -> None:
    seen: dict[str, Source] = {}
    for pair in found:
        for name in packing.names_of([pair]):
            other = seen.setdefault(name, pair[1])
            if other is not pair[1]:
                raise AlreadyExistsError(
                    f"of {other!s} and {pair[1]!s}, two would both become /{name}: put them apart, "
                    "or with --full-path",
                    kind="same_target",
                )


def _where(puts: Puts, source: str) -> tuple[str, Source]:
    is_folder = os.path.isdir(source)
    top = _top(puts, source, _own_name(source))
    if is_folder:
        if not puts.recursive:
            raise InvalidInputError(f"{source} is a folder: put it with -r", kind="is_directory")
    elif not os.path.exists(source):
        if os.path.islink(source):
            raise InvalidInputError(f"{source} is a link to what is not there", kind="bad_file")
        raise InvalidInputError(f"there is no file {source}", kind="no_file")
    elif not os.path.isfile(source):
        raise InvalidInputError(f"{source} is no plain file: pipe it in with -f -", kind="bad_file")
    return top, source


def _own_name(source: str) -> str:
    """Also of ``.`` and of what ends with a slash; of the file that a link leads to."""
    return os.path.basename(os.path.realpath(source))


def _top(puts: Puts, source: str, name: str) -> str:
    """The path in the repo, without the leading slash."""
    is_folder = puts.recursive and (source.startswith(BUCKETS) or os.path.isdir(source))
    if puts.full_path:
        name = _full(source)
    if puts.into is None:
        return name
    into = puts.into.strip("/")
    if len(puts.sources) == 1 and (is_folder or not puts.into.endswith("/")):
        return into
    return f"{into}/{name}".lstrip("/")


def _full(source: str) -> str:
    text = _url_path(source) if is_url(source) else source
    parts = [part for part in text.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise InvalidInputError(f"{source} has '..' in it, which no path in a repo has", kind="bad_path")
    return "/".join(parts)


def _url_path(url: str) -> str:
    from urllib.parse import unquote, urlsplit  # noqa: PLC0415 (takes longer to import than a small put takes)

    return unquote(urlsplit(url).path, errors="strict")


def url_target(puts: Puts, url: str) -> str:
    """Where a URL's content goes.

    :raises InvalidInputError: ``no_path`` if neither it nor the address says so.
    """
    path = _url_path(url).rstrip("/")
    name = path.rpartition("/")[2]
    top = _top(puts, url, name)
    if not top and not (puts.recursive or puts.unpack):
        raise InvalidInputError("the URL has no name for a file: write REPO@BRANCH:/PATH", kind="no_path")
    return "/" + top


def put_mixed(api: Client, address: str, puts: Puts, project: str | None) -> Commit:
    """Put sources of several kinds as one commit: local files go up first, then the server does the rest."""
    from trunkline.wire.files import Fetch, Take  # noqa: PLC0415 (brings pydantic along, which takes its time)

    changes: list[FileChange] = []
    local = [source for source in puts.sources if not is_url(source)]
    if puts.link:
        changes += [_link(puts, source) for source in puts.sources]
    elif puts.unpack:
        into = puts.into or "/"
        for source in puts.sources:
            if is_url(source):
                changes.append(Fetch(url=source, path=into, append=puts.append, unpack=True))
            else:
                with opened(source) as file:
                    root = api.unpack_fileset(file).root
                changes.append(Take(root=root, path=into, append=puts.append))
    else:
        if local:
            root = api.create_fileset(local_files(puts, local)).root
            changes.append(Take(root=root, append=puts.append))
        for source in puts.sources:
            if is_url(source):
                recursive = puts.recursive and source.startswith(BUCKETS)
                target = url_target(puts, source)
                changes.append(Fetch(url=source, path=target, recursive=recursive, append=puts.append))
    return api.change_files(address, changes, project=project)


def _link(puts: Puts, source: str) -> Link:
    from trunkline.wire.files import Link  # noqa: PLC0415

    if source.startswith(WEB) or source == STDIN:
        raise InvalidInputError(
            "only files, folders and s3:// or gs:// can be linked: they stay where they are", kind="bad_link"
        )
    if is_url(source):
        return Link(source=source, path=url_target(puts, source), recursive=puts.recursive)
    absolute = os.path.join(os.getcwd(), source)
    path = "/" + _top(puts, source, _own_name(source))
    for name in (absolute, path):
        packing.encoded(name, source)  # JSON has no other names
    return Link(source=absolute, path=path, recursive=puts.recursive)


def opened(source: str) -> IO[bytes]:
    """A local file, or stdin."""
    if source == STDIN:
        return sys.stdin.buffer
    try:
        if os.path.isdir(source):
            raise InvalidInputError(f"{source} is a folder, no archive", kind="is_directory")
        return open(source, "rb")
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no file {source}", kind="no_file") from error
    except OSError as error:
        raise UnavailableError(f"{source} cannot be read: {error.strerror}", kind="bad_file") from error
