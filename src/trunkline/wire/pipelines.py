"""Pipelines."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from trunkline.core.ids import DEFAULT_PROJECT
from trunkline.wire.base import Ask, Wire


class Pipeline(Wire):
    project: str
    name: str
    version: int
    state: str
    description: str
    spec: dict[str, Any]
    """The effective spec, in Pachyderm's words, defaults filled in."""
    code_root: str | None
    salt: str
    input: str
    """The inputs in short, e.g. ``default/images:/*``."""
    notes: tuple[str, ...]
    """Fields that are kept but have no effect here, and why."""
    last_job_id: str | None
    last_job_status: str | None
    last_job_reason: str
    created_at: float
    updated_at: float
    details: dict[str, Any] = Field(default_factory=dict)
    """``service``: ``ip``, ``external_port``, ``url`` and ``state``, of a pipeline that is one."""


class SpecWithCode(Ask):
    spec: dict[str, Any]
    code_root: str | None = None
    """Tree of the folder that ``transform.code`` names, uploaded before as a fileset."""


class CreatePipeline(SpecWithCode):
    update: bool = False
    reprocess: bool = False


class PreviewPipeline(CreatePipeline):
    """What ``CreatePipeline`` would do, without doing it."""

    datums: int = Field(default=20, ge=0, le=10_000)
    """So many of all its datums are listed."""


class CreatePipelines(Ask):
    """All of them, or none; in the order that their inputs ask for."""

    pipelines: list[SpecWithCode]
    project: str = DEFAULT_PROJECT
    """Of those whose spec names none."""
    update: bool = False
    reprocess: bool = False


class PreviewPipelines(CreatePipelines):
    datums: int = Field(default=20, ge=0, le=10_000)
    """So many of the datums of each are listed."""


class PreviewedDatum(Wire):
    id: str
    files: tuple[str, ...]
    """``repo:path`` of each."""


class PlannedWork(Wire):
    """What a job would have to do with what its inputs hold now."""

    total: int
    unchanged: int
    """As in the job before."""
    cached: int
    """Computed before, by whichever job."""
    removed: int
    """Their input is not there any more; their output goes."""
    to_do: int
    kinds: dict[str, int]
    """How many of those to do there are for which reason: new, changed, code, forced, again."""
    samples: list[dict[str, Any]]
    """``{id, files, why}`` of the first of those to do."""


class PipelinePreview(Wire):
    pipeline: Pipeline
    """As it would be."""
    is_new: bool
    changes: tuple[str, ...]
    """Fields of the spec that are not as they are now."""
    work: PlannedWork
    datums: tuple[PreviewedDatum, ...]


class RunCron(Ask):
    input: str | None = None
    """The name of one cron input; None: all of them."""


class RerunPipeline(Ask):
    reprocess: bool = False
    """All datums, not only those that were not done."""


class RestartDatums(Ask):
    datum: str = ""
    """The beginning of a datum's ID."""
    paths: list[str] = Field(default_factory=list)
    """Those that see all of these."""


class RestartedDatums(Wire):
    datums: tuple[str, ...]
    """Their IDs."""
