"""All SQL on ``experiments``, ``trials``, ``metrics`` and ``checkpoints``."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from trunkline.core.ids import TreeHash
from trunkline.core.status import Status, check_transition
from trunkline.storage.db.schema import checkpoints, events, experiments, metrics, trials
from trunkline.storage.db.upsert import upsert
from trunkline.training.model import (
    VALIDATION_GROUP,
    Checkpoint,
    CheckpointState,
    Experiment,
    MetricsRow,
    Trial,
)

EXPERIMENTS_MAX = 1000
METRIC_ROWS_MAX = 100_000

# --- experiments ---


def add_experiment(connection: Connection, *, name: str | None, created_at: float, **values: Any) -> int:
    """Insert an experiment; one without a name is called after its number."""
    added: int = connection.execute(
        sa.insert(experiments)
        .values(name=name or "", status=Status.QUEUED, created_at=created_at, **values)
        .returning(experiments.c.id)
    ).scalar_one()
    if not name:
        connection.execute(
            sa.update(experiments).where(experiments.c.id == added).values(name=f"experiment-{added}")
        )
    _add_event(connection, "experiment", added, None, Status.QUEUED, "", created_at)
    return added


def find_experiment(connection: Connection, experiment_id: int) -> Experiment | None:
    row = connection.execute(sa.select(experiments).where(experiments.c.id == experiment_id)).one_or_none()
    return _experiment(row) if row is not None else None


def experiment_with_key(connection: Connection, idempotency_key: str) -> Experiment | None:
    row = connection.execute(
        sa.select(experiments).where(experiments.c.idempotency_key == idempotency_key)
    ).one_or_none()
    return _experiment(row) if row is not None else None


def list_experiments(connection: Connection, label: str | None) -> list[Experiment]:
    """Newest first."""
    statement = sa.select(experiments).order_by(experiments.c.id.desc()).limit(EXPERIMENTS_MAX)
    if label is not None:
        statement = statement.where(experiments.c.label == label)
    return [_experiment(row) for row in connection.execute(statement)]


def update_experiment(connection: Connection, experiment_id: int, **values: Any) -> None:
    """Anything but the status."""
    connection.execute(sa.update(experiments).where(experiments.c.id == experiment_id).values(**values))


def move_experiment(
    connection: Connection, experiment: Experiment, new: Status, *, reason: str = "", at: float
) -> None:
    """The only way in which an experiment's status changes."""
    check_transition(f"experiment {experiment.id}", experiment.status, new)
    values: dict[str, Any] = {"status": new, "reason": reason}
    if new.is_final:
        values |= {"finished_at": at, "phase": ""}
    connection.execute(sa.update(experiments).where(experiments.c.id == experiment.id).values(**values))
    _add_event(connection, "experiment", experiment.id, experiment.status, new, reason, at)


def used_as_source(connection: Connection, uuids: Collection[str]) -> set[str]:
    """Those of the checkpoints that some experiment starts from."""
    found = sa.select(experiments.c.source_checkpoint).where(experiments.c.source_checkpoint.in_(list(uuids)))
    return {uuid for uuid in connection.execute(found).scalars() if uuid is not None}


# --- trials ---


def add_trial(connection: Connection, *, created_at: float, **values: Any) -> int:
    added: int = connection.execute(
        sa.insert(trials).values(status=Status.QUEUED, created_at=created_at, **values).returning(trials.c.id)
    ).scalar_one()
    _add_event(connection, "trial", added, None, Status.QUEUED, "", created_at)
    return added


def find_trial(connection: Connection, trial_id: int) -> Trial | None:
    row = connection.execute(sa.select(trials).where(trials.c.id == trial_id)).one_or_none()
    return _trial(row) if row is not None else None


def trials_of(connection: Connection, experiment_id: int) -> list[Trial]:
    """In the order of their creation."""
    rows = connection.execute(
        sa.select(trials).where(trials.c.experiment_id == experiment_id).order_by(trials.c.id)
    )
    return [_trial(row) for row in rows]


def count_running(connection: Connection) -> int:
    """How many trials run at this moment, of all experiments."""
    return connection.execute(
        sa.select(sa.func.count()).select_from(trials).where(trials.c.status == Status.RUNNING)
    ).scalar_one()


def update_trial(connection: Connection, trial_id: int, **values: Any) -> None:
    """Anything but the status."""
    connection.execute(sa.update(trials).where(trials.c.id == trial_id).values(**values))


def move_trial(connection: Connection, trial: Trial, new: Status, *, reason: str = "", at: float) -> None:
    """The only way in which a trial's status changes."""
    check_transition(f"trial {trial.id}", trial.status, new)
    values: dict[str, Any] = {"status": new, "reason": reason, "phase": ""}
    if new.is_final:
        values["finished_at"] = at
    connection.execute(sa.update(trials).where(trials.c.id == trial.id).values(**values))
    _add_event(connection, "trial", trial.id, trial.status, new, reason, at)


# --- metrics ---


def put_metrics(
    connection: Connection, trial: Trial, *, group: str, steps: int, values: dict[str, Any], at: float
) -> None:
    """One row per (trial, group, steps). The same run may add to it; a later run replaces it."""
    row = connection.execute(
        sa.select(metrics).where(
            metrics.c.trial_id == trial.id, metrics.c.group == group, metrics.c.steps_completed == steps
        )
    ).one_or_none()
    if row is not None and row.run_id == trial.run_id:
        values = {**row._mapping["values"], **values}
    statement = upsert(metrics).values(
        trial_id=trial.id,
        run_id=trial.run_id,
        group=group,
        steps_completed=steps,
        values=values,
        created_at=at,
    )
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=[metrics.c.trial_id, metrics.c.group, metrics.c.steps_completed],
            set_={"values": statement.excluded["values"], "run_id": trial.run_id, "created_at": at},
        )
    )


def forget_metrics(connection: Connection, trial_id: int, *, beyond_steps: int) -> None:
    """A new run repeats what is beyond its checkpoint, so that is no longer true of the trial."""
    connection.execute(
        sa.delete(metrics).where(metrics.c.trial_id == trial_id, metrics.c.steps_completed > beyond_steps)
    )


def metrics_of(connection: Connection, experiment_id: int, group: str | None) -> list[MetricsRow]:
    """By trial and steps."""
    statement = (
        sa.select(metrics)
        .join(trials, trials.c.id == metrics.c.trial_id)
        .where(trials.c.experiment_id == experiment_id)
        .order_by(metrics.c.trial_id, metrics.c.steps_completed, metrics.c.group)
        .limit(METRIC_ROWS_MAX)
    )
    if group is not None:
        statement = statement.where(metrics.c.group == group)
    return [_metrics(row) for row in connection.execute(statement)]


# --- checkpoints ---


def add_checkpoint(connection: Connection, **values: Any) -> None:
    connection.execute(sa.insert(checkpoints).values(state=CheckpointState.COMPLETED, **values))


def find_checkpoint(connection: Connection, uuid: str) -> Checkpoint | None:
    row = connection.execute(_checkpoints().where(checkpoints.c.uuid == uuid)).one_or_none()
    return _checkpoint(row) if row is not None else None


def checkpoints_of(connection: Connection, experiment_id: int) -> list[Checkpoint]:
    """Oldest first."""
    rows = connection.execute(
        _checkpoints()
        .where(trials.c.experiment_id == experiment_id)
        .order_by(checkpoints.c.created_at, checkpoints.c.steps_completed)
    )
    return [_checkpoint(row) for row in rows]


def delete_checkpoints(connection: Connection, uuids: Collection[str]) -> None:
    """The rows stay, so that lineage can be told; their trees are left to the garbage collector."""
    connection.execute(
        sa.update(checkpoints)
        .where(checkpoints.c.uuid.in_(list(uuids)))
        .values(state=CheckpointState.DELETED, root=None)
    )


# --- rows to dataclasses ---


def _checkpoints() -> sa.Select[Any]:
    """Checkpoints with the validation metrics at the same steps of the same trial."""
    validated = sa.and_(
        metrics.c.trial_id == checkpoints.c.trial_id,
        metrics.c.steps_completed == checkpoints.c.steps_completed,
        metrics.c.group == VALIDATION_GROUP,
    )
    return (
        sa.select(checkpoints, trials.c.experiment_id, metrics.c["values"].label("validation"))
        .join(trials, trials.c.id == checkpoints.c.trial_id)
        .outerjoin(metrics, validated)
    )


def _add_event(
    connection: Connection, noun: str, key: int, old: Status | None, new: Status, reason: str, at: float
) -> None:
    connection.execute(
        sa.insert(events).values(noun=noun, key=str(key), old=old, new=new, reason=reason, created_at=at)
    )


def _experiment(row: Row[Any]) -> Experiment:
    return Experiment(
        id=row.id, name=row.name, label=row.label, idempotency_key=row.idempotency_key, config=row.config,
        code_root=_tree(row.code_root), source_checkpoint=row.source_checkpoint, status=Status(row.status),
        phase=row.phase, reason=row.reason, progress=row.progress, searcher_state=row.searcher_state,
        created_at=row.created_at, finished_at=row.finished_at,
    )  # fmt: skip


def _trial(row: Row[Any]) -> Trial:
    return Trial(
        id=row.id, experiment_id=row.experiment_id, request_id=row.request_id, hparams=row.hparams, seed=row.seed,
        status=Status(row.status), phase=row.phase, reason=row.reason, restarts=row.restarts, run_id=row.run_id,
        progress=row.progress, latest_checkpoint=row.latest_checkpoint, steps_completed=row.steps_completed,
        created_at=row.created_at, finished_at=row.finished_at,
    )  # fmt: skip


def _metrics(row: Row[Any]) -> MetricsRow:
    found = row._mapping
    return MetricsRow(
        trial_id=row.trial_id, run_id=row.run_id, group=row.group, steps_completed=row.steps_completed,
        values=found["values"], created_at=row.created_at,
    )  # fmt: skip


def _checkpoint(row: Row[Any]) -> Checkpoint:
    return Checkpoint(
        uuid=row.uuid, trial_id=row.trial_id, experiment_id=row.experiment_id, steps_completed=row.steps_completed,
        root=_tree(row.root), size=row.size, metadata=row.metadata, state=CheckpointState(row.state),
        metrics=row.validation or {}, created_at=row.created_at,
    )  # fmt: skip


def _tree(root: str | None) -> TreeHash | None:
    return TreeHash(root) if root is not None else None
