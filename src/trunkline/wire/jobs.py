"""Jobs and their datums."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from trunkline.wire.base import Wire


class JobInput(Wire):
    name: str
    project: str
    repo: str
    branch: str
    commit: str


class Job(Wire):
    project: str
    pipeline: str
    id: str
    version: int
    status: str
    phase: str
    reason: str
    """Why it failed; empty otherwise."""
    inputs: tuple[JobInput, ...]
    total: int
    processed: int
    skipped: int
    failed: int
    recovered: int
    quarantined: int = 0
    stats: dict[str, float]
    egress: dict[str, Any] = Field(default_factory=dict)
    """What was written elsewhere, if the spec says so."""
    created_at: float
    started_at: float | None
    finished_at: float | None
    restarts: int = 0
    """Datum sets whose worker died, and that another took over."""


class Cost(Wire):
    """What the jobs of one ID took together."""

    jobs: int
    datums: int
    """Those that were computed."""
    stats: dict[str, float]
    """Sums, as in a job: ``cpu_seconds``, ``process_seconds``, ``download_bytes``, ``upload_bytes`` …; the most of
    ``memory_bytes``."""
    seconds: float
    """From the first job's start to the last one's end, or to now."""


class JobSet(Wire):
    """All jobs of one ID, oldest first."""

    id: str
    jobs: tuple[Job, ...]
    cost: Cost


class JobWorker(Wire):
    """What a worker is doing for a job just now."""

    worker: str
    datum: str
    """Empty: it is between two."""
    files: str
    """What that datum sees, in short."""
    started_at: float | None


class DatumInput(Wire):
    name: str
    project: str
    repo: str
    branch: str
    commit: str
    root: str
    paths: tuple[str, ...]
    hash: str
    size: int


class Datum(Wire):
    id: str
    identity: str
    status: str
    inputs: tuple[DatumInput, ...]
    output_root: str | None
    output_prefix: str = ""
    size: int = 0
    file_count: int = 0
    attempts: int
    reason: str
    why: dict[str, Any] = Field(default_factory=dict)
    """Why it is not as in the job before: ``kind`` and, by that, ``files``, ``code``, ``from``; empty: it is."""
    stats: dict[str, Any]
    started_at: float | None
    finished_at: float | None
    job: str = ""
    """The ID of the job that computed it, where that was another."""
