"""Experiments, trials and checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import Header, Response

from trunkline.access.model import Scope
from trunkline.api.auth import allow
from trunkline.api.deps import Offset, Use, WaitSeconds
from trunkline.api.routes import new_router
from trunkline.api.routes.leases import lease_of
from trunkline.api.stream import LongPoll, ndjson
from trunkline.core.ids import TreeHash
from trunkline.core.status import Status
from trunkline.wire.base import Page
from trunkline.wire.experiments import Checkpoint, CreateExperiment, Experiment, MetricsRow
from trunkline.wire.trials import ReportCheckpoint, ReportMetrics, ReportProgress, Signals, Trial

router = new_router("experiments")


@router.get("/experiments")
@allow(Scope.JOB)
def list_experiments(use: Use, label: str | None = None) -> Page[Experiment]:
    return Page(
        items=[Experiment.model_validate(found) for found in use.training.list_experiments(label=label)]
    )


@router.post("/experiments", status_code=201)
@allow(Scope.JOB)
def create_experiment(
    ask: CreateExperiment, use: Use, idempotency_key: Annotated[str | None, Header()] = None
) -> Experiment:
    root = TreeHash(ask.code_root) if ask.code_root is not None else None
    created = use.training.create_experiment(
        ask.config, code_root=root, label=ask.label, source_checkpoint=ask.source_checkpoint,
        idempotency_key=ask.idempotency_key or idempotency_key,
    )  # fmt: skip
    return Experiment.model_validate(created)


@router.get("/experiments/{experiment_id}", response_model=Experiment)
@allow(Scope.JOB)
def inspect_experiment(experiment_id: int, use: Use, wait_seconds: WaitSeconds = 0) -> Response:
    return LongPoll(
        lambda: Experiment.model_validate(use.training.get_experiment(experiment_id)),
        is_settled=lambda found: Status(found.status).is_final,
        wait_seconds=wait_seconds,
        changes=use.db.changes,
    )


@router.post("/experiments/{experiment_id}/{verb}")
@allow(Scope.JOB)
def steer_experiment(
    experiment_id: int, verb: Literal["pause", "activate", "cancel", "kill"], use: Use
) -> Experiment:
    verbs: dict[str, Callable[[int], Any]] = {
        "pause": use.training.pause, "activate": use.training.activate, "cancel": use.training.cancel,
        "kill": use.training.kill,
    }  # fmt: skip
    verbs[verb](experiment_id)
    return Experiment.model_validate(use.training.get_experiment(experiment_id))


@router.get("/experiments/{experiment_id}/trials")
@allow(Scope.JOB)
def list_trials(experiment_id: int, use: Use) -> Page[Trial]:
    return Page(items=[Trial.model_validate(found) for found in use.training.list_trials(experiment_id)])


@router.get("/experiments/{experiment_id}/checkpoints")
@allow(Scope.JOB)
def list_checkpoints(experiment_id: int, use: Use) -> Page[Checkpoint]:
    found = use.training.list_checkpoints(experiment_id)
    return Page(items=[Checkpoint.model_validate(checkpoint) for checkpoint in found])


@router.get("/experiments/{experiment_id}/checkpoints/best")
@allow(Scope.JOB)
def best_checkpoint(experiment_id: int, use: Use) -> Checkpoint | None:
    found = use.training.best_checkpoint(experiment_id)
    return Checkpoint.model_validate(found) if found is not None else None


@router.get("/experiments/{experiment_id}/metrics")
@allow(Scope.JOB)
def list_metrics(experiment_id: int, use: Use, group: str | None = None) -> Page[MetricsRow]:
    found = use.training.list_metrics(experiment_id, group=group)
    return Page(items=[MetricsRow.model_validate(row) for row in found])


@router.get("/checkpoints/{uuid}")
@allow(Scope.JOB)
def inspect_checkpoint(uuid: str, use: Use) -> Checkpoint:
    return Checkpoint.model_validate(use.training.get_checkpoint(uuid))


@router.get("/trials/{trial_id}")
@allow(Scope.JOB)
def inspect_trial(trial_id: int, use: Use) -> Trial:
    return Trial.model_validate(use.training.get_trial(trial_id))


@router.get("/trials/{trial_id}/logs", response_class=Response)
@allow(Scope.JOB)
def trial_logs(trial_id: int, use: Use, offset: Offset = 0, follow: bool = False) -> Response:
    def tail(at: int) -> tuple[list[dict[str, Any]], int, bool]:
        lines, following, done = use.training.trial_logs(trial_id, at)
        return [asdict(line) for line in lines], following, done

    return ndjson(tail, offset=offset, follow=follow)


@router.post("/trials/{trial_id}/metrics", status_code=204)
@allow(Scope.WORKER)
def report_metrics(trial_id: int, ask: ReportMetrics, use: Use) -> None:
    lease = lease_of(ask.lease.id, ask.lease.token)
    use.training.report_metrics(lease, trial_id, ask.group, ask.steps, ask.values)


@router.post("/trials/{trial_id}/checkpoints", status_code=204)
@allow(Scope.WORKER)
def report_checkpoint(trial_id: int, ask: ReportCheckpoint, use: Use) -> None:
    lease = lease_of(ask.lease.id, ask.lease.token)
    use.training.report_checkpoint(lease, trial_id, ask.uuid, ask.steps, TreeHash(ask.root), ask.metadata)


@router.post("/trials/{trial_id}/progress", status_code=204)
@allow(Scope.WORKER)
def report_progress(trial_id: int, ask: ReportProgress, use: Use) -> None:
    use.training.report_progress(lease_of(ask.lease.id, ask.lease.token), trial_id, ask.progress)


@router.get("/trials/{trial_id}/signals")
@allow(Scope.WORKER)
def trial_signals(
    trial_id: int, use: Use, x_lease_id: Annotated[int, Header()], x_lease_token: Annotated[str, Header()]
) -> Signals:
    return Signals(preempt=use.training.signals(lease_of(x_lease_id, x_lease_token), trial_id)["preempt"])
