"""Repos that people make."""

from __future__ import annotations

from sqlalchemy.engine import Connection

from trunkline.core.ids import DEFAULT_BRANCH, check_name
from trunkline.errors import AlreadyExistsError
from trunkline.versioning import commits, refs, store
from trunkline.versioning.lineage import KEYS_PER_STATEMENT
from trunkline.versioning.model import Repo
from trunkline.versioning.service.base import UseCases
from trunkline.versioning.store import RepoRow


class Repos(UseCases):
    """Repos of a project."""

    def create_repo(self, project: str, name: str, description: str = "", *, update: bool = False) -> Repo:
        """:raises AlreadyExistsError: ``repo_exists``, unless ``update``, which changes the description."""
        check_name("repo", name)
        with self._db.write() as connection:
            refs.need_project(connection, project)
            repo = store.find_repo(connection, project, name)
            if repo is None:
                store.insert_repo(connection, project, name, description, None, self._clock.now())
            elif update:
                commits.refuse_owned(repo, "update the pipeline instead")
                store.describe_repo(connection, repo.id, description)
            else:
                raise AlreadyExistsError(
                    f"there is a repo {name!r} in project {project!r} already", kind="repo_exists"
                )
        return self.inspect_repo(project, name)

    def list_repos(self, project: str | None = None) -> list[Repo]:
        with self._db.read() as connection:
            if project is not None:
                refs.need_project(connection, project)
            return self._repos(connection, store.list_repos(connection, project))

    def inspect_repo(self, project: str, name: str) -> Repo:
        """:raises NotFoundError: ``no_repo``."""
        with self._db.read() as connection:
            return self._repos(connection, [refs.need_repo(connection, project, name)])[0]

    def delete_repo(self, project: str, name: str, *, force: bool = False) -> None:
        """:raises StateError: ``owned_repo``; ``has_followers`` unless ``force``."""
        with self._db.write() as connection:
            repo = refs.need_repo(connection, project, name)
            commits.refuse_owned(repo, "delete the pipeline instead")
            self._delete_repo(connection, repo, force=force)

    def _repos(self, connection: Connection, rows: list[RepoRow]) -> list[Repo]:
        found = []
        for start in range(0, len(rows), KEYS_PER_STATEMENT):
            some = rows[start : start + KEYS_PER_STATEMENT]
            names = store.branch_names(connection, [row.id for row in some])
            sizes = self._sizes(connection, some)
            for row in some:
                repo = Repo(
                    project=row.project, name=row.name, description=row.description, owner=row.owner,
                    branches=tuple(names[row.id]), size=sizes.get(row.id, 0), created_at=row.created_at,
                )  # fmt: skip
                found.append(repo)
        return found

    def _sizes(self, connection: Connection, rows: list[RepoRow]) -> dict[int, int]:
        """What the heads of ``master`` show, by repo."""
        heads = store.heads_named(connection, [row.id for row in rows], DEFAULT_BRANCH)
        found = store.commits_by_pk(connection, list(heads.values()))
        sizes = {one.pk: one.commit.size for one in found if one.commit.root is not None}
        return {
            repo: sizes[head] if head in sizes else store.shown_tree(connection, head)[1]
            for repo, head in heads.items()
        }
