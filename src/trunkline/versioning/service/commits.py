"""Commits and commit sets."""

from __future__ import annotations

from sqlalchemy.engine import Connection

from trunkline.core.ids import CommitId, is_commit_id
from trunkline.core.paths import parse_address
from trunkline.errors import NotFoundError
from trunkline.versioning import commits, refs, store
from trunkline.versioning.model import Commit, CommitSet
from trunkline.versioning.service.base import UseCases


class Commits(UseCases):
    """Beginning, ending and listing commits."""

    def start_commit(self, project: str, address: str, description: str = "") -> Commit:
        """Open a commit on a branch, which is created if it does not exist.

        :raises StateError: ``parent_open``; ``output_branch`` or ``owned_repo``.
        """
        where, name = refs.parse_branch(project, address)
        with self._db.write() as connection:
            branch = self._ensure_branch(connection, where, name)
            started = commits.start(connection, self._publish, branch, description, self._clock.now())
        return started.commit

    def finish_commit(self, project: str, address: str, description: str | None = None) -> Commit:
        """:raises StateError: ``commit_finished``; ``output_branch`` for a commit that a job finishes."""
        with self._db.write() as connection:
            found = refs.find(connection, parse_address(address, project))
            return commits.finish(connection, self._publish, found, description, self._clock.now()).commit

    def inspect_commit(self, project: str, address: str) -> Commit:
        """:raises NotFoundError: ``no_commit`` and its like."""
        with self._db.read() as connection:
            return refs.find(connection, parse_address(address, project)).commit

    def list_commits(
        self,
        project: str,
        repo: str,
        *,
        branch: str | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> list[Commit]:
        """Newest first; of a branch (or a commit's ID): its head and the head's ancestors. ``after``: the ID of the commit
        that was listed last.

        :raises NotFoundError: ``no_commit``, if there is no commit ``after``.
        """
        with self._db.read() as connection:
            row = refs.need_repo(connection, project, repo)
            last = None if after is None else refs.need_commit(connection, row, after)
            if branch is None:
                listed = store.list_commits(connection, row.id, limit, None if last is None else last.pk)
                return [found.commit for found in listed]
            if is_commit_id(branch):
                head: int | None = refs.need_commit(connection, row, branch).pk
            else:
                head = refs.head_of(connection, row, branch)
            start = head if last is None else last.parent_pk
            return [] if start is None else [one.commit for one in store.history(connection, start, limit)]

    def list_commit_sets(self, *, limit: int = 100, after: str | None = None) -> list[CommitSet]:
        """Newest first, by their beginning. ``after``: the ID that was listed last.

        :raises NotFoundError: ``no_commit``, if there is no commit set ``after``.
        """
        with self._db.read() as connection:
            before = None if after is None else store.first_with_id(connection, after)
            if after is not None and before is None:
                raise _no_commit_set(after)
            ids = store.recent_ids(connection, limit, before)
            return [self._commit_set(connection, found) for found in ids]

    def inspect_commit_set(self, commit_id: str) -> CommitSet:
        """:raises NotFoundError: ``no_commit``."""
        with self._db.read() as connection:
            return self._commit_set(connection, CommitId(commit_id))

    def _commit_set(self, connection: Connection, commit_id: CommitId) -> CommitSet:
        found = tuple(each.commit for each in store.commits_with_id(connection, commit_id))
        if not found:
            raise _no_commit_set(commit_id)
        return CommitSet(id=commit_id, commits=found, created_at=min(commit.created_at for commit in found))


def _no_commit_set(commit_id: str) -> NotFoundError:
    return NotFoundError(f"there is no commit set {commit_id!r}", kind="no_commit", details={"id": commit_id})
