"""The training step of a pipeline: experiment, wait, register the best checkpoint, hand it on as the job's output.

Every call is repeatable: the experiment is found again by the job's ID, the model version by its name. A datum that is
killed and retried therefore continues where it was.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from trunkline.core.yamltext import load_yaml
from trunkline.errors import InvalidInputError, NotFoundError, StateError
from trunkline.sdk.client import Client
from trunkline.sdk.job import JobContext
from trunkline.sdk.tar import code_files
from trunkline.sdk.transport import path_of

POLL_SECONDS = 0.3
INFO_FILE = "model-info.yaml"
CHECKPOINT_FOLDER = "checkpoint"

Talk = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Trained:
    """The model version that a job has made."""

    model: str
    version: str
    experiment: int
    checkpoint: str
    metrics: dict[str, float]


def train(
    client: Client, job: JobContext, *, config: Path, code: Path, repo: str, model: str, talk: Talk
) -> Trained:
    """Run the experiment of ``config`` on this job's commit of ``repo`` and register the result as ``model``.

    The trial starts from the checkpoint of the model's newest version, if there is one, and is told which files are new
    since the commit that version was trained on. ``talk`` gets a line per event.

    :raises InvalidInputError: for a config that is not YAML or that the server refuses, naming the field.
    :raises StateError: ``experiment_failed``, if the experiment ends without a checkpoint; ``no_metric``, if no checkpoint
        has a number for the searcher's metric: a model that diverged must not replace one that works.
    """
    settings = _read_config(config)
    data_project, _, data_repo = repo.rpartition("/")
    data_project = data_project or job.project
    commit = client.call(
        "GET", path_of("projects", data_project, "commits"), query={"at": f"{data_repo}@{job.job_id}"}
    )
    before = _newest_version(client, model, other_than=job.job_id)
    settings["data"] = {
        **(settings.get("data") or {}), "project": data_project, "repo": data_repo, "commit": commit["id"],
        "previous_commit": before["metadata"].get("commit") if before else None,
    }  # fmt: skip
    tree = client.upload_files(path_of("filesets"), code_files(code))
    experiment = client.call(
        "POST",
        path_of("experiments"),
        json={
            "config": settings, "code_root": tree["root"], "label": job.job_id, "idempotency_key": job.address,
            "source_checkpoint": before["checkpoint"] if before else None,
        },
    )  # fmt: skip
    talk(
        f"experiment {experiment['id']} on {data_repo}@{commit['id']}"
        + (f", on from {model} {before['name']}" if before else "")
    )
    experiment = _wait(client, experiment["id"], talk)
    best = client.call("GET", path_of("experiments", experiment["id"], "checkpoints", "best"))
    if experiment["status"] != "succeeded" or best is None:
        raise StateError(
            f"experiment {experiment['id']} {experiment['status']}: {experiment['reason'] or 'no checkpoint was saved'}; "
            f"see 'trunkline logs --experiment {experiment['id']}'",
            kind="experiment_failed",
        )
    _check_metric(experiment, best)
    trained = Trained(
        model=model,
        version=job.job_id,
        experiment=experiment["id"],
        checkpoint=best["uuid"],
        metrics=best["metrics"],
    )
    _register(client, trained, best, commit["id"])
    _write_output(client, job, trained, best, commit["id"])
    shown = ", ".join(f"{name} {_shown(value)}" for name, value in sorted(trained.metrics.items()))
    talk(f"model {model} version {trained.version}: {shown}")
    return trained


def _shown(value: Any) -> str:
    """A metric's value; NaN and the infinities are text, as may be anything else that was reported."""
    return f"{value:.4g}" if isinstance(value, int | float) else str(value)


def _read_config(path: Path) -> dict[str, Any]:
    try:
        settings = load_yaml(path.read_text())
    except OSError as error:
        raise InvalidInputError(f"cannot read {path}: {error.strerror}", kind="bad_config") from error
    except yaml.YAMLError as error:
        raise InvalidInputError(
            f"{path} is not YAML: {error}".replace("\n", " "), kind="bad_config"
        ) from error
    if not isinstance(settings, dict):
        raise InvalidInputError(f"{path} must be a mapping of fields", kind="bad_config")
    return settings


def _check_metric(experiment: dict[str, Any], best: dict[str, Any]) -> None:
    """The best checkpoint has a number to be the best by. (What is not finite comes as text.)"""
    metric = experiment["config"]["searcher"]["metric"]
    value = best["metrics"].get(metric)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return
    has = (
        f"{metric} is {value}"
        if value is not None
        else f"it has {', '.join(sorted(best['metrics'])) or 'none'}"
    )
    raise StateError(
        f"experiment {experiment['id']}: no checkpoint has a number for searcher.metric {metric!r} ({has} at step "
        f"{best['steps_completed']}), so none became a version of the model; report the metric before the checkpoint of the "
        "same step",
        kind="no_metric",
    )


def _newest_version(client: Client, model: str, *, other_than: str) -> dict[str, Any] | None:
    """The version to continue from; never the one this very job made before it was retried."""
    try:
        versions = client.call("GET", path_of("models", model, "versions"))["items"]
    except NotFoundError:
        return None
    usable = [version for version in versions if version["name"] != other_than and version["checkpoint"]]
    return max(usable, key=lambda version: int(version["number"]), default=None)


def _wait(client: Client, experiment_id: int, talk: Talk) -> dict[str, Any]:
    shown = 0
    while True:
        experiment: dict[str, Any] = client.call("GET", path_of("experiments", experiment_id))
        rows = client.call(
            "GET", path_of("experiments", experiment_id, "metrics"), query={"group": "validation"}
        )["items"]
        for row in rows[shown:]:
            values = ", ".join(f"{name} {_shown(value)}" for name, value in row["values"].items())
            talk(f"trial {row['trial_id']} step {row['steps_completed']}: {values}")
        shown = max(shown, len(rows))
        if experiment["status"] in ("succeeded", "failed", "cancelled"):
            return experiment
        time.sleep(POLL_SECONDS)


def _register(client: Client, trained: Trained, best: dict[str, Any], commit: str) -> None:
    client.call("POST", path_of("models"), json={"name": trained.model, "exist_ok": True})
    client.call(
        "POST",
        path_of("models", trained.model, "versions"),
        json={
            "name": trained.version, "checkpoint": trained.checkpoint, "checkpoint_root": best["root"],
            "metrics": trained.metrics, "metadata": {"commit": commit, "experiment": trained.experiment},
        },
    )  # fmt: skip


def _write_output(
    client: Client, job: JobContext, trained: Trained, best: dict[str, Any], commit: str
) -> None:
    folder = job.out / CHECKPOINT_FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    client.download_folder(path_of("filesets", best["root"], "archive"), folder)
    info = {
        "model": trained.model, "version": trained.version, "commit": commit, "experiment": trained.experiment,
        "checkpoint": trained.checkpoint, "metrics": trained.metrics,
    }  # fmt: skip
    (job.out / INFO_FILE).write_text(yaml.safe_dump(info, sort_keys=False))
