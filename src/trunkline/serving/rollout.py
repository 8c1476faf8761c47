"""What to do next for a service: a pure decision on what its revisions and replicas are just now.

The rules, which hold after any crash because nothing but the present state goes in:
a revision takes traffic only when all its replicas have answered their probe; until then the one before keeps it; a revision that
leaves the traffic is given time to finish what it has; whatever died is started again, later and later if it keeps dying.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from trunkline.serving.model import Phase, Revision

LOOK_SECONDS = 10.0
"""Between looks at a service where all is well. That something died is noticed by the watch, which does not wait for it."""
WAITING_SECONDS = 1.0
"""Between looks while a replica or the gateway is missing that could not be started (again) yet."""
HURRY_SECONDS = 0.15
"""Between looks while something is under way."""
SETTLE_SECONDS = 0.5
"""From the gateway's last new request to a draining replica until it is told to end."""
LOADS_MAX = 3
"""Replicas of a new revision that may die without a word before it counts as failed."""
BACKOFF_SECONDS_MAX = 30.0


class ReplicaPhase(StrEnum):
    STARTING = "starting"
    LOADING = "loading"
    PROBING = "probing"
    READY = "ready"
    FAILED = "failed"
    """It said why it cannot serve; its process ends or has ended."""
    GONE = "gone"
    """Its process ended without a word."""


@dataclass(frozen=True, kw_only=True)
class Replica:
    """A replica as it was seen just now."""

    id: str
    revision: str
    phase: ReplicaPhase
    port: int = 0
    error: str = ""
    probe: str = ""
    launched_at: float
    ending_for: float | None = None
    """Seconds since it was asked to end; None if it was not."""

    @property
    def is_running(self) -> bool:
        return self.phase not in (ReplicaPhase.FAILED, ReplicaPhase.GONE)


@dataclass(frozen=True, kw_only=True)
class Crashes:
    """How often replicas of a revision ended by themselves, lately, and when and how the last one did."""

    count: int
    last_at: float
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Limits:
    start_seconds: float
    drain_seconds: float


@dataclass(frozen=True, kw_only=True)
class Pull:
    """Bring the model to this machine; then the revision is loading."""

    revision: Revision


@dataclass(frozen=True, kw_only=True)
class Launch:
    revision: Revision
    count: int


@dataclass(frozen=True, kw_only=True)
class Move:
    """Set the phase of a revision. All moves of one plan are one transaction."""

    revision: Revision
    phase: Phase
    reason: str = ""
    traffic: int = 0


@dataclass(frozen=True, kw_only=True)
class End:
    """Ask a replica to finish what it has and end; or, with ``now``, end it."""

    replica: Replica
    now: bool = False


@dataclass(frozen=True, kw_only=True)
class Forget:
    """Nothing of a deleted service runs any more: remove its rows."""


Action = Pull | Launch | Move | End | Forget


@dataclass(frozen=True, kw_only=True)
class Plan:
    actions: tuple[Action, ...]
    again_seconds: float


@dataclass(frozen=True, kw_only=True)
class Seen:
    """Everything that a decision rests on."""

    revisions: Sequence[Revision]
    """Of one service, oldest first."""
    replicas: Sequence[Replica]
    crashes: Mapping[str, Crashes]
    deleted: bool
    is_routed: bool
    """The gateway is known to have taken the present traffic."""
    now: float
    limits: Limits

    def replicas_of(self, revision: Revision) -> list[Replica]:
        return [r for r in self.replicas if r.revision == revision.id]


def decide(seen: Seen) -> Plan:
    """The next actions. Carrying them out twice, or only in part, does no harm."""
    if not seen.revisions:
        return Plan(actions=(Forget(),) if seen.deleted else (), again_seconds=LOOK_SECONDS)
    newest = seen.revisions[-1]
    actions: list[Action] = []
    for revision in seen.revisions:
        if revision.phase.is_final:
            actions += [End(replica=r, now=True) for r in seen.replicas_of(revision) if r.is_running]
        elif revision.phase is Phase.DRAINING:
            actions += _drain(seen, revision)
        elif seen.deleted or (revision.phase.is_coming and revision is not newest):
            reason = "the service was deleted" if seen.deleted else f"replaced by {newest.name}"
            actions.append(Move(revision=revision, phase=Phase.DRAINING, reason=reason))
        elif revision.phase.is_coming:
            actions += _bring_up(seen, revision)
        else:
            actions += _keep_up(seen, revision)
    if seen.deleted and not seen.replicas and all(r.phase.is_final for r in seen.revisions):
        return Plan(actions=(Forget(),), again_seconds=LOOK_SECONDS)
    return Plan(actions=tuple(actions), again_seconds=_again(seen, actions))


def backoff_seconds(crashes: int) -> float:
    """How long to wait before the next launch: at once after the first, then 1, 2, 4 … seconds."""
    return 0.0 if crashes <= 1 else min(float(2 ** (crashes - 2)), BACKOFF_SECONDS_MAX)


def _bring_up(seen: Seen, revision: Revision) -> list[Action]:
    if revision.phase is Phase.PULLING:
        return [Pull(revision=revision)]
    replicas = seen.replicas_of(revision)
    if failed := next((r for r in replicas if r.phase is ReplicaPhase.FAILED), None):
        return _give_up(replicas, revision, failed.error)
    late = [r for r in replicas if r.is_running and seen.now - r.launched_at > seen.limits.start_seconds]
    if any(r.phase is not ReplicaPhase.READY for r in late):
        limit = f"{seen.limits.start_seconds:g} s"
        return _give_up(
            replicas, revision, f"it was still {late[0].phase.value} after {limit} (service_start_seconds)"
        )
    crashes = seen.crashes.get(revision.id)
    if crashes is not None and crashes.count >= LOADS_MAX:
        return _give_up(replicas, revision, f"its process ended {crashes.count} times: {crashes.error}")
    running = [r for r in replicas if r.is_running]
    missing = revision.spec.replicas - len(running)
    if missing > 0:
        return [Launch(revision=revision, count=missing)]
    if all(r.phase is ReplicaPhase.READY for r in running):
        return _promote(seen, revision)
    loaded = all(r.phase in (ReplicaPhase.READY, ReplicaPhase.PROBING) for r in running)
    if loaded and revision.phase is Phase.LOADING:
        return [Move(revision=revision, phase=Phase.PROBING)]
    return []


def _promote(seen: Seen, revision: Revision) -> list[Action]:
    moves: list[Action] = [Move(revision=revision, phase=Phase.LIVE, traffic=100)]
    for old in seen.revisions:
        if old.phase is Phase.LIVE:
            moves.append(Move(revision=old, phase=Phase.DRAINING, reason=f"replaced by {revision.name}"))
    return moves


def _give_up(replicas: Sequence[Replica], revision: Revision, reason: str) -> list[Action]:
    ends: list[Action] = [End(replica=r, now=True) for r in replicas if r.is_running]
    return [*ends, Move(revision=revision, phase=Phase.FAILED, reason=reason)]


def _keep_up(seen: Seen, revision: Revision) -> list[Action]:
    """A live revision: as many replicas as it should have."""
    running = [r for r in seen.replicas_of(revision) if r.is_running]
    stuck: list[Action] = [
        End(replica=r, now=True)
        for r in running
        if r.phase is not ReplicaPhase.READY and seen.now - r.launched_at > seen.limits.start_seconds
    ]
    missing = revision.spec.replicas - len(running)
    crashes = seen.crashes.get(revision.id)
    if missing <= 0 or (crashes and seen.now < crashes.last_at + backoff_seconds(crashes.count)):
        return stuck
    return [*stuck, Launch(revision=revision, count=missing)]


def _drain(seen: Seen, revision: Revision) -> list[Action]:
    running = [r for r in seen.replicas_of(revision) if r.is_running]
    if not running:
        return [Move(revision=revision, phase=Phase.STOPPED, reason=revision.reason)]
    if seen.now - revision.phase_since < SETTLE_SECONDS or not seen.is_routed:
        return []  # the gateway may still send it requests
    return [End(replica=r, now=(r.ending_for or 0.0) > seen.limits.drain_seconds + 1.0) for r in running]


def _again(seen: Seen, actions: Sequence[Action]) -> float:
    if any(isinstance(a, Pull | Move) for a in actions):
        return 0.0
    settled = all(r.phase.is_final or r.phase is Phase.LIVE for r in seen.revisions)
    quiet = all(r.phase is ReplicaPhase.READY for r in seen.replicas if r.is_running)
    if actions or not (settled and quiet):
        return HURRY_SECONDS
    is_whole = all(
        sum(replica.is_running for replica in seen.replicas_of(revision)) >= revision.spec.replicas
        for revision in seen.revisions
        if revision.phase is Phase.LIVE
    )
    return LOOK_SECONDS if is_whole and seen.is_routed else WAITING_SECONDS
