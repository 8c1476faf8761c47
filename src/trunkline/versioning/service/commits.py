"""Commits and commit sets."""

from __future__ import annotations

from typing import Any

from sqlalchemy.engine import Connection

from trunkline.core.ids import CommitId, is_commit_id, is_name
from trunkline.core.paths import parse_address
from trunkline.errors import InvalidInputError, NotFoundError
from trunkline.versioning import commits, lineage, refs, store
from trunkline.versioning.model import Commit, CommitDetails, CommitSet, Origin
from trunkline.versioning.service.base import UseCases
from trunkline.versioning.service.following import Following
from trunkline.versioning.store import RepoRow, StoredCommit

SUBVENANCE_MAX = 1000
"""How much of what was made from a commit is shown with it."""
HISTORY_CHUNK = 500


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

    def describe_commit(self, project: str, address: str) -> CommitDetails:
        """A commit with all that it was made from and what was made from it.

        :raises NotFoundError: ``no_commit`` and its like.
        """
        with self._db.read() as connection:
            found = refs.find(connection, parse_address(address, project))
            above = store.commits_by_pk(connection, sorted(lineage.upstream_of(connection, found.pk)))
            keys = sorted(lineage.downstream_of(connection, found.pk, SUBVENANCE_MAX + 1))
            below = store.commits_by_pk(connection, keys[:SUBVENANCE_MAX])
        return CommitDetails(
            **vars(found.commit),
            all_provenance=tuple(one.commit.address for one in above),
            all_subvenance=tuple(one.commit.address for one in below),
            has_more_subvenance=len(keys) > SUBVENANCE_MAX,
        )

    def list_commits(
        self,
        project: str,
        repo: str,
        *,
        branch: str | None = None,
        limit: int = 100,
        after: str | None = None,
        since: str | None = None,
        origin: Origin | None = None,
    ) -> list[Commit]:
        """Newest first; of a branch (or a commit's ID, or either with ``^``, ``^3`` or ``.1``): that commit and its
        ancestors. ``since``: only what is newer than this commit. ``after``: the ID of the commit that was listed last.

        :raises NotFoundError: ``no_commit``, if there is no commit ``after`` or ``since``.
        """
        with self._db.read() as connection:
            row = refs.need_repo(connection, project, repo)
            last = None if after is None else refs.need_commit(connection, row, after)
            first = None if since is None else self._at(connection, row, since).pk
            if branch is None:
                before = None if last is None else last.pk
                listed = store.list_commits(connection, row.id, limit, before, since=first, origin=origin)
                return [found.commit for found in listed]
            if last is not None:
                start = last.parent_pk
            elif is_name(branch) and not is_commit_id(branch):
                start = refs.head_of(connection, row, branch)  # which may have no commits yet
            else:
                start = self._at(connection, row, branch).pk
            return self._history(connection, start, limit, first, origin)

    def _at(self, connection: Connection, repo: RepoRow, ref: str) -> StoredCommit:
        """What comes after the ``@`` of an address."""
        text = ref if "@" in ref else f"{repo.address}@{ref}"
        found = refs.find(connection, parse_address(text, repo.project))
        if found.repo_id != repo.id:
            raise InvalidInputError(f"{ref!r} is not a commit of repo {repo.address}", kind="other_repo")
        return found

    def _history(
        self, connection: Connection, start: int | None, limit: int, since: int | None, origin: Origin | None
    ) -> list[Commit]:
        found: list[Commit] = []
        while start is not None and len(found) < limit:
            chunk = store.history(connection, start, limit if origin is None else max(limit, HISTORY_CHUNK))
            newer = [one for one in chunk if since is None or one.pk > since]
            found += [one.commit for one in newer if origin is None or one.commit.origin is origin]
            start = chunk[-1].parent_pk if len(newer) == len(chunk) else None
        return found[:limit]

    def follow_commits(self, project: str, address: str, **choice: Any) -> Following:
        """A branch's commits as they come; ``choice`` as in ``Following``.

        :raises NotFoundError: ``no_branch`` or ``no_commit``.
        """
        where, name = refs.parse_branch(project, address)
        return Following(self._db, where, name, **choice)

    def list_commit_sets(self, *, limit: int = 100, after: str | None = None) -> list[CommitSet]:
        """Newest first, by their beginning. ``after``: the ID that was listed last.

        :raises NotFoundError: ``no_commit``, if there is no commit set ``after``.
        """
        with self._db.read() as connection:
            before = None if after is None else store.first_with_id(connection, after)
            if after is not None and before is None:
                raise _no_commit_set(after)
            ids = store.recent_ids(connection, limit, before)
            found: dict[str, list[Commit]] = {commit_id: [] for commit_id in ids}
            for one in store.commits_with_id(connection, *ids):
                found[one.commit.id].append(one.commit)
        return [_set_of(CommitId(commit_id), commits_of) for commit_id, commits_of in found.items()]

    def inspect_commit_set(self, commit_id: str) -> CommitSet:
        """:raises NotFoundError: ``no_commit``."""
        with self._db.read() as connection:
            found = [each.commit for each in store.commits_with_id(connection, commit_id)]
        if not found:
            raise _no_commit_set(commit_id)
        return _set_of(CommitId(commit_id), found)


def _set_of(commit_id: CommitId, found: list[Commit]) -> CommitSet:
    created_at = min(commit.created_at for commit in found)
    return CommitSet(id=commit_id, commits=tuple(found), created_at=created_at)


def _no_commit_set(commit_id: str) -> NotFoundError:
    return NotFoundError(f"there is no commit set {commit_id!r}", kind="no_commit", details={"id": commit_id})
