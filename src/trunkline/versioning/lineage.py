"""SQL that follows links: from branch to branch, and from commit to parent. Costs what is reached, not what there is.

Parents are older than their children, so keys fall along every chain; that is where a walk may stop early.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from trunkline.storage.db.prepared import Prepared
from trunkline.storage.db.schema import branch_provenance, branches, commit_provenance, commits
from trunkline.versioning.model import CommitStatus

Edge = tuple[int, int]
"""``(branch, upstream branch)``, by their keys."""
KEYS_PER_STATEMENT = 500


# --- branches -----------------------------------------------------------------------------------------------------


def downstream_edges(connection: Connection, starts: Iterable[int]) -> list[Edge]:
    """All links between the branches that follow ``starts``, directly or not, and what they follow among them."""
    return sorted((branch, upstream) for branch, upstream in _DOWNSTREAM.all(connection, starts=list(starts)))


def quiet_edges(connection: Connection, branch_ids: Collection[int]) -> set[Edge]:
    """Those of the branches' links up that do not spread."""
    found: set[Edge] = set()
    keys = sorted(branch_ids)
    for start in range(0, len(keys), KEYS_PER_STATEMENT):
        rows = _QUIET.all(connection, branches=keys[start : start + KEYS_PER_STATEMENT])
        found.update((branch, upstream) for branch, upstream in rows)
    return found


def upstream_edges(connection: Connection, starts: Iterable[int]) -> list[Edge]:
    """All links from ``starts`` up to everything that they follow, directly or not."""
    return sorted((branch, upstream) for branch, upstream in _UPSTREAM.all(connection, starts=list(starts)))


def links_of(connection: Connection, keys: list[int]) -> list[Edge]:
    """The links up from these branches, and those down to them."""
    found: set[Edge] = set()
    for column in (branch_provenance.c.branch_id, branch_provenance.c.upstream_id):
        query = sa.select(branch_provenance.c.branch_id, branch_provenance.c.upstream_id)
        rows = connection.execute(query.where(column.in_(keys)))
        found.update((branch, upstream) for branch, upstream in rows)
    return sorted(found)


def _following(there: sa.Column[int], here: sa.Column[int]) -> sa.Select[Any]:
    """The links of all that is reached over them from ``starts``: ``there`` from each ``here``."""
    starts = branches.c.id.in_(sa.bindparam("starts", expanding=True))
    reached = sa.select(branches.c.id).where(starts).cte("reached", recursive=True)
    reached = reached.union(sa.select(there).where(here == reached.c.id))
    return sa.select(_links.branch_id, _links.upstream_id).join_from(
        reached, branch_provenance, here == reached.c.id
    )


_links = branch_provenance.c
_DOWNSTREAM = Prepared(_following(_links.branch_id, _links.upstream_id))
_UPSTREAM = Prepared(_following(_links.upstream_id, _links.branch_id))
_QUIET = Prepared(
    sa.select(_links.branch_id, _links.upstream_id).where(
        _links.branch_id.in_(sa.bindparam("branches", expanding=True)), _links.quiet
    )
)


def downstream_in_order(edges: Iterable[Edge], start: int) -> list[int]:
    """The branches that follow ``start``, directly or not, each after all that it follows among them."""
    followers: dict[int, list[int]] = {}
    for branch, upstream in edges:
        followers.setdefault(upstream, []).append(branch)
    order: list[int] = []
    seen = {start}
    stack = [(start, iter(followers.get(start, ())))]
    while stack:
        branch, rest = stack[-1]
        follower = next((other for other in rest if other not in seen), None)
        if follower is None:
            stack.pop()
            order.append(branch)
        else:
            seen.add(follower)
            stack.append((follower, iter(followers.get(follower, ()))))
    return order[-2::-1]


# --- commits ------------------------------------------------------------------------------------------------------


def is_on(connection: Connection, head: int, pk: int) -> bool:
    """Whether a commit is the head or an ancestor of it; walks only what is newer than the commit."""
    if head <= pk:
        return head == pk
    chain = _newer(head, pk - 1)
    return connection.execute(sa.select(chain.c.pk).where(chain.c.pk == pk)).first() is not None


def newer(connection: Connection, head: int, after: int | None) -> list[int]:
    """The head and its ancestors that are newer than the commit ``after``, the oldest first."""
    return sorted(connection.execute(sa.select(_newer(head, after or 0).c.pk)).scalars())


def count_newer(connection: Connection, head: int, after: int | None, at_most: int) -> int:
    """How many of the head and its ancestors are newer than ``after``; counts no further than ``at_most``."""
    counted = sa.select(sa.func.count()).select_from(_newer(head, after or 0, at_most))
    return int(connection.execute(counted).scalar_one())


def _newer(head: int, after: int, limit: int | None = None) -> sa.CTE:
    columns = (commits.c.pk, commits.c.parent, sa.literal(1).label("number"))
    chain = sa.select(*columns).where(commits.c.pk == head, commits.c.pk > after).cte("chain", recursive=True)
    step = sa.select(commits.c.pk, commits.c.parent, chain.c.number + 1).where(
        commits.c.pk == chain.c.parent, chain.c.parent > after
    )
    return chain.union_all(step if limit is None else step.where(chain.c.number < limit))


def newest_good(connection: Connection, pk: int) -> int | None:
    """The commit, or its nearest ancestor, that is finished without an error."""
    columns = (commits.c.pk, commits.c.parent, commits.c.status, commits.c.error)
    chain = sa.select(*columns).where(commits.c.pk == pk).cte("chain", recursive=True)
    good = sa.and_(chain.c.status == CommitStatus.FINISHED.value, chain.c.error.is_(None))
    chain_on = chain.union_all(sa.select(*columns).where(commits.c.pk == chain.c.parent, sa.not_(good)))
    query = sa.select(chain_on.c.pk).where(
        chain_on.c.status == CommitStatus.FINISHED.value, chain_on.c.error.is_(None)
    )
    return connection.execute(query).scalar_one_or_none()


def upstream_of(connection: Connection, pk: int) -> set[int]:
    """All commits that a commit was made from, directly or not."""
    return _closure(connection, pk, commit_provenance.c.commit_pk, commit_provenance.c.upstream_pk, None)


def downstream_of(connection: Connection, pk: int, at_most: int) -> set[int]:
    """Commits that were made from a commit, directly or not; there may be any number, so only about ``at_most``."""
    return _closure(connection, pk, commit_provenance.c.upstream_pk, commit_provenance.c.commit_pk, at_most)


def _closure(
    connection: Connection, pk: int, here: sa.Column[int], there: sa.Column[int], at_most: int | None
) -> set[int]:
    seen: set[int] = set()
    level: Collection[int] = [pk]
    while level and (at_most is None or len(seen) < at_most):
        found: set[int] = set()
        keys = sorted(level)
        for start in range(0, len(keys), KEYS_PER_STATEMENT):
            query = sa.select(there).where(here.in_(keys[start : start + KEYS_PER_STATEMENT])).distinct()
            if at_most is not None:
                query = query.limit(at_most)
            found.update(connection.execute(query).scalars())
        level = found - seen
        seen |= level
    return seen
