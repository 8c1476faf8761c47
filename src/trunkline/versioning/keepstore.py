"""What the keeping of data asks of commits and branches: their trees, and references that lead nowhere. SQL only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from trunkline.storage.db.schema import (
    branches,
    commit_provenance,
    commits,
    purged_roots,
    purges,
    repos,
    tree_holds,
    upload_parts,
    uploads,
)
from trunkline.versioning.roots import RootSource

ROOTS = (
    RootSource(
        column=commits.c.root,
        keys=(repos.c.project, repos.c.name, commits.c.id),
        join=(repos,),
        label=lambda row: f"commit {row.k0}/{row.k1}@{row.k2}",
        sizes=True,
    ),
    RootSource(
        column=tree_holds.c.root,
        keys=(tree_holds.c.expires_at,),
        label=lambda row: "an upload of the last day",
    ),
    RootSource(
        column=uploads.c.root,
        keys=(uploads.c.address, uploads.c.path),
        label=lambda row: f"upload in parts to {row.k0}:{row.k1}",
    ),
    RootSource(
        column=upload_parts.c.root,
        keys=(uploads.c.address, uploads.c.path, upload_parts.c.number),
        join=(uploads,),
        label=lambda row: f"part {row.k2} of an upload to {row.k0}:{row.k1}",
    ),
)
"""Trees of versioned data itself."""

_others = commits.alias("others")


def dangling(connection: Connection) -> Iterator[tuple[str, str]]:
    """What refers to a commit that is not there, and how."""
    for pk, label, parent in connection.execute(_without_parent()):
        yield f"commit {label}", f"commit {label} ({pk}) says its parent is {parent}, which does not exist"
    for key, repo, name, head in connection.execute(_without_head()):
        yield (
            f"branch {repo}@{name}",
            f"the head of branch {repo}@{name} ({key}) is {head}, which is not in its repo",
        )
    for pk, upstream in connection.execute(_without_upstream()):
        yield f"commit {pk}", f"commit {pk} says it was made from {upstream}, which does not exist"


def _label() -> sa.ColumnElement[str]:
    return repos.c.project + "/" + repos.c.name


def _without_parent() -> sa.Select[Any]:
    there = sa.exists().where(_others.c.pk == commits.c.parent)
    query = sa.select(commits.c.pk, _label() + "@" + commits.c.id, commits.c.parent).join_from(commits, repos)
    return query.where(commits.c.parent.is_not(None), ~there)


def _without_head() -> sa.Select[Any]:
    there = sa.exists().where(commits.c.pk == branches.c.head, commits.c.repo_id == branches.c.repo_id)
    query = sa.select(branches.c.id, _label(), branches.c.name, branches.c.head).join_from(branches, repos)
    return query.where(branches.c.head.is_not(None), ~there)


def _without_upstream() -> sa.Select[Any]:
    there = sa.exists().where(_others.c.pk == commit_provenance.c.upstream_pk)
    return sa.select(commit_provenance.c.commit_pk, commit_provenance.c.upstream_pk).where(~there)


def mend_dangling(connection: Connection) -> list[str]:
    """Cut references that lead nowhere; a branch gets its newest commit as head."""
    done = [message for _, message in dangling(connection)]
    for pk, _, _ in connection.execute(_without_parent()).all():
        connection.execute(sa.update(commits).where(commits.c.pk == pk).values(parent=None))
    for key, _, name, _ in connection.execute(_without_head()).all():
        repo = sa.select(branches.c.repo_id).where(branches.c.id == key).scalar_subquery()
        newest = sa.select(sa.func.max(commits.c.pk)).where(
            commits.c.repo_id == repo, commits.c.branch == name
        )
        head = connection.execute(newest).scalar()
        connection.execute(sa.update(branches).where(branches.c.id == key).values(head=head))
    for pk, upstream in connection.execute(_without_upstream()).all():
        link = commit_provenance.c
        connection.execute(
            sa.delete(commit_provenance).where(link.commit_pk == pk, link.upstream_pk == upstream)
        )
    return [f"cut: {message}" for message in done]


def sizes_of_commits(connection: Connection) -> list[tuple[str, str, int, int]]:
    """What each distinct tree's commits say of its size: label, root, bytes, files."""
    label = sa.func.min(_label() + "@" + commits.c.id)
    columns = (commits.c.root, commits.c.size, commits.c.file_count)
    query = sa.select(label, *columns).join_from(commits, repos).where(commits.c.root.is_not(None))
    return [
        (f"commit {name}", root, size, count)
        for name, root, size, count in connection.execute(query.group_by(*columns))
    ]


def set_sizes(connection: Connection, root: str, size: int, file_count: int) -> int:
    """Let all commits with that tree say the same of it."""
    wrong = sa.or_(commits.c.size != size, commits.c.file_count != file_count)
    statement = sa.update(commits).where(commits.c.root == root, wrong)
    return connection.execute(statement.values(size=size, file_count=file_count)).rowcount


# --- purges -------------------------------------------------------------------------------------------------------


def trees_of_repo(connection: Connection, repo_id: int) -> list[str]:
    """The distinct trees of a repo's commits."""
    query = sa.select(commits.c.root).where(commits.c.repo_id == repo_id, commits.c.root.is_not(None))
    return list(connection.execute(query.distinct()).scalars())


def downstream(connection: Connection, found: Iterable[tuple[str, str, str]]) -> list[str]:
    """The commits that were made from commits (given as project, repo, ID), directly or not, as addresses."""
    level: list[int] = []
    for project, repo, commit_id in found:
        query = sa.select(commits.c.pk).join_from(commits, repos)
        query = query.where(repos.c.project == project, repos.c.name == repo, commits.c.id == commit_id)
        level += connection.execute(query).scalars()
    seen: set[int] = set()
    made: list[int] = []
    while level:
        part, level = level[:500], level[500:]
        query = sa.select(commit_provenance.c.commit_pk).where(commit_provenance.c.upstream_pk.in_(part))
        fresh = [pk for pk in connection.execute(query.distinct()).scalars() if pk not in seen]
        seen.update(fresh)
        made += fresh
        level += fresh
    names: list[str] = []
    for start in range(0, len(made), 500):
        query = sa.select(_label() + "@" + commits.c.id).join_from(commits, repos).order_by(commits.c.pk)
        names += connection.execute(query.where(commits.c.pk.in_(made[start : start + 500]))).scalars()
    return names


def add_purge(connection: Connection, **values: Any) -> int:
    return int(connection.execute(sa.insert(purges).values(values).returning(purges.c.id)).scalar_one())


def add_purged_root(connection: Connection, purge_id: int, old: str, new: str) -> None:
    known = sa.select(purged_roots).where(purged_roots.c.purge_id == purge_id, purged_roots.c.old_root == old)
    if connection.execute(known).first() is None:
        connection.execute(sa.insert(purged_roots).values(purge_id=purge_id, old_root=old, new_root=new))


def update_purge(connection: Connection, purge_id: int, **values: Any) -> None:
    connection.execute(sa.update(purges).where(purges.c.id == purge_id).values(values))


def list_purges(connection: Connection, *where: sa.ColumnElement[bool]) -> list[Row[Any]]:
    return list(connection.execute(sa.select(purges).where(*where).order_by(purges.c.id)))


def unfinished_purges(connection: Connection) -> list[Row[Any]]:
    return list_purges(connection, purges.c.state == "erasing")


def purge_of(connection: Connection, project: str, repo: str, path: str) -> Row[Any] | None:
    """The purge that a path of a repo fell to, if any."""
    found = list_purges(connection, purges.c.project == project, purges.c.repo == repo)
    return next(
        (row for row in found if path == row.path or path.startswith(row.path.rstrip("/") + "/")), None
    )


def drop_cached(connection: Connection, source: RootSource, root: str) -> int:
    """Rows that remember a damaged tree; those that are more than a memory stay, and say that it is not what it was."""
    table, where = source.column.table, source.column == root
    if source.is_cache:
        return connection.execute(sa.delete(table).where(where)).rowcount
    connection.execute(sa.update(table).where(where).values(dict(source.when_changed)))
    return 0
