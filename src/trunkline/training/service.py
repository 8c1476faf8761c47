"""The use cases of training: check, decide, write."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy.engine import Connection

from trunkline.core.clock import Clock
from trunkline.core.ids import TreeHash
from trunkline.core.status import Status
from trunkline.errors import ConflictError, InvalidInputError, NotFoundError, StateError
from trunkline.jobs.queue import Lease
from trunkline.jobs.service import JobsService
from trunkline.registry.service import RegistryService
from trunkline.settings import Settings
from trunkline.storage.db.engine import Database
from trunkline.training import store
from trunkline.training.config import ExperimentConfig, parse_config
from trunkline.training.data import TrialData, Versions
from trunkline.training.decisions import ranked
from trunkline.training.lifecycle import TRIAL_KIND, Lifecycle
from trunkline.training.logs import TrialLogs
from trunkline.training.model import Checkpoint, CheckpointState, Experiment, LogLine, MetricsRow, Trial
from trunkline.training.trial_tasks import TrialTasks
from trunkline.training.values import check_group, check_steps, stored_values

SEED_BITS = 31


class TrainingService:
    """Experiments, trials, metrics and checkpoints. Published: ``experiment.finished`` ``{id, label, status}``."""

    def __init__(
        self,
        *,
        db: Database,
        clock: Clock,
        versioning: Versions,
        registry: RegistryService,
        jobs: JobsService,
        settings: Settings,
    ) -> None:
        self._db = db
        self._clock = clock
        self._versioning = versioning
        self._jobs = jobs
        self._settings = settings
        self._data = TrialData(versioning)
        self._logs = TrialLogs(settings.logs_dir / "trials")
        self._lifecycle = Lifecycle(clock=clock, queue=jobs.queue, outbox=jobs.outbox, registry=registry)

    def register(self) -> None:
        """Tell ``jobs`` who looks after trials. Call once, before the loops start."""
        tasks = TrialTasks(db=self._db, lifecycle=self._lifecycle, data=self._data, settings=self._settings)
        self._jobs.on_worker(TRIAL_KIND, tasks)

    # --- experiments ---

    def create_experiment(
        self,
        config: Mapping[str, Any] | str,
        *,
        code_root: str | None = None,
        label: str = "",
        idempotency_key: str | None = None,
        source_checkpoint: str | None = None,
    ) -> Experiment:
        """Create an experiment; its first trial starts when a worker is free.

        A second call with the same ``idempotency_key`` returns the experiment of the first, whatever else it says, so
        that work that is retried does not train twice.

        :raises InvalidInputError: ``bad_config`` and others, naming the field. :raises NotFoundError: the code, data or
            checkpoint that it names is not there.
        """
        if idempotency_key is not None and (found := self._with_key(idempotency_key)) is not None:
            return found
        parsed = parse_config(config)
        place = self._settings.environment_for(parsed.image() or "trunkline")
        if place.container is not None:
            raise InvalidInputError(
                f"image {parsed.image()!r} runs in containers, and experiments do not yet: map it to a Python",
                kind="bad_environment",
            )
        if code_root is not None:
            self._versioning.check_tree(TreeHash(code_root))
        stored = self._effective(parsed)
        with self._db.write() as connection:
            if idempotency_key is not None:
                raced = store.experiment_with_key(connection, idempotency_key)
                if raced is not None:
                    return raced
            source = self._source(connection, parsed, source_checkpoint)
            experiment_id = store.add_experiment(
                connection, name=parsed.name, label=label, idempotency_key=idempotency_key, config=stored,
                code_root=code_root, source_checkpoint=source, created_at=self._clock.now(),
            )  # fmt: skip
            self._lifecycle.begin(connection, self._experiment(connection, experiment_id))
            return self._experiment(connection, experiment_id)

    def list_experiments(self, label: str | None = None) -> list[Experiment]:
        """Newest first; with ``label``, those of one commit set."""
        with self._db.read() as connection:
            return store.list_experiments(connection, label)

    def experiments_of(self, commit_id: str) -> list[Experiment]:
        """The experiments that follow from a commit."""
        return self.list_experiments(label=commit_id)

    def get_experiment(self, experiment_id: int) -> Experiment:
        """:raises NotFoundError: ``no_such_experiment``."""
        with self._db.read() as connection:
            return self._experiment(connection, experiment_id)

    def pause(self, experiment_id: int) -> Experiment:
        """Trials save a checkpoint and stop, to go on from there after ``activate``. Harmless if it is paused already.

        :raises StateError: ``experiment_ended``.
        """
        with self._db.write() as connection:
            experiment = self._live(connection, experiment_id, "pause")
            if experiment.is_stopping:
                raise StateError(f"experiment {experiment_id} is being cancelled", kind="experiment_ended")
            if experiment.status is not Status.PAUSED:
                self._lifecycle.pause(connection, experiment)
            return self._experiment(connection, experiment_id)

    def activate(self, experiment_id: int) -> Experiment:
        """Let a paused experiment go on. Harmless if it is not paused.

        :raises StateError: ``experiment_ended``.
        """
        with self._db.write() as connection:
            experiment = self._live(connection, experiment_id, "activate")
            if experiment.is_stopping:
                raise StateError(f"experiment {experiment_id} is being cancelled", kind="experiment_ended")
            if experiment.status is Status.PAUSED:
                self._lifecycle.activate(connection, experiment)
            return self._experiment(connection, experiment_id)

    def cancel(self, experiment_id: int) -> Experiment:
        """Trials save a checkpoint and stop for good; the experiment is ``cancelled`` once they have.

        :raises StateError: ``experiment_ended``, if it ended otherwise.
        """
        with self._db.write() as connection:
            experiment = self._experiment(connection, experiment_id)
            if experiment.status is not Status.CANCELLED and not experiment.is_stopping:
                self._lifecycle.cancel(connection, self._live(connection, experiment_id, "cancel"))
            return self._experiment(connection, experiment_id)

    def kill(self, experiment_id: int) -> Experiment:
        """End it at once, ``cancelled``; what trials have not saved is lost.

        :raises StateError: ``experiment_ended``, if it ended otherwise.
        """
        with self._db.write() as connection:
            experiment = self._experiment(connection, experiment_id)
            if experiment.status is not Status.CANCELLED:
                self._lifecycle.kill(connection, self._live(connection, experiment_id, "kill"))
            return self._experiment(connection, experiment_id)

    # --- what they made ---

    def list_trials(self, experiment_id: int) -> list[Trial]:
        with self._db.read() as connection:
            return store.trials_of(connection, self._experiment(connection, experiment_id).id)

    def get_trial(self, trial_id: int) -> Trial:
        """:raises NotFoundError: ``no_such_trial``."""
        with self._db.read() as connection:
            return self._trial(connection, trial_id)

    def list_metrics(self, experiment_id: int, group: str | None = None) -> list[MetricsRow]:
        """By trial and steps; with ``group``, only that one."""
        with self._db.read() as connection:
            return store.metrics_of(connection, self._experiment(connection, experiment_id).id, group)

    def list_checkpoints(self, experiment_id: int) -> list[Checkpoint]:
        """Best first, by the searcher's metric; deleted ones last."""
        with self._db.read() as connection:
            experiment = self._experiment(connection, experiment_id)
            found = self._ranked(experiment, store.checkpoints_of(connection, experiment_id))
        return sorted(found, key=lambda checkpoint: checkpoint.state is CheckpointState.DELETED)

    def best_checkpoint(self, experiment_id: int) -> Checkpoint | None:
        """The stored checkpoint with the best value of the searcher's metric; of equal ones the latest. If none has that
        metric, the latest; None if there is no checkpoint."""
        stored = (c for c in self.list_checkpoints(experiment_id) if c.state is CheckpointState.COMPLETED)
        return next(stored, None)

    def get_checkpoint(self, uuid: str) -> Checkpoint:
        """:raises NotFoundError: ``no_such_checkpoint``."""
        with self._db.read() as connection:
            return self._checkpoint(connection, uuid)

    def trial_logs(self, trial_id: int, offset: int = 0) -> tuple[list[LogLine], int, bool]:
        """Log lines from a position on (0: the beginning); the position after them; whether no more will come."""
        trial = self.get_trial(trial_id)  # before the lines: whatever an ended trial wrote is there by now
        lines, position = self._logs.read(trial_id, offset)
        return lines, position, trial.status.is_final and not lines

    # --- what trial workers call ---

    def append_log(self, lease: Lease, offset: int, lines: Sequence[dict[str, Any]]) -> None:
        """Store lines ``{ts, text, stream}`` of the run that the lease holds; ``offset`` is how many it sent before.

        :raises ConflictError: ``lease_lost``. :raises LimitError: ``disk_full``.
        """
        with self._db.read() as connection:
            trial = self._trial(connection, int(self._jobs.held(connection, lease).key))
        self._logs.append(trial.id, trial.run_id, offset, lines)

    def report_metrics(
        self, lease: Lease, trial_id: int, group: str, steps: int, values: Mapping[str, Any]
    ) -> None:
        """Store metrics. Repeating a call is harmless.

        :raises ConflictError: ``lease_lost``.
        """
        check_group(group)
        check_steps(steps)
        stored = stored_values(values)
        with self._db.write() as connection:
            trial = self._held(connection, lease, trial_id)
            store.put_metrics(
                connection, trial, group=group, steps=steps, values=stored, at=self._clock.now()
            )
            self._note_steps(connection, trial, steps)

    def report_checkpoint(
        self,
        lease: Lease,
        trial_id: int,
        uuid: str,
        steps: int,
        root: str,
        metadata: Mapping[str, Any] | None = None,
    ) -> Checkpoint:
        """Make a stored tree a checkpoint of the trial, from which its next run goes on. Repeating a call is harmless.

        :raises NotFoundError: there is no such tree. :raises ConflictError: ``lease_lost``, or ``checkpoint_exists`` if
            the UUID stands for something else.
        """
        check_steps(steps)
        tree = self._versioning.check_tree(TreeHash(root))
        with self._db.write() as connection:
            trial = self._held(connection, lease, trial_id)
            found = store.find_checkpoint(connection, uuid)
            if found is not None:
                if (found.trial_id, found.root, found.steps_completed) != (trial_id, root, steps):
                    raise ConflictError(f"checkpoint {uuid} exists and is another", kind="checkpoint_exists")
                return found
            store.add_checkpoint(
                connection, uuid=uuid, trial_id=trial_id, steps_completed=steps, root=root, size=tree.size,
                metadata={**(metadata or {}), "steps_completed": steps}, created_at=self._clock.now(),
            )  # fmt: skip
            store.update_trial(connection, trial_id, latest_checkpoint=uuid)
            self._note_steps(connection, trial, steps)
            return self._checkpoint(connection, uuid)

    def report_progress(self, lease: Lease, trial_id: int, progress: float) -> None:
        """``progress`` is the part that is done, 0 to 1.

        :raises ConflictError: ``lease_lost``.
        """
        if not 0.0 <= progress <= 1.0:
            raise InvalidInputError(f"progress must be from 0 to 1, not {progress}", kind="bad_progress")
        with self._db.write() as connection:
            trial = self._held(connection, lease, trial_id)
            store.update_trial(connection, trial_id, progress=progress, phase="training")
            trials = store.trials_of(connection, trial.experiment_id)
            mean = sum(trial.progress for trial in trials) / len(trials)
            store.update_experiment(connection, trial.experiment_id, progress=mean)

    def signals(self, lease: Lease, trial_id: int) -> dict[str, bool]:
        """``preempt``: whether the trial is to save a checkpoint and stop.

        :raises ConflictError: ``lease_lost``.
        """
        with self._db.read() as connection:
            trial = self._held(connection, lease, trial_id)
            experiment = self._experiment(connection, trial.experiment_id)
        return {"preempt": experiment.status is Status.PAUSED or experiment.is_stopping}

    # --- helpers ---

    def _with_key(self, idempotency_key: str) -> Experiment | None:
        with self._db.read() as connection:
            return store.experiment_with_key(connection, idempotency_key)

    def _effective(self, config: ExperimentConfig) -> dict[str, Any]:
        """The config as it is stored: all that could differ between two runs is decided now."""
        stored = config.stored()
        stored["data"] = self._data.pin(config.data)
        if stored["reproducibility"]["experiment_seed"] is None:
            stored["reproducibility"]["experiment_seed"] = secrets.randbits(SEED_BITS)
        return stored

    def _source(self, connection: Connection, config: ExperimentConfig, given: str | None) -> str | None:
        """The checkpoint that trials start from, if any."""
        searcher = config.searcher
        uuids = {uuid for uuid in (given, searcher.source_checkpoint_uuid) if uuid is not None}
        if searcher.source_trial_id is not None:
            latest = self._trial(connection, searcher.source_trial_id).latest_checkpoint
            if latest is None:
                raise StateError(
                    f"trial {searcher.source_trial_id} has no checkpoint to start from", kind="no_checkpoint"
                )
            uuids.add(latest)
        if len(uuids) > 1:
            raise InvalidInputError(
                "more than one checkpoint to start from was given: give one", kind="bad_config"
            )
        for uuid in uuids:
            if self._checkpoint(connection, uuid).root is None:
                raise StateError(
                    f"checkpoint {uuid} is deleted: start from another", kind="checkpoint_deleted"
                )
        return next(iter(uuids), None)

    def _note_steps(self, connection: Connection, trial: Trial, steps: int) -> None:
        store.update_trial(
            connection, trial.id, steps_completed=max(steps, trial.steps_completed), phase="training"
        )

    def _ranked(self, experiment: Experiment, checkpoints: Sequence[Checkpoint]) -> list[Checkpoint]:
        searcher = experiment.config["searcher"]
        return ranked(checkpoints, metric=searcher["metric"], smaller_is_better=searcher["smaller_is_better"])

    def _held(self, connection: Connection, lease: Lease, trial_id: int) -> Trial:
        """The running trial that a lease holds. One that was killed is as lost as one that was given away."""
        task = self._jobs.held(connection, lease)
        trial = self._trial(connection, trial_id)
        if task.kind != TRIAL_KIND or task.key != str(trial_id) or trial.status is not Status.RUNNING:
            raise ConflictError(f"the lease does not hold trial {trial_id} (any more)", kind="lease_lost")
        return trial

    def _live(self, connection: Connection, experiment_id: int, verb: str) -> Experiment:
        experiment = self._experiment(connection, experiment_id)
        if experiment.status.is_final:
            raise StateError(
                f"cannot {verb} experiment {experiment_id}: it has ended ({experiment.status.value})",
                kind="experiment_ended",
            )
        return experiment

    def _experiment(self, connection: Connection, experiment_id: int) -> Experiment:
        found = store.find_experiment(connection, experiment_id)
        if found is None:
            raise NotFoundError(
                f"there is no experiment {experiment_id}: see 'trunkline list experiments'",
                kind="no_such_experiment",
            )
        return found

    def _trial(self, connection: Connection, trial_id: int) -> Trial:
        found = store.find_trial(connection, trial_id)
        if found is None:
            raise NotFoundError(f"there is no trial {trial_id}", kind="no_such_trial")
        return found

    def _checkpoint(self, connection: Connection, uuid: str) -> Checkpoint:
        found = store.find_checkpoint(connection, uuid)
        if found is None:
            raise NotFoundError(f"there is no checkpoint {uuid!r}", kind="no_such_checkpoint")
        return found
