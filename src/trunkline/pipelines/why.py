"""Why each datum of a job was done, or was not: in numbers, and in words. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from trunkline.core.status import Status
from trunkline.pipelines.model import Job

KINDS = ("new", "changed", "code", "forced", "again", "cached", "removed", "unchanged")
"""In the order in which they are told."""


@dataclass(frozen=True, kw_only=True)
class WhyDatum:
    """One datum that is not as in the job before."""

    id: str
    paths: tuple[str, ...]
    """What it is made of: ``repo:path``."""
    status: Status
    kind: str
    files: tuple[str, ...]
    """The inputs that changed: ``repo:path``."""
    code: tuple[str, ...]
    """What of the code changed: ``transform.cmd``, ``transform.code``, ``environment`` …"""
    from_job: str | None
    """The job whose result was taken, or which left the datum undone."""
    was: str
    """Of ``again``: how it ended before. Of ``cached``: why it would have been done."""
    attempts: int
    text: str
    """All of that in words."""


@dataclass(frozen=True, kw_only=True)
class WhyJob:
    """A job, explained."""

    job: Job
    base: str | None
    """The job that it builds on: what is unchanged beside that was not looked at."""
    kinds: Mapping[str, int]
    """How many datums there are of each kind; those that there are none of are left out."""
    retried: int
    """Datums that needed more than one try."""
    datums: tuple[WhyDatum, ...] = field(default=())
    """Those that are not unchanged, in order of their IDs; perhaps not all."""


def counted(rows: Iterable[tuple[str, Mapping[str, Any], int]], total: int) -> tuple[dict[str, int], int]:
    """``(status, why, attempts)`` of rows -> how many of each kind, and how many were retried. ``total``: of all datums."""
    kinds: Counter[str] = Counter()
    retried = 0
    for status, why, attempts in rows:
        kinds[kind_of(status, why)] += 1
        retried += attempts > 1
    kinds["unchanged"] += max(0, total - sum(kinds.values()) + kinds["removed"])
    return {kind: kinds[kind] for kind in KINDS if kinds[kind]}, retried


def kind_of(status: str, why: Mapping[str, Any]) -> str:
    """One of ``KINDS``."""
    if status == Status.REMOVED:
        return "removed"
    return str(why.get("kind") or "new")


def in_words(status: str, why: Mapping[str, Any], attempts: int) -> str:
    """``changed input images:/b.png; 2 tries``."""
    kind = kind_of(status, why)
    text = _words(kind, why)
    if kind in ("changed", "code") and why.get("files") and why.get("code"):
        text = f"{_words('changed', why)} and {_words('code', why)}"
    return text + (f"; {attempts} tries" if attempts > 1 else "")


def _words(kind: str, why: Mapping[str, Any]) -> str:
    if kind == "changed":
        return f"changed input {_listed(why.get('files'))}"
    if kind == "code":
        return f"changed code: {_listed(why.get('code'))}"
    if kind == "forced":
        return "processed again by request (--reprocess, or reprocess_spec: every_job)"
    if kind == "again":
        was, job = str(why.get("was") or ""), why.get("from")
        how = f"it was {was} " if was else "its result was not known "
        return f"again: {how}before{f', in job {job}' if job else ''}"
    if kind == "cached":
        was = _words(str(why.get("was") or "new"), {**why, "from": None})
        return f"not processed: the result is known from job {why.get('from')} ({was})"
    if kind == "removed":
        return "its input is gone, and so is its output"
    return "new"


def _listed(names: Any) -> str:
    return ", ".join(map(str, names or ())) or "(not known which)"
