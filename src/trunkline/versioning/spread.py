"""How a change spreads: commits of the same ID on all branches that follow, and branches that triggers move.

Works in the caller's transaction. Inside ``gathered`` what has changed is noted, and spreads once, at the end, with one ID.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.engine import Connection

from trunkline.core.ids import CommitId, new_commit_id
from trunkline.errors import AlreadyExistsError
from trunkline.versioning import lineage, store, trigger_store, triggers
from trunkline.versioning.lineage import downstream_in_order
from trunkline.versioning.model import Commit, CommitStatus, Origin
from trunkline.versioning.store import BranchRow, RepoRow, StoredCommit
from trunkline.versioning.trigger_store import TriggerRow

Publisher = Callable[[Connection, str, dict[str, Any]], None]
"""Writes an event ``(topic, payload)`` in the given transaction; the outbox's ``publish``."""

TRIGGERS_PER_STEP = 100
_GATHERING = "trunkline.gathering"


def publish_commit(connection: Connection, publish: Publisher, topic: str, commit: Commit) -> None:
    publish(
        connection,
        topic,
        {
            "project": commit.project,
            "repo": commit.repo,
            "branch": commit.branch,
            "id": commit.id,
            "error": commit.error,
        },
    )


# --- one transaction, one ID --------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Gathering:
    id: CommitId
    changed: dict[int, None] = field(default_factory=dict)
    """Branches whose heads are new; those that follow them need commits."""
    wanting: dict[int, None] = field(default_factory=dict)
    """Branches that need a commit themselves: what they follow is new."""


@contextmanager
def gathered(connection: Connection, publish: Publisher, commit_id: CommitId, now: float) -> Iterator[None]:
    """All that changes in the block gets one ID, and spreads at its end: each branch that follows gets one commit."""
    gathering = _Gathering(id=commit_id)
    connection.info[_GATHERING] = gathering
    try:
        yield
    finally:
        del connection.info[_GATHERING]
    _open_all(connection, publish, gathering.changed, gathering.wanting, commit_id, now)


def _gathering(connection: Connection) -> _Gathering | None:
    found: _Gathering | None = connection.info.get(_GATHERING)
    return found


def is_gathered(connection: Connection) -> bool:
    """Whether somebody gathers already: there is one ID for all then, and one end."""
    return _gathering(connection) is not None


def next_id(connection: Connection, repo: RepoRow) -> CommitId:
    """The ID for a commit that somebody makes in a repo.

    :raises AlreadyExistsError: ``commit_exists``, for the second one in a transaction.
    """
    gathering = _gathering(connection)
    if gathering is None:
        return new_commit_id()
    if store.find_commit(connection, repo.id, gathering.id) is not None:
        raise _commit_exists(repo, gathering.id)
    return gathering.id


def _commit_exists(repo: RepoRow, commit_id: CommitId) -> AlreadyExistsError:
    return AlreadyExistsError(
        f"repo {repo.address} has a commit {commit_id} already: one change, or one transaction, makes one commit in a repo",
        kind="commit_exists",
        details={"repo": repo.address, "id": commit_id},
    )


# --- downstream ---------------------------------------------------------------------------------------------------


def open_auto(
    connection: Connection, publish: Publisher, branch: BranchRow, commit_id: CommitId, now: float
) -> StoredCommit:
    """An open AUTO commit on a branch, made from the present heads of what the branch follows."""
    if store.find_commit(connection, branch.repo.id, commit_id) is not None:
        raise _commit_exists(branch.repo, commit_id)
    opened = store.insert_commit(
        connection, branch, commit_id, origin=Origin.AUTO, status=CommitStatus.OPEN, now=now
    )
    upstream = store.upstream_branches(connection, branch.id)
    links = [(other.head, other.name) for other in upstream if other.head is not None]
    store.add_commit_provenance(connection, opened.pk, links)
    opened = store.commit_by_pk(connection, opened.pk)
    publish_commit(connection, publish, "commit.opened", opened.commit)
    return opened


def open_downstream(
    connection: Connection, publish: Publisher, branch_id: int, commit_id: CommitId, now: float
) -> None:
    """One AUTO commit of the same ID on every branch that follows, in topological order."""
    gathering = _gathering(connection)
    if gathering is not None:
        gathering.changed[branch_id] = None
    else:
        _open_all(connection, publish, [branch_id], (), commit_id, now)


def open_with_downstream(
    connection: Connection, publish: Publisher, branch_id: int, commit_id: CommitId, now: float
) -> None:
    """The same, with an AUTO commit on the branch itself."""
    gathering = _gathering(connection)
    if gathering is not None:
        gathering.wanting[branch_id] = None
    else:
        _open_all(connection, publish, (), [branch_id], commit_id, now)


def _open_all(
    connection: Connection,
    publish: Publisher,
    changed: Iterable[int],
    wanting: Iterable[int],
    commit_id: CommitId,
    now: float,
) -> None:
    starts = [*changed, *wanting]
    if not starts:
        return
    edges = lineage.downstream_edges(connection, starts)
    quiet = lineage.quiet_edges(connection, {follower for follower, _ in edges}) if edges else set()
    upstream: dict[int, list[int]] = {}
    for follower, above in edges:
        if (follower, above) not in quiet:
            upstream.setdefault(follower, []).append(above)
    above_all = 0  # no branch has this key
    order = downstream_in_order([*edges, *((start, above_all) for start in starts)], above_all)
    is_new = set(starts)
    need = set(wanting)
    for key in order:
        if any(above in is_new for above in upstream.get(key, ())):
            need.add(key)
        if key in need:
            is_new.add(key)
            for branch in store.branches_by_id(connection, [key]).values():  # none, if it was deleted since
                open_auto(connection, publish, branch, commit_id, now)


def move_head(
    connection: Connection, publish: Publisher, branch: BranchRow, head: StoredCommit, now: float
) -> None:
    """Point a branch at another commit; what follows it gets commits, of the same ID unless that is taken."""
    store.set_head(connection, branch.id, head.pk)
    commit_id = head.commit.id
    if _gathering(connection) is None:
        edges = lineage.downstream_edges(connection, [branch.id])
        following = store.branches_by_id(connection, {follower for follower, _ in edges})
        repos = {other.repo.id for other in following.values()}
        if any(store.find_commit(connection, repo, commit_id) is not None for repo in repos):
            commit_id = new_commit_id()
    open_downstream(connection, publish, branch.id, commit_id, now)
    if head.commit.status is CommitStatus.FINISHED and head.commit.error is None:
        _fire(connection, publish, branch.id, head, now)


# --- triggers -----------------------------------------------------------------------------------------------------


def finished(connection: Connection, publish: Publisher, done: StoredCommit, now: float) -> None:
    """A commit was finished: tell others, and move the branches whose triggers it sets off."""
    publish_commit(connection, publish, "commit.finished", done.commit)
    if done.commit.error is not None:
        return
    for branch_id in store.branch_ids(connection, done.repo_id, done.commit.branch):
        _fire(connection, publish, branch_id, done, now)


def set_trigger(connection: Connection, publish: Publisher, row: TriggerRow, now: float) -> None:
    """Give a branch a trigger; it is looked at when the next commit on the watched branch finishes, or at its time."""
    next_at = triggers.next_time(row.trigger, now)
    trigger_store.put(connection, row.branch_id, row.source_id, row.trigger, next_at)
    _announce(connection, publish, next_at)


def fire_due(connection: Connection, publish: Publisher, now: float) -> float | None:
    """Look at the triggers that the clock calls; returns when it calls the next one."""
    for row in trigger_store.due(connection, now, TRIGGERS_PER_STEP):
        trigger_store.schedule(connection, row.branch_id, triggers.next_time(row.trigger, now))
        source = store.branches_by_id(connection, [row.source_id])[row.source_id]
        newest = None if source.head is None else lineage.newest_good(connection, source.head)
        if newest is not None:
            _consider(connection, publish, row, store.commit_by_pk(connection, newest), now, is_called=True)
    return trigger_store.next_time(connection)


def _fire(connection: Connection, publish: Publisher, source_id: int, head: StoredCommit, now: float) -> None:
    """Every chain of triggers ends, since they make no circle."""
    for row in trigger_store.on_source(connection, source_id):
        source = store.branches_by_id(connection, [source_id])[source_id]
        if source.head is not None and lineage.is_on(connection, source.head, head.pk):
            _consider(connection, publish, row, head, now, is_called=False)


def _consider(
    connection: Connection,
    publish: Publisher,
    row: TriggerRow,
    head: StoredCommit,
    now: float,
    *,
    is_called: bool,
) -> None:
    """Move a branch to ``head`` if its trigger's conditions are met; never back, and never away from an open commit."""
    branch = store.branches_by_id(connection, [row.branch_id])[row.branch_id]
    old = None if branch.head is None else store.commit_by_pk(connection, branch.head)
    if old is not None and (
        old.commit.status is CommitStatus.OPEN or lineage.is_on(connection, old.pk, head.pk)
    ):
        return
    if row.trigger.cron is not None:
        if is_called:
            move_head(connection, publish, branch, head, now)
        return
    facts = _facts(connection, row, old, head, now)
    if triggers.is_due(row.trigger, facts):
        trigger_store.schedule(connection, row.branch_id, None)
        move_head(connection, publish, branch, head, now)
    elif row.trigger.rate_limit is not None:
        # The last commits of a burst must not wait for somebody to make another one.
        allowed_at = triggers.rate_limited_until(row.trigger, facts)
        if allowed_at is not None and allowed_at > now:
            trigger_store.schedule(connection, row.branch_id, allowed_at)
            _announce(connection, publish, allowed_at)


def _facts(
    connection: Connection, row: TriggerRow, old: StoredCommit | None, head: StoredCommit, now: float
) -> triggers.Facts:
    commits = 0
    if row.trigger.commits is not None:
        after = None if old is None else old.pk
        commits = lineage.count_newer(connection, head.pk, after, row.trigger.commits)
    return triggers.Facts(
        growth=head.commit.size - (old.commit.size if old is not None else 0),
        commits=commits,
        moved_at=None if old is None else old.commit.finished_at,
        now=now,
    )


def _announce(connection: Connection, publish: Publisher, next_at: float | None) -> None:
    """Whoever watches the clock must know of a new time."""
    if next_at is not None:
        publish(connection, "trigger.scheduled", {"at": next_at})
