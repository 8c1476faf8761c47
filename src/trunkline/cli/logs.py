"""``logs``."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from trunkline.cli.client import client, exactly
from trunkline.cli.grammar import SAME, Namespace, Project, command
from trunkline.cli.output import Format, say, show, structured_line
from trunkline.core.ids import is_commit_id
from trunkline.core.times import moment
from trunkline.errors import InvalidInputError, NotFoundError
from trunkline.sdk.client import Client
from trunkline.wire.jobs import Job

POLL_SECONDS = 0.3
SHOWN_CHARACTERS = 12
"""So much of an ID is shown before a line."""


def register(app: typer.Typer) -> None:
    command(app, "logs", "trunkline logs -p dogs-and-cats-model -f")(logs)


@dataclass(frozen=True, kw_only=True)
class Wish:
    """Which lines are wanted, and how they are shown."""

    lines: dict[str, Any]
    """What ``pipeline_logs`` is asked for."""
    form: Format | None
    prefix: bool | None
    """Whether each line says whose it is; None: on a terminal, where there are several."""
    follow: bool


def logs(
    words: Annotated[list[str] | None, typer.Argument(metavar="[ID | isvc NAME]", help="All jobs of an ID.")] = None,
    pipeline: Annotated[str | None, typer.Option("--pipeline", "-p", help="Of this pipeline's newest job.")] = None,
    job: Annotated[str | None, typer.Option("--job", "-j", help="Of this job (ID, PIPELINE@ID or PIPELINE@BRANCH).")] = None,
    all_jobs: Annotated[bool, typer.Option("--all-jobs", help="With -p: of all its jobs, oldest first.")] = False,
    datum: Annotated[str | None, typer.Option("--datum", help="Only of this datum (six characters are enough).")] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option("--inputs", "--data", help="Only of datums that see this path or hash; may be given many times."),
    ] = None,
    since: Annotated[str | None, typer.Option("--since", help="Only since then: 24h ago, or a time.")] = None,
    until: Annotated[str | None, typer.Option("--until", help="Only until then: 1h ago, or a time.")] = None,
    worker: Annotated[str | None, typer.Option("--worker", help="Only of this worker.")] = None,
    tail: Annotated[int | None, typer.Option("--tail", min=0, help="Only the last so many, of each job.")] = None,
    experiment: Annotated[int | None, typer.Option("--experiment", help="Of all its trials.")] = None,
    trial: Annotated[int | None, typer.Option("--trial", help="Of this trial.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the end.")] = False,
    prefix: Annotated[
        bool | None, typer.Option("--prefix/--no-prefix", help="Say of each line whose datum's it is.", show_default=False)
    ] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Every line as JSON.")] = False,
    output: Annotated[Format | None, typer.Option("--output", "-o", help="Every line as json (or yaml).")] = None,
    namespace: Namespace = "default",
    project: Project = None,
) -> None:  # fmt: skip
    """Print the lines that user code has written: of a pipeline's job, of all jobs of an ID, a trial or an inference service."""
    if job is not None and "@" in job:
        pipeline, _, job = exactly(client(), job, project).partition("@")
    if job is not None and pipeline is None and not words:
        words, job = [job], None
    commit_id = words[0] if words is not None and len(words) == 1 and is_commit_id(words[0]) else None
    given = [one for one in (pipeline, experiment, trial, words or None) if one is not None]
    if len(given) != 1 or (all_jobs and (pipeline is None or job is not None)):
        raise InvalidInputError(
            "say whose log: -p PIPELINE (and --all-jobs), -j PIPELINE@ID, ID, --experiment N, --trial N or isvc NAME",
            kind="bad_logs",
        )
    form = Format.json if raw and output is None else output
    api, now = client(), time.time()
    lines = {
        "datum": datum, "inputs": inputs or (), "worker": worker, "tail": tail,
        "since": None if since is None else moment(since, now), "until": None if until is None else moment(until, now),
    }  # fmt: skip
    wish = Wish(lines=lines, form=form, prefix=prefix, follow=follow)
    if commit_id is not None:
        _jobs_log(api, _of_set(api, commit_id, follow=follow), wish, is_of_several=True)
    elif pipeline is not None and all_jobs:
        _jobs_log(api, _all_of(api, pipeline, project, follow=follow), wish, is_of_several=True)
    elif pipeline is not None:
        _job_log(api, pipeline, job, project, wish)
    elif experiment is not None:
        experiment_log(api, experiment, follow=follow, form=form)
    elif trial is not None:
        printed(api.trial_logs(trial, follow=follow), form)
    elif words is not None:
        _service_log(api, words, namespace)


# --- jobs ---------------------------------------------------------------------------------------------------------


def _job_log(api: Client, pipeline: str, job_id: str | None, project: str | None, wish: Wish) -> None:
    prefix = wish.prefix
    if prefix is None:
        prefix = wish.form is None and sys.stdout.isatty() and _has_several(api, pipeline, job_id, project)
    lines = api.pipeline_logs(
        pipeline,
        job=job_id,
        project=project,
        follow=wish.follow,
        files=prefix or wish.form is not None,
        **wish.lines,
    )
    printed(lines, wish.form, _prefix if prefix else None)


def _has_several(api: Client, pipeline: str, job_id: str | None, project: str | None) -> bool:
    if job_id is not None:
        return api.inspect_job(f"{pipeline}@{job_id}", project=project).total > 1
    return any(job.total > 1 for job in api.list_jobs(pipeline, project=project, limit=1))


def _prefix(line: dict[str, Any]) -> str:
    """``3f9a1c04b2d7 images:/a.png | ``; of what a worker says of a whole set, only its job."""
    if not line["datum"]:
        return f"{line['job'][:SHOWN_CHARACTERS]} | "
    return f"{line['datum'][:SHOWN_CHARACTERS]} {line['files']}".rstrip() + " | "


def _jobs_log(api: Client, jobs: Iterable[Job], wish: Wish, *, is_of_several: bool) -> None:
    """The logs of jobs one after the other; each line says whose it is, unless it is for a program."""
    is_found = False
    missing: NotFoundError | None = None
    for job in jobs:
        name = f"{job.pipeline}@{job.id[:SHOWN_CHARACTERS]}"
        prefix = wish.prefix if wish.prefix is not None else is_of_several and sys.stdout.isatty()
        try:
            lines = api.pipeline_logs(
                job.pipeline, job=job.id, project=job.project, follow=wish.follow,
                files=prefix or wish.form is not None, **wish.lines,
            )  # fmt: skip
            form = {"pipeline": job.pipeline, "project": job.project}
            printed(
                ({**line, **form} for line in lines), wish.form,
                (lambda line, name=name: f"{name} {_prefix(line)}") if prefix else None,
            )  # fmt: skip
            is_found = True
        except NotFoundError as error:  # a datum is one job's
            if error.kind not in ("no_datum", "no_log"):
                raise
            missing = error
    if missing is not None and not is_found:
        raise missing


def _of_set(api: Client, commit_id: str, *, follow: bool) -> Iterator[Job]:
    """All jobs of an ID, also those that come while the first are read."""
    seen: set[tuple[str, str]] = set()
    while True:
        new = [job for job in api.inspect_job_set(commit_id).jobs if (job.project, job.pipeline) not in seen]
        yield from new
        seen.update((job.project, job.pipeline) for job in new)
        if not new or not follow:
            return


def _all_of(api: Client, pipeline: str, project: str | None, *, follow: bool) -> Iterator[Job]:
    """All jobs of a pipeline, oldest first; with ``follow`` also those to come, for ever."""
    seen: set[str] = set()
    while True:
        new = [job for job in reversed(api.list_jobs(pipeline, project=project)) if job.id not in seen]
        yield from new
        seen.update(job.id for job in new)
        if not follow:
            return
        if not new:
            time.sleep(POLL_SECONDS)


# --- the others ---------------------------------------------------------------------------------------------------


def experiment_log(api: Client, experiment: int, *, follow: bool, form: Format | None = None) -> None:
    """The logs of an experiment's trials, one after the other."""
    while True:
        trials = api.list_trials(experiment)
        if trials or not follow or api.inspect_experiment(experiment).finished_at is not None:
            break
        time.sleep(POLL_SECONDS)
    for trial in trials:
        if len(trials) > 1:
            say(f"trial {trial.id}:")
        printed(api.trial_logs(trial.id, follow=follow), form)


def printed(lines: Iterable[dict[str, Any]], form: Format | None = None, prefix: Any = None) -> None:
    """Log lines as they were written, with what the prefix says of each; or whole."""
    for line in lines:
        if form is not None:
            structured_line(line, form)
        else:
            show(f"{prefix(line)}{line['text']}" if prefix is not None else line["text"])


def _service_log(api: Client, words: list[str], namespace: str) -> None:
    if len(words) != 2 or SAME.get(words[0], words[0]) != "inferenceservice":
        raise InvalidInputError("write: trunkline logs -n NAMESPACE isvc NAME", kind="bad_logs")
    show(api.inference_service_logs(words[1], namespace=namespace).rstrip("\n"))
