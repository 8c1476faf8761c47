"""``.mar`` archives, opened as what they are: files from a stranger.

Nothing is written outside the folder, links and devices are refused, and what an archive may unpack to is bounded in bytes, files
and ratio, both as declared and as counted while unpacking.
"""

from __future__ import annotations

import gzip
import json
import stat
import tarfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, Protocol, Self, cast

import yaml

from trunkline.errors import InvalidInputError

MANIFEST = "MAR-INF/MANIFEST.json"
FILES_MAX = 10_000
UNPACKED_BYTES_MAX = 32 * 2**30
RATIO_MAX = 200
RATIO_FREE_BYTES = 64 * 2**20
"""Unpacking to less than this is never a bomb, however well it compressed."""
MANIFEST_BYTES_MAX = 2**20
HEADER_BYTES_MAX = 2**20
_HEADERS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_NAME_CHARACTERS_MAX = 1024


@dataclass(frozen=True, kw_only=True)
class Archive:
    """An unpacked archive whose manifest holds together."""

    folder: Path
    manifest: dict[str, Any]
    model_name: str
    handler: str
    """``file.py``, ``file.py:function`` or the name of a handler of TorchServe's own."""
    yaml_config: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """One model of ``model_snapshot`` in a ``config.properties``."""

    name: str
    file: str
    batch_size: int = 1


def extract(file: Path, folder: Path) -> Archive:
    """Unpack ``file`` into ``folder``, which must not exist, and check its manifest.

    :raises InvalidInputError: ``bad_archive``, one line with the file's name and what is wrong with it.
    """
    folder.mkdir(parents=True)
    try:
        with file.open("rb") as raw:
            start = raw.read(4)
            raw.seek(0)
            if start[:2] == b"PK":
                _unpack_zip(file, raw, folder)
            elif start[:2] == b"\x1f\x8b":
                _unpack_tar(file, raw, folder)
            else:
                raise _bad(file, "is neither a zip nor a tgz file: was it made with torch-model-archiver?")
    except (
        zipfile.BadZipFile,
        tarfile.TarError,
        gzip.BadGzipFile,
        zlib.error,
        EOFError,
        NotImplementedError,
    ) as error:
        raise _bad(file, f"is damaged: {error}") from error
    return _checked(file, folder)


def read_properties(file: Path) -> list[Snapshot]:
    """The models of ``model_snapshot``; empty if the file has none. All other keys are about TorchServe's own server."""
    lines = file.read_text("utf-8", "replace").replace("\\\n", "").splitlines()
    pairs = (line.split("=", 1) for line in lines if "=" in line and not line.lstrip().startswith(("#", "!")))
    text = {key.strip(): value.strip() for key, value in pairs}.get("model_snapshot")
    if text is None:
        return []
    try:
        models = json.loads(text)["models"]
        return [_snapshot(name, versions) for name, versions in models.items()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidInputError(
            f'{file.name}: model_snapshot is not JSON of the form {{"models": {{NAME: {{VERSION: {{"marName": …}}}}}}}}',
            kind="bad_archive",
        ) from error


def _snapshot(name: str, versions: dict[str, dict[str, Any]]) -> Snapshot:
    options = next((v for v in versions.values() if v.get("defaultVersion")), None) or next(
        iter(versions.values())
    )
    return Snapshot(
        name=name,
        file=str(options.get("marName", f"{name}.mar")),
        batch_size=int(options.get("batchSize", 1)),
    )


# --- the manifest -----------------------------------------------------------------------------------------------------


def _checked(file: Path, folder: Path) -> Archive:
    path = folder / MANIFEST
    if not path.is_file():
        raise _bad(file, f"has no {MANIFEST}: was it made with torch-model-archiver?")
    if path.stat().st_size > MANIFEST_BYTES_MAX:
        raise _bad(file, f"has a manifest of more than {MANIFEST_BYTES_MAX} bytes")
    try:
        manifest = json.loads(path.read_bytes())
        model = manifest["model"]
        get = model.get
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _bad(file, f"has a {MANIFEST} that is not a JSON object with a 'model'") from error
    for key in ("modelName", "handler", "serializedFile", "modelFile", "configFile"):
        if get(key) is not None and not isinstance(get(key), str):
            raise _bad(file, f"has a manifest whose model.{key} is not a string")
    handler = get("handler")
    if not handler:
        raise _bad(file, "has no handler: pack it with torch-model-archiver --handler")
    if not get("modelName"):
        raise _bad(file, "has a manifest without model.modelName")
    needed = {
        "serializedFile": get("serializedFile"),
        "modelFile": get("modelFile"),
        "configFile": get("configFile"),
    }
    if handler.partition(":")[0].endswith(".py"):
        needed["handler"] = handler.partition(":")[0]
    for key, name in needed.items():
        if name and not (_is_safe(name) and (folder / name).is_file()):
            raise _bad(file, f"has a manifest that names {key} {name!r}, which is not in the archive")
    config = _yaml(file, folder / needed["configFile"]) if needed["configFile"] else {}
    return Archive(
        folder=folder, manifest=manifest, model_name=get("modelName"), handler=handler, yaml_config=config
    )


def _yaml(file: Path, path: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise _bad(file, f"has a {path.name} that is not YAML") from error
    return found if isinstance(found, dict) else {}


# --- unpacking --------------------------------------------------------------------------------------------------------


class _Readable(Protocol):
    def read(self, size: int = ..., /) -> bytes: ...


class _Budget:
    """Counts what is unpacked, whatever the archive says of itself."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._bytes_max = min(UNPACKED_BYTES_MAX, max(RATIO_FREE_BYTES, RATIO_MAX * file.stat().st_size))
        self._bytes = 0
        self._files = 0
        self._names: set[str] = set()

    def add_file(self, name: str) -> None:
        self._files += 1
        if self._files > FILES_MAX:
            raise _bad(self._file, f"holds more than {FILES_MAX} files")
        if not _is_safe(name):
            raise _bad(
                self._file, f"holds a file with the name {name[:200]!r}, which leads out of its folder"
            )
        if name in self._names:
            raise _bad(self._file, f"holds {name!r} twice")
        self._names.add(name)

    def add_bytes(self, count: int) -> None:
        self._bytes += count
        if self._bytes > self._bytes_max:
            raise _bad(
                self._file, f"unpacks to more than {self._bytes_max} bytes, which is too much for its size"
            )


def _is_safe(name: str) -> bool:
    path = PurePosixPath(name)
    bad_character = any(c in name for c in "\\:\0") or len(name) > _NAME_CHARACTERS_MAX
    return not (path.is_absolute() or ".." in path.parts or bad_character or not path.parts)


def _unpack_zip(file: Path, raw: IO[bytes], folder: Path) -> None:
    budget = _Budget(file)
    with zipfile.ZipFile(raw) as archive:
        entries = archive.infolist()
        for entry in entries:
            budget.add_file(entry.filename.rstrip("/"))
            mode = entry.external_attr >> 16
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _bad(file, f"holds {entry.filename!r}, which is a link or device")
            if entry.flag_bits & 1:
                raise _bad(file, "is encrypted")
        declared = _Budget(file)
        declared.add_bytes(sum(e.file_size for e in entries))
        for entry in entries:
            if not entry.is_dir():
                with archive.open(entry) as source:
                    _write(file, source, folder, entry.filename, budget)


def _unpack_tar(file: Path, raw: IO[bytes], folder: Path) -> None:
    budget = _Budget(file)
    with (
        gzip.GzipFile(fileobj=raw) as unzipped,
        tarfile.open(
            fileobj=cast(IO[bytes], _Counted(file, unzipped)), mode="r|", tarinfo=_Member
        ) as archive,
    ):
        for entry in archive:
            if entry.type == tarfile.DIRTYPE:
                if entry.name not in (".", "./"):
                    budget.add_file(entry.name.removeprefix("./").rstrip("/"))
                continue
            if entry.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
                raise _bad(file, f"holds {entry.name[:200]!r}, which is a link, device or sparse file")
            name = entry.name.removeprefix("./")
            budget.add_file(name)
            source = archive.extractfile(entry)
            assert source is not None
            _write(file, source, folder, name, budget)


class _Counted:
    """A stream that stops at the budget: also what lies between the files of an archive takes time and room."""

    def __init__(self, file: Path, stream: _Readable) -> None:
        self._stream = stream
        self._budget = _Budget(file)

    def read(self, size: int) -> bytes:
        piece = self._stream.read(size)
        self._budget.add_bytes(len(piece))
        return piece


class _Member(tarfile.TarInfo):
    """An entry whose extended header, which is read into memory whole, may not be huge."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        found = super().frombuf(buf, encoding, errors)
        is_header = found.type not in tarfile.SUPPORTED_TYPES or found.type in _HEADERS
        if is_header and found.size > HEADER_BYTES_MAX:
            raise tarfile.ReadError("one of its headers claims to be huge")
        return found


def _write(file: Path, source: _Readable, folder: Path, name: str, budget: _Budget) -> None:
    target = folder / name
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as out:
            while piece := source.read(2**18):
                budget.add_bytes(len(piece))
                out.write(piece)
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise _bad(file, f"holds {name!r} both as a file and as a folder") from error


def _bad(file: Path, problem: str) -> InvalidInputError:
    return InvalidInputError(f"{file.name} {problem}", kind="bad_archive", details={"archive": file.name})
