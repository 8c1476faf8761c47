"""The domain's side of a trial's task: what its worker needs, and what its claim, its report and its loss mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy.engine import Connection

from trunkline.core.status import Status
from trunkline.errors import NotFoundError, StateError
from trunkline.jobs.model import Report, Task
from trunkline.settings import Settings
from trunkline.storage.db.engine import Database
from trunkline.training import store
from trunkline.training.config import ExperimentConfig
from trunkline.training.data import TrialData
from trunkline.training.decisions import Run, after_loss, after_run
from trunkline.training.lifecycle import Lifecycle
from trunkline.training.model import Checkpoint, Experiment, Trial


class TrialTasks:
    """A ``jobs.model.WorkerHandler``. The task's key is the trial's number."""

    def __init__(self, *, db: Database, lifecycle: Lifecycle, data: TrialData, settings: Settings) -> None:
        self._db = db
        self._lifecycle = lifecycle
        self._data = data
        self._settings = settings

    def describe(self, task: Task) -> dict[str, Any]:
        """Everything a run needs.

        :raises StateError: ``trial_not_running``, if the trial has ended or was paused since.
        """
        with self._db.read() as connection:
            trial, experiment = self._load(connection, task)
            latest = self._checkpoint(connection, trial.latest_checkpoint)
            source = self._checkpoint(connection, experiment.source_checkpoint)
            running = store.count_running(connection)
        if trial.status is not Status.RUNNING:
            raise StateError(f"trial {trial.id} is {trial.status.value}", kind="trial_not_running")
        config = ExperimentConfig.model_validate(experiment.config)
        image = config.image()
        environment = self._settings.environment_for(image if image is not None else "trunkline")
        return {
            "experiment_id": experiment.id,
            "trial_id": trial.id,
            "run_id": trial.run_id,
            "seed": trial.seed,
            "entrypoint": config.entrypoint,
            "hparams": trial.hparams,
            "config": experiment.config,
            "code_root": experiment.code_root,
            "data": self._data.describe(experiment.config["data"]),
            "latest_checkpoint": _restored(latest),
            "warm_start": _restored(source),
            "environment": environment.model_dump(),
            "environment_variables": config.environment_variables(),
            "preemption_timeout_seconds": config.preemption_timeout,
            "trials_running": running,
        }

    def started(self, connection: Connection, task: Task) -> None:
        trial = store.find_trial(connection, int(task.key))
        if trial is not None and trial.status is Status.QUEUED:
            self._lifecycle.trial_began(connection, trial)

    def progress(
        self, connection: Connection, task: Task, results: Sequence[Mapping[str, Any]], current: str | None
    ) -> bool:
        raise StateError("a trial is one piece of work: it has no parts to report", kind="no_parts")

    def reported(self, connection: Connection, task: Task, report: Report) -> float | None:
        trial, experiment = self._load(connection, task)
        if trial.status is not Status.RUNNING:
            return None  # killed meanwhile: whatever it did is not wanted
        run = Run(
            exit_code=report.result.get("exit_code"),
            preempted=bool(report.result.get("preempted"))
            or report.status in (Status.QUEUED, Status.CANCELLED),
            error=report.error,
        )
        decided = after_run(
            run, paused=experiment.status is Status.PAUSED, stopping=experiment.is_stopping,
            restarts=trial.restarts, restarts_max=experiment.config["max_restarts"],
        )  # fmt: skip
        return self._lifecycle.trial_ended_run(connection, trial, decided)

    def lost(self, connection: Connection, task: Task) -> float | None:
        trial, experiment = self._load(connection, task)
        if trial.status is not Status.RUNNING:
            return None
        decided = after_loss(
            attempts=task.attempts, paused=experiment.status is Status.PAUSED, stopping=experiment.is_stopping,
            restarts=trial.restarts, restarts_max=experiment.config["max_restarts"],
        )  # fmt: skip
        return self._lifecycle.trial_ended_run(connection, trial, decided)

    def _load(self, connection: Connection, task: Task) -> tuple[Trial, Experiment]:
        trial = store.find_trial(connection, int(task.key))
        experiment = store.find_experiment(connection, trial.experiment_id) if trial is not None else None
        if trial is None or experiment is None:
            raise NotFoundError(f"there is no trial {task.key}", kind="no_such_trial")
        return trial, experiment

    def _checkpoint(self, connection: Connection, uuid: str | None) -> Checkpoint | None:
        return store.find_checkpoint(connection, uuid) if uuid is not None else None


def _restored(checkpoint: Checkpoint | None) -> dict[str, Any] | None:
    if checkpoint is None:
        return None
    return {"uuid": checkpoint.uuid, "root": checkpoint.root, "steps_completed": checkpoint.steps_completed}
