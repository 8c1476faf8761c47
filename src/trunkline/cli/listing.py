"""``list``, and ``get`` of what Kubernetes' users get."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

import typer

from trunkline.cli.client import client
from trunkline.cli.following import AllOrigins, Origin
from trunkline.cli.grammar import FullTimestamps, Namespace, Number, Output, Project, command, new_verb
from trunkline.cli.output import (
    bar,
    say,
    short_age,
    show,
    structured,
    table,
    time_text,
)
from trunkline.core.sizes import size_text
from trunkline.errors import InvalidInputError
from trunkline.wire.branches import Trigger
from trunkline.wire.inferenceservices import InferenceService

RepoArgument = Annotated[str | None, typer.Argument(metavar="[REPO[@BRANCH]]")]


def register(app: typer.Typer) -> None:
    verb = new_verb(
        app, "list", "List projects, repos, commits, files, pipelines, jobs, experiments, models …"
    )
    command(verb, "project", "trunkline list projects")(list_projects)
    command(verb, "repo", "trunkline list repos")(list_repos)
    command(verb, "branch", "trunkline list branches dogs-and-cats")(list_branches)
    command(verb, "commit", "trunkline list commits dogs-and-cats@master")(list_commits)
    command(verb, "file", "trunkline list files dogs-and-cats@master:/data1")(list_files)
    command(verb, "pipeline", "trunkline list pipelines")(list_pipelines)
    command(verb, "experiment", "trunkline list experiments")(list_experiments)
    command(verb, "trial", "trunkline list trials 1")(list_trials)
    command(verb, "checkpoint", "trunkline list checkpoints 1")(list_checkpoints)
    command(verb, "model", "trunkline list models")(list_models)
    command(verb, "version", "trunkline list versions dogs-and-cats")(list_versions)
    command(verb, "secret", "trunkline list secrets -n default")(list_secrets)
    command(verb, "namespace", "trunkline list namespaces")(list_namespaces)
    command(verb, "inferenceservice", "trunkline list inferenceservices -n models")(get_services)
    command(verb, "purge", "trunkline list purges")(list_purges)
    get = new_verb(app, "get", "Get files, inference services, namespaces, secrets or S3 credentials.")
    command(get, "inferenceservice", "trunkline get inferenceservices -n models")(get_services)
    command(get, "namespace", "trunkline get namespaces")(list_namespaces)
    command(get, "secret", "trunkline get secrets -n default")(list_secrets)
    command(get, "s3credentials", "trunkline get s3credentials")(get_s3_credentials)


def shown(found: Any, output: Output, header: Sequence[str], rows: Any) -> None:
    """A list as a table, or as data."""
    if output is not None:
        structured(found, output)
    else:
        table(header, [rows(one) for one in found])


def list_purges(output: Output = None, full_timestamps: FullTimestamps = False) -> None:
    """List what was purged from history, by whom and why."""
    shown(
        client().list_purges(), output, ("ID", "PATH", "CONTENTS", "STATE", "WHEN", "WHO", "WHY"),
        lambda p: (
            str(p.id), f"{p.project}/{p.repo}:{p.path}", str(len(p.contents)), p.state,
            time_text(p.created_at, full_timestamps), p.who, p.why,
        ),
    )  # fmt: skip


def list_projects(output: Output = None, full_timestamps: FullTimestamps = False) -> None:
    """List projects; the asterisk marks the one that is meant where none is named."""
    api = client()
    shown(
        api.list_projects(), output, ("ACTIVE", "PROJECT", "CREATED", "DESCRIPTION"),
        lambda p: (
            "*" if p.name == api.project else " ", p.name, time_text(p.created_at, full_timestamps), p.description,
        ),
    )  # fmt: skip


def list_repos(
    project: Project = None, output: Output = None, full_timestamps: FullTimestamps = False
) -> None:
    """List repos."""
    shown(
        client().list_repos(project), output, ("PROJECT", "NAME", "CREATED", "SIZE (MASTER)", "DESCRIPTION"),
        lambda r: (
            r.project, r.name, time_text(r.created_at, full_timestamps), f"≤ {size_text(r.size)}", r.description,
        ),
    )  # fmt: skip


def list_branches(
    repo: str, project: Project = None, output: Output = None, full_timestamps: FullTimestamps = False
) -> None:
    """List the branches of a repo."""
    shown(
        client().list_branches(repo, project=project), output, ("BRANCH", "HEAD", "TRIGGER", "CREATED"),
        lambda b: (b.name, b.head or "-", trigger_text(b.trigger), time_text(b.created_at, full_timestamps)),
    )  # fmt: skip


def trigger_text(trigger: Trigger | None) -> str:
    """``staging on Size(1MB) or Commits(5)``, as pachctl says it."""
    if trigger is None:
        return "-"
    conditions = [
        f"{name}({value})"
        for name, value in (
            ("Cron", trigger.cron), ("RateLimit", trigger.rate_limit), ("Size", trigger.size),
            ("Commits", trigger.commits),
        )
        if value is not None
    ]  # fmt: skip
    joined = (" and " if trigger.all else " or ").join(conditions)
    return f"{trigger.branch} on {joined}" if joined else trigger.branch


def list_commits(
    repo: RepoArgument = None, number: Number = None,
    since: Annotated[str | None, typer.Option("--from", "-f", help="Only commits newer than this one.")] = None,
    origin: Origin = None, all_origins: AllOrigins = False, project: Project = None, output: Output = None,
    full_timestamps: FullTimestamps = False,
) -> None:  # fmt: skip
    """List the commits of a repo; without one, the commit sets: each is all that one change has caused."""
    if repo is None:
        if since is not None or origin is not None:
            raise InvalidInputError(
                "--from and --origin need a repo: 'list commits REPO'", kind="no_repo_named"
            )
        sets = client().list_commit_sets(limit=number)
        _show_sets(sets, output, full_timestamps)
        return
    name, _, branch = repo.partition("@")
    wanted = None if origin is None or all_origins else origin.value
    shown(
        client().list_commits(
            name, branch=branch or None, since=since, origin=wanted, limit=number, project=project
        ), output,
        ("PROJECT", "REPO", "BRANCH", "COMMIT", "FINISHED", "SIZE", "ORIGIN", "DESCRIPTION"),
        lambda c: (
            c.project, c.repo, c.branch, c.id, time_text(c.finished_at, full_timestamps), size_text(c.size),
            c.origin.upper(), c.error or c.description,
        ),
    )  # fmt: skip


def _show_sets(sets: Any, output: Output, full_timestamps: bool) -> None:
    shown(
        sets, output, ("ID", "SUBCOMMITS", "PROGRESS", "CREATED", "MODIFIED"),
        lambda s: (
            s.id, str(len(s.commits)), bar(sum(c.is_finished for c in s.commits) / max(1, len(s.commits))),
            time_text(s.created_at, full_timestamps),
            time_text(max((c.finished_at or c.created_at for c in s.commits), default=None), full_timestamps),
        ),
    )  # fmt: skip


def list_files(
    address: Annotated[str, typer.Argument(metavar="REPO@BRANCH[:PATH]")],
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Everything below it.")] = False,
    number: Number = None,
    project: Project = None,
    output: Output = None,
) -> None:
    """List the files of a directory; what is linked is shown with where it lies."""
    found = client().list_files(address, walk=recursive, limit=number, project=project)
    shown(found, output, ("SIZE", "NAME"), lambda f: (size_text(f.size), named(f)))


def named(file: Any) -> str:
    """A file's path, and where its content lies if that is elsewhere."""
    return f"{file.path} -> {file.linked.removeprefix('file://')}" if file.linked else str(file.path)


def list_pipelines(
    name: Annotated[str | None, typer.Argument(metavar="[PIPELINE]")] = None,
    history: Annotated[bool, typer.Option("--history", help="All versions, the newest first.")] = False,
    project: Project = None,
    output: Output = None,
    full_timestamps: FullTimestamps = False,
) -> None:
    """List pipelines with the state of their last jobs; or one, or their versions."""
    api = client()
    found = api.list_pipelines(project) if name is None else [api.inspect_pipeline(name, project=project)]
    if history:
        found = [old for one in found for old in api.list_pipeline_versions(one.name, project=one.project)]
    shown(
        found, output,
        ("PROJECT", "NAME", "VERSION", "INPUT", "CREATED", "STATE / LAST JOB", "ALERTS", "DESCRIPTION"),
        lambda p: (
            p.project, p.name, str(p.version), p.input, time_text(p.updated_at, full_timestamps),
            f"{p.state} / {p.last_job_status or '-'}", "; ".join(p.notes), p.description,
        ),
    )  # fmt: skip


def list_experiments(
    label: Annotated[str | None, typer.Option("--label", help="Only of this label (a commit's ID).")] = None,
    output: Output = None,
    full_timestamps: FullTimestamps = False,
) -> None:
    """List experiments, newest first."""
    shown(
        client().list_experiments(label), output,
        ("ID", "NAME", "STATE", "PROGRESS", "CREATED", "FINISHED", "LABEL", "REASON"),
        lambda e: (
            str(e.id), e.name, e.status, f"{100 * e.progress:.0f}%", time_text(e.created_at, full_timestamps),
            time_text(e.finished_at, full_timestamps), e.label, e.reason,
        ),
    )  # fmt: skip


def list_trials(experiment: int, output: Output = None, full_timestamps: FullTimestamps = False) -> None:
    """List the trials of an experiment."""
    shown(
        client().list_trials(experiment), output,
        ("ID", "STATE", "PHASE", "STEPS", "RESTARTS", "HPARAMS", "CREATED", "REASON"),
        lambda t: (
            str(t.id), t.status, t.phase, str(t.steps_completed), str(t.restarts),
            ", ".join(f"{k}={v}" for k, v in t.hparams.items()), time_text(t.created_at, full_timestamps), t.reason,
        ),
    )  # fmt: skip


def list_checkpoints(experiment: int, output: Output = None, full_timestamps: FullTimestamps = False) -> None:
    """List the checkpoints of an experiment, best first."""
    shown(
        client().list_checkpoints(experiment), output,
        ("UUID", "TRIAL", "STEPS", "SIZE", "STATE", "METRICS", "CREATED"),
        lambda c: (
            c.uuid, str(c.trial_id), str(c.steps_completed), size_text(c.size), c.state, metrics_text(c.metrics),
            time_text(c.created_at, full_timestamps),
        ),
    )  # fmt: skip


def metrics_text(metrics: dict[str, Any]) -> str:
    """``accuracy=0.98, loss=0.1``."""
    return ", ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in metrics.items())


def list_models(output: Output = None, full_timestamps: FullTimestamps = False) -> None:
    """List the models of the registry."""
    shown(
        client().list_models(), output, ("NAME", "VERSIONS", "CREATED", "DESCRIPTION"),
        lambda m: (m.name, str(m.version_count), time_text(m.created_at, full_timestamps), m.description),
    )  # fmt: skip


def list_versions(model: str, output: Output = None, full_timestamps: FullTimestamps = False) -> None:
    """List the versions of a model, newest first."""
    shown(
        client().list_versions(model), output, ("NUMBER", "NAME", "ALIASES", "METRICS", "PACKAGED", "CREATED"),
        lambda v: (
            str(v.number), v.name, ", ".join(v.aliases), metrics_text(v.metrics), "yes" if v.package_root else "no",
            time_text(v.created_at, full_timestamps),
        ),
    )  # fmt: skip


def list_secrets(
    namespace: Namespace = "default", output: Output = None, full_timestamps: FullTimestamps = False
) -> None:
    """List the secrets of a namespace; never their values."""
    shown(
        client().list_secrets(namespace), output, ("NAME", "TYPE", "KEYS", "CREATED"),
        lambda s: (s.name, s.type, ", ".join(s.keys), time_text(s.created_at, full_timestamps)),
    )  # fmt: skip


def get_s3_credentials(output: Output = None) -> None:
    """Print what S3 clients need, for a shell's eval: the keys that stand for your token, and where the S3 door is."""
    found = client().s3_credentials()
    if output is not None:
        structured(found, output)
        return
    show(f"export AWS_ACCESS_KEY_ID={found.access_key_id}")
    show(f"export AWS_SECRET_ACCESS_KEY={found.secret_access_key}")
    show(f"export AWS_ENDPOINT_URL={found.endpoint_url}")
    show("export AWS_DEFAULT_REGION=local")  # any will do; for AWS's first one, botocore presigns as of 2006


def list_namespaces(output: Output = None) -> None:
    """List namespaces."""
    found = client().list_namespaces()
    shown(found, output, ("NAME", "AGE"), lambda n: (n.name, short_age(time.time() - n.created_at)))


def get_services(
    name: Annotated[str | None, typer.Argument(help="Only this one.")] = None,
    namespace: Namespace = "default",
    all_namespaces: Annotated[bool, typer.Option("--all-namespaces", "-A", help="Of all of them.")] = False,
    output: Output = None,
) -> None:
    """Get inference services with their URLs and readiness."""
    api = client()
    if name is not None:
        one = api.inspect_inference_service(name, namespace=namespace)
        if output is not None:
            structured(one, output)
            return
        found = [one]
    else:
        found = api.list_inference_services(None if all_namespaces else namespace)
    if not found and output is None:
        say(f"No resources found in {'any' if all_namespaces else namespace} namespace.")
        return
    header = ("NAME", "URL", "READY", "PREV", "LATEST", "AGE")
    if all_namespaces:
        shown(found, output, ("NAMESPACE", *header), lambda s: (s.namespace, *_service_row(s)))
    else:
        shown(found, output, header, _service_row)


def _service_row(service: InferenceService) -> tuple[str, ...]:
    traffic = service.status.get("components", {}).get("predictor", {}).get("traffic", [])
    latest = sum(part["percent"] for part in traffic if part.get("latestRevision"))
    previous = sum(part["percent"] for part in traffic if not part.get("latestRevision"))
    created = datetime.fromisoformat(service.metadata["creationTimestamp"]).timestamp()
    return (
        service.name, service.url, service.ready, str(previous) if previous else "", str(latest) if latest else "",
        short_age(time.time() - created),
    )  # fmt: skip
