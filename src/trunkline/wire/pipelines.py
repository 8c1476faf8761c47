"""Pipelines."""

from __future__ import annotations

from typing import Any

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


class CreatePipeline(Ask):
    spec: dict[str, Any]
    code_root: str | None = None
    """Tree of the folder that ``transform.code`` names, uploaded before as a fileset."""
    update: bool = False
    reprocess: bool = False
