"""Following a branch: its commits one after the other, as they come, each once."""

from __future__ import annotations

from collections import deque
from itertools import islice

from sqlalchemy.engine import Connection

from trunkline.core.paths import Address
from trunkline.storage.db.engine import Database
from trunkline.versioning import lineage, refs, store
from trunkline.versioning.model import Commit, CommitStatus, Origin

COMMITS_PER_LOOK = 200


class Following:
    """Where somebody stands on a branch. ``next()`` returns what has come since, the oldest first.

    ``after``: the ID of a commit of the repo, seen before: only what is newer counts. ``finished``: give a commit out when it is
    finished, and those after it not before; else as soon as it is there. The history that was there before is looked up once;
    after that each look costs what is new.

    :raises NotFoundError: ``no_branch`` or ``no_commit``; from ``next()``, too, if the branch was deleted.
    """

    def __init__(
        self,
        db: Database,
        where: Address,
        branch: str,
        *,
        after: str | None = None,
        finished: bool = True,
        origin: Origin | None = None,
    ) -> None:
        self._db = db
        self._where = where
        self._branch = branch
        self._finished = finished
        self._origin = origin
        self._waiting: deque[int] = deque()
        self._last: int | None = None
        with db.read() as connection:
            repo = refs.need_repo(connection, where.project, where.repo)
            refs.need_branch(connection, repo, branch)
            if after is not None:
                self._last = refs.need_commit(connection, repo, after).pk

    def next(self) -> list[Commit]:
        """The commits that have come, at most some hundreds at a time; none: nothing new yet."""
        with self._db.read() as connection:
            self._look(connection)
            first = list(islice(self._waiting, COMMITS_PER_LOOK))
            present = {one.pk: one.commit for one in store.commits_by_pk(connection, first)}
        given: list[Commit] = []
        for pk in first:
            commit = present.get(pk)
            if commit is not None and self._finished and commit.status is not CommitStatus.FINISHED:
                break
            self._waiting.popleft()
            if commit is not None and (self._origin is None or commit.origin is self._origin):
                given.append(commit)
        return given

    def _look(self, connection: Connection) -> None:
        repo = refs.need_repo(connection, self._where.project, self._where.repo)
        head = refs.need_branch(connection, repo, self._branch).head
        if head is not None and (self._last is None or head > self._last):
            self._waiting.extend(lineage.newer(connection, head, self._last))
            self._last = head
