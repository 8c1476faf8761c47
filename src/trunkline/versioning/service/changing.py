"""Changing files: one atomic commit, or a write to the open commit at the branch's head."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from sqlalchemy.engine import Connection

from trunkline.core.ids import DEFAULT_BRANCH, TreeHash
from trunkline.core.paths import Address, parse_address
from trunkline.errors import ConflictError, InvalidInputError, StateError
from trunkline.versioning import commits, refs, staging, store
from trunkline.versioning.model import Change, Commit, CommitStatus
from trunkline.versioning.nodes import EMPTY_ROOT, Ref
from trunkline.versioning.service.base import UseCases
from trunkline.versioning.service.trees import tree_info

ATTEMPTS_MAX = 1000


class Changing(UseCases):
    """Writes to branches and open commits."""

    def modify(
        self,
        project: str,
        address: str,
        changes: Iterable[Change],
        description: str = "",
        *,
        check: Callable[[TreeHash], None] | None = None,
        as_owner: str | None = None,
    ) -> Commit:
        """Apply changes in order, all or none. On a branch whose head is finished, or that does not exist yet: one new,
        finished commit. On a branch with an open head, or an open commit named by its ID: a write into that commit.
        Writers to one branch all land, one after the other. ``check`` sees the tree that is about to be changed: what it
        raises ends the write, and what it has found still holds when the write is done. ``as_owner``: whose repo it may be.

        :raises StateError: ``commit_finished``, ``output_branch`` or ``owned_repo``.
        """
        where = parse_address(address, project)
        if where.ancestors or where.from_root is not None or where.dotted is not None:
            raise InvalidInputError(
                f"{address!r} names an ancestor or a tag; only a branch can be written to", kind="bad_address"
            )
        with self._db.read() as connection:  # fail before the data is read, where that is possible
            self._target(connection, where, as_owner)
        with self._chunks.writer() as writer:
            load = self._nodes.loader(writer.get, writer.get_many)
            steps = staging.ingest(self._built_on(changes, writer), writer, load)
            with self._lock_of(where.project, where.repo):
                for _ in range(ATTEMPTS_MAX):
                    with self._db.read() as connection:
                        target, base = self._target(connection, where, as_owner)
                    if check is not None:
                        check(TreeHash(base.hex()))
                    ref = staging.apply(steps, base, writer, load, lookalikes=self._lookalikes)
                    writer.finish()
                    with self._db.write() as connection:
                        if self._target(connection, where, as_owner) == (target, base):
                            return self._write(connection, where, target, ref, description, as_owner)
        raise ConflictError(
            f"{address}: other writers were faster {ATTEMPTS_MAX} times; try again", kind="busy"
        )

    def _target(
        self, connection: Connection, where: Address, as_owner: str | None = None
    ) -> tuple[int | None, bytes]:
        """The commit that is to be written into or on (None: there is none yet), and the tree that it shows."""
        repo = refs.need_repo(connection, where.project, where.repo)
        if where.commit is not None:
            found = refs.find(connection, where)
            if found.commit.status is CommitStatus.FINISHED:
                raise StateError(
                    f"commit {found.commit.address} is finished and cannot be changed: write to its branch instead",
                    kind="commit_finished",
                )
            pk: int | None = found.pk
            branch = store.find_branch(connection, repo, found.commit.branch)
        else:
            branch = store.find_branch(connection, repo, where.branch or DEFAULT_BRANCH)
            pk = branch.head if branch else None
        is_owner = as_owner is not None and repo.owner == as_owner
        if branch is not None:
            if not is_owner or (where.commit is None and store.upstream_branches(connection, branch.id)):
                commits.refuse_written(connection, branch, pk)
        elif not is_owner:
            commits.refuse_owned(repo, "its files cannot be changed by hand; change its input instead")
        if branch is None:
            refs.refuse_tag(connection, repo, where.branch or DEFAULT_BRANCH)
        root = store.shown_tree(connection, pk)[0]
        return pk, EMPTY_ROOT if root is None else bytes.fromhex(root)

    def _write(
        self,
        connection: Connection,
        where: Address,
        pk: int | None,
        ref: Ref,
        description: str,
        as_owner: str | None,
    ) -> Commit:
        tree = tree_info(ref)
        present = None if pk is None else store.commit_by_pk(connection, pk)
        if present is not None and present.commit.status is CommitStatus.OPEN:
            done = store.write_tree(
                connection,
                present.pk,
                old_root=present.commit.root,
                root=tree.root,
                size=tree.size,
                file_count=tree.file_count,
            )
            assert done  # _target said so in this transaction
            return store.commit_by_pk(connection, present.pk).commit
        branch = self._ensure_branch(connection, where, where.branch or DEFAULT_BRANCH)
        now = self._clock.now()
        is_owner = as_owner is not None and branch.repo.owner == as_owner
        commit = commits.commit_aside if is_owner else commits.commit_whole
        return commit(connection, self._publish, branch, tree, description, now).commit
