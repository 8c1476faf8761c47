"""``why``: for each datum of a job, why it was done or was not."""

from __future__ import annotations

from typing import Annotated

import typer

from trunkline.cli.client import client
from trunkline.cli.grammar import Number, Output, Project, command
from trunkline.cli.output import counted, say, show, structured, table
from trunkline.core.ids import is_commit_id
from trunkline.errors import NotFoundError
from trunkline.wire.why import WhyJob

KIND_TEXT = {
    "new": "new", "changed": "with changed inputs", "code": "because the code changed", "forced": "again by request",
    "again": "again, since they were not done before", "cached": "known from another job", "removed": "gone",
    "unchanged": "unchanged",
}  # fmt: skip
SHORT_ID = 12


def register(app: typer.Typer) -> None:
    command(app, "why", "trunkline why edges@1035715e796f45caae7a1d3ffd1f93ca")(why)


def why(
    job: Annotated[
        str,
        typer.Argument(metavar="JOB", help="PIPELINE@ID or PIPELINE@BRANCH, or an ID for all jobs of it."),
    ],
    number: Number = None,
    project: Project = None,
    output: Output = None,
) -> None:
    """Say for each datum of a job why it was processed or was not: new, a changed input (which), changed code (what), known from
    another job (which), retried. Datums that are as they were are only counted."""
    api = client()
    if is_commit_id(job):
        jobs = [(one.project, f"{one.pipeline}@{one.id}") for one in api.inspect(job).jobs]
        if not jobs:
            raise NotFoundError(f"no job bears the ID {job}", kind="no_job")
    else:
        jobs = [(project or "", job)]
    found = [api.why_job(address, limit=number, project=place or None) for place, address in jobs]
    if output is not None:
        structured(found if is_commit_id(job) else found[0], output)
        return
    for one in found:
        _print(one)


def _print(found: WhyJob) -> None:
    job = found.job
    base = f", built on job {found.base}" if found.base else ""
    show(f"{job.project}/{job.pipeline}@{job.id} (version {job.version}): {job.status}{base}")
    kinds = [f"{count} {KIND_TEXT.get(kind, kind)}" for kind, count in found.kinds.items()]
    retried = [f"{found.retried} retried"] if found.retried else []
    show(f"{counted(job.total, 'datum')}: {', '.join([*kinds, *retried]) or 'none'}")
    if found.datums:
        table(
            ("DATUM", "INPUTS", "STATUS", "WHY"),
            [(one.id[:SHORT_ID], ", ".join(one.paths), one.status, one.text) for one in found.datums],
        )
    if found.next is not None:
        say("there are more: raise --number")
