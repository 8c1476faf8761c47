"""What may be linked: places on the server's machine, below folders that its operator allows, and objects in buckets."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from trunkline.errors import InvalidInputError, NotFoundError, PermissionDeniedError
from trunkline.sources.guard import HOW_TO_ALLOW
from trunkline.storage.buckets import Buckets, Place
from trunkline.versioning.links import FILE_SCHEME, open_plain
from trunkline.versioning.service.linking import LinkSource

PART_BYTES = 2**20
NEVER = ("/proc", "/sys", "/dev", "/run")


@dataclass(frozen=True, kw_only=True)
class LinkRules:
    """Which folders may be linked from."""

    data_dir: Path
    """Never: it would be linked into itself, and it holds secrets."""
    roots: tuple[Path, ...] | None = None
    """Folders of the operator's choice. None: his home folder, without what is hidden in it."""
    home: Path | None = None
    """Of the user that the server runs as; None: nothing may be linked unless ``roots`` says so."""


def files_to_link(rules: LinkRules, text: str, target: str, *, recursive: bool) -> Iterator[LinkSource]:
    """A file, or with ``recursive`` all files below a folder, in order.

    :raises InvalidInputError: ``bad_link``, ``is_directory`` or ``bad_file``. :raises NotFoundError: ``no_file``.
    :raises PermissionDeniedError: ``link_refused``, saying which setting would allow it.
    """
    path = _checked(rules, text)
    if not path.is_dir():
        yield _source(path, target)
        return
    if not recursive:
        raise InvalidInputError(f"{path} is a folder: link it with -r", kind="is_directory")
    for folder, folders, names in os.walk(path, onerror=_raise, followlinks=False):
        folders.sort()
        for name in sorted([*names, *(one for one in folders if Path(folder, one).is_symlink())]):
            file = Path(folder, name)
            _check_place(rules, file, text)
            yield _source(file, f"{target.rstrip('/')}/{_utf8(file.relative_to(path).as_posix())}")


def _checked(rules: LinkRules, text: str) -> Path:
    if not text.startswith("/") or "\0" in text:
        raise InvalidInputError(f"{text!r} is not an absolute path: link /FOLDER/FILE", kind="bad_link")
    try:
        path = Path(text).resolve(strict=True)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFoundError(f"there is no {text} on the server's machine", kind="no_file") from error
    except (OSError, RuntimeError) as error:
        raise InvalidInputError(f"{text} cannot be linked: it cannot be read", kind="bad_file") from error
    _check_place(rules, path, text)
    return path


def _check_place(rules: LinkRules, path: Path, text: str) -> None:
    data_dir = rules.data_dir.resolve()
    if path.is_relative_to(data_dir) or data_dir.is_relative_to(path):
        raise _refused(text, "the server's own data directory is in it")
    if any(path.is_relative_to(place) for place in NEVER) or path == Path("/"):
        raise _refused(text, "it is a place of the system")
    if rules.roots is not None:
        if not any(path.is_relative_to(root.resolve()) for root in rules.roots):
            allowed = ", ".join(str(root) for root in rules.roots) or "none"
            raise _refused(
                text, f"it is not below a folder of the setting 'link_roots' ({allowed}), {HOW_TO_ALLOW}"
            )
        return
    home = rules.home.resolve() if rules.home is not None else None
    if home is None or not path.is_relative_to(home):
        raise _refused(text, f"add its folder to the setting 'link_roots' {HOW_TO_ALLOW}, if that is meant")
    if any(part.startswith(".") for part in path.relative_to(home).parts):
        raise _refused(text, f"it is hidden: add its folder to the setting 'link_roots' {HOW_TO_ALLOW}")


def _source(path: Path, target: str) -> LinkSource:
    try:
        descriptor = open_plain(str(path))
    except OSError as error:
        why = error.strerror if error.errno else "it is no plain file"
        if path.is_symlink():
            why = "it is a link: name what it leads to"
        raise InvalidInputError(f"{path} cannot be linked: {why}", kind="bad_file") from error
    try:
        found = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    return LinkSource(
        path=target,
        url=FILE_SCHEME + _utf8(str(path)),
        size=found.st_size,
        version=str(found.st_mtime_ns),
        read=partial(_read, str(path)),
        modified_ns=found.st_mtime_ns,
        executable=bool(found.st_mode & stat.S_IXUSR),
    )


def _read(path: str) -> Iterator[bytes]:
    try:
        with open(open_plain(path), "rb") as file:
            while part := file.read(PART_BYTES):
                yield part
    except OSError as error:
        raise InvalidInputError(f"{path} cannot be read: {error.strerror}", kind="bad_file") from error


def _utf8(name: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise InvalidInputError(f"the name {name!a} is not UTF-8", kind="bad_path") from error
    return name


def _raise(error: OSError) -> None:
    raise InvalidInputError(f"{error.filename} cannot be read: {error.strerror}", kind="bad_file") from error


def _refused(text: str, why: str) -> PermissionDeniedError:
    return PermissionDeniedError(
        f"{text} may not be linked: {why}", kind="link_refused", details={"path": text}
    )


def objects_to_link(buckets: Buckets, place: Place, target: str, *, recursive: bool) -> Iterator[LinkSource]:
    """An object, or with ``recursive`` all below a prefix.

    :raises NotFoundError: ``no_object``.
    """
    for key, path, item in buckets.expand(place, target, recursive=recursive):
        yield LinkSource(
            path=path,
            url=f"{place.scheme}://{place.bucket}/{key}",
            size=item.size,
            version=item.etag or str(item.modified_at),
            read=partial(buckets.read, Place(scheme=place.scheme, bucket=place.bucket, key=key)),
            modified_ns=round(item.modified_at * 10**9),
        )
