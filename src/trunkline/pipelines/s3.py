"""Inputs and outputs by S3: which buckets a job sees. The door itself is elsewhere; it asks here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy.engine import Connection

from trunkline.core.status import Status
from trunkline.pipelines import store
from trunkline.pipelines.inputs import leaves

OUT = "out"
_SUBJECT = re.compile(r"job:([^/]+)/([^@]+)@([0-9a-f]{32})")


class JobDoor(Protocol):
    """Where jobs find their buckets; opened when the first of them needs it."""

    def __call__(self, token: str, /) -> dict[str, str]:
        """The environment in which clients of S3 find it, for the holder of a job's token."""


@dataclass(frozen=True, kw_only=True)
class JobBucket:
    """A bucket as a job sees it: one commit of one repo."""

    name: str
    project: str
    repo: str
    commit: str
    owner: str | None
    """On whose behalf it is written to; None: it is not."""


def needs_s3(spec: Mapping[str, Any]) -> bool:
    return bool(spec.get("s3_out")) or any(leaf.s3 for leaf in leaves(spec.get("input") or {}))


def buckets_of(connection: Connection, subject: str) -> dict[str, JobBucket]:
    """The buckets of the job that a token was given to, by their names; none once that has ended."""
    found = _SUBJECT.fullmatch(subject)
    row = store.get_job(connection, *found.groups()) if found is not None else None
    if row is None or row.job.status != Status.RUNNING:
        return {}
    pipeline = store.get_pipeline(connection, row.job.project, row.job.pipeline, row.job.version)
    assert pipeline is not None, "versions live as long as their pipeline"
    places = {leaf.place for leaf in leaves(pipeline.spec.get("input") or {}) if leaf.s3}
    buckets = {
        one.name: JobBucket(name=one.name, project=one.project, repo=one.repo, commit=one.commit, owner=None)
        for one in row.job.inputs
        if (one.name, one.project, one.repo, one.branch) in places and one.commit
    }
    if pipeline.spec.get("s3_out"):
        buckets[OUT] = JobBucket(
            name=OUT, project=row.job.project, repo=row.job.pipeline, commit=row.job.id,
            owner=f"pipeline:{row.job.pipeline}",
        )  # fmt: skip
    return buckets
