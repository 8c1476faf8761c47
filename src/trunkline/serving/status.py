"""The status of an InferenceService, as KServe words it: a pure function of what was seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trunkline.serving.model import InferenceService, Phase, Revision, condition, timestamp
from trunkline.serving.rollout import Replica, ReplicaPhase

_TARGET_STATES = {
    Phase.PULLING: "Pending", Phase.LOADING: "Loading", Phase.PROBING: "Loading", Phase.LIVE: "Loaded",
    Phase.FAILED: "FailedToLoad", Phase.DRAINING: "Standby", Phase.STOPPED: "Standby",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class View:
    """What a status is made from."""

    service: InferenceService
    revisions: Sequence[Revision]
    replicas: Sequence[Replica]
    url: str
    gateway_error: str | None
    """Why the gateway does not route to it; None if it does."""
    is_moving: bool = False
    """The traffic is about to be given to another revision; the gateway does not know yet."""
    now: float


@dataclass(frozen=True, kw_only=True)
class _Judgement:
    status: str
    reason: str = ""
    message: str = ""


def initial(url: str, now: float, previous: Mapping[str, Any]) -> dict[str, Any]:
    """Right after a new spec was applied: Ready is Unknown, so that nobody takes the old revision for the new one.

    The model that serves meanwhile, if any, stays in sight.
    """
    waiting = _Judgement(
        status="Unknown", reason="RevisionPending", message="the new revision has not proved itself yet"
    )
    kept = {k: v for k, v in previous.items() if k in ("components", "trunkline")}
    states = {**previous.get("modelStatus", {}).get("states", {}), "targetModelState": "Pending"}
    states.setdefault("activeModelState", "")
    return {
        **kept,
        "url": url,
        "address": {"url": url},
        "observedGeneration": previous.get("observedGeneration", 0),
        "conditions": [
            _condition(previous, kind, waiting, now) for kind in ("IngressReady", "PredictorReady", "Ready")
        ],
        "modelStatus": {"transitionStatus": "InProgress", "states": states},
    }


def build(view: View) -> dict[str, Any]:
    """The whole status."""
    newest = view.revisions[-1]
    live = next((r for r in reversed(view.revisions) if r.phase is Phase.LIVE), None)
    serving = [r for r in view.replicas if live and r.revision == live.id and r.phase is ReplicaPhase.READY]
    predictor = _predictor_ready(newest, live, serving)
    ingress = _ingress_ready(view, live)
    ready = _ready(newest, predictor, ingress)
    previous = view.service.status
    judged = (("IngressReady", ingress), ("PredictorReady", predictor), ("Ready", ready))
    status: dict[str, Any] = {
        "url": view.url,
        "address": {"url": view.url},
        "observedGeneration": view.service.generation,
        "conditions": [_condition(previous, kind, judgement, view.now) for kind, judgement in judged],
        "components": {"predictor": _component(view, newest, live)},
        "modelStatus": _model_status(view, newest, live, serving),
    }
    if live is not None:
        status["trunkline"] = {"id": live.commit_id, "revision": live.name, "model": live.model_root}
        if serving:
            status["trunkline"]["probe"] = serving[0].probe
    return status


def _predictor_ready(newest: Revision, live: Revision | None, serving: Sequence[Replica]) -> _Judgement:
    if live is not None and serving:
        return _Judgement(status="True", message=f"{live.name} answered its probe ({serving[0].probe})")
    if live is not None:
        return _Judgement(
            status="False",
            reason="ReplicasRestarting",
            message=f"no replica of {live.name} is up; one is being started",
        )
    if newest.phase is Phase.FAILED:
        return _Judgement(status="False", reason="ModelLoadFailed", message=newest.reason)
    return _Judgement(
        status="Unknown", reason=newest.phase.value.capitalize(), message=f"{newest.name}: {newest.phase}"
    )


def _ingress_ready(view: View, live: Revision | None) -> _Judgement:
    if view.gateway_error is not None:
        return _Judgement(status="False", reason="GatewayNotReady", message=view.gateway_error)
    if view.is_moving:
        return _Judgement(status="Unknown", reason="TrafficMoving", message="the gateway is being told")
    if live is None:
        return _Judgement(
            status="Unknown", reason="NoRevision", message="there is no revision to route to yet"
        )
    return _Judgement(status="True")


def _ready(newest: Revision, predictor: _Judgement, ingress: _Judgement) -> _Judgement:
    if newest.phase.is_coming:
        return _Judgement(
            status="Unknown", reason=newest.phase.value.capitalize(), message=f"{newest.name}: {newest.phase}"
        )
    for judgement in (predictor, ingress):
        if judgement.status != "True":
            return judgement
    return _Judgement(status="True")


def _component(view: View, newest: Revision, live: Revision | None) -> dict[str, Any]:
    found: dict[str, Any] = {"url": view.url, "restUrl": view.url, "latestCreatedRevision": newest.name}
    if live is not None:
        found["latestReadyRevision"] = live.name
        found["traffic"] = [
            {"revisionName": live.name, "percent": 100, "latestRevision": live.id == newest.id}
        ]
        before = [
            r for r in view.revisions if r.phase in (Phase.DRAINING, Phase.STOPPED) and r.number < live.number
        ]
        if before:
            found["previousRolledoutRevision"] = before[-1].name
    return found


def _model_status(
    view: View, newest: Revision, live: Revision | None, serving: Sequence[Replica]
) -> dict[str, Any]:
    transition = "UpToDate" if newest is live else "InProgress"
    if newest.phase is Phase.FAILED:
        transition = "BlockedByFailedLoad"
    active = "" if live is None else ("Loaded" if serving else "Loading")
    found: dict[str, Any] = {
        "transitionStatus": transition,
        "states": {"activeModelState": active, "targetModelState": _TARGET_STATES[newest.phase]},
        "copies": {"totalCopies": len(serving), "failedCopies": 0},
    }
    if newest.phase is Phase.FAILED:
        found["copies"]["failedCopies"] = newest.spec.replicas
        found["lastFailureInfo"] = {
            "reason": "ModelLoadFailed", "message": newest.reason, "modelRevisionName": newest.name,
            "time": timestamp(newest.phase_since),
        }  # fmt: skip
    return found


def _condition(previous: Mapping[str, Any], kind: str, judgement: _Judgement, now: float) -> dict[str, str]:
    before = condition(previous, kind)
    same = before.get("status") == judgement.status
    found = {
        "type": kind,
        "status": judgement.status,
        "lastTransitionTime": before["lastTransitionTime"] if same else timestamp(now),
    }
    if judgement.reason:
        found["reason"] = judgement.reason
    if judgement.message:
        found["message"] = judgement.message
    return found
