"""The nouns of pipelines. All frozen; mutable state is in rows that only ``store.py`` touches."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from trunkline.core.ids import CommitId, PipelineName, ProjectName, RepoName, TreeHash
from trunkline.core.status import Status

PipelineState = Literal["running", "paused"]


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    project: ProjectName
    name: PipelineName
    version: int
    state: PipelineState
    description: str
    spec: dict[str, Any]
    """The effective spec, in Pachyderm's words (snake_case), defaults filled in."""
    code_root: TreeHash | None
    """Tree of the code folder that came with the spec (``transform.code``)."""
    salt: str
    input: str
    """The inputs in short, e.g. ``default/images:/*``."""
    notes: tuple[str, ...]
    """Fields of the spec that are kept but have no effect here, and why."""
    last_job_id: CommitId | None
    last_job_status: Status | None
    last_job_reason: str
    created_at: float
    updated_at: float
    """When the present version was made."""
    details: dict[str, Any] = field(default_factory=dict)
    """``service``: where it is, of a pipeline that is one."""


@dataclass(frozen=True, kw_only=True)
class JobInput:
    name: str
    project: ProjectName
    repo: RepoName
    branch: str
    commit: CommitId
    root: str = ""
    """The tree of that commit."""


@dataclass(frozen=True, kw_only=True)
class Job:
    project: ProjectName
    pipeline: PipelineName
    id: CommitId
    version: int
    """Of the pipeline, when the job was planned."""
    status: Status
    phase: str
    """``waiting`` (for inputs), ``planning``, ``queueing``, ``processing``, ``finishing`` (or waiting for the jobs before it),
    ``egressing``; empty at the end."""
    reason: str
    """Why it failed; empty otherwise."""
    inputs: tuple[JobInput, ...]
    total: int
    processed: int
    skipped: int
    failed: int
    recovered: int
    quarantined: int
    stats: dict[str, float]
    """Sums over the datums that it computed: ``download_seconds process_seconds upload_seconds cpu_seconds download_bytes
    upload_bytes``; and the most that one of them had: ``memory_bytes``."""
    egress: dict[str, Any]
    """What was written elsewhere: ``target files_written files_deleted bytes_written rows_written tables attempts seconds
    error``; empty without ``egress`` in the spec."""
    created_at: float
    started_at: float | None
    finished_at: float | None
    restarts: int = 0
    """Datum sets whose worker died, and that another took over."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What the jobs of a commit set took together."""

    jobs: int
    datums: int
    """Those that were computed."""
    stats: dict[str, float]
    seconds: float
    """From the first job's start to the last one's end, or to now."""


@dataclass(frozen=True, kw_only=True)
class JobSet:
    """All jobs of one ID, oldest first."""

    id: CommitId
    jobs: tuple[Job, ...]
    cost: Cost


@dataclass(frozen=True, kw_only=True)
class JobFilter:
    """Which jobs are wanted."""

    statuses: frozenset[Status] = frozenset()
    """Any of these; empty: whichever."""
    inputs: tuple[tuple[str, str, str], ...] = ()
    """Project, repo and ID of commits that it has read, all of them."""
    history: int | None = None
    """Of the pipeline's present version and so many before it; None: of all."""

    def takes(self, job: Job) -> bool:
        """Whether it has read all of the inputs; the rest is the database's to say."""
        return set(self.inputs) <= {(one.project, one.repo, one.commit) for one in job.inputs}


ALL_JOBS = JobFilter()


@dataclass(frozen=True, kw_only=True)
class JobWorker:
    """What a worker is doing for a job just now."""

    worker: str
    datum: str
    """Empty: it is between two."""
    files: str
    """What that datum sees, in short."""
    started_at: float | None


@dataclass(frozen=True, kw_only=True)
class DatumInput:
    """What one datum sees of one input."""

    name: str
    project: str
    repo: str
    branch: str
    commit: str
    root: str
    paths: tuple[str, ...]
    """Files or directories (ending in ``/``) of the tree ``root``."""
    hash: str
    """Changes exactly when the content does."""
    size: int


@dataclass(frozen=True, kw_only=True)
class Datum:
    id: str
    identity: str
    status: Status
    inputs: tuple[DatumInput, ...]
    output_root: TreeHash | None
    """The tree that its output is part of, below ``output_prefix``; None: it wrote nothing, or none is known."""
    output_prefix: str
    size: int
    """Of its output, in bytes."""
    file_count: int
    attempts: int
    reason: str
    why: dict[str, Any]
    """Why it is not as in the job before: ``kind`` (new, changed, code, forced, again, cached, removed; empty: it is), and
    ``files``, ``code`` or ``from``."""
    stats: dict[str, Any]
    started_at: float | None
    finished_at: float | None
    job: str = ""
    """The job that computed it, where that was another."""


class LogLine(NamedTuple):
    """A tuple, since there are millions."""

    ts: float
    text: str
    stream: str
    """``stdout``, ``stderr``, or ``trunkline`` for its own remarks."""
    datum: str
    attempt: int
    worker: str = ""
    """Whose process ran it."""
    job: str = ""
    files: str = ""
    """What its datum sees, in short; where asked for."""
