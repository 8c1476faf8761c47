"""What names a datum and what decides its result. Pure: no I/O, and the same answer everywhere and always.

A datum's *id* says what it is (inputs and paths, no content); its *identity* says what its result depends on (content and
code). Two datums of one identity have one result, whichever job, branch or pipeline they belong to.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from json.encoder import encode_basestring_ascii
from typing import Any

from trunkline.pipelines.inputs import Combination, Seen, leaves

IDENTITY_VERSION = 1
"""Part of every identity: raise it when the same spec starts to mean something else."""
PLACES_KEPT_MAX = 256
"""Of which what datums say of them is kept."""


@dataclass(frozen=True, kw_only=True)
class Code:
    """All that decides a datum's result, besides its inputs."""

    transform: Mapping[str, Any]
    """``cmd``, ``stdin``, ``env`` … as in the spec; the names of secrets, not their values."""
    environment: Mapping[str, Any]
    """What the image is mapped to on this machine."""
    code_root: str | None
    salt: str


TRANSFORM_FIELDS_THAT_DECIDE = (
    "image", "cmd", "stdin", "err_cmd", "err_stdin", "env", "secrets", "accept_return_code", "working_dir",
)  # fmt: skip
FIELDS_THAT_DECIDE_WHERE_GIVEN = ("user", "datum_batching", "requirements", "dockerfile")
"""Left out of the digest where a spec does not say them, so that they change nothing for specs that are older than they are."""


def datum_id(combination: Combination) -> str:
    """What names a datum: the same in every job of a pipeline, whatever the content."""
    names = [f"[{_place(seen[:4])},[{_text(seen.path)}]]" for seen in combination]
    return _digest_of_text(f"[{','.join(names)}]")


@lru_cache(PLACES_KEPT_MAX)
def _place(place: tuple[str, str, str, str]) -> str:
    """What all datums say of an input."""
    return ",".join(map(_text, place))


def identity(combination: Combination, code_digest: str) -> str:
    """What decides its result: what user code can see of the inputs, and the code itself."""
    if len(combination) > 1:
        combination = tuple(sorted(combination, key=_as_seen))
    files = [_what_is_seen(seen) for seen in combination]
    return _digest_of_text(f"[{_text(code_digest)},[{','.join(files)}]]")


def _as_seen(seen: Seen) -> tuple[str, str, str, bool, str, str]:
    keyed = bool(seen.join_on or seen.group_by)
    return seen.leaf, seen.path, seen.hash, keyed, seen.join_on, seen.group_by


def _what_is_seen(seen: Seen) -> str:
    leaf, _, _, _, path, digest, _, join_on, group_by = seen
    keys = ""
    if join_on or group_by:  # the command sees them in its environment
        keys = f",[{_text(join_on)},{_text(group_by)}]"
    return f"[{_text(leaf)},[{_text(path)}],{_text(digest)}{keys}]"


def digest_of_code(code: Code, spec_input: Mapping[str, Any]) -> str:
    """Of all that decides results besides the inputs' content."""
    transform = {name: code.transform.get(name) for name in TRANSFORM_FIELDS_THAT_DECIDE}
    transform |= {
        name: code.transform[name] for name in FIELDS_THAT_DECIDE_WHERE_GIVEN if code.transform.get(name)
    }
    decides: list[Any] = [IDENTITY_VERSION, transform, code.environment, code.code_root, code.salt]
    shown = sorted(
        [leaf.name, leaf.empty_files, leaf.s3] for leaf in leaves(spec_input) if leaf.empty_files or leaf.s3
    )
    if shown:
        decides.append(shown)
    return _digest(decides)


def digest_of_version(code_digest: str, spec_input: Mapping[str, Any]) -> str:
    """Of the code and of the tree of inputs: two jobs with the same differ only in what their inputs hold."""
    return _digest([code_digest, spec_input])


def code_changes(old: Code, new: Code) -> list[str]:
    """What of the code is not as it was, in the words of the spec."""
    names = dict.fromkeys((*TRANSFORM_FIELDS_THAT_DECIDE, *FIELDS_THAT_DECIDE_WHERE_GIVEN))
    found = [f"transform.{name}" for name in names if old.transform.get(name) != new.transform.get(name)]
    if old.code_root != new.code_root:
        found.append("transform.code")
    if old.environment != new.environment:
        found.append("environment")
    return found


def environment_of(combination: Combination) -> Mapping[str, str]:
    """The variables of one datum: what it was joined or grouped by."""
    found: dict[str, str] = {}
    for seen in combination:
        if seen.join_on:
            found[f"PACH_DATUM_{seen.leaf}_JOIN_ON"] = seen.join_on
        if seen.group_by:
            found[f"PACH_DATUM_{seen.leaf}_GROUP_BY"] = seen.group_by
    return found or _NO_VARIABLES


_NO_VARIABLES: Mapping[str, str] = {}
"""One object for all datums that have none."""


def named(files: Iterable[tuple[str, str]]) -> str:
    """``repo:path`` of each, in short."""
    shown = [f"{repo}:{path}" for repo, path in files]
    return ", ".join(shown[:3]) + (f" and {len(shown) - 3} more" if len(shown) > 3 else "")


_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode
"""(``json.dumps`` would make an encoder for each.)"""
_text = encode_basestring_ascii
"""A string as ``_canonical`` writes it. What there may be 100,000 of is written by hand: a third of the time."""


def _digest(value: Any) -> str:
    return _digest_of_text(_canonical(value))


def _digest_of_text(canonical: str) -> str:
    return blake2b(canonical.encode(), digest_size=32).hexdigest()
