"""All SQL on tags. Each function works in its caller's transaction."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from trunkline.core.ids import TagName
from trunkline.storage.db.schema import commit_provenance, commits, repos, tags
from trunkline.versioning.model import Tag


@dataclass(frozen=True, kw_only=True)
class TagRow:
    id: int
    commit_pk: int
    tag: Tag

    @property
    def address(self) -> str:
        return f"{self.tag.project}/{self.tag.repo}@{self.tag.name}"


def _query() -> sa.Select[Any]:
    return (
        sa.select(tags, repos.c.project, repos.c.name.label("repo"), commits.c.id.label("commit_id"))
        .join_from(tags, commits, commits.c.pk == tags.c.commit_pk)
        .join(repos, repos.c.id == tags.c.repo_id)
    )


def _tag(row: Row[Any]) -> TagRow:
    tag = Tag(
        project=row.project, repo=row.repo, name=row.name, commit=row.commit_id, description=row.description,
        created_at=row.created_at,
    )  # fmt: skip
    return TagRow(id=row.id, commit_pk=row.commit_pk, tag=tag)


def find_tag(connection: Connection, repo_id: int, name: str) -> TagRow | None:
    row = connection.execute(_query().where(tags.c.repo_id == repo_id, tags.c.name == name)).one_or_none()
    return None if row is None else _tag(row)


def list_tags(
    connection: Connection, repo_id: int, limit: int | None = None, after: str | None = None
) -> list[TagRow]:
    """In the order of their names; only those behind the name ``after``."""
    query = _query().where(tags.c.repo_id == repo_id).order_by(tags.c.name).limit(limit)
    return [
        _tag(row) for row in connection.execute(query if after is None else query.where(tags.c.name > after))
    ]


def names_that_begin(connection: Connection, repo_id: int, start: str) -> list[str]:
    query = sa.select(tags.c.name).where(
        tags.c.repo_id == repo_id, tags.c.name.startswith(start, autoescape=True)
    )
    return list(connection.execute(query.order_by(tags.c.name)).scalars())


def insert_tag(
    connection: Connection, repo_id: int, name: TagName, commit_pk: int, description: str, now: float
) -> None:
    values = {
        "repo_id": repo_id, "name": name, "commit_pk": commit_pk, "description": description, "created_at": now,
    }  # fmt: skip
    connection.execute(sa.insert(tags).values(values))


def move_tag(connection: Connection, tag_id: int, commit_pk: int, now: float, description: str) -> None:
    values = {"commit_pk": commit_pk, "created_at": now, "description": description}
    connection.execute(sa.update(tags).where(tags.c.id == tag_id).values(values))


def delete_tag(connection: Connection, tag_id: int) -> None:
    connection.execute(sa.delete(tags).where(tags.c.id == tag_id))


def delete_tags_of(connection: Connection, repo_id: int) -> None:
    connection.execute(sa.delete(tags).where(tags.c.repo_id == repo_id))


def protecting(connection: Connection, pks: Iterable[int]) -> list[TagRow]:
    """The tags on any of the commits, or on what was made from one."""
    return _protecting(connection, sa.select(commits.c.pk).where(commits.c.pk.in_(list(pks))))


def protecting_repo(connection: Connection, repo_id: int) -> list[TagRow]:
    """The tags on any of the repo's commits, or on what was made from one."""
    return _protecting(connection, sa.select(commits.c.pk).where(commits.c.repo_id == repo_id))


def _protecting(connection: Connection, start: sa.Select[Any]) -> list[TagRow]:
    """Upstream from the tags, of which there are few, rather than downstream from the commits, of which there are many."""
    top = sa.select(tags.c.id.label("tag_id"), tags.c.commit_pk.label("pk")).cte("made_from", recursive=True)
    made_from = top.union(
        sa.select(top.c.tag_id, commit_provenance.c.upstream_pk).join_from(
            top, commit_provenance, commit_provenance.c.commit_pk == top.c.pk
        )
    )
    needed = sa.select(made_from.c.tag_id).where(made_from.c.pk.in_(start))
    return [
        _tag(row) for row in connection.execute(_query().where(tags.c.id.in_(needed)).order_by(tags.c.id))
    ]
