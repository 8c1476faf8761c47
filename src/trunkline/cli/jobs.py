"""Jobs and datums: ``list``, ``inspect`` and ``wait``."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from trunkline.cli.client import client, exactly
from trunkline.cli.grammar import (
    JOB_HELP,
    FullTimestamps,
    JobName,
    Number,
    Output,
    Project,
    command,
    new_verb,
)
from trunkline.cli.listing import shown
from trunkline.cli.output import (
    bar,
    described,
    duration_text,
    say,
    seconds_text,
    show,
    structured,
    table,
    time_text,
)
from trunkline.cli.pipelines import datums_of_spec, why_text
from trunkline.core.ids import is_commit_id
from trunkline.core.sizes import size_text
from trunkline.errors import InvalidInputError, NotFoundError, StateError
from trunkline.sdk.client import Client
from trunkline.sdk.jobs import FINAL
from trunkline.wire.jobs import Cost, Datum, Job, JobSet, JobWorker

JobArgument = Annotated[str, typer.Argument(metavar="PIPELINE@ID | ID", help=JOB_HELP)]
States = Annotated[
    list[str] | None, typer.Option("--state", help="Only in this state; may be given many times.")
]
HEADER = ("PROJECT", "PIPELINE", "ID", "STARTED", "DURATION", "RESTART", "PROGRESS", "DL", "UL", "STATE")
LOG_LINES = 10


def register(app: typer.Typer) -> None:
    listing = new_verb(app, "list", "List what there is.")
    command(listing, "job", "trunkline list jobs -p dogs-and-cats-model --state failed")(list_jobs)
    command(listing, "datum", "trunkline list datums edges@1035715e796f45caae7a1d3ffd1f93ca")(list_datums)
    inspect = new_verb(app, "inspect", "Show one thing in full.")
    command(inspect, "job", "trunkline inspect job edges@1035715e796f45caae7a1d3ffd1f93ca")(inspect_job)
    example = "trunkline inspect datum edges@1035715e796f45caae7a1d3ffd1f93ca 3f9a1c04"
    command(inspect, "datum", example)(inspect_datum)
    wait = new_verb(app, "wait", "Wait for something to end.")
    command(wait, "job", "trunkline wait job edges@1035715e796f45caae7a1d3ffd1f93ca")(wait_job)


# --- lists --------------------------------------------------------------------------------------------------------


def list_jobs(
    commit_id: Annotated[str | None, typer.Argument(metavar="[ID]", help="Only those of this ID.")] = None,
    pipeline: Annotated[str | None, typer.Option("--pipeline", "-p", help="Only of this pipeline.")] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option("--input", "-i", metavar="REPO@COMMIT", help="Only those that read this; may be given many times."),
    ] = None,
    state: States = None,
    history: Annotated[
        str, typer.Option("--history", help="Of how many earlier versions of pipelines: none, a number or all.")
    ] = "all",
    expand: Annotated[bool, typer.Option("--expand", "-x", help="A line for each job, not for each ID.")] = False,
    number: Number = None,
    project: Project = None,
    output: Output = None,
    full_timestamps: FullTimestamps = False,
) -> None:  # fmt: skip
    """List what happened, newest first: a line for each ID, or with -p or another choice a line for each job."""
    api = client()
    if commit_id is not None:
        if not is_commit_id(commit_id):
            raise InvalidInputError(
                f"{commit_id!r} is not an ID: for a pipeline's jobs write -p NAME", kind="bad_id"
            )
        found = list(api.inspect_job_set(commit_id).jobs)
    elif pipeline is None and not (inputs or state or expand) and history == "all":
        _show_sets(api.list_job_sets(project=project, limit=number), output, full_timestamps)
        return
    else:
        found = api.list_jobs(
            pipeline, project=project, limit=number, status=state or (), inputs=inputs or (),
            history=_versions(history),
        )  # fmt: skip
    shown(found, output, HEADER, lambda job: _job_row(job, full_timestamps))


def _versions(history: str) -> int | None:
    words = {"all": None, "none": 0, "-1": None}
    if history in words:
        return words[history]
    if history.isascii() and history.isdigit() and len(history) < 10:
        return int(history)
    raise InvalidInputError(f"--history {history}: write none, a number or all", kind="bad_history")


def _show_sets(found: Sequence[JobSet], output: Output, full: bool) -> None:
    shown(
        found, output, ("ID", "SUBJOBS", "PROGRESS", "CREATED", "MODIFIED"),
        lambda one: (
            one.id, str(len(one.jobs)), _set_progress(one.jobs), time_text(min(job.created_at for job in one.jobs), full),
            time_text(max(job.finished_at or job.started_at or job.created_at for job in one.jobs), full),
        ),
    )  # fmt: skip


def _set_progress(jobs: Sequence[Job]) -> str:
    failed = sum(job.status in ("failed", "unrunnable", "cancelled") for job in jobs)
    full = bar(sum(job.status in FINAL for job in jobs) / max(1, len(jobs)))
    return f"{full} {failed} failed" if failed else full


def _job_row(job: Job, full_timestamps: bool) -> tuple[str, ...]:
    return (
        job.project, job.pipeline, job.id, time_text(job.started_at, full_timestamps), job_duration(job),
        str(job.restarts), job_progress(job), size_text(job.stats.get("download_bytes", 0)),
        size_text(job.stats.get("upload_bytes", 0)), job_state(job),
    )  # fmt: skip


def job_duration(job: Job) -> str:
    """How long it ran, or has run so far."""
    if job.started_at is None:
        return "-"
    return duration_text((job.finished_at or time.time()) - job.started_at)


def job_progress(job: Job) -> str:
    """``processed + skipped [+ recovered] / total``."""
    recovered = f" + {job.recovered}" if job.recovered else ""
    return f"{job.processed} + {job.skipped}{recovered} / {job.total}"


def job_state(job: Job) -> str:
    """The status, with the reason or the phase."""
    if job.status == "succeeded" and job.total == job.skipped:
        return f"succeeded: {'all results were known' if job.skipped else 'there were no datums to process'}"
    detail = job.reason or (job.phase if job.status in ("queued", "running") else "")
    if job.status == "succeeded" and job.quarantined:
        detail = f"{job.quarantined} set aside on branch quarantine"
    return f"{job.status}: {detail}" if detail else job.status


def list_datums(
    job: Annotated[str | None, typer.Argument(metavar="[PIPELINE@ID]", help=JOB_HELP)] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="Of a spec instead, with what its inputs hold now.")
    ] = None,
    state: States = None,
    number: Number = None,
    project: Project = None,
    output: Output = None,
) -> None:
    """List the datums of a job, or with -f those that a spec would have; nothing is run."""
    if file is not None and job is None:
        datums_of_spec(file, project, output)
        return
    if job is None or file is not None:
        raise InvalidInputError("name either a job, as PIPELINE@ID, or a spec with -f", kind="no_job")
    shown(
        client().list_datums(job, status=state or (), limit=number, project=project), output,
        ("ID", "FILES", "STATUS", "TIME", "CPU", "MEMORY", "WHY", "REASON"),
        lambda d: (
            d.id, ", ".join(files_of(d)), d.status, _datum_time(d), seconds_text(d.stats.get("cpu_seconds")),
            _size(d.stats.get("memory_bytes")), d.why.get("kind") or "unchanged", d.reason,
        ),
    )  # fmt: skip


def files_of(datum: Datum) -> list[str]:
    """What a datum sees, each as an address."""
    return [f"{i.project}/{i.repo}@{i.commit}:{path}" for i in datum.inputs for path in i.paths]


def _datum_time(datum: Datum) -> str:
    if datum.started_at is None:
        return "-"
    return seconds_text(max(0.0, (datum.finished_at or time.time()) - datum.started_at))


def _size(size: float | None) -> str:
    return size_text(size) if size else "-"


# --- one ----------------------------------------------------------------------------------------------------------


def inspect_job(
    job: JobArgument, project: Project = None, output: Output = None, full_timestamps: FullTimestamps = False
) -> None:
    """Show a job: why it failed, what it processed, what it took; with only an ID, all jobs of it and their cost."""
    api = client()
    if is_commit_id(job):
        _show_set(api.inspect_job_set(job), output, full_timestamps)
        return
    found = api.inspect_job(job, project=project)
    job = f"{found.project}/{found.pipeline}@{found.id}"
    if output is not None:
        structured(found, output)
        return
    described(_job_lines(found, _spec_of(api, found), full_timestamps))
    workers = [] if found.status in FINAL else api.list_job_workers(job, project=project)
    if workers:
        show("Worker Status:")
        table(
            ("WORKER", "JOB", "DATUM", "STARTED"),
            [_worker_row(one, found, full_timestamps) for one in workers],
        )


def _worker_row(worker: JobWorker, job: Job, full: bool) -> tuple[str, ...]:
    datum = f"{worker.datum[:12]} {worker.files}" if worker.datum else "-"
    return worker.worker, job.id, datum, time_text(worker.started_at, full)


def _spec_of(api: Client, job: Job) -> dict[str, Any]:
    try:
        return api.inspect_pipeline(job.pipeline, version=job.version or None, project=job.project).spec
    except NotFoundError:  # deleted meanwhile
        return {}


def _job_lines(job: Job, spec: dict[str, Any], full: bool) -> list[tuple[str, Any]]:
    stats = job.stats
    return [
        ("ID", job.id), ("Pipeline", job.pipeline), ("Project", job.project), ("Pipeline Version", job.version),
        ("Started", time_text(job.started_at, full)), ("Duration", job_duration(job)), ("State", job.status),
        ("Phase", job.phase), ("Reason", job.reason),
        ("Processed", job.processed), ("Failed", job.failed), ("Skipped", job.skipped),
        ("Recovered", job.recovered), ("Quarantined", job.quarantined or None), ("Total", job.total),
        ("Data Downloaded", size_text(stats.get("download_bytes", 0))),
        ("Data Uploaded", size_text(stats.get("upload_bytes", 0))),
        ("Download Time", seconds_text(stats.get("download_seconds", 0))),
        ("Process Time", seconds_text(stats.get("process_seconds", 0))),
        ("Upload Time", seconds_text(stats.get("upload_seconds", 0))),
        ("CPU Time", seconds_text(stats.get("cpu_seconds", 0))), ("Peak Memory", _size(stats.get("memory_bytes"))),
        ("Datum Timeout", spec.get("datum_timeout")), ("Job Timeout", spec.get("job_timeout")),
        ("Restarts", job.restarts),
        ("ParallelismSpec", _json(spec.get("parallelism_spec"))), ("Input", _json(spec.get("input"))),
        ("Transform", _json(spec.get("transform"))),
        ("Output Commit", f"{job.project}/{job.pipeline}@{job.id}"),
    ]  # fmt: skip


def _json(value: Any) -> str | None:
    return json.dumps(value, ensure_ascii=False) if value else None


def _show_set(found: JobSet, output: Output, full: bool) -> None:
    if output is not None:
        structured(found, output)
        return
    show(f"ID: {found.id}\n")
    table(HEADER, [_job_row(job, full) for job in found.jobs])
    show("\nCost")
    described(cost_lines(found.cost))


def cost_lines(cost: Cost) -> list[tuple[str, Any]]:
    """What the jobs of an ID took together."""
    stats = cost.stats
    return [
        ("Jobs", cost.jobs), ("Datums Computed", cost.datums), ("Duration", seconds_text(cost.seconds)),
        ("CPU Time", seconds_text(stats.get("cpu_seconds", 0))),
        ("Process Time", seconds_text(stats.get("process_seconds", 0))),
        ("Data Downloaded", size_text(stats.get("download_bytes", 0))),
        ("Data Uploaded", size_text(stats.get("upload_bytes", 0))), ("Peak Memory", _size(stats.get("memory_bytes"))),
    ]  # fmt: skip


def inspect_datum(
    job: JobName,
    datum: Annotated[str, typer.Argument(metavar="DATUM", help="Its ID, or at least six characters of it.")],
    project: Project = None,
    output: Output = None,
    full_timestamps: FullTimestamps = False,
) -> None:
    """Show a datum: what it sees, how it went, why it was done, what it took, and the last lines of its log."""
    api = client()
    job = exactly(api, job, project)
    found = api.inspect_datum(job, datum, project=project)
    if output is not None:
        structured(found, output)
        return
    described(_datum_lines(found, full_timestamps))
    pipeline, _, job_id = job.partition("@")
    if found.status not in ("skipped", "removed", "queued"):
        log = api.pipeline_logs(pipeline, job=job_id, datum=found.id, tail=LOG_LINES, project=project)
        if lines := [line["text"] for line in log]:
            show("Log:")
            for line in lines:
                show(f"  {line}")


def _datum_lines(datum: Datum, full: bool) -> list[tuple[str, Any]]:
    stats = datum.stats
    sizes = [size_text(i.size) for i in datum.inputs]
    made = f"{datum.file_count} files, {size_text(datum.size)}" if datum.output_root else None
    return [
        ("ID", datum.id), ("Status", datum.status),
        ("Files", [f"{file} ({size})" for file, size in zip(files_of(datum), sizes, strict=False)]),
        ("Tries", datum.attempts or None), ("Reason", datum.reason), ("Why", why_text(datum.why) or "unchanged"),
        ("Computed By Job", datum.job), ("Started", time_text(datum.started_at, full) if datum.started_at else None),
        ("Time", _datum_time(datum) if datum.started_at else None),
        *(
            (label, seconds_text(stats[name])) for label, name in (
                ("Download Time", "download_seconds"), ("Process Time", "process_seconds"),
                ("Upload Time", "upload_seconds"), ("CPU Time", "cpu_seconds"),
            ) if name in stats
        ),
        *(
            (label, size_text(stats[name])) for label, name in (
                ("Data Downloaded", "download_bytes"), ("Data Uploaded", "upload_bytes"),
                ("Peak Memory", "memory_bytes"),
            ) if name in stats
        ),
        ("Exit Code", stats.get("exit_code")), ("Out Of Memory", "yes" if stats.get("oom") else None),
        ("Output", made), ("Identity", datum.identity),
    ]  # fmt: skip


# --- waiting ------------------------------------------------------------------------------------------------------


def wait_job(job: JobArgument, project: Project = None, output: Output = None) -> None:
    """Wait until a job has ended, or all jobs of an ID; an error if one did not succeed."""
    api = client()
    if is_commit_id(job):
        ended = api.wait_job_set(job)
        jobs: Sequence[Job] = ended.jobs
        if output is not None:
            structured(ended, output)
    else:
        job = exactly(api, job, project)
        jobs = [api.wait_job(job, project=project)]
        if output is not None:
            structured(jobs[0], output)
    for one in jobs:
        name = job if len(jobs) == 1 else f"{one.pipeline}@{one.id}"
        if one.status != "succeeded":
            raise StateError(f"job {name} {job_state(one)}", kind="failed")
        if output is None:
            say(f"job {name} {job_state(one)}")
