"""The use cases of versioned data: check, decide, write. One module per noun; this one puts them together."""

from __future__ import annotations

from typing import Any

from trunkline.core.ids import TreeHash
from trunkline.core.paths import parse_address
from trunkline.errors import NotFoundError
from trunkline.versioning import refs, store
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
from trunkline.versioning.service.purging import Purging
from trunkline.versioning.service.repos import Repos
from trunkline.versioning.service.tags import Tags
from trunkline.versioning.service.transactions import TransactionService, UseCase
from trunkline.versioning.service.uploads import Uploads

__all__ = ["Publisher", "TransactionService", "VersioningService"]


class VersioningService(
    Projects,
    Repos,
    Branches,
    Uploads,
    Commits,
    Changing,
    Linking,
    OwnedRepos,
    History,
    Merging,
    Tags,
    Purging,
):
    """Projects, repos, branches, commits, and the trees behind them.

    Addresses are strings: ``[project/]repo@branch|ID|branch=ID[^…|^N|.N][:path]``; ``project`` is the one meant where the
    address names none. A tag stands wherever a branch or ID does for reading. Events published: ``commit.finished``
    ``{project, repo, branch, id, error}`` and, with the same keys, ``commit.opened`` (for AUTO commits), ``commit.squashed``
    and ``commit.dropped``, each in the transaction that makes it true.
    """

    def resolve(self, project: str, address: str) -> tuple[Commit, TreeHash, str]:
        """The commit, the tree that it shows and the path that an address names (``/`` if it names none).

        A commit that failed, or that a job has not finished, shows its nearest good ancestor's tree.

        :raises NotFoundError: ``purged``, where the path is gone because it was purged; other paths need not be there.
        """
        where = parse_address(address, project)
        with self._db.read() as connection:
            found = refs.find(connection, where)
            root = store.shown_tree(connection, found.pk)[0] or TreeHash(EMPTY_ROOT.hex())
        path = where.path or "/"
        gone = self._purged(where.project, where.repo, path) if path != "/" else None
        if gone is not None and not self._has(root, path):
            raise gone
        return found.commit, root, path

    def _has(self, root: TreeHash, path: str) -> bool:
        try:
            return self.stat(root, path) is not None
        except NotFoundError:
            return False

    def transaction_cases(self) -> dict[str, UseCase]:
        """The use cases that touch only refs, so that transactions can gather them; their arguments are plain values."""

        def create_branch(*, trigger: dict[str, Any] | None = None, **arguments: Any) -> Branch:
            made = None if trigger is None else Trigger(**trigger)
            return self.create_branch(**arguments, trigger=made)

        return {
            "create_repo": self.create_repo, "delete_repo": self.delete_repo, "create_branch": create_branch,
            "delete_branch": self.delete_branch, "start_commit": self.start_commit,
            "finish_commit": self.finish_commit, "squash": self.squash,
            "create_tag": self.create_tag, "delete_tag": self.delete_tag,
        }  # fmt: skip
