"""What all use cases of versioned data share: the stores, the clock, the publisher."""

from __future__ import annotations

import threading
from collections.abc import Callable

from sqlalchemy.engine import Connection

from trunkline.core.clock import Clock
from trunkline.core.ids import DEFAULT_PROJECT
from trunkline.core.paths import Address
from trunkline.errors import StateError
from trunkline.storage.buckets import Buckets
from trunkline.storage.db.engine import Database
from trunkline.storage.objects.base import ObjectStore
from trunkline.versioning import history, keepstore, refs, store, tagstore, trigger_store
from trunkline.versioning.commits import Publisher
from trunkline.versioning.maintenance import Progress
from trunkline.versioning.roots import RootSource
from trunkline.versioning.service.trees import TreeService
from trunkline.versioning.store import BranchRow, RepoRow
from trunkline.versioning.writers import Writers

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
        registry: Writers | None = None,
    ) -> None:
        super().__init__(
            db=db,
            objects=objects,
            clock=clock,
            allow_lookalikes=allow_lookalikes,
            buckets=buckets,
            registry=registry,
        )
        self._publish = publish
        # Only for speed: writers to one repo queue here instead of redoing their work. Truth is the compare-and-swap.
        self._locks = [threading.Lock() for _ in range(_LOCKS)]
        self._roots: tuple[RootSource, ...] = keepstore.ROOTS
        """Every column that refers to a tree; other domains add theirs."""
        self._makers: list[Callable[[str], bool]] = []
        """What can make a damaged tree again."""
        self.progress = Progress()
        with db.write() as connection:
            if store.find_project(connection, DEFAULT_PROJECT) is None:
                store.insert_project(connection, DEFAULT_PROJECT, "", clock.now())

    def _lock_of(self, project: str, repo: str) -> threading.Lock:
        return self._locks[hash((project, repo)) % _LOCKS]

    def _ensure_branch(self, connection: Connection, where: Address, name: str) -> BranchRow:
        repo = refs.need_repo(connection, where.project, where.repo)
        found = store.find_branch(connection, repo, name)
        return found or store.insert_branch(connection, repo, name, self._clock.now())

    def _refuse_followed(self, connection: Connection, branch: BranchRow, *, of_repo: bool = False) -> None:
        """With ``of_repo`` its whole repo goes, and with that all triggers that watch it.

        :raises StateError: ``has_followers``.
        """
        followers = store.downstream_branches(connection, branch.id)
        if followers:
            names = history.named(other.address for other in followers)
            raise StateError(
                f"{names} follows {branch.address}: delete that first, or use --force", kind="has_followers"
            )
        if of_repo:
            return
        waiting = [row.branch_id for row in trigger_store.on_source(connection, branch.id)]
        if waiting:
            names = ", ".join(other.address for other in store.branches_by_id(connection, waiting).values())
            raise StateError(
                f"a trigger of {names} watches {branch.address}: delete that first, or use --force",
                kind="has_followers",
            )

    def _delete_repo(self, connection: Connection, repo: RepoRow, *, force: bool) -> None:
        """With ``force``, what was made from it keeps its commits and loses the links to it."""
        if not force:
            for branch in store.list_branches(connection, repo):
                self._refuse_followed(connection, branch, of_repo=True)
            history.refuse_tagged(
                tagstore.protecting_repo(connection, repo.id),
                subject=f"repo {repo.address}",
                way_out="delete the tag first, or use --force",
            )
        store.delete_repo(connection, repo.id)
