"""``put file`` and ``get file``: what they do. How they are written is declared in ``quick``.

Whatever is imported here at the top takes its time at the start of each of them.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any

from trunkline.cli.client import client, transfers
from trunkline.cli.output import Format, counted, done, progress, say
from trunkline.cli.sources import STDIN, Puts, is_url, listed, local_files, opened, put_mixed
from trunkline.core.paths import parse_address
from trunkline.core.sizes import size_text
from trunkline.errors import InvalidInputError, LimitError, NotFoundError, TrunklineError, UnavailableError
from trunkline.sdk.packing import total_bytes
from trunkline.sdk.transfer import LARGE_BYTES, Transfers, copied

if TYPE_CHECKING:
    from trunkline.core.paths import Address


def put_file(
    address: str, files: list[str] | None = None, lists: list[str] | None = None, recursive: bool = False,
    append: bool = False, changed: bool = False, untar: bool = False, full_path: bool = False,
    link: bool = False, unlink: bool = False, parallel: int = 1, project: str | None = None,
    output: Format | None = None,
) -> None:  # fmt: skip
    """Put files, as one commit. Given PATH, a single file is stored under it, a folder's files below it; several sources
    go below it by their names. With --changed only those that differ, and no commit if none does."""
    if unlink:
        _copy_in(address, files, lists, project, output)
        return
    api = transfers()
    where = parse_address(address, project or api.project)
    _, colon, path = address.partition(":")
    puts = Puts(
        sources=listed(files or [], lists or []), into=(path or "/") if colon else None,
        recursive=recursive, append=append, unpack=untar, link=link, full_path=full_path, streams=parallel,
    )  # fmt: skip
    if link and (append or untar):
        raise InvalidInputError("--link goes with neither --append nor --untar", kind="bad_option")
    commit = (
        _put_changed(api, address, puts, project) if changed else _put(api, address, puts, where, project)
    )
    if commit is None:
        done(None, output, f"nothing differs from {address.removesuffix(':')}: no commit")
        return
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


def _put_changed(api: Transfers, address: str, puts: Puts, project: str | None) -> dict[str, Any] | None:
    if puts.append or puts.unpack or puts.link or any(one == STDIN or is_url(one) for one in puts.sources):
        raise InvalidInputError(
            "--changed compares local files: it goes with no URL, no stdin, --append, --untar or --link",
            kind="bad_option",
        )
    found = local_files(puts, puts.sources)
    return api.send_changed_files(address.partition(":")[0], found, project=project)


def _copy_in(
    address: str, files: list[str] | None, lists: list[str] | None, project: str | None, output: Format | None
) -> None:
    if files or lists:
        raise InvalidInputError(
            "--unlink takes no -f and no -i: it copies in what was linked", kind="bad_option"
        )
    found = client().copy_in_files(address, project=project)
    done(found, output, f"{counted(found.file_count, 'file')} ({size_text(found.size)}) copied in")


def get_file(
    address: str, target: str | None = None, recursive: bool = False, offset: int = 0, length: int | None = None,
    as_tar: bool = False, with_progress: bool = True, project: str | None = None,
) -> None:  # fmt: skip
    """Get a file to stdout or into a file, or with -r a directory into a folder. PATH may be a glob: without -r or --tar
    it must match one file."""
    api = transfers()
    if target == STDIN:
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
        shown = progress(lambda: (1, stream.size), shown=with_progress)
        with shown as count_bytes, _whole(target) as file:
            copied(stream, file, count_bytes, past_cache_from=LARGE_BYTES)


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
def _whole(target: str) -> Iterator[IO[bytes]]:
    """A file that appears under its name only when it is complete; what is there and no file (a device, a pipe) is written to."""
    if os.path.isdir(target):
        raise InvalidInputError(
            f"{target} is a folder: write -o {os.path.join(target, 'NAME')}, or get it with -r into that folder",
            kind="is_directory",
        )
    try:
        is_file = not os.path.exists(target) or os.path.isfile(target)
        if not is_file:
            with open(target, "wb", buffering=0) as there:
                yield there
            return
    except OSError as error:
        raise _not_written(target, error) from error
    above, name = os.path.split(target)
    part = os.path.join(above, f".{name}.{os.urandom(4).hex()}")
    try:
        with open(part, "wb") as file:
            yield file
        os.replace(part, target)
    except OSError as error:
        raise _not_written(target, error) from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(part)


def _not_written(target: str, error: OSError) -> TrunklineError:
    kind = LimitError if error.errno == 28 else UnavailableError
    return kind(f"cannot write {target}: {error.strerror}", kind="not_written")
