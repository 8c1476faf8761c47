"""``inspect``: one thing in full, or everything that bears an ID."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from trunkline.cli.client import client
from trunkline.cli.grammar import ID_COMMAND, FullTimestamps, Namespace, Output, Project, command, new_verb
from trunkline.cli.jobs import cost_lines, job_duration, job_progress, job_state
from trunkline.cli.listing import metrics_text
from trunkline.cli.output import described, show, structured, table, time_text
from trunkline.core.ids import is_commit_id
from trunkline.core.sizes import size_text
from trunkline.wire.base import Wire
from trunkline.wire.status import Everything

TIMES = ("created_at", "finished_at", "started_at", "updated_at", "modified_at")


def register(app: typer.Typer) -> None:
    verb = new_verb(app, "inspect", "Show one thing in full, or with an ID everything that bears it.")
    command(verb, ID_COMMAND, "trunkline inspect 1035715e796f45caae7a1d3ffd1f93ca")(inspect_id)
    command(verb, "project", "trunkline inspect project default")(inspect_project)
    command(verb, "repo", "trunkline inspect repo dogs-and-cats")(inspect_repo)
    command(verb, "branch", "trunkline inspect branch dogs-and-cats@master")(inspect_branch)
    command(verb, "commit", "trunkline inspect commit dogs-and-cats@master")(inspect_commit)
    command(verb, "file", "trunkline inspect file dogs-and-cats@master:/data1")(inspect_file)
    command(verb, "pipeline", "trunkline inspect pipeline dogs-and-cats-model")(inspect_pipeline)
    command(verb, "experiment", "trunkline inspect experiment 1")(inspect_experiment)
    command(verb, "trial", "trunkline inspect trial 1")(inspect_trial)
    command(verb, "checkpoint", "trunkline inspect checkpoint 0b0c8f6e-…")(inspect_checkpoint)
    command(verb, "model", "trunkline inspect model dogs-and-cats")(inspect_model)
    command(verb, "version", "trunkline inspect version dogs-and-cats latest")(inspect_version)
    command(verb, "secret", "trunkline inspect secret pipeline-secret")(inspect_secret)
    command(verb, "inferenceservice", "trunkline inspect isvc dogcat-deploy -n models")(inspect_service)


def shown(found: Wire, output: Output, full: bool) -> None:
    """One thing, field by field."""
    if output is not None:
        structured(found, output)
        return
    described(
        (_label(name), _value(name, value, full)) for name, value in found.model_dump(mode="json").items()
    )


def _label(name: str) -> str:
    return name.removesuffix("_at").replace("_", " ").capitalize().replace("Id", "ID")


def _value(name: str, value: Any, full: bool) -> Any:
    if name == "modified_ns":
        return None  # what "Modified" says, for programs
    if name in TIMES:
        return time_text(value, full) if value is not None else None
    if name == "size":
        return size_text(value)
    return value


def inspect_id(
    commit_id: Annotated[str, typer.Argument(metavar="ID")], output: Output = None,
    full_timestamps: FullTimestamps = False,
) -> None:  # fmt: skip
    """Everything that bears an ID: commits, jobs and what they took, experiments, model versions, revisions."""
    found = client().inspect(commit_id)
    if output is not None:
        structured(found, output)
        return
    show(f"ID: {found.id}")
    for title, header, rows in _sections(found, full_timestamps):
        if rows:
            show(f"\n{title}")
            table(header, rows)
    if found.cost is not None:
        show("\nCost")
        described(cost_lines(found.cost))


def _sections(found: Everything, full: bool) -> list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
    return [
        ("Commits", ("REPO", "BRANCH", "ORIGIN", "STATUS", "FILES", "SIZE", "FINISHED", "ERROR"), [
            (f"{c.project}/{c.repo}", c.branch, c.origin.upper(), c.status, str(c.file_count), size_text(c.size),
             time_text(c.finished_at, full), c.error or "") for c in found.commits]),
        ("Jobs", ("PIPELINE", "STARTED", "DURATION", "PROGRESS", "STATE"), [
            (f"{j.project}/{j.pipeline}", time_text(j.started_at, full), job_duration(j), job_progress(j), job_state(j))
            for j in found.jobs]),
        ("Experiments", ("ID", "NAME", "STATE", "PROGRESS", "REASON"), [
            (str(e.id), e.name, e.status, f"{100 * e.progress:.0f}%", e.reason) for e in found.experiments]),
        ("Model versions", ("MODEL", "NUMBER", "METRICS", "ALIASES"), [
            (v.model, str(v.number), metrics_text(v.metrics), ", ".join(v.aliases)) for v in found.versions]),
        ("Revisions", ("SERVICE", "REVISION", "PHASE", "TRAFFIC", "REASON"), [
            (f"{r.namespace}/{r.service}", r.name, r.phase, f"{r.traffic}%", r.reason) for r in found.revisions]),
    ]  # fmt: skip


def inspect_project(name: str, output: Output = None, full_timestamps: FullTimestamps = False) -> None:
    """Show a project."""
    shown(client().inspect_project(name), output, full_timestamps)


def inspect_repo(
    name: str, project: Project = None, output: Output = None, full_timestamps: FullTimestamps = False
) -> None:
    """Show a repo."""
    shown(client().inspect_repo(name, project=project), output, full_timestamps)


def inspect_branch(
    address: Annotated[str, typer.Argument(metavar="REPO@BRANCH")], project: Project = None,
    output: Output = None, full_timestamps: FullTimestamps = False,
) -> None:  # fmt: skip
    """Show a branch."""
    shown(client().inspect_branch(address, project=project), output, full_timestamps)


def inspect_commit(
    address: Annotated[str, typer.Argument(metavar="REPO@BRANCH-OR-ID")], project: Project = None,
    output: Output = None, full_timestamps: FullTimestamps = False,
) -> None:  # fmt: skip
    """Show a commit; with only an ID, everything that bears it."""
    if is_commit_id(address):
        inspect_id(address, output, full_timestamps)
        return
    shown(client().inspect_commit(address, project=project), output, full_timestamps)


def inspect_file(
    address: Annotated[str, typer.Argument(metavar="REPO@BRANCH:PATH")], project: Project = None,
    output: Output = None, full_timestamps: FullTimestamps = False,
) -> None:  # fmt: skip
    """Show a file or directory."""
    shown(client().inspect_file(address, project=project), output, full_timestamps)


def inspect_pipeline(
    name: str,
    version: Annotated[int | None, typer.Option("--version", help="As it was in this version.")] = None,
    project: Project = None,
    output: Output = None,
    full_timestamps: FullTimestamps = False,
) -> None:
    """Show a pipeline: its state, its last job and why that failed, its effective spec."""
    found = client().inspect_pipeline(name, version=version, project=project)
    if output is not None:
        structured(found, output)
        return
    last = f"{found.last_job_id} {found.last_job_status}" if found.last_job_id else None
    described(
        [
            ("Name", found.name), ("Project", found.project), ("Description", found.description),
            ("Created", time_text(found.created_at, full_timestamps)),
            ("Updated", time_text(found.updated_at, full_timestamps) if found.version > 1 else None),
            ("Version", found.version), ("State", found.state), ("Last Job", last), ("Reason", found.last_job_reason),
            ("Notes", list(found.notes)), ("Inputs", found.input), ("Output Branch", found.spec.get("output_branch")),
            ("Salt", found.salt), ("Code", found.code_root), ("Spec", found.spec),
        ]
    )  # fmt: skip


def inspect_experiment(
    experiment: int, output: Output = None, full_timestamps: FullTimestamps = False
) -> None:
    """Show an experiment with its configuration."""
    shown(client().inspect_experiment(experiment), output, full_timestamps)


def inspect_trial(trial: int, output: Output = None, full_timestamps: FullTimestamps = False) -> None:
    """Show a trial."""
    shown(client().inspect_trial(trial), output, full_timestamps)


def inspect_checkpoint(uuid: str, output: Output = None, full_timestamps: FullTimestamps = False) -> None:
    """Show a checkpoint."""
    shown(client().inspect_checkpoint(uuid), output, full_timestamps)


def inspect_model(name: str, output: Output = None, full_timestamps: FullTimestamps = False) -> None:
    """Show a model."""
    shown(client().inspect_model(name), output, full_timestamps)


def inspect_version(
    model: str,
    ref: Annotated[str, typer.Argument(help="Name, number, alias or 'latest'.")] = "latest",
    output: Output = None,
    full_timestamps: FullTimestamps = False,
) -> None:
    """Show a version of a model."""
    shown(client().inspect_version(model, ref), output, full_timestamps)


def inspect_secret(
    name: str,
    namespace: Namespace = "default",
    output: Output = None,
    full_timestamps: FullTimestamps = False,
) -> None:
    """Show which keys a secret has; never their values."""
    shown(client().inspect_secret(name, namespace=namespace), output, full_timestamps)


def inspect_service(
    name: str,
    namespace: Namespace = "default",
    output: Output = None,
    full_timestamps: FullTimestamps = False,
) -> None:
    """Show an inference service with its conditions and revisions."""
    api = client()
    found = api.inspect_inference_service(name, namespace=namespace)
    if output is not None:
        structured(found, output)
        return
    described(
        [
            ("Name", found.name), ("Namespace", found.namespace), ("URL", found.url), ("Ready", found.ready),
            ("Failure", found.failure), ("Annotations", found.metadata.get("annotations")),
            ("Spec", found.spec), ("Conditions", found.status.get("conditions")),
        ]
    )  # fmt: skip
    show("")
    table(
        ("REVISION", "ID", "PHASE", "TRAFFIC", "CREATED", "REASON"),
        [
            (
                r.name,
                r.commit_id,
                r.phase,
                f"{r.traffic}%",
                time_text(r.created_at, full_timestamps),
                r.reason,
            )
            for r in api.list_revisions(name, namespace=namespace)
        ],
    )
