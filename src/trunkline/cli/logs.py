"""``logs``."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from typing import Annotated, Any

import typer

from trunkline.cli.client import client
from trunkline.cli.grammar import SAME, Namespace, Project, command
from trunkline.cli.output import say, show
from trunkline.errors import InvalidInputError
from trunkline.sdk.client import Client

POLL_SECONDS = 0.3


def register(app: typer.Typer) -> None:
    command(app, "logs", "trunkline logs -p dogs-and-cats-model -f")(logs)


def logs(
    service: Annotated[list[str] | None, typer.Argument(metavar="[isvc NAME]")] = None,
    pipeline: Annotated[str | None, typer.Option("--pipeline", "-p", help="Of this pipeline's jobs.")] = None,
    job: Annotated[str | None, typer.Option("--job", "-j", help="Of this job (ID or PIPELINE@ID).")] = None,
    datum: Annotated[str | None, typer.Option("--datum", help="Only of this datum.")] = None,
    experiment: Annotated[int | None, typer.Option("--experiment", help="Of all its trials.")] = None,
    trial: Annotated[int | None, typer.Option("--trial", help="Of this trial.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the end.")] = False,
    raw: Annotated[bool, typer.Option("--raw", help="Every line as JSON.")] = False,
    namespace: Namespace = "default",
    project: Project = None,
) -> None:
    """Print the lines that user code has written: of a pipeline's job, a trial or an inference service."""
    if job is not None and "@" in job:
        pipeline, _, job = job.partition("@")
    given = [one for one in (pipeline, experiment, trial, service or None) if one is not None]
    if len(given) != 1:
        raise InvalidInputError(
            "say whose log: -p PIPELINE, -j PIPELINE@ID, --experiment N, --trial N or isvc NAME",
            kind="bad_logs",
        )
    api = client()
    if pipeline is not None:
        printed(api.pipeline_logs(pipeline, job=job, datum=datum, follow=follow, project=project), raw=raw)
    elif experiment is not None:
        experiment_log(api, experiment, follow=follow, raw=raw)
    elif trial is not None:
        printed(api.trial_logs(trial, follow=follow), raw=raw)
    elif service is not None:
        _service_log(api, service, namespace)


def experiment_log(api: Client, experiment: int, *, follow: bool, raw: bool = False) -> None:
    """The logs of an experiment's trials, one after the other."""
    while True:
        trials = api.list_trials(experiment)
        if trials or not follow or api.inspect_experiment(experiment).finished_at is not None:
            break
        time.sleep(POLL_SECONDS)
    for trial in trials:
        if len(trials) > 1:
            say(f"trial {trial.id}:")
        printed(api.trial_logs(trial.id, follow=follow), raw=raw)


def printed(lines: Iterable[dict[str, Any]], *, raw: bool) -> None:
    """Log lines as they were written, or whole."""
    for line in lines:
        show(json.dumps(line, ensure_ascii=False) if raw else line["text"])


def _service_log(api: Client, words: list[str], namespace: str) -> None:
    if len(words) != 2 or SAME.get(words[0], words[0]) != "inferenceservice":
        raise InvalidInputError("write: trunkline logs -n NAMESPACE isvc NAME", kind="bad_logs")
    show(api.inference_service_logs(words[1], namespace=namespace).rstrip("\n"))
