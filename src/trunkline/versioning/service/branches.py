"""Branches: names that move from commit to commit."""

from __future__ import annotations

from sqlalchemy.engine import Connection

from trunkline.core.ids import check_name
from trunkline.core.paths import parse_address
from trunkline.errors import AlreadyExistsError, InvalidInputError
from trunkline.versioning import commits, refs, store
from trunkline.versioning.model import Branch
from trunkline.versioning.service.base import UseCases
from trunkline.versioning.store import BranchRow


class Branches(UseCases):
    """Branches of a repo."""

    def create_branch(self, project: str, address: str, *, head: str | None = None) -> Branch:
        """A new branch, or an existing one moved to ``head`` (a commit of the same repo: an address, or a branch or ID alone).

        :raises AlreadyExistsError: ``branch_exists``, without ``head``.
        """
        where, name = refs.parse_branch(project, address)
        check_name("branch", name)
        with self._db.write() as connection:
            repo = refs.need_repo(connection, where.project, where.repo)
            branch = store.find_branch(connection, repo, name)
            if branch is None:
                branch = store.insert_branch(connection, repo, name, self._clock.now())
            elif head is None:
                raise AlreadyExistsError(f"there is a branch {branch.address} already", kind="branch_exists")
            elif store.upstream_branches(connection, branch.id):
                commits.refuse_output(connection, branch, "its head cannot be moved by hand")
            else:
                commits.refuse_open(connection, branch)
            if head is not None:
                text = head if "@" in head or ":" in head else f"{repo.address}@{head}"
                target = refs.find(connection, parse_address(text, where.project))
                if target.repo_id != repo.id:
                    raise InvalidInputError(
                        f"{head!r} is not a commit of repo {repo.address}", kind="other_repo"
                    )
                commits.move_head(connection, self._publish, branch, target, self._clock.now())
        return self.inspect_branch(where.project, f"{repo.address}@{name}")

    def list_branches(self, project: str, repo: str) -> list[Branch]:
        with self._db.read() as connection:
            row = refs.need_repo(connection, project, repo)
            return [self._branch(connection, branch) for branch in store.list_branches(connection, row)]

    def inspect_branch(self, project: str, address: str) -> Branch:
        """:raises NotFoundError: ``no_branch``."""
        where, name = refs.parse_branch(project, address)
        with self._db.read() as connection:
            repo = refs.need_repo(connection, where.project, where.repo)
            return self._branch(connection, refs.need_branch(connection, repo, name))

    def delete_branch(self, project: str, address: str, *, force: bool = False) -> None:
        """The branch goes, its commits stay. :raises StateError: ``has_followers`` unless ``force``; ``output_branch``."""
        where, name = refs.parse_branch(project, address)
        with self._db.write() as connection:
            repo = refs.need_repo(connection, where.project, where.repo)
            branch = refs.need_branch(connection, repo, name)
            if store.upstream_branches(connection, branch.id):
                commits.refuse_output(connection, branch, "it cannot be deleted by hand")
            if not force:
                self._refuse_followed(connection, branch)
            store.delete_branch(connection, branch.id)

    def _branch(self, connection: Connection, row: BranchRow) -> Branch:
        return Branch(
            project=row.repo.project,
            repo=row.repo.name,
            name=row.name,
            head=None if row.head is None else store.commit_by_pk(connection, row.head).commit.id,
            provenance=tuple(other.address for other in store.upstream_branches(connection, row.id)),
            created_at=row.created_at,
        )
