"""What all use cases of versioned data share: the stores, the clock, the publisher."""

from __future__ import annotations

import threading

from sqlalchemy.engine import Connection

from trunkline.core.clock import Clock
from trunkline.core.paths import Address
from trunkline.errors import StateError
from trunkline.storage.buckets import Buckets
from trunkline.storage.db.engine import Database
from trunkline.storage.objects.base import ObjectStore
from trunkline.versioning import refs, store
from trunkline.versioning.commits import Publisher
from trunkline.versioning.service.trees import TreeService
from trunkline.versioning.store import BranchRow, RepoRow

_LOCKS = 64


class UseCases(TreeService):
    """The base of every group of use cases."""

    def __init__(
        self,
        *,
        db: Database,
        objects: ObjectStore,
        clock: Clock,
        publish: Publisher,
        allow_lookalikes: bool = False,
        buckets: Buckets | None = None,
    ) -> None:
        super().__init__(
            db=db, objects=objects, clock=clock, allow_lookalikes=allow_lookalikes, buckets=buckets
        )
        self._publish = publish
        # Only for speed: writers to one repo queue here instead of redoing their work. Truth is the compare-and-swap.
        self._locks = [threading.Lock() for _ in range(_LOCKS)]

    def _lock_of(self, project: str, repo: str) -> threading.Lock:
        return self._locks[hash((project, repo)) % _LOCKS]

    def _ensure_branch(self, connection: Connection, where: Address, name: str) -> BranchRow:
        repo = refs.need_repo(connection, where.project, where.repo)
        found = store.find_branch(connection, repo, name)
        return found or store.insert_branch(connection, repo, name, self._clock.now())

    def _refuse_followed(self, connection: Connection, branch: BranchRow) -> None:
        followers = store.downstream_branches(connection, branch.id)
        if followers:
            names = ", ".join(other.address for other in followers)
            raise StateError(
                f"{names} follows {branch.address}: delete that first, or use --force", kind="has_followers"
            )

    def _delete_repo(self, connection: Connection, repo: RepoRow, *, force: bool) -> None:
        for branch in store.list_branches(connection, repo):
            if not force:
                self._refuse_followed(connection, branch)
        store.delete_repo(connection, repo.id)
