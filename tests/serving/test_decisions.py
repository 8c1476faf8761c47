"""The rollout's decisions, on made-up states; nothing runs."""

from __future__ import annotations

import dataclasses
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from trunkline.serving.model import Phase, PredictorSpec, Revision
from trunkline.serving.rollout import (
    HURRY_SECONDS,
    LOADS_MAX,
    LOOK_SECONDS,
    SETTLE_SECONDS,
    WAITING_SECONDS,
    Crashes,
    End,
    Forget,
    Launch,
    Limits,
    Move,
    Plan,
    Pull,
    Replica,
    ReplicaPhase,
    Seen,
    backoff_seconds,
    decide,
)

NOW = 1000.0
SPEC = PredictorSpec(
    format="sklearn",
    protocol="v1",
    storage_uri="file:///m",
    model_name="iris",
    replicas=1,
    timeout_seconds=60.0,
)


def revision(number: int, phase: Phase, *, replicas: int = 1, since: float = NOW) -> Revision:
    return Revision(
        id=f"models/iris-{number:05d}", namespace="models", service="iris", number=number, generation=number, commit_id="",
        spec=dataclasses.replace(SPEC, replicas=replicas), model_root="", phase=phase, reason="",
        traffic=100 if phase is Phase.LIVE else 0, created_at=since, phase_since=since,
    )  # fmt: skip


def replica(
    of: Revision, phase: ReplicaPhase, *, name: str = "r", launched_at: float = NOW, **more: Any
) -> Replica:
    return Replica(id=f"{of.id}-{name}", revision=of.id, phase=phase, launched_at=launched_at, **more)


def plan(revisions: list[Revision], replicas: list[Replica], **more: Any) -> Plan:
    seen = Seen(
        revisions=revisions, replicas=replicas, now=NOW, limits=Limits(start_seconds=60.0, drain_seconds=5.0),
        **{"crashes": {}, "deleted": False, "is_routed": True, **more},
    )  # fmt: skip
    return decide(seen)


def test_a_new_revision_step_by_step() -> None:
    old = revision(1, Phase.LIVE)
    serving = replica(old, ReplicaPhase.READY)
    pulling, loading, probing = (revision(2, p) for p in (Phase.PULLING, Phase.LOADING, Phase.PROBING))
    assert plan([old, pulling], [serving]).actions == (Pull(revision=pulling),)
    assert plan([old, loading], [serving]).actions == (Launch(revision=loading, count=1),)
    busy = plan([old, loading], [serving, replica(loading, ReplicaPhase.LOADING)])
    assert busy == Plan(actions=(), again_seconds=HURRY_SECONDS)
    assert plan([old, loading], [serving, replica(loading, ReplicaPhase.PROBING)]).actions == (
        Move(revision=loading, phase=Phase.PROBING),
    )
    assert plan([old, probing], [serving, replica(probing, ReplicaPhase.READY)]).actions == (
        Move(revision=probing, phase=Phase.LIVE, traffic=100),
        Move(revision=old, phase=Phase.DRAINING, reason="replaced by iris-00002"),
    )


def test_the_old_one_is_asked_to_end_only_when_the_gateway_has_let_go_of_it() -> None:
    new, serving = revision(2, Phase.LIVE), replica(revision(2, Phase.LIVE), ReplicaPhase.READY)
    just_now, before = revision(1, Phase.DRAINING), revision(1, Phase.DRAINING, since=NOW - SETTLE_SECONDS)
    old = replica(before, ReplicaPhase.READY)
    assert plan([just_now, new], [serving, old]).actions == ()
    assert plan([before, new], [serving, old], is_routed=False).actions == ()
    assert plan([before, new], [serving, old]).actions == (End(replica=old),)
    slow = dataclasses.replace(old, ending_for=6.5)
    assert plan([before, new], [serving, slow]).actions == (End(replica=slow, now=True),)
    assert plan([before, new], [serving]).actions == (Move(revision=before, phase=Phase.STOPPED),)
    stopped = revision(1, Phase.STOPPED)
    assert plan([stopped, new], [serving]) == Plan(actions=(), again_seconds=LOOK_SECONDS)
    assert plan([stopped, new], [serving], is_routed=False).again_seconds == WAITING_SECONDS


def test_a_revision_that_cannot_load_fails_and_the_old_one_stays() -> None:
    old, new = revision(1, Phase.LIVE), revision(2, Phase.LOADING)
    serving = replica(old, ReplicaPhase.READY)
    failed = replica(new, ReplicaPhase.FAILED, error="no handler")
    assert plan([old, new], [serving, failed]).actions == (
        Move(revision=new, phase=Phase.FAILED, reason="no handler"),
    )
    late = replica(new, ReplicaPhase.LOADING, launched_at=NOW - 61)
    ended, moved = plan([old, new], [serving, late]).actions
    assert ended == End(replica=late, now=True)
    assert isinstance(moved, Move) and "still loading after 60 s" in moved.reason
    dying = {new.id: Crashes(count=LOADS_MAX, last_at=NOW, error="killed")}
    (moved,) = plan([old, new], [serving], crashes=dying).actions
    assert moved == Move(revision=new, phase=Phase.FAILED, reason="its process ended 3 times: killed")


def test_a_dead_replica_is_started_again_later_and_later() -> None:
    live = revision(1, Phase.LIVE, replicas=2)
    left = [replica(live, ReplicaPhase.READY)]
    assert plan([live], left).actions == (Launch(revision=live, count=1),)
    assert [backoff_seconds(n) for n in (1, 2, 3, 4, 99)] == [0.0, 1.0, 2.0, 4.0, 30.0]
    often = {live.id: Crashes(count=3, last_at=NOW - 1.0)}
    assert plan([live], left, crashes=often) == Plan(actions=(), again_seconds=WAITING_SECONDS)
    often = {live.id: Crashes(count=3, last_at=NOW - 2.5)}
    assert plan([live], left, crashes=often).actions == (Launch(revision=live, count=1),)
    failed = replica(live, ReplicaPhase.FAILED, name="f")
    assert plan([live], [*left, failed]).actions == (Launch(revision=live, count=1),), (
        "what serves is never given up"
    )


def test_a_revision_that_was_overtaken_is_dropped() -> None:
    first, second = revision(1, Phase.PROBING), revision(2, Phase.PULLING)
    assert plan([first, second], [replica(first, ReplicaPhase.READY)]).actions == (
        Move(revision=first, phase=Phase.DRAINING, reason="replaced by iris-00002"),
        Pull(revision=second),
    )


def test_a_deleted_service_drains_and_is_forgotten() -> None:
    live = revision(1, Phase.LIVE)
    serving = replica(live, ReplicaPhase.READY)
    (moved,) = plan([live], [serving], deleted=True).actions
    assert isinstance(moved, Move) and moved.phase is Phase.DRAINING
    assert plan([revision(1, Phase.STOPPED)], [], deleted=True).actions == (Forget(),)
    assert plan([], [], deleted=True).actions == (Forget(),)


PHASES = st.sampled_from(list(Phase))
REPLICAS = st.lists(st.sampled_from(list(ReplicaPhase)), max_size=3)


@given(
    st.lists(st.tuples(PHASES, REPLICAS), min_size=1, max_size=4),
    st.booleans(),
    st.booleans(),
    st.floats(0, 200),
)
def test_whatever_the_state(
    states: list[tuple[Phase, list[ReplicaPhase]]], deleted: bool, is_routed: bool, age: float
) -> None:
    """No state leads to traffic for an unproved revision, or to the end of a ready replica that has traffic."""
    revisions = [revision(n + 1, phase, since=NOW - age) for n, (phase, _) in enumerate(states)]
    replicas = [
        replica(r, p, name=str(n), launched_at=NOW - age)
        for r, (_, phases) in zip(revisions, states, strict=True)
        for n, p in enumerate(phases)
    ]
    result = plan(revisions, replicas, deleted=deleted, is_routed=is_routed)
    proved = {r.revision for r in replicas if r.phase is ReplicaPhase.READY}
    for action in result.actions:
        if isinstance(action, Move) and action.phase is Phase.LIVE:
            assert action.revision.id in proved and action.revision is revisions[-1] and not deleted
        if isinstance(action, End):
            of = next(r for r in revisions if r.id == action.replica.revision)
            assert of.phase is not Phase.LIVE or action.replica.phase is not ReplicaPhase.READY
    assert result.again_seconds <= LOOK_SECONDS
