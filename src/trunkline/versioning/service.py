"""The use cases of versioned data: check, decide, write."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from sqlalchemy.engine import Connection

from trunkline.core.clock import Clock
from trunkline.core.ids import (
    DEFAULT_BRANCH,
    DEFAULT_PROJECT,
    CommitId,
    ProjectName,
    RepoName,
    TreeHash,
    check_name,
    is_commit_id,
)
from trunkline.core.paths import Address, parse_address
from trunkline.errors import (
    AlreadyExistsError,
    ConflictError,
    InvalidInputError,
    NotFoundError,
    StateError,
)
from trunkline.storage.db.engine import Database
from trunkline.storage.objects.base import ObjectStore
from trunkline.versioning import commits, fsck, refs, staging, store
from trunkline.versioning.commits import Publisher
from trunkline.versioning.model import (
    Branch,
    Change,
    Commit,
    CommitSet,
    CommitStatus,
    Project,
    Repo,
    TreeInfo,
)
from trunkline.versioning.nodes import EMPTY_ROOT, Ref
from trunkline.versioning.store import BranchRow, RepoRow
from trunkline.versioning.treeservice import TreeService, tree_info

__all__ = ["Publisher", "VersioningService"]

ATTEMPTS_MAX = 1000
_LOCKS = 64


class VersioningService(TreeService):
    """Projects, repos, branches, commits, and the trees behind them.

    Addresses are strings: ``[project/]repo@branch|ID|branch=ID[^…|^N|.N][:path]``; ``project`` is the one meant where the
    address names none. Events published: ``commit.finished`` ``{project, repo, branch, id, error}`` and ``commit.opened``
    with the same keys (for AUTO commits), each in the transaction that makes it true.
    """

    def __init__(self, *, db: Database, objects: ObjectStore, clock: Clock, publish: Publisher) -> None:
        super().__init__(db=db, objects=objects, clock=clock)
        self._publish = publish
        # Only for speed: writers to one branch queue here instead of redoing their work. Truth is the compare-and-swap.
        self._locks = [threading.Lock() for _ in range(_LOCKS)]
        with db.write() as connection:
            if store.find_project(connection, DEFAULT_PROJECT) is None:
                store.insert_project(connection, DEFAULT_PROJECT, "", clock.now())

    # --- projects ---

    def create_project(self, name: str, description: str = "") -> Project:
        """:raises AlreadyExistsError: ``project_exists``."""
        check_name("project", name)
        with self._db.write() as connection:
            if store.find_project(connection, name) is not None:
                raise AlreadyExistsError(f"there is a project {name!r} already", kind="project_exists")
            store.insert_project(connection, name, description, self._clock.now())
        return self.inspect_project(name)

    def list_projects(self) -> list[Project]:
        with self._db.read() as connection:
            return store.list_projects(connection)

    def inspect_project(self, name: str) -> Project:
        """:raises NotFoundError: ``no_project``."""
        with self._db.read() as connection:
            refs.need_project(connection, name)
            return refs.need_project(connection, name)

    def delete_project(self, name: str, *, force: bool = False) -> None:
        """:raises StateError: ``not_empty`` unless ``force``; ``owned_repo`` where a pipeline is still in it."""
        if name == DEFAULT_PROJECT:
            raise StateError(
                "the default project cannot be deleted; delete its repos instead", kind="default_project"
            )
        with self._db.write() as connection:
            refs.need_project(connection, name)
            repos = store.list_repos(connection, name)
            if repos and not force:
                raise StateError(
                    f"project {name!r} has {len(repos)} repos: delete them first, or use --force",
                    kind="not_empty",
                )
            for repo in repos:
                commits.refuse_owned(repo, "delete the pipeline first")
            for repo in repos:
                self._delete_repo(connection, repo, force=True)
            store.delete_project(connection, name)

    # --- repos ---

    def create_repo(self, project: str, name: str, description: str = "", *, update: bool = False) -> Repo:
        """:raises AlreadyExistsError: ``repo_exists``, unless ``update``, which changes the description."""
        check_name("repo", name)
        with self._db.write() as connection:
            refs.need_project(connection, project)
            repo = store.find_repo(connection, project, name)
            if repo is None:
                store.insert_repo(connection, project, name, description, None, self._clock.now())
            elif update:
                commits.refuse_owned(repo, "update the pipeline instead")
                store.describe_repo(connection, repo.id, description)
            else:
                raise AlreadyExistsError(
                    f"there is a repo {name!r} in project {project!r} already", kind="repo_exists"
                )
        return self.inspect_repo(project, name)

    def list_repos(self, project: str | None = None) -> list[Repo]:
        with self._db.read() as connection:
            if project is not None:
                refs.need_project(connection, project)
            return self._repos(connection, store.list_repos(connection, project))

    def inspect_repo(self, project: str, name: str) -> Repo:
        """:raises NotFoundError: ``no_repo``."""
        with self._db.read() as connection:
            return self._repos(connection, [refs.need_repo(connection, project, name)])[0]

    def delete_repo(self, project: str, name: str, *, force: bool = False) -> None:
        """:raises StateError: ``owned_repo``; ``has_followers`` unless ``force``."""
        with self._db.write() as connection:
            repo = refs.need_repo(connection, project, name)
            commits.refuse_owned(repo, "delete the pipeline instead")
            self._delete_repo(connection, repo, force=force)

    def _delete_repo(self, connection: Connection, repo: RepoRow, *, force: bool) -> None:
        for branch in store.list_branches(connection, repo):
            if not force:
                self._refuse_followed(connection, branch)
        store.delete_repo(connection, repo.id)

    def _repos(self, connection: Connection, rows: list[RepoRow]) -> list[Repo]:
        names = store.branch_names(connection, [row.id for row in rows])
        found = []
        for row in rows:
            master = store.find_branch(connection, row, DEFAULT_BRANCH)
            size = store.shown_tree(connection, master.head)[1] if master else 0
            repo = Repo(
                project=row.project, name=row.name, description=row.description, owner=row.owner,
                branches=tuple(names[row.id]), size=size, created_at=row.created_at,
            )  # fmt: skip
            found.append(repo)
        return found

    # --- branches ---

    def create_branch(self, project: str, address: str, *, head: str | None = None) -> Branch:
        """A new branch, or an existing one moved to ``head`` (a commit of the same repo: an address, or a branch or ID alone).

        :raises AlreadyExistsError: ``branch_exists``, without ``head``.
        """
        where, name = refs.parse_branch(project, address)
        check_name("branch", name)
        with self._db.write() as connection:
            repo = refs.need_repo(connection, where.project, where.repo)
            branch = store.find_branch(connection, repo, name)
            if branch is None:
                branch = store.insert_branch(connection, repo, name, self._clock.now())
            elif head is None:
                raise AlreadyExistsError(f"there is a branch {branch.address} already", kind="branch_exists")
            elif store.upstream_branches(connection, branch.id):
                commits.refuse_output(connection, branch, "its head cannot be moved by hand")
            else:
                commits.refuse_open(connection, branch)
            if head is not None:
                text = head if "@" in head or ":" in head else f"{repo.address}@{head}"
                target = refs.find(connection, parse_address(text, where.project))
                if target.repo_id != repo.id:
                    raise InvalidInputError(
                        f"{head!r} is not a commit of repo {repo.address}", kind="other_repo"
                    )
                commits.move_head(connection, self._publish, branch, target, self._clock.now())
        return self.inspect_branch(where.project, f"{repo.address}@{name}")

    def list_branches(self, project: str, repo: str) -> list[Branch]:
        with self._db.read() as connection:
            row = refs.need_repo(connection, project, repo)
            return [self._branch(connection, branch) for branch in store.list_branches(connection, row)]

    def inspect_branch(self, project: str, address: str) -> Branch:
        """:raises NotFoundError: ``no_branch``."""
        where, name = refs.parse_branch(project, address)
        with self._db.read() as connection:
            repo = refs.need_repo(connection, where.project, where.repo)
            return self._branch(connection, refs.need_branch(connection, repo, name))

    def delete_branch(self, project: str, address: str, *, force: bool = False) -> None:
        """The branch goes, its commits stay. :raises StateError: ``has_followers`` unless ``force``; ``output_branch``."""
        where, name = refs.parse_branch(project, address)
        with self._db.write() as connection:
            repo = refs.need_repo(connection, where.project, where.repo)
            branch = refs.need_branch(connection, repo, name)
            if store.upstream_branches(connection, branch.id):
                commits.refuse_output(connection, branch, "it cannot be deleted by hand")
            if not force:
                self._refuse_followed(connection, branch)
            store.delete_branch(connection, branch.id)

    def _refuse_followed(self, connection: Connection, branch: BranchRow) -> None:
        followers = store.downstream_branches(connection, branch.id)
        if followers:
            names = ", ".join(other.address for other in followers)
            raise StateError(
                f"{names} follows {branch.address}: delete that first, or use --force", kind="has_followers"
            )

    def _branch(self, connection: Connection, row: BranchRow) -> Branch:
        return Branch(
            project=row.repo.project,
            repo=row.repo.name,
            name=row.name,
            head=None if row.head is None else store.commit_by_pk(connection, row.head).commit.id,
            provenance=tuple(other.address for other in store.upstream_branches(connection, row.id)),
            created_at=row.created_at,
        )

    # --- commits ---

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
                head = refs.need_branch(connection, row, branch).head
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

    def _ensure_branch(self, connection: Connection, where: Address, name: str) -> BranchRow:
        repo = refs.need_repo(connection, where.project, where.repo)
        found = store.find_branch(connection, repo, name)
        return found or store.insert_branch(connection, repo, name, self._clock.now())

    # --- changing files: one atomic commit, or a write to the open commit at the branch's head ---

    def modify(self, project: str, address: str, changes: Iterable[Change], description: str = "") -> Commit:
        """Apply changes in order, all or none. On a branch whose head is finished, or that does not exist yet: one new,
        finished commit. On a branch with an open head, or an open commit named by its ID: a write into that commit.
        Writers to one branch all land, one after the other.

        :raises StateError: ``commit_finished``, ``output_branch`` or ``owned_repo``.
        """
        where = parse_address(address, project)
        if where.ancestors or where.from_root is not None:
            raise InvalidInputError(
                f"{address!r} names an ancestor; only a branch can be written to", kind="bad_address"
            )
        with self._db.read() as connection:  # fail before the data is read, where that is possible
            self._target(connection, where)
        with self._chunks.writer() as writer:
            load = self._nodes.loader(writer.get)
            steps = staging.ingest(changes, writer, load)
            with self._locks[hash((where.project, where.repo)) % _LOCKS]:
                for _ in range(ATTEMPTS_MAX):
                    with self._db.read() as connection:
                        target, base = self._target(connection, where)
                    ref = staging.apply(steps, base, writer, load)
                    writer.finish()
                    with self._db.write() as connection:
                        if self._target(connection, where) == (target, base):
                            return self._write(connection, where, target, base, ref, description)
        raise ConflictError(
            f"{address}: other writers were faster {ATTEMPTS_MAX} times; try again", kind="busy"
        )

    def _target(self, connection: Connection, where: Address) -> tuple[int | None, bytes]:
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
        if branch is not None:
            commits.refuse_output(connection, branch, "its files cannot be changed by hand")
        else:
            commits.refuse_owned(repo, "its files cannot be changed by hand; change its input instead")
        root = store.shown_tree(connection, pk)[0]
        return pk, EMPTY_ROOT if root is None else bytes.fromhex(root)

    def _write(
        self, connection: Connection, where: Address, pk: int | None, base: bytes, ref: Ref, description: str
    ) -> Commit:
        tree = tree_info(ref)
        present = None if pk is None else store.commit_by_pk(connection, pk)
        if present is not None and present.commit.status is CommitStatus.OPEN:
            done = store.write_tree(
                connection,
                present.pk,
                old_root=base.hex(),
                root=tree.root,
                size=tree.size,
                file_count=tree.file_count,
            )
            assert done  # _target said so in this transaction
            return store.commit_by_pk(connection, present.pk).commit
        branch = self._ensure_branch(connection, where, where.branch or DEFAULT_BRANCH)
        now = self._clock.now()
        return commits.commit_whole(connection, self._publish, branch, tree, description, now).commit

    # --- looking ---

    def resolve(self, project: str, address: str) -> tuple[Commit, TreeHash, str]:
        """The commit, the tree that it shows and the path that an address names (``/`` if it names none).

        A commit that failed, or that a job has not finished, shows its nearest good ancestor's tree.
        """
        where = parse_address(address, project)
        with self._db.read() as connection:
            found = refs.find(connection, where)
            root = store.shown_tree(connection, found.pk)[0]
        return found.commit, root or TreeHash(EMPTY_ROOT.hex()), where.path or "/"

    def fsck(self) -> list[fsck.Problem]:
        """Walk everything that commits refer to and verify it; what is lost or damaged, and what needs it."""
        return fsck.check(self._db, self._objects, self._chunks)

    def reindex(self) -> int:
        """Learn from the packs what the database does not know of them; returns how many packs were new."""
        return fsck.reindex(self._db, self._objects, self._clock)

    # --- for the domains above, inside their own transaction ---

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

    def delete_owned_repo(self, connection: Connection, project: str, name: str, owner: str) -> None:
        """:raises StateError: ``owned_repo`` if it is somebody else's; ``has_followers``."""
        self._delete_repo(connection, self._owned(connection, project, name, owner), force=False)

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

    def set_provenance(
        self,
        connection: Connection,
        project: str,
        repo: str,
        branch: str,
        upstream: Iterable[str],
        *,
        commit_id: CommitId,
    ) -> None:
        """Make ``repo@branch`` follow the upstream branches, and open an AUTO commit of the given ID on it and on all that
        follows from it in turn. An upstream branch that does not exist yet is created, empty. Following nothing opens nothing.

        :raises InvalidInputError: ``provenance_cycle`` or ``two_branches``.
        """
        check_name("branch", branch)
        where = Address(project=ProjectName(project), repo=RepoName(repo))
        row = self._ensure_branch(connection, where, branch)
        commits.set_provenance(connection, self._publish, row, upstream, commit_id, self._clock.now())

    def inputs_of(self, connection: Connection, project: str, repo: str, commit_id: str) -> dict[str, Commit]:
        """The direct upstream commits of a commit, by ``project/repo@branch``; a branch that was empty then is left out."""
        return commits.inputs_of(connection, commits.output_commit(connection, project, repo, commit_id))

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


def _no_commit_set(commit_id: str) -> NotFoundError:
    return NotFoundError(f"there is no commit set {commit_id!r}", kind="no_commit", details={"id": commit_id})
