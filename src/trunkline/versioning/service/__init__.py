"""The use cases of versioned data: check, decide, write. One module per noun; this one puts them together."""

from __future__ import annotations

from typing import Any

from trunkline.core.clock import Clock
from trunkline.core.ids import DEFAULT_PROJECT, TreeHash
from trunkline.core.paths import parse_address
from trunkline.storage.buckets import Buckets
from trunkline.storage.db.engine import Database
from trunkline.storage.objects.base import ObjectStore
from trunkline.versioning import fsck, refs, store
from trunkline.versioning.commits import Publisher
from trunkline.versioning.model import Branch, Commit, Trigger
from trunkline.versioning.nodes import EMPTY_ROOT
from trunkline.versioning.service.branches import Branches
from trunkline.versioning.service.changing import Changing
from trunkline.versioning.service.commits import Commits
from trunkline.versioning.service.history import History
from trunkline.versioning.service.linking import Linking
from trunkline.versioning.service.merging import Merging
from trunkline.versioning.service.owned import OwnedRepos
from trunkline.versioning.service.projects import Projects
from trunkline.versioning.service.repos import Repos
from trunkline.versioning.service.tags import Tags
from trunkline.versioning.service.transactions import TransactionService, UseCase
from trunkline.versioning.service.uploads import Uploads

__all__ = ["Publisher", "TransactionService", "VersioningService"]


class VersioningService(
    Projects, Repos, Branches, Uploads, Commits, Changing, Linking, OwnedRepos, History, Merging, Tags
):
    """Projects, repos, branches, commits, and the trees behind them.

    Addresses are strings: ``[project/]repo@branch|ID|branch=ID[^…|^N|.N][:path]``; ``project`` is the one meant where the
    address names none. A tag stands wherever a branch or ID does for reading. Events published: ``commit.finished``
    ``{project, repo, branch, id, error}`` and, with the same keys, ``commit.opened`` (for AUTO commits), ``commit.squashed``
    and ``commit.dropped``, each in the transaction that makes it true.
    """

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
            db=db,
            objects=objects,
            clock=clock,
            publish=publish,
            allow_lookalikes=allow_lookalikes,
            buckets=buckets,
        )
        with db.write() as connection:
            if store.find_project(connection, DEFAULT_PROJECT) is None:
                store.insert_project(connection, DEFAULT_PROJECT, "", clock.now())

    def resolve(self, project: str, address: str) -> tuple[Commit, TreeHash, str]:
        """The commit, the tree that it shows and the path that an address names (``/`` if it names none).

        A commit that failed, or that a job has not finished, shows its nearest good ancestor's tree.
        """
        where = parse_address(address, project)
        with self._db.read() as connection:
            found = refs.find(connection, where)
            root = store.shown_tree(connection, found.pk)[0]
        return found.commit, root or TreeHash(EMPTY_ROOT.hex()), where.path or "/"

    def transaction_cases(self) -> dict[str, UseCase]:
        """The use cases that touch only refs, so that transactions can gather them; their arguments are plain values."""

        def create_branch(*, trigger: dict[str, Any] | None = None, **arguments: Any) -> Branch:
            made = None if trigger is None else Trigger(**trigger)
            return self.create_branch(**arguments, trigger=made)

        return {
            "create_repo": self.create_repo, "delete_repo": self.delete_repo, "create_branch": create_branch,
            "delete_branch": self.delete_branch, "start_commit": self.start_commit,
            "finish_commit": self.finish_commit, "squash": self.squash,
        }  # fmt: skip

    def fsck(self) -> list[fsck.Problem]:
        """Walk everything that commits refer to and verify it; what is lost or damaged, and what needs it."""
        return fsck.check(self._db, self._objects, self._chunks)

    def reindex(self) -> int:
        """Learn from the packs what the database does not know of them; returns how many packs were new."""
        return fsck.reindex(self._db, self._objects, self._clock)
