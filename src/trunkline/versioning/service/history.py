"""Changing and searching history: squash, drop, find."""

from __future__ import annotations

from sqlalchemy.engine import Connection

from trunkline.core.ids import CommitId, is_commit_id
from trunkline.core.paths import parse_address
from trunkline.errors import InvalidInputError, NotFoundError
from trunkline.versioning import finding, history, historystore, refs, store
from trunkline.versioning.model import FoundCommit, Removed
from trunkline.versioning.service.base import UseCases
from trunkline.versioning.store import StoredCommit

BATCH_COMMITS_MIN = 4
BATCH_COMMITS_MAX = 64
"""So many commits' trees are read together; few at first, since few may be wanted."""
SEARCHED_MAX = 4096
"""So many commits are looked at in one call, so that none takes long; the caller goes on from there."""


class History(UseCases):
    """``address`` may also be an ID alone: then the whole commit set is meant."""

    def squash(self, project: str, address: str, *, recursive: bool = False) -> Removed:
        """Take a commit out, whose children stay and show what they showed. ``recursive``: also what was made from it.

        :raises StateError: ``no_child``, ``child_open``, ``commit_open``, ``is_head``, ``has_subvenance`` or ``tagged``.
        """
        with self._db.write() as connection:
            chosen = _chosen(connection, project, address)
            return history.squash(connection, self._publish, chosen, recursive=recursive)

    def drop(self, project: str, address: str, *, recursive: bool = False) -> Removed:
        """Take a commit out that has no children, open or finished; heads fall back to its parent. ``recursive``: also what
        was made from it.

        :raises StateError: ``has_children``, ``has_subvenance`` or ``tagged``.
        """
        with self._db.write() as connection:
            chosen = _chosen(connection, project, address)
            now = self._clock.now()
            return history.drop(connection, self._publish, chosen, recursive=recursive, now=now)

    def find_commits(
        self,
        project: str,
        address: str,
        *,
        since: str | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> tuple[list[FoundCommit], CommitId | None]:
        """The commits among an address's commit and its ancestors that added, deleted or changed its path (a file or a
        directory), newest first, and from where on more may be found (None: that was all). At most ``limit``, and no more
        than were found in ``SEARCHED_MAX`` commits. ``since``: only commits after this one. ``after``: where an earlier call
        ended.

        :raises InvalidInputError: ``no_path``.
        """
        where = parse_address(address, project)
        if where.path is None:
            raise InvalidInputError(f"{address!r} names no path: write repo@branch:/path", kind="no_path")
        with self._db.read() as connection:
            start: int | None = refs.find(connection, where).pk
            repo = refs.need_repo(connection, where.project, where.repo)
            last = (
                None
                if since is None
                else refs.find(connection, parse_address(_in(repo.address, since), project))
            )
            if after is not None:
                start = refs.need_commit(connection, repo, after).parent_pk
        return self._find(start, where.path, None if last is None else last.pk, limit)

    def _find(
        self, start: int | None, path: str, oldest: int | None, limit: int
    ) -> tuple[list[FoundCommit], CommitId | None]:
        found: list[FoundCommit] = []
        searched, batch = 0, BATCH_COMMITS_MIN
        while start is not None and (oldest is None or start > oldest):
            with self._db.read() as connection:
                steps = historystore.steps_up(connection, start, batch)
                above = store.shown_tree(connection, steps[-1].parent)[0] if steps else None
            batch = min(2 * batch, BATCH_COMMITS_MAX)
            looked = finding.touches(
                self._load, steps, above, path, lambda step: oldest is not None and step.pk <= oldest
            )
            for step, touch in zip(steps, looked, strict=False):
                searched += 1
                start = step.parent
                if touch is not None and (known := self._found(touch)) is not None:
                    found.append(known)
                is_end = start is None or (oldest is not None and start <= oldest)
                if len(found) >= limit or searched >= SEARCHED_MAX:
                    return found, None if is_end else step.id
            if not steps:
                break  # dropped meanwhile
        return found, None

    def _found(self, touch: finding.Touch) -> FoundCommit | None:
        """None if it was squashed or dropped meanwhile."""
        with self._db.read() as connection:
            known = store.commits_by_pk(connection, [touch.pk])
        return next(
            (FoundCommit(commit=one.commit, op=touch.op, old=touch.old, new=touch.new) for one in known), None
        )


def _chosen(connection: Connection, project: str, address: str) -> list[StoredCommit]:
    if is_commit_id(address):
        chosen = store.commits_with_id(connection, address)
        if not chosen:
            raise NotFoundError(
                f"there is no commit set {address!r}", kind="no_commit", details={"id": address}
            )
        return chosen
    where = parse_address(address, project)
    if where.path is not None:
        raise InvalidInputError(f"{address!r} names a path; a commit is meant here", kind="bad_address")
    if where.branch is None and where.commit is None:
        raise InvalidInputError(
            f"{address!r} names no commit: write repo@branch-or-ID, or an ID", kind="bad_address"
        )
    found = refs.find(connection, where)
    if (
        where.commit is not None
        and not where.ancestors
        and found.commit.id != where.commit
        and not where.from_root
    ):
        raise NotFoundError(  # an ID leads to what it was made from: good for reading, too easy to err for this
            f"there is no commit {where.commit} in repo {where.project}/{where.repo}; "
            f"if you mean what it was made from, name {found.commit.address}",
            kind="no_commit",
        )
    return [found]


def _in(repo: str, commit: str) -> str:
    return commit if "@" in commit or ":" in commit else f"{repo}@{commit}"
