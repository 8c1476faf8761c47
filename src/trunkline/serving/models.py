"""The cache of models on this machine: each content once, in a folder named by its hash, there whole or not at all."""

from __future__ import annotations

import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import blake3

from trunkline.errors import ConflictError, InvalidInputError, LimitError, NotFoundError, UnavailableError
from trunkline.serving.model import ModelSource

OpenModel = Callable[[str], ModelSource]
FILES_MAX = 100_000
FRESH_SECONDS = 60.0
_PART = ".part-"


@dataclass(frozen=True, kw_only=True)
class FolderSource:
    """A folder or a single file on this machine (``file://``)."""

    path: Path
    identity: str
    home: Path | None
    """The data directory, of which no model may hold anything."""
    commit_id: str = ""

    @property
    def uri(self) -> str:
        return self.path.as_uri()

    def copy_to(self, folder: Path) -> None:
        for file, name in _files(self.path, self.home):
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if _is_empty(file):
                target.touch()
            else:
                shutil.copyfile(file, target)


def open_folder(uri: str, home: Path | None = None) -> FolderSource:
    """The source behind a ``file://`` URI; reads all of it once, for its hash.

    ``home`` is the data directory. Who may apply services, a pipeline's job among them, may not have it copied for a model.

    :raises NotFoundError: ``no_model``, if nothing is there; ``InvalidInputError`` if it is not a folder of files.
    """
    parts = urlsplit(uri)
    if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
        raise InvalidInputError(
            f"storageUri {uri!r} is not an absolute file path: write file:///path/to/folder",
            kind="bad_storage_uri",
        )
    path = Path(unquote(parts.path))
    if not path.exists():
        raise NotFoundError(
            f"storageUri {uri}: there is no file or folder {path} on this machine", kind="no_model"
        )
    try:
        return FolderSource(path=path, identity=_identity(path, home), home=home)
    except OSError as error:
        raise UnavailableError(f"storageUri {uri}: cannot read {error.filename}: {error.strerror}") from error


def opener(open_model: OpenModel, home: Path) -> OpenModel:
    """``open_model`` with ``file://`` added; ``home`` is the data directory."""

    def open_any(uri: str) -> ModelSource:
        return open_folder(uri, home) if uri.startswith("file:") else open_model(uri)

    return open_any


class ModelCache:
    """``<folder>/<hash>/``; a folder under its final name is complete, because it got that name by a rename."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._busy: set[str] = set()

    def ensure(self, identity: str, open_source: Callable[[], ModelSource]) -> Path:
        """The folder with that content, pulled if it is not there yet.

        :raises ConflictError: ``model_changed``, if the source's content is not (any more) what was asked for.
        """
        target = self._folder / identity
        if target.is_dir():
            os.utime(target)
            return target
        with self._lock:
            self._busy.add(identity)
        part = self._folder / f"{identity}{_PART}{uuid.uuid4().hex}"
        try:
            source = open_source()
            if source.identity != identity:
                raise ConflictError(
                    f"the model at {source.uri} changed while it was being deployed: apply the service again",
                    kind="model_changed",
                )
            part.mkdir(parents=True)
            source.copy_to(part)
            if isinstance(source, FolderSource) and _identity(_root_of(part, source), None) != identity:
                raise ConflictError(
                    f"{source.path} changed while it was copied: apply again", kind="model_changed"
                )
            self._publish(part, target)
        except OSError as error:
            raise LimitError(
                f"cannot store the model in {self._folder}: {error.strerror}", kind="model_not_stored"
            ) from error
        finally:
            shutil.rmtree(part, ignore_errors=True)
            with self._lock:
                self._busy.discard(identity)
        return target

    def _publish(self, part: Path, target: Path) -> None:
        try:
            part.rename(target)
        except OSError:
            if not target.is_dir():  # else somebody pulled the same content meanwhile
                raise

    def keep_only(self, identities: Iterable[str]) -> None:
        """Remove every other content, and what a crash left half pulled."""
        wanted = set(identities)
        if not self._folder.is_dir():
            return
        for folder in self._folder.iterdir():
            identity = folder.name.partition(_PART)[0]
            with self._lock:
                is_kept = identity in self._busy or (identity in wanted and _PART not in folder.name)
            # What was asked for a moment ago may belong to a revision whose row was not there yet when ``identities`` was read.
            if is_kept or time.time() - folder.stat().st_mtime < FRESH_SECONDS:
                continue
            shutil.rmtree(folder, ignore_errors=True)


def _root_of(copy: Path, source: FolderSource) -> Path:
    return copy / source.path.name if source.path.is_file() else copy


def _files(path: Path, home: Path | None) -> Iterator[tuple[Path, str]]:
    """Files below ``path`` with their names relative to it, in a fixed order; a file is its own only member.

    :raises InvalidInputError: ``bad_model``, for what is no file, and for whatever is or leads into ``home``.
    """
    for file, name in _files_below(path):
        if home is not None and file.resolve().is_relative_to(home.resolve()):
            raise InvalidInputError(
                f"{file} lies in trunkline's own data directory: a model may not hold it", kind="bad_model"
            )
        yield file, name


def _files_below(path: Path) -> Iterator[tuple[Path, str]]:
    if path.is_file():
        yield path, path.name
        return
    count = 0
    for folder, subfolders, names in os.walk(path):
        subfolders.sort()
        for name in subfolders:
            if (Path(folder) / name).is_symlink():
                raise InvalidInputError(
                    f"{Path(folder) / name} is a link to a folder, which is not followed: put the folder itself there",
                    kind="bad_model",
                )
        for name in sorted(names):
            file = Path(folder) / name
            count += 1
            if not file.is_file() or count > FILES_MAX:
                problem = (
                    "is not a regular file"
                    if count <= FILES_MAX
                    else f"is one of more than {FILES_MAX} files"
                )
                raise InvalidInputError(f"{file} {problem}: a model is a folder of files", kind="bad_model")
            yield file, file.relative_to(path).as_posix()


def _identity(path: Path, home: Path | None) -> str:
    whole = blake3.blake3()
    for file, name in _files(path, home):
        content = blake3.blake3(max_threads=blake3.blake3.AUTO)
        digest = (content if _is_empty(file) else content.update_mmap(file)).digest()
        whole.update(len(name.encode()).to_bytes(4, "big") + name.encode() + digest)
    return whole.hexdigest()


def _is_empty(file: Path) -> bool:
    """Files of size 0 are never opened: those of /proc and /sys claim that size, and reading some of them never ends."""
    return file.stat().st_size == 0
