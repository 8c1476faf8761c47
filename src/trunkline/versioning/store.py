"""All SQL on projects, repos, branches, commits and their provenance. Each function works in its caller's transaction."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from trunkline.core.ids import BranchName, CommitId, ProjectName, RepoName, TreeHash, check_name
from trunkline.errors import AlreadyExistsError
from trunkline.storage.db.prepared import Prepared, PreparedUpdate
from trunkline.storage.db.schema import (
    branch_provenance,
    branches,
    commit_provenance,
    commits,
    projects,
    repos,
)
from trunkline.versioning import tagstore
from trunkline.versioning.model import Commit, CommitStatus, Origin, Project

_KEPT = "kept:"
"""In front of the owner of a repo that outlived it."""


# Statements that are asked for at every step: to build one takes longer than to run it.
_REPO = Prepared(
    sa.select(repos).where(repos.c.project == sa.bindparam("project"), repos.c.name == sa.bindparam("name"))
)
_BRANCH = Prepared(
    sa.select(branches).where(
        branches.c.repo_id == sa.bindparam("repo_id"), branches.c.name == sa.bindparam("name")
    )
)
_BRANCHES = sa.select(branches, *(column.label(f"r_{column.name}") for column in repos.c)).join_from(
    branches, repos
)
_BRANCHES_BY_ID = Prepared(_BRANCHES.where(branches.c.id.in_(sa.bindparam("ids", expanding=True))))
_UPSTREAM = Prepared(
    _BRANCHES.join(branch_provenance, branch_provenance.c.upstream_id == branches.c.id).where(
        branch_provenance.c.branch_id == sa.bindparam("branch_id")
    )
)
_SET_HEAD = Prepared(
    sa.update(branches)
    .where(branches.c.id == sa.bindparam("branch_id"))
    .values(head=sa.bindparam("new_head"))
)
_parents = commits.alias("parents")
_COMMITS = (
    sa.select(commits, repos.c.project, repos.c.name.label("repo"), _parents.c.id.label("parent_id"))
    .join_from(commits, repos)
    .outerjoin(_parents, _parents.c.pk == commits.c.parent)
)
_COMMIT_BY_PK = Prepared(_COMMITS.where(commits.c.pk == sa.bindparam("pk")))
_COMMIT_BY_ID = Prepared(
    _COMMITS.where(commits.c.repo_id == sa.bindparam("repo_id"), commits.c.id == sa.bindparam("id"))
)
_PROVENANCE = Prepared(
    sa.select(commit_provenance.c.commit_pk, repos.c.project, repos.c.name, commits.c.id)
    .join_from(commit_provenance, commits, commits.c.pk == commit_provenance.c.upstream_pk)
    .join(repos)
    .where(commit_provenance.c.commit_pk.in_(sa.bindparam("pks", expanding=True)))
    .distinct()
)
_INSERT_COMMIT = Prepared(
    sa.insert(commits)
    .values(
        {
            name: sa.bindparam(name)
            for name in (
                "id", "repo_id", "branch", "parent", "origin", "status", "description", "root", "size", "file_count",
                "created_at", "finished_at",
            )
        }
    )
    .returning(commits.c.pk)
)  # fmt: skip


def _shown_tree() -> sa.Select[Any]:
    columns = (commits.c.parent, commits.c.root, commits.c.size, commits.c.file_count)
    chain = sa.select(*columns).where(commits.c.pk == sa.bindparam("pk")).cte("chain", recursive=True)
    chain = chain.union_all(sa.select(*columns).where(commits.c.pk == chain.c.parent, chain.c.root.is_(None)))
    return sa.select(chain.c.root, chain.c.size, chain.c.file_count).where(chain.c.root.is_not(None))


_SHOWN_TREE = Prepared(_shown_tree())
_links = commit_provenance.c
_UPSTREAM_COMMITS = Prepared(
    sa.select(_links.commit_pk, _links.upstream_branch, _links.upstream_pk)
    .where(_links.commit_pk.in_(sa.bindparam("pks", expanding=True)))
    .order_by(_links.commit_pk, _links.upstream_branch, _links.upstream_pk)
)
_IS_OPEN = commits.c.status == CommitStatus.OPEN.value
_FINISH = PreparedUpdate(sa.update(commits).where(commits.c.pk == sa.bindparam("this"), _IS_OPEN))


@dataclass(frozen=True, kw_only=True)
class RepoRow:
    id: int
    project: ProjectName
    name: RepoName
    description: str
    owner: str | None
    former_owner: str | None
    """Who made it and is gone; the repo was kept, and is anybody's now."""
    created_at: float

    @property
    def address(self) -> str:
        return f"{self.project}/{self.name}"


@dataclass(frozen=True, kw_only=True)
class BranchRow:
    id: int
    repo: RepoRow
    name: BranchName
    head: int | None
    """``commits.pk``."""
    created_at: float

    @property
    def address(self) -> str:
        return f"{self.repo.address}@{self.name}"


@dataclass(frozen=True, kw_only=True)
class StoredCommit:
    """A commit with the keys that only SQL uses."""

    pk: int
    repo_id: int
    parent_pk: int | None
    commit: Commit


# --- projects -----------------------------------------------------------------------------------------------------


def insert_project(connection: Connection, name: str, description: str, now: float) -> None:
    connection.execute(sa.insert(projects).values(name=name, description=description, created_at=now))


def find_project(connection: Connection, name: str) -> Project | None:
    found = list_projects(connection, projects.c.name == name)
    return found[0] if found else None


def list_projects(connection: Connection, *where: sa.ColumnElement[bool]) -> list[Project]:
    query = sa.select(projects).where(*where).order_by(projects.c.name)
    return [
        Project(name=ProjectName(row.name), description=row.description, created_at=row.created_at)
        for row in connection.execute(query)
    ]


def delete_project(connection: Connection, name: str) -> None:
    connection.execute(sa.delete(projects).where(projects.c.name == name))


# --- repos --------------------------------------------------------------------------------------------------------


def insert_repo(
    connection: Connection, project: str, name: str, description: str, owner: str | None, now: float
) -> None:
    connection.execute(
        sa.insert(repos).values(
            project=project, name=name, description=description, owner=owner, created_at=now
        )
    )


def list_repos(connection: Connection, project: str | None) -> list[RepoRow]:
    query = sa.select(repos).order_by(repos.c.project, repos.c.name)
    if project is not None:
        query = query.where(repos.c.project == project)
    return [_repo(row) for row in connection.execute(query)]


def find_repo(connection: Connection, project: str, name: str) -> RepoRow | None:
    row = _REPO.first(connection, project=project, name=name)
    return None if row is None else _repo(row)


def _repo(row: Row[Any], prefix: str = "") -> RepoRow:
    def value(name: str) -> Any:
        return getattr(row, prefix + name)

    owner: str | None = value("owner")
    is_kept = owner is not None and owner.startswith(_KEPT)
    return RepoRow(
        id=value("id"), project=value("project"), name=value("name"), description=value("description"),
        owner=None if is_kept else owner, former_owner=owner.removeprefix(_KEPT) if owner is not None and is_kept else None,
        created_at=value("created_at"),
    )  # fmt: skip


def set_owner(connection: Connection, repo_id: int, owner: str, *, is_gone: bool = False) -> None:
    """Give a repo to an owner, or remember the one that it had."""
    value = _KEPT + owner if is_gone else owner
    connection.execute(sa.update(repos).where(repos.c.id == repo_id).values(owner=value))


def describe_repo(connection: Connection, repo_id: int, description: str) -> None:
    connection.execute(sa.update(repos).where(repos.c.id == repo_id).values(description=description))


def delete_repo(connection: Connection, repo_id: int) -> None:
    """With its branches and commits, and all links between them and others."""
    own_branches = sa.select(branches.c.id).where(branches.c.repo_id == repo_id)
    own_commits = sa.select(commits.c.pk).where(commits.c.repo_id == repo_id)
    connection.execute(sa.delete(branch_provenance).where(branch_provenance.c.upstream_id.in_(own_branches)))
    connection.execute(sa.delete(commit_provenance).where(commit_provenance.c.upstream_pk.in_(own_commits)))
    tagstore.delete_tags_of(connection, repo_id)
    connection.execute(sa.delete(repos).where(repos.c.id == repo_id))


# --- branches -----------------------------------------------------------------------------------------------------


def list_branches(connection: Connection, repo: RepoRow) -> list[BranchRow]:
    query = sa.select(branches).where(branches.c.repo_id == repo.id).order_by(branches.c.name)
    return [_branch(row, repo) for row in connection.execute(query)]


def find_branch(connection: Connection, repo: RepoRow, name: str) -> BranchRow | None:
    row = _BRANCH.first(connection, repo_id=repo.id, name=name)
    return None if row is None else _branch(row, repo)


def _branch(row: Row[Any], repo: RepoRow) -> BranchRow:
    return BranchRow(id=row.id, repo=repo, name=row.name, head=row.head, created_at=row.created_at)


def branch_ids(connection: Connection, repo_id: int, name: str) -> list[int]:
    """The key of a branch, if there is one of that name."""
    return [row.id for row in _BRANCH.all(connection, repo_id=repo_id, name=name)]


def branch_names(connection: Connection, repo_ids: Sequence[int]) -> dict[int, list[BranchName]]:
    names: dict[int, list[BranchName]] = {repo_id: [] for repo_id in repo_ids}
    query = sa.select(branches.c.repo_id, branches.c.name).where(branches.c.repo_id.in_(repo_ids))
    for repo_id, name in connection.execute(query.order_by(branches.c.name)):
        names[repo_id].append(name)
    return names


def branches_by_id(connection: Connection, ids: Iterable[int]) -> dict[int, BranchRow]:
    return {row.id: _branch_and_repo(row) for row in _BRANCHES_BY_ID.all(connection, ids=list(ids))}


def _branch_and_repo(row: Row[Any]) -> BranchRow:
    return _branch(row, _repo(row, "r_"))


def head_ids(connection: Connection, rows: Iterable[BranchRow]) -> dict[int, CommitId]:
    """The IDs of the commits at the heads of branches, by the commits' keys."""
    keys = [row.head for row in rows if row.head is not None]
    query = sa.select(commits.c.pk, commits.c.id).where(commits.c.pk.in_(keys))
    return {pk: CommitId(commit_id) for pk, commit_id in connection.execute(query)}


def heads_named(connection: Connection, repo_ids: Sequence[int], name: str) -> dict[int, int]:
    """The keys of the head commits of the branches of one name, by repo."""
    query = sa.select(branches.c.repo_id, branches.c.head).where(
        branches.c.repo_id.in_(repo_ids), branches.c.name == name, branches.c.head.is_not(None)
    )
    return {row.repo_id: row.head for row in connection.execute(query)}


def insert_branch(connection: Connection, repo: RepoRow, name: str, now: float) -> BranchRow:
    """:raises AlreadyExistsError: ``tag_exists``: one address must not mean two things."""
    check_name("branch", name)
    for tag in tagstore.names_that_begin(connection, repo.id, name):
        if tag == name or (tag.startswith(f"{name}.") and tag[len(name) + 1 :].isdigit()):
            raise AlreadyExistsError(
                f"there is a tag {repo.address}@{tag}, and tags cannot be written to: use another name for the branch",
                kind="tag_exists",
            )
    statement = sa.insert(branches).values(repo_id=repo.id, name=name, head=None, created_at=now)
    key = connection.execute(statement.returning(branches.c.id)).scalar_one()
    return BranchRow(id=key, repo=repo, name=BranchName(name), head=None, created_at=now)


def set_head(connection: Connection, branch_id: int, head: int | None) -> None:
    _SET_HEAD.run(connection, branch_id=branch_id, new_head=head)


def delete_branch(connection: Connection, branch_id: int) -> None:
    connection.execute(sa.delete(branch_provenance).where(branch_provenance.c.upstream_id == branch_id))
    connection.execute(sa.delete(branches).where(branches.c.id == branch_id))


def replace_provenance(
    connection: Connection, branch_id: int, upstream: Iterable[int], *, quiet: Collection[int] = ()
) -> None:
    connection.execute(sa.delete(branch_provenance).where(branch_provenance.c.branch_id == branch_id))
    rows = [{"branch_id": branch_id, "upstream_id": other, "quiet": other in quiet} for other in upstream]
    if rows:
        connection.execute(sa.insert(branch_provenance), rows)


def upstream_branches(connection: Connection, branch_id: int) -> list[BranchRow]:
    found = map(_branch_and_repo, _UPSTREAM.all(connection, branch_id=branch_id))
    return sorted(found, key=lambda branch: branch.address)


def downstream_branches(connection: Connection, branch_id: int) -> list[BranchRow]:
    query = sa.select(branch_provenance.c.branch_id).where(branch_provenance.c.upstream_id == branch_id)
    found = branches_by_id(connection, connection.execute(query).scalars())
    return sorted(found.values(), key=lambda branch: branch.address)


# --- commits ------------------------------------------------------------------------------------------------------


def _load(connection: Connection, query: sa.Select[Any]) -> list[StoredCommit]:
    return _with_provenance(connection, connection.execute(query).all())


def _with_provenance(connection: Connection, rows: Sequence[Row[Any]]) -> list[StoredCommit]:
    provenance = _provenance(connection, [row.pk for row in rows])
    return [_commit(row, provenance.get(row.pk, ())) for row in rows]


def _provenance(connection: Connection, pks: Sequence[int]) -> dict[int, tuple[str, ...]]:
    found: dict[int, tuple[str, ...]] = {}
    for start in range(0, len(pks), 500):
        rows = _PROVENANCE.all(connection, pks=pks[start : start + 500])
        for pk, project, repo, commit_id in sorted(tuple(row) for row in rows):
            found[pk] = (*found.get(pk, ()), f"{project}/{repo}@{commit_id}")
    return found


def _commit(row: Row[Any], provenance: tuple[str, ...]) -> StoredCommit:
    commit = Commit(
        project=row.project, repo=row.repo, branch=row.branch, id=row.id, parent=row.parent_id,
        origin=Origin(row.origin), status=CommitStatus(row.status), description=row.description, error=row.error,
        root=row.root, size=row.size, file_count=row.file_count, provenance=provenance,
        created_at=row.created_at, finished_at=row.finished_at,
    )  # fmt: skip
    return StoredCommit(pk=row.pk, repo_id=row.repo_id, parent_pk=row.parent, commit=commit)


def insert_commit(
    connection: Connection,
    branch: BranchRow,
    commit_id: CommitId,
    *,
    origin: Origin,
    status: CommitStatus,
    description: str = "",
    root: str | None = None,
    size: int = 0,
    file_count: int = 0,
    now: float,
) -> StoredCommit:
    """A new commit on top of the branch's head; moves the head."""
    pk = _INSERT_COMMIT.scalar(
        connection, id=commit_id, repo_id=branch.repo.id, branch=branch.name, parent=branch.head, origin=origin.value,
        status=status.value, description=description, root=root, size=size, file_count=file_count, created_at=now,
        finished_at=now if status is CommitStatus.FINISHED else None,
    )  # fmt: skip
    set_head(connection, branch.id, pk)
    return commit_by_pk(connection, pk)


def add_commit_provenance(connection: Connection, pk: int, upstream: Iterable[tuple[int, str]]) -> None:
    """``upstream``: commits, each with the branch whose head it is."""
    rows = [{"commit_pk": pk, "upstream_pk": other, "upstream_branch": branch} for other, branch in upstream]
    if rows:
        connection.execute(sa.insert(commit_provenance), rows)


def commit_by_pk(connection: Connection, pk: int) -> StoredCommit:
    return _with_provenance(connection, _COMMIT_BY_PK.all(connection, pk=pk))[0]


def commits_by_pk(connection: Connection, pks: Sequence[int]) -> list[StoredCommit]:
    """In the order of their keys, which is that of their beginning; those that are gone are left out."""
    return _load(connection, _COMMITS.where(commits.c.pk.in_(pks)).order_by(commits.c.pk))


def find_commit(connection: Connection, repo_id: int, commit_id: str) -> StoredCommit | None:
    found = _with_provenance(connection, _COMMIT_BY_ID.all(connection, repo_id=repo_id, id=commit_id))
    return found[0] if found else None


def commits_with_id(connection: Connection, *commit_ids: str) -> list[StoredCommit]:
    return _load(connection, _COMMITS.where(commits.c.id.in_(commit_ids)).order_by(commits.c.pk))


def list_commits(
    connection: Connection,
    repo_id: int,
    limit: int,
    before: int | None = None,
    *,
    since: int | None = None,
    origin: Origin | None = None,
) -> list[StoredCommit]:
    """Newest first; only those that are older than the commit ``before`` and newer than the commit ``since``."""
    query = _COMMITS.where(commits.c.repo_id == repo_id).order_by(commits.c.pk.desc()).limit(limit)
    if before is not None:
        query = query.where(commits.c.pk < before)
    if since is not None:
        query = query.where(commits.c.pk > since)
    return _load(connection, query if origin is None else query.where(commits.c.origin == origin.value))


def first_with_id(connection: Connection, commit_id: str) -> int | None:
    """The commit that a commit set began with."""
    return connection.execute(sa.select(sa.func.min(commits.c.pk)).where(commits.c.id == commit_id)).scalar()


def recent_ids(connection: Connection, limit: int, before: int | None = None) -> list[CommitId]:
    """Commit sets, the newest first; only those that began before the commit ``before``."""
    earlier = commits.alias("earlier")
    began_there = ~sa.exists().where(earlier.c.id == commits.c.id, earlier.c.pk < commits.c.pk)
    query = sa.select(commits.c.id).where(began_there).order_by(commits.c.pk.desc()).limit(limit)
    return list(connection.execute(query if before is None else query.where(commits.c.pk < before)).scalars())


def _chain(pk: int, steps_max: int | None = None) -> sa.CTE:
    """A commit (depth 0) and its ancestors; with ``steps_max`` only those so many steps up, at that cost."""
    start = sa.select(commits.c.pk, commits.c.parent, sa.literal(0).label("depth")).where(commits.c.pk == pk)
    chain = start.cte("chain", recursive=True)
    step = sa.select(commits.c.pk, commits.c.parent, chain.c.depth + 1).where(commits.c.pk == chain.c.parent)
    return chain.union_all(step if steps_max is None else step.where(chain.c.depth < steps_max))


def history(connection: Connection, pk: int, limit: int) -> list[StoredCommit]:
    """A commit and its ancestors, nearest first."""
    chain = _chain(pk, limit - 1)
    return _load(
        connection, _COMMITS.join(chain, chain.c.pk == commits.c.pk).order_by(chain.c.depth).limit(limit)
    )


def depth_of(connection: Connection, pk: int) -> int:
    """How many ancestors a commit has."""
    chain = _chain(pk)
    return int(connection.execute(sa.select(sa.func.max(chain.c.depth))).scalar_one())


def ancestor(connection: Connection, pk: int, steps: int) -> StoredCommit | None:
    chain = _chain(pk, steps)
    found = connection.execute(sa.select(chain.c.pk).where(chain.c.depth == steps)).scalar_one_or_none()
    return None if found is None else commit_by_pk(connection, found)


def shown_tree(connection: Connection, pk: int | None) -> tuple[TreeHash | None, int, int]:
    """Root, size and count of what a commit shows: its own tree, or that of its nearest ancestor that has one."""
    if pk is None:
        return None, 0, 0
    row = _SHOWN_TREE.first(connection, pk=pk)
    return (row.root, row.size, row.file_count) if row is not None else (None, 0, 0)


def write_tree(
    connection: Connection, pk: int, *, old_root: str | None, root: str, size: int, file_count: int
) -> bool:
    """Compare-and-swap of an open commit's tree."""
    statement = (
        sa.update(commits)
        .where(
            commits.c.pk == pk,
            _IS_OPEN,
            commits.c.root.is_not_distinct_from(old_root),
        )
        .values(root=root, size=size, file_count=file_count)
    )
    return connection.execute(statement).rowcount == 1


def finish_commit(connection: Connection, pk: int, now: float, **values: Any) -> bool:
    """False if it was not open any more."""
    new = {"status": CommitStatus.FINISHED.value, "finished_at": now, **values}
    return _FINISH.run(connection, new, this=pk) == 1


def upstream_commits(connection: Connection, pks: Sequence[int]) -> list[tuple[int, str, int]]:
    """``(commit, upstream branch, upstream commit)`` for each of the commits."""
    return [(a, b, c) for a, b, c in _UPSTREAM_COMMITS.all(connection, pks=pks)]
