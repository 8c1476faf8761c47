"""Repos that belong to a pipeline: for the domains above, inside their own transaction."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager

from sqlalchemy.engine import Connection

from trunkline.core.ids import CommitId, ProjectName, RepoName, check_name, new_commit_id
from trunkline.core.paths import Address
from trunkline.errors import AlreadyExistsError, StateError
from trunkline.versioning import commits, refs, spread, store
from trunkline.versioning.model import Commit, TreeInfo
from trunkline.versioning.nodes import EMPTY_ROOT
from trunkline.versioning.service.base import UseCases
from trunkline.versioning.store import RepoRow


class OwnedRepos(UseCases):
    """Output repos, their provenance and their commits."""

    def create_owned_repo(
        self, connection: Connection, project: str, name: str, owner: str, description: str
    ) -> None:
        """Of a repo that was kept when this owner went, it becomes the owner again.

        :raises AlreadyExistsError: ``repo_exists``, if it is somebody else's. :raises StateError: ``parent_open``.
        """
        check_name("repo", name)
        refs.need_project(connection, project)
        repo = store.find_repo(connection, project, name)
        if repo is None:
            store.insert_repo(connection, project, name, description, owner, self._clock.now())
        elif owner in (repo.owner, repo.former_owner):
            for branch in store.list_branches(connection, repo) if repo.owner is None else ():
                commits.refuse_open(connection, branch)
            store.set_owner(connection, repo.id, owner)
            store.describe_repo(connection, repo.id, description)
        else:
            raise AlreadyExistsError(
                f"there is a repo {name!r} in project {project!r} already, so {owner.replace(':', ' ')} cannot put its "
                "output there: choose another name",
                kind="repo_exists",
            )

    def delete_owned_repo(
        self, connection: Connection, project: str, name: str, owner: str, *, force: bool = False
    ) -> None:
        """:raises StateError: ``owned_repo`` if it is somebody else's; ``has_followers`` or ``tagged`` unless ``force``."""
        self._delete_repo(connection, self._owned(connection, project, name, owner), force=force)

    def release_owned_repo(self, connection: Connection, project: str, name: str, owner: str) -> None:
        """Its owner goes, the repo stays, and may be written to and deleted like any other.

        :raises StateError: ``owned_repo`` if it is somebody else's.
        """
        repo = self._owned(connection, project, name, owner)
        store.set_owner(connection, repo.id, owner, is_gone=True)

    def _owned(self, connection: Connection, project: str, name: str, owner: str) -> RepoRow:
        repo = refs.need_repo(connection, project, name)
        if repo.owner != owner:
            raise StateError(f"repo {repo.address} does not belong to {owner}", kind="owned_repo")
        return repo

    @contextmanager
    def together(self, connection: Connection) -> Iterator[None]:
        """What changes in the block has one ID, and spreads once, at its end; as in a transaction, also inside of one."""
        if spread.is_gathered(connection):
            yield
            return
        with spread.gathered(connection, self._publish, new_commit_id(), self._clock.now()):
            yield

    def set_provenance(
        self,
        connection: Connection,
        project: str,
        repo: str,
        branch: str,
        upstream: Iterable[str],
        *,
        commit_id: CommitId,
        quiet: Collection[str] = (),
    ) -> None:
        """Make ``repo@branch`` follow the upstream branches, and open an AUTO commit of the given ID on it and on all that
        follows from it in turn. An upstream branch that does not exist yet is created, empty. Following nothing opens nothing.
        A new commit on one that is ``quiet`` opens none here by itself: it is taken up with the next one of another.

        :raises InvalidInputError: ``provenance_cycle`` or ``two_branches``.
        """
        check_name("branch", branch)
        where = Address(project=ProjectName(project), repo=RepoName(repo))
        row = self._ensure_branch(connection, where, branch)
        commits.set_provenance(
            connection, self._publish, row, upstream, commit_id, self._clock.now(), quiet=quiet
        )

    def inputs_of(self, connection: Connection, project: str, repo: str, commit_id: str) -> dict[str, Commit]:
        """The direct upstream commits of a commit, by ``project/repo@branch``; a branch that was empty then is left out."""
        return commits.inputs_of(connection, commits.output_commit(connection, project, repo, commit_id))

    def begin_output(self, connection: Connection, project: str, repo: str, commit_id: str) -> None:
        """From now on an AUTO commit, which is open, holds what is written to it, and nothing of its parent's.

        :raises NotFoundError: ``no_commit``. :raises StateError: ``commit_finished``.
        """
        found = commits.output_commit(connection, project, repo, commit_id)
        if not store.write_tree(
            connection, found.pk, old_root=found.commit.root, root=EMPTY_ROOT.hex(), size=0, file_count=0
        ):
            raise StateError(f"commit {found.commit.address} is finished already", kind="commit_finished")

    def finish_output(
        self,
        connection: Connection,
        project: str,
        repo: str,
        commit_id: str,
        *,
        tree: TreeInfo | None,
        error: str | None,
    ) -> None:
        """Finish an AUTO commit with a job's result; with ``error``, its tree stays its parent's and readers skip it.

        :raises StateError: ``commit_finished`` if it is finished already.
        """
        found = commits.output_commit(connection, project, repo, commit_id)
        commits.finish_output(connection, self._publish, found, tree, error, self._clock.now())

    def commit_aside(
        self,
        connection: Connection,
        project: str,
        repo: str,
        branch: str,
        *,
        tree: TreeInfo,
        description: str,
    ) -> Commit | None:
        """A commit of the owner's own on a branch that follows nothing. None if the branch shows that tree already."""
        where = Address(project=ProjectName(project), repo=RepoName(repo))
        row = self._ensure_branch(connection, where, branch)
        root, _, _ = store.shown_tree(connection, row.head)
        if tree.root == root or (root is None and not tree.file_count):
            return None
        return commits.commit_aside(
            connection, self._publish, row, tree, description, self._clock.now()
        ).commit
