"""The SQL of changing and searching history. Each function works in its caller's transaction."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from trunkline.core.ids import CommitId
from trunkline.storage.db.schema import branches, commit_provenance, commits, merges
from trunkline.versioning import store
from trunkline.versioning.store import BranchRow, StoredCommit

BATCH = 500
"""So many values in one ``IN``."""


def _batches(values: Iterable[int]) -> Iterator[list[int]]:
    left = list(values)
    for start in range(0, len(left), BATCH):
        yield left[start : start + BATCH]


# --- around some commits ------------------------------------------------------------------------------------------


def children_of(connection: Connection, pks: Iterable[int]) -> list[StoredCommit]:
    """The commits whose parent is one of them."""
    found: list[StoredCommit] = []
    for part in _batches(pks):
        query = sa.select(commits.c.pk).where(commits.c.parent.in_(part))
        found += store.commits_by_pk(connection, list(connection.execute(query).scalars()))
    return found


def branches_at(connection: Connection, pks: Iterable[int]) -> list[BranchRow]:
    """The branches whose head is one of them."""
    ids: list[int] = []
    for part in _batches(pks):
        ids += connection.execute(sa.select(branches.c.id).where(branches.c.head.in_(part))).scalars()
    found = store.branches_by_id(connection, ids).values()
    return sorted(found, key=lambda branch: branch.address)


def made_from(connection: Connection, pks: Iterable[int]) -> list[tuple[int, int]]:
    """``(commit, what was made directly from it)``."""
    found: list[tuple[int, int]] = []
    table = commit_provenance.c
    for part in _batches(pks):
        query = sa.select(table.upstream_pk, table.commit_pk).where(table.upstream_pk.in_(part)).distinct()
        found += [(a, b) for a, b in connection.execute(query.order_by(*query.selected_columns))]
    return found


def with_subvenance(connection: Connection, pks: Iterable[int]) -> set[int]:
    """The commits, and all that was made from them, directly or not."""
    seen = set(pks)
    level = seen
    while level:
        level = {below for _, below in made_from(connection, level)} - seen
        seen |= level
    return seen


# --- taking commits out -------------------------------------------------------------------------------------------


def reparent(connection: Connection, pk: int, parent: int | None) -> None:
    """Give the children of a commit another parent."""
    connection.execute(sa.update(commits).where(commits.c.parent == pk).values(parent=parent))


def merges_around(connection: Connection, pk: int) -> tuple[list[int], list[int]]:
    """What was merged into a commit, and what it was merged into."""
    sources = sa.select(merges.c.source_pk).where(merges.c.commit_pk == pk)
    targets = sa.select(merges.c.commit_pk).where(merges.c.source_pk == pk)
    return list(connection.execute(sources).scalars()), list(connection.execute(targets).scalars())


def add_merges(connection: Connection, pairs: Iterable[tuple[int, int]]) -> None:
    """``(commit, source)``; those that are known are left as they are."""
    for commit_pk, source_pk in pairs:
        known = sa.select(merges).where(merges.c.commit_pk == commit_pk, merges.c.source_pk == source_pk)
        if connection.execute(known).first() is None:
            connection.execute(sa.insert(merges).values(commit_pk=commit_pk, source_pk=source_pk))


def delete_commits(connection: Connection, pks: Iterable[int]) -> None:
    """With their provenance, in both directions."""
    for part in _batches(pks):
        connection.execute(sa.delete(commit_provenance).where(commit_provenance.c.upstream_pk.in_(part)))
        connection.execute(sa.delete(commit_provenance).where(commit_provenance.c.commit_pk.in_(part)))
        connection.execute(sa.delete(commits).where(commits.c.pk.in_(part)))


# --- walking ------------------------------------------------------------------------------------------------------


class Step(NamedTuple):
    """A commit on the way up, as little of it as a walk needs."""

    pk: int
    id: CommitId
    parent: int | None
    root: str | None
    """None: not written yet; it shows what its parent shows."""


def steps_up(connection: Connection, pk: int, limit: int) -> list[Step]:
    """A commit and its ancestors, nearest first."""
    start = sa.select(commits.c.pk, commits.c.parent, sa.literal(1).label("depth")).where(commits.c.pk == pk)
    chain = start.cte("chain", recursive=True)
    chain = chain.union_all(
        sa.select(commits.c.pk, commits.c.parent, chain.c.depth + 1)
        .join_from(chain, commits, commits.c.pk == chain.c.parent)
        .where(chain.c.depth < limit)
    )
    query = (
        sa.select(commits.c.pk, commits.c.id, commits.c.parent, commits.c.root)
        .join_from(chain, commits, commits.c.pk == chain.c.pk)
        .order_by(chain.c.depth)
    )
    return [Step(row.pk, row.id, row.parent, row.root) for row in connection.execute(query)]


def sources_of(connection: Connection, pks: Sequence[int]) -> dict[int, list[int]]:
    """What was merged into each of the commits."""
    found: dict[int, list[int]] = {}
    for part in _batches(pks):
        query = sa.select(merges.c.commit_pk, merges.c.source_pk).where(merges.c.commit_pk.in_(part))
        for commit_pk, source_pk in connection.execute(query):
            found.setdefault(commit_pk, []).append(source_pk)
    return found
