"""What happens to experiments and trials, in the transaction of whatever caused it.

Every function here takes the caller's connection, so a status, the tasks that follow from it and the events that tell of it
are one commit: a crash at any point leaves either all of it or nothing.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from sqlalchemy.engine import Connection

from trunkline.core.clock import Clock
from trunkline.core.status import Status
from trunkline.core.suggest import did_you_mean
from trunkline.errors import InternalError
from trunkline.jobs.outbox import Outbox
from trunkline.jobs.queue import TaskQueue
from trunkline.registry.service import RegistryService
from trunkline.training import store
from trunkline.training.decisions import Next, experiment_outcome, retained, score
from trunkline.training.model import STOPPING, VALIDATION_GROUP, CheckpointState, Experiment, Trial
from trunkline.training.searchers import Began, CreateTrial, Event, Finish, Step, TrialEnded, open_search

TRIAL_KIND = "trial"
TRIAL_WORKER = "trial"

log = logging.getLogger(__name__)


def queue_name(experiment_id: int) -> str:
    """The task queue of an experiment's trials."""
    return f"experiment:{experiment_id}"


@dataclass(frozen=True, kw_only=True)
class Lifecycle:
    """The moves, and what they need."""

    clock: Clock
    queue: TaskQueue
    outbox: Outbox
    registry: RegistryService

    def begin(self, connection: Connection, experiment: Experiment) -> None:
        """Create the first trials of a new experiment."""
        self.queue.declare(
            connection,
            queue_name(experiment.id),
            worker=TRIAL_WORKER,
            workers_max=max(1, experiment.config["searcher"]["max_concurrent_trials"]),
            options={},
        )
        self._advance(connection, experiment, Began())

    def trial_began(self, connection: Connection, trial: Trial) -> None:
        """A worker has taken a trial: a new run, from its latest checkpoint, or from the beginning if it has none."""
        now = self.clock.now()
        steps = 0
        if trial.latest_checkpoint is not None:
            checkpoint = store.find_checkpoint(connection, trial.latest_checkpoint)
            steps = checkpoint.steps_completed if checkpoint is not None else 0
        beyond = steps if trial.latest_checkpoint is not None else -1
        store.forget_metrics(connection, trial.id, beyond_steps=beyond)
        store.move_trial(connection, trial, Status.RUNNING, at=now)
        store.update_trial(
            connection, trial.id, run_id=trial.run_id + 1, phase="starting", steps_completed=steps
        )
        experiment = self._experiment(connection, trial.experiment_id)
        if experiment.status is Status.QUEUED:
            store.move_experiment(connection, experiment, Status.RUNNING, at=now)

    def trial_ended_run(self, connection: Connection, trial: Trial, decided: Next) -> float | None:
        """Apply what was decided after a run. Seconds until the trial's task is to be taken again, or None."""
        now = self.clock.now()
        store.move_trial(connection, trial, decided.status, reason=decided.reason, at=now)
        store.update_trial(connection, trial.id, restarts=decided.restarts)
        experiment = self._experiment(connection, trial.experiment_id)
        if decided.status is Status.QUEUED:
            return decided.after_seconds
        if decided.status.is_final:
            succeeded = decided.status is Status.SUCCEEDED
            if succeeded:
                store.update_trial(connection, trial.id, progress=1.0)
            if experiment.is_stopping:
                self.finish_if_settled(connection, experiment)
            else:
                self._advance(
                    connection, experiment, TrialEnded(request_id=trial.request_id, succeeded=succeeded)
                )
        return None

    def pause(self, connection: Connection, experiment: Experiment) -> None:
        """Waiting trials are paused at once; a running one when it has saved its checkpoint (see ``signals``)."""
        now = self.clock.now()
        store.move_experiment(connection, experiment, Status.PAUSED, at=now)
        for trial in store.trials_of(connection, experiment.id):
            if trial.status is Status.QUEUED:
                self.queue.cancel(connection, TRIAL_KIND, [str(trial.id)])
                store.move_trial(connection, trial, Status.PAUSED, reason=trial.reason, at=now)

    def activate(self, connection: Connection, experiment: Experiment) -> None:
        """Paused trials wait for a worker again; one that was still saving goes on by itself."""
        now = self.clock.now()
        trials = store.trials_of(connection, experiment.id)
        running = any(trial.status is Status.RUNNING for trial in trials)
        store.move_experiment(connection, experiment, Status.RUNNING if running else Status.QUEUED, at=now)
        for trial in trials:
            if trial.status is Status.PAUSED:
                store.move_trial(connection, trial, Status.QUEUED, reason=trial.reason, at=now)
                self._enqueue(connection, trial.experiment_id, trial.id)

    def cancel(self, connection: Connection, experiment: Experiment) -> None:
        """Waiting trials end now; running ones are asked to save a checkpoint and stop."""
        store.update_experiment(connection, experiment.id, phase=STOPPING)
        self._end_trials(connection, experiment, include_running=False)
        self.finish_if_settled(connection, self._experiment(connection, experiment.id))

    def kill(self, connection: Connection, experiment: Experiment) -> None:
        """Everything ends now; workers are told to kill what still runs, and what it reports is discarded."""
        store.update_experiment(connection, experiment.id, phase=STOPPING)
        self._end_trials(connection, experiment, include_running=True)
        self.finish_if_settled(connection, self._experiment(connection, experiment.id))

    def finish_if_settled(self, connection: Connection, experiment: Experiment) -> None:
        """End an experiment whose trials have all ended: outcome, retention, event."""
        trials = store.trials_of(connection, experiment.id)
        if not all(trial.status.is_final for trial in trials):
            return
        now = self.clock.now()
        outcome = experiment_outcome([trial.status for trial in trials], stopping=experiment.is_stopping)
        if experiment.status is Status.PAUSED and outcome is Status.SUCCEEDED:
            store.move_experiment(
                connection, experiment, Status.RUNNING, at=now
            )  # it ended before it could pause
            experiment = self._experiment(connection, experiment.id)
        reason = self._reason(connection, experiment, trials, outcome)
        store.move_experiment(connection, experiment, outcome, reason=reason, at=now)
        if outcome is Status.SUCCEEDED:
            store.update_experiment(connection, experiment.id, progress=1.0)
        self._apply_retention(connection, experiment)
        self.queue.drop_queue(connection, queue_name(experiment.id))
        self.outbox.publish(
            connection,
            "experiment.finished",
            {"id": experiment.id, "label": experiment.label, "status": outcome.value},
        )
        log.info("experiment %d %s", experiment.id, outcome.value)

    # --- helpers ---

    def _advance(self, connection: Connection, experiment: Experiment, event: Event) -> None:
        step: Step = open_search(experiment.config).advance(experiment.searcher_state, event)
        store.update_experiment(connection, experiment.id, searcher_state=step.state)
        for operation in step.operations:
            if isinstance(operation, Finish):
                self.finish_if_settled(connection, experiment)
            else:
                self._create_trial(connection, experiment, operation)

    def _create_trial(self, connection: Connection, experiment: Experiment, wanted: CreateTrial) -> None:
        trial_id = store.add_trial(
            connection, experiment_id=experiment.id, request_id=wanted.request_id, hparams=wanted.hparams,
            seed=wanted.seed, created_at=self.clock.now(),
        )  # fmt: skip
        self._enqueue(connection, experiment.id, trial_id)

    def _enqueue(self, connection: Connection, experiment_id: int, trial_id: int) -> None:
        self.queue.enqueue(connection, kind=TRIAL_KIND, key=str(trial_id), queue=queue_name(experiment_id))

    def _end_trials(self, connection: Connection, experiment: Experiment, *, include_running: bool) -> None:
        now = self.clock.now()
        for trial in store.trials_of(connection, experiment.id):
            if trial.status.is_final or (trial.status is Status.RUNNING and not include_running):
                continue
            self.queue.cancel(connection, TRIAL_KIND, [str(trial.id)])
            store.move_trial(connection, trial, Status.CANCELLED, at=now)

    def _apply_retention(self, connection: Connection, experiment: Experiment) -> None:
        stored = [
            checkpoint
            for checkpoint in store.checkpoints_of(connection, experiment.id)
            if checkpoint.state is CheckpointState.COMPLETED
        ]
        searcher, storage = experiment.config["searcher"], experiment.config["checkpoint_storage"]
        kept = retained(
            stored, metric=searcher["metric"], smaller_is_better=searcher["smaller_is_better"],
            experiment_best=storage["save_experiment_best"], trial_best=storage["save_trial_best"],
            trial_latest=storage["save_trial_latest"],
        )  # fmt: skip
        going = {checkpoint.uuid for checkpoint in stored} - kept
        going -= self.registry.registered_checkpoints(connection, going)
        going -= store.used_as_source(connection, going)
        store.delete_checkpoints(connection, going)

    def _reason(
        self, connection: Connection, experiment: Experiment, trials: list[Trial], outcome: Status
    ) -> str:
        if outcome is Status.FAILED:
            return next((trial.reason for trial in reversed(trials) if trial.reason), "")
        metric = experiment.config["searcher"]["metric"]
        rows = store.metrics_of(connection, experiment.id, VALIDATION_GROUP)
        if outcome is Status.SUCCEEDED and rows and all(score(row.values, metric) is None for row in rows):
            known = sorted({name for row in rows for name in row.values})
            hint = did_you_mean(metric, known) if metric not in known else ""
            return f"searcher.metric {metric!r} was never reported as a number (reported: {', '.join(known)}){hint}"
        return ""

    def _experiment(self, connection: Connection, experiment_id: int) -> Experiment:
        found = store.find_experiment(connection, experiment_id)
        if found is None:
            raise InternalError(f"experiment {experiment_id} has vanished under its trial")
        return found
