"""When a branch that waits for another one moves. Pure: decides from facts, and reads or writes nothing."""

from __future__ import annotations

from dataclasses import dataclass

from trunkline.core.cron import parse_schedule
from trunkline.core.sizes import parse_size
from trunkline.errors import InvalidInputError
from trunkline.versioning.model import Trigger

COMMITS_MAX = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known when a commit on the watched branch has finished."""

    growth: int
    """Bytes that the new commit has more than the branch's present head."""
    commits: int
    """How many commits there are since the present head."""
    moved_at: float | None
    """When the present head was finished; None: there is none."""
    now: float


def check(trigger: Trigger) -> None:
    """:raises InvalidInputError: ``bad_trigger``, ``bad_size`` or ``bad_schedule``."""
    if trigger.size is not None:
        parse_size(trigger.size)
    for text in (trigger.rate_limit, trigger.cron):
        if text is not None:
            parse_schedule(text)
    if trigger.commits is not None and not 1 <= trigger.commits <= COMMITS_MAX:
        raise InvalidInputError(
            f"a trigger waits for 1 to {COMMITS_MAX} commits, not {trigger.commits}", kind="bad_trigger"
        )
    others = (trigger.size, trigger.commits, trigger.rate_limit)
    if trigger.cron is not None and any(one is not None for one in others):
        raise InvalidInputError(
            "a cron trigger stands alone: to combine a time with other conditions use a rate limit",
            kind="bad_trigger",
        )


def is_due(trigger: Trigger, facts: Facts) -> bool:
    """Whether the conditions are met: all of them if ``all``, else one of them. Without any, every commit will do."""
    met: list[bool] = []
    if trigger.size is not None:
        met.append(facts.growth >= parse_size(trigger.size))
    if trigger.commits is not None:
        met.append(facts.commits >= trigger.commits)
    if trigger.rate_limit is not None:
        allowed_at = rate_limited_until(trigger, facts)
        met.append(allowed_at is not None and allowed_at <= facts.now)
    if not met:
        return True
    return all(met) if trigger.all else any(met)


def rate_limited_until(trigger: Trigger, facts: Facts) -> float | None:
    """When a rate limit lets the branch move again; None: never."""
    if trigger.rate_limit is None or facts.moved_at is None:
        return facts.now
    return parse_schedule(trigger.rate_limit).next_after(facts.moved_at)


def next_time(trigger: Trigger, now: float) -> float | None:
    """When a cron trigger is to be looked at next."""
    return None if trigger.cron is None else parse_schedule(trigger.cron).next_after(now)
