"""Taking commits out of history: what may go, and what becomes of all that pointed at it. Works in the caller's transaction.

A tree is a whole snapshot, so a commit that is squashed takes no file along: its children get its parent. What must hold
before and after: every head and parent exists; a branch that follows others has a head, made from exactly their heads.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from graphlib import TopologicalSorter

from sqlalchemy.engine import Connection

from trunkline.core.ids import new_commit_id
from trunkline.errors import StateError
from trunkline.versioning import historystore, lineage, spread, store, tagstore
from trunkline.versioning.model import Commit, CommitStatus, Removed
from trunkline.versioning.spread import Publisher, publish_commit
from trunkline.versioning.store import BranchRow, StoredCommit

NAMED_MAX = 5
"""So many are named in a message; the rest is counted."""


def named(names: Iterable[str]) -> str:
    """``a, b and 3 more``."""
    known = list(dict.fromkeys(names))
    more = len(known) - NAMED_MAX
    return ", ".join(known[:NAMED_MAX]) + (f" and {more} more" if more > 0 else "")


# --- what may go --------------------------------------------------------------------------------------------------


def squash(
    connection: Connection, publish: Publisher, chosen: Sequence[StoredCommit], *, recursive: bool
) -> Removed:
    """Take commits out whose children go on without them.

    :raises StateError: ``commit_open``, ``no_child``, ``child_open``, ``is_head``, ``has_subvenance`` or ``tagged``.
    """
    _children_that_stay(connection, {one.pk: one for one in chosen})
    doomed = _with_what_follows(connection, chosen, "squashed", recursive=recursive)
    children = _children_that_stay(connection, doomed)
    for one in doomed.values():
        if one.commit.status is CommitStatus.OPEN:
            raise StateError(
                f"commit {one.commit.address} is open: finish it first (or stop its job), or drop it",
                kind="commit_open",
            )
    for child in children:
        if child.commit.status is CommitStatus.OPEN:
            raise StateError(
                f"commit {child.commit.address} is not finished, so its parent cannot be squashed into it: wait for it",
                kind="child_open",
            )
    heads = historystore.branches_at(connection, doomed)
    if heads:
        commit = doomed[_head_of(heads[0])].commit
        raise StateError(
            f"commit {commit.address} is the head of {named(branch.address for branch in heads)}: move or delete that "
            "branch first, or drop the commit",
            kind="is_head",
        )
    refuse_tagged(tagstore.protecting(connection, doomed), subject=_subject(doomed))
    return _take_out(connection, publish, doomed, "commit.squashed")


def _children_that_stay(connection: Connection, doomed: dict[int, StoredCommit]) -> list[StoredCommit]:
    """:raises StateError: ``no_child``, where nobody below a commit stays."""
    children = [one for one in historystore.children_of(connection, doomed) if one.pk not in doomed]
    goes_on = {one.parent_pk for one in children}
    for pk in sorted(doomed, reverse=True):  # children have the greater keys
        if pk not in goes_on:
            raise StateError(
                f"commit {doomed[pk].commit.address} has no child to be squashed into: use 'drop commit'",
                kind="no_child",
            )
        goes_on.add(doomed[pk].parent_pk)
    return children


def drop(
    connection: Connection,
    publish: Publisher,
    chosen: Sequence[StoredCommit],
    *,
    recursive: bool,
    now: float,
) -> Removed:
    """Take commits out that have no children; heads fall back to the nearest ancestor that stays.

    :raises StateError: ``has_children``, ``has_subvenance`` or ``tagged``.
    """
    _refuse_children(connection, {one.pk: one for one in chosen})
    doomed = _with_what_follows(connection, chosen, "dropped", recursive=recursive)
    _refuse_children(connection, doomed)
    refuse_tagged(tagstore.protecting(connection, doomed), subject=_subject(doomed))
    moved = historystore.branches_at(connection, doomed)
    for branch in moved:
        store.set_head(connection, branch.id, _survivor(branch.head, doomed))
    removed = _take_out(connection, publish, doomed, "commit.dropped")
    opened = follow_heads(connection, publish, [branch.id for branch in moved], now)
    return Removed(commits=removed.commits, opened=tuple(opened))


def _refuse_children(connection: Connection, doomed: dict[int, StoredCommit]) -> None:
    for child in historystore.children_of(connection, doomed):
        if child.pk not in doomed and child.parent_pk is not None:
            parent = doomed[child.parent_pk].commit
            raise StateError(
                f"commit {parent.address} has the child {child.commit.address}: use 'squash commit', or drop the child "
                "first",
                kind="has_children",
            )


def _with_what_follows(
    connection: Connection, chosen: Sequence[StoredCommit], what: str, *, recursive: bool
) -> dict[int, StoredCommit]:
    """The chosen commits, with ``recursive`` also what was made from them; by key.

    :raises StateError: ``has_subvenance``.
    """
    doomed = {one.pk: one for one in chosen}
    if recursive:
        below = historystore.with_subvenance(connection, doomed) - doomed.keys()
        return doomed | {pk: store.commit_by_pk(connection, pk) for pk in sorted(below)}
    dangling = [(up, pk) for up, pk in historystore.made_from(connection, doomed) if pk not in doomed]
    if dangling:
        source = doomed[dangling[0][0]].commit
        names = named(store.commit_by_pk(connection, pk).commit.address for _, pk in dangling[:50])
        raise StateError(
            f"commit {source.address} cannot be {what} by itself: {names} was made from it; "
            "use -r to take that along, or name the ID alone for the whole commit set",
            kind="has_subvenance",
        )
    return doomed


def refuse_tagged(
    tags: Sequence[tagstore.TagRow], *, subject: str, way_out: str = "delete the tag first"
) -> None:
    """:raises StateError: ``tagged``, naming the tags that need what is to go."""
    if tags:
        names = named(tag.address for tag in tags)
        raise StateError(
            f"{subject} is kept by tag {names}, as what is tagged or what that was made from: {way_out}",
            kind="tagged",
            details={"tags": [tag.address for tag in tags[:NAMED_MAX]]},
        )


def _subject(doomed: dict[int, StoredCommit]) -> str:
    names = named(one.commit.address for one in doomed.values())
    return f"commit {names}"


def _head_of(branch: BranchRow) -> int:
    assert branch.head is not None, "it was found by its head"
    return branch.head


def _survivor(pk: int | None, doomed: dict[int, StoredCommit]) -> int | None:
    """The commit, or its nearest ancestor that stays."""
    while pk is not None and pk in doomed:
        pk = doomed[pk].parent_pk
    return pk


# --- taking them out ----------------------------------------------------------------------------------------------


def _take_out(
    connection: Connection, publish: Publisher, doomed: dict[int, StoredCommit], topic: str
) -> Removed:
    for pk in sorted(doomed, reverse=True):
        parent = _survivor(pk, doomed)
        sources, targets = historystore.merges_around(connection, pk)
        # Whoever had it behind it still has behind it all that it had.
        heirs = [child.pk for child in historystore.children_of(connection, [pk])]
        historystore.add_merges(connection, [(heir, source) for heir in heirs for source in sources])
        behind = sources if parent is None else [parent, *sources]
        historystore.add_merges(connection, [(target, one) for target in targets for one in behind])
        historystore.reparent(connection, pk, doomed[pk].parent_pk)
    historystore.delete_commits(connection, doomed)
    gone: list[Commit] = [doomed[pk].commit for pk in sorted(doomed)]
    for commit in gone:
        publish_commit(connection, publish, topic, commit)
    return Removed(commits=tuple(gone))


def follow_heads(
    connection: Connection, publish: Publisher, changed: Iterable[int], now: float
) -> list[Commit]:
    """After heads have moved back: a new AUTO commit on every branch, among those and what follows them, whose head is not
    made from exactly the heads of what it follows."""
    graph: dict[int, set[int]] = {key: set() for key in changed}
    for branch_id, upstream_id in lineage.downstream_edges(connection, list(graph)):
        graph.setdefault(branch_id, set()).add(upstream_id)
    commit_id = new_commit_id()
    opened: list[Commit] = []
    for key in TopologicalSorter(graph).static_order():
        branch = store.branches_by_id(connection, [key])[key]
        upstream = store.upstream_branches(connection, key)
        if upstream and not _is_provenant(connection, branch, upstream):
            if store.find_commit(connection, branch.repo.id, commit_id) is not None:
                commit_id = new_commit_id()  # two branches of one repo
            opened.append(spread.open_auto(connection, publish, branch, commit_id, now).commit)
    return opened


def _is_provenant(connection: Connection, branch: BranchRow, upstream: Sequence[BranchRow]) -> bool:
    if (
        branch.head is None
    ):  # only a pipeline has a job to do, and so a commit, while there is nothing to make it from
        return branch.repo.owner is None and all(other.head is None for other in upstream)
    have: dict[tuple[int, str], set[int]] = {}
    for _, name, pk in store.upstream_commits(connection, [branch.head]):
        repo_id = store.commit_by_pk(connection, pk).repo_id
        have.setdefault((repo_id, name), set()).add(pk)
    return all(have.get((other.repo.id, other.name), set()) == ({other.head} - {None}) for other in upstream)
