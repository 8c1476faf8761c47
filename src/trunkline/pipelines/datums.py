"""Inputs to datums, and what decides a datum's result. Pure: no I/O, and the same answer everywhere and always.

A datum's *id* says what it is (inputs and paths, no content); its *identity* says what its result depends on (content and
code). Two datums of one identity have one result, whichever job, branch or pipeline they belong to.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from trunkline.core.paths import Glob
from trunkline.errors import InvalidInputError
from trunkline.pipelines.model import DatumInput

IDENTITY_VERSION = 1
"""Part of every identity: raise it when the same spec starts to mean something else."""


@dataclass(frozen=True, kw_only=True)
class Code:
    """All that decides a datum's result, besides its inputs."""

    transform: Mapping[str, Any]
    """``cmd``, ``stdin``, ``env`` … as in the spec; the names of secrets, not their values."""
    environment: Mapping[str, Any]
    """What the image is mapped to on this machine."""
    code_root: str | None
    salt: str


@dataclass(frozen=True, kw_only=True)
class PlannedDatum:
    id: str
    identity: str
    inputs: tuple[DatumInput, ...]


@dataclass(frozen=True, kw_only=True)
class Match:
    """A file or directory (its path ends in ``/``) that a glob found."""

    path: str
    hash: str
    size: int


TRANSFORM_FIELDS_THAT_DECIDE = (
    "image", "cmd", "stdin", "err_cmd", "err_stdin", "env", "secrets", "accept_return_code", "working_dir",
    "requirements",
)  # fmt: skip


def check_glob(glob: str) -> str:
    """The pattern in its normal form, with a leading ``/``.

    :raises InvalidInputError: ``bad_glob``, naming the pattern and what is wrong with it.
    """
    problem = "it is empty"
    if glob:
        try:
            Glob(glob)
            return glob if glob.startswith("/") else "/" + glob
        except InvalidInputError as error:
            problem = error.message
    raise InvalidInputError(
        f"pipeline spec: input.pfs.glob: {problem}; for example '/' is all as one datum, '/*' is one datum for each "
        "file or folder at the top",
        kind="bad_glob",
        details={"glob": glob},
    )


def plan(source: DatumInput, matches: Iterable[Match], code: Code) -> list[PlannedDatum]:
    """One datum for each match; ``source`` is the input without its paths. Ordered by path, without duplicates."""
    base = _digest_of_code(code)
    planned: dict[str, PlannedDatum] = {}
    shared = {key: value for key, value in asdict(source).items() if key not in ("paths", "hash", "size")}
    for match in matches:
        seen = DatumInput(**shared, paths=(match.path,), hash=match.hash, size=match.size)
        datum = PlannedDatum(id=datum_id([seen]), identity=identity([seen], base), inputs=(seen,))
        planned[datum.id] = datum
    return sorted(planned.values(), key=lambda datum: datum.inputs[0].paths)


def datum_id(inputs: Sequence[DatumInput]) -> str:
    """What names a datum: the same in every job of a pipeline, whatever the content."""
    named = [[one.name, one.project, one.repo, one.branch, list(one.paths)] for one in inputs]
    return _digest(named)


def identity(inputs: Sequence[DatumInput], code_digest: str) -> str:
    """What decides its result: what user code can see of the inputs, and the code itself."""
    seen = sorted([one.name, list(one.paths), one.hash] for one in inputs)
    return _digest([code_digest, seen])


def _digest_of_code(code: Code) -> str:
    transform = {name: code.transform.get(name) for name in TRANSFORM_FIELDS_THAT_DECIDE}
    if not transform["requirements"]:  # a field that says nothing is as one that is not there
        del transform["requirements"]
    return _digest([IDENTITY_VERSION, transform, code.environment, code.code_root, code.salt])


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=32).hexdigest()
