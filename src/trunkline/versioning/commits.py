"""How commits begin and end, and what may follow what. Works in the caller's transaction."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from sqlalchemy.engine import Connection

from trunkline.core.hashing import from_hex
from trunkline.core.ids import CommitId
from trunkline.errors import InvalidInputError, StateError
from trunkline.versioning import lineage, refs, spread, store, trigger_store
from trunkline.versioning.lineage import Edge, downstream_in_order
from trunkline.versioning.model import Commit, CommitStatus, Origin, TreeInfo
from trunkline.versioning.nodes import EMPTY_ROOT
from trunkline.versioning.spread import Publisher, move_head, open_downstream, publish_commit
from trunkline.versioning.store import BranchRow, RepoRow, StoredCommit

__all__ = [
    "Publisher",
    "move_head",
    "open_downstream",
    "publish_commit",
]  # of spread, for who changes commits


def refuse_owned(repo: RepoRow, what: str) -> None:
    """:raises StateError: ``owned_repo``, saying what to do instead."""
    if repo.owner is not None:
        kind, _, name = repo.owner.partition(":")
        raise StateError(
            f"repo {repo.address} belongs to {kind} {name or repo.owner}: {what}",
            kind="owned_repo",
            details={"repo": repo.address, "owner": repo.owner},
        )


def refuse_output(connection: Connection, branch: BranchRow, what: str) -> None:
    """Commits of a branch that follows others are made by what they follow.

    :raises StateError: ``output_branch`` or ``owned_repo``.
    """
    refuse_owned(branch.repo, f"{what}; change its input instead")
    upstream = store.upstream_branches(connection, branch.id)
    if upstream:
        names = ", ".join(other.address for other in upstream)
        raise StateError(
            f"branch {branch.address} follows {names}: {what}; commit to what it follows instead",
            kind="output_branch",
        )


def refuse_written(connection: Connection, branch: BranchRow, pk: int | None) -> None:
    """Files go into a branch that follows others only where there is an open commit (``pk``), and nobody owns its repo.

    :raises StateError: ``output_branch`` or ``owned_repo``.
    """
    refuse_owned(branch.repo, "its files cannot be changed by hand; change its input instead")
    if pk is None or store.commit_by_pk(connection, pk).commit.status is CommitStatus.FINISHED:
        refuse_output(connection, branch, "it gets a commit to write to when one of them does")


def refuse_open(connection: Connection, branch: BranchRow) -> None:
    """:raises StateError: ``parent_open``."""
    if branch.head is not None:
        head = store.commit_by_pk(connection, branch.head).commit
        if head.status is CommitStatus.OPEN:
            raise StateError(
                f"the head of {branch.address}, commit {head.id}, has not been finished: finish it first",
                kind="parent_open",
                details={"id": head.id},
            )


# --- provenance ---------------------------------------------------------------------------------------------------


def set_provenance(
    connection: Connection,
    publish: Publisher,
    branch: BranchRow,
    upstream: Iterable[str],
    commit_id: CommitId,
    now: float,
    *,
    only_with_data: bool = False,
    quiet: Collection[str] = (),
) -> None:
    """Let a branch follow others, and open its first commit, as well as those of all that follow it in turn. With
    ``only_with_data`` not before one of them has a commit. A new commit on one that is ``quiet`` makes none here by itself.

    :raises InvalidInputError: ``provenance_cycle``, ``two_branches`` or ``trigger_and_provenance``.
    """
    wanted: dict[int, BranchRow] = {}
    unheard: set[int] = set()
    for text in upstream:
        address, name = refs.parse_branch(branch.repo.project, text)
        repo = refs.need_repo(connection, address.project, address.repo)
        other = store.find_branch(connection, repo, name) or store.insert_branch(connection, repo, name, now)
        wanted[other.id] = other
        if text in quiet:
            unheard.add(other.id)
    _check_acyclic(connection, branch, wanted)
    if wanted and trigger_store.of_branch(connection, branch.id) is not None:
        raise exclusive(branch)
    store.replace_provenance(connection, branch.id, wanted, quiet=unheard)
    _check_one_branch_per_repo(connection, branch)
    if wanted and not (only_with_data and all(other.head is None for other in wanted.values())):
        spread.open_with_downstream(connection, publish, branch.id, commit_id, now)


def exclusive(branch: BranchRow) -> InvalidInputError:
    """Who moves a branch must be one: what it follows, or its trigger."""
    return InvalidInputError(
        f"branch {branch.address} cannot both follow other branches and have a trigger: take one of them away first",
        kind="trigger_and_provenance",
    )


def _check_acyclic(connection: Connection, branch: BranchRow, wanted: dict[int, BranchRow]) -> None:
    downstream = {branch.id} | {follower for follower, _ in lineage.downstream_edges(connection, [branch.id])}
    for other in wanted.values():
        if other.id in downstream:
            raise InvalidInputError(
                f"{branch.address} cannot follow {other.address}, which follows it already: that would be a cycle",
                kind="provenance_cycle",
            )


def _check_one_branch_per_repo(connection: Connection, branch: BranchRow) -> None:
    """A commit set has one commit per repo, so one change may reach only one branch of each; and of what a commit was made
    from, ``repo@ID`` must mean one."""
    below = lineage.downstream_edges(connection, [branch.id])
    followers = {branch.id} | {follower for follower, _ in below}
    above = lineage.upstream_edges(connection, followers)
    sources = {upstream for _, upstream in above}
    edges = lineage.downstream_edges(connection, sources)
    rows = store.branches_by_id(connection, {key for edge in (*above, *edges) for key in edge} | followers)
    for source in sources:
        _refuse_twins(
            rows, source, [source, *downstream_in_order(edges, source)], "a change of {0} would reach"
        )
    upwards: list[Edge] = [(upstream, follower) for follower, upstream in above]
    for follower in followers:
        found = [follower, *downstream_in_order(upwards, follower)]
        _refuse_twins(rows, follower, found, "{0} would be made from")


def _refuse_twins(rows: dict[int, BranchRow], start: int, reached: list[int], what: str) -> None:
    by_repo: dict[int, BranchRow] = {}
    for key in sorted(reached):
        twin = by_repo.setdefault(rows[key].repo.id, rows[key])
        if twin.id != key:
            raise InvalidInputError(
                f"{what.format(rows[start].address)} both {twin.address} and {rows[key].address}; "
                "use one branch of each repo",
                kind="two_branches",
            )


def inputs_of(connection: Connection, commit: StoredCommit) -> dict[str, Commit]:
    found: dict[str, Commit] = {}
    for _, branch, pk in store.upstream_commits(connection, [commit.pk]):
        upstream = store.commit_by_pk(connection, pk).commit
        found[f"{upstream.project}/{upstream.repo}@{branch}"] = upstream
    return found


# --- beginning and ending -----------------------------------------------------------------------------------------


def start(
    connection: Connection, publish: Publisher, branch: BranchRow, description: str, now: float
) -> StoredCommit:
    """An open USER commit that shows what its parent shows."""
    refuse_output(connection, branch, "its commits cannot be started by hand")
    refuse_open(connection, branch)
    root, size, count = store.shown_tree(connection, branch.head)
    started = store.insert_commit(
        connection, branch, spread.next_id(connection, branch.repo), origin=Origin.USER,
        status=CommitStatus.OPEN, description=description,
        root=root or EMPTY_ROOT.hex(), size=size, file_count=count, now=now,
    )  # fmt: skip
    open_downstream(connection, publish, branch.id, started.commit.id, now)
    return started


def commit_whole(
    connection: Connection,
    publish: Publisher,
    branch: BranchRow,
    tree: TreeInfo,
    description: str,
    now: float,
) -> StoredCommit:
    """Start, write and finish in one."""
    refuse_output(connection, branch, "its commits cannot be made by hand")
    return commit_aside(connection, publish, branch, tree, description, now)


def commit_aside(
    connection: Connection,
    publish: Publisher,
    branch: BranchRow,
    tree: TreeInfo,
    description: str,
    now: float,
) -> StoredCommit:
    """The same on a branch of a repo that somebody owns, by its owner."""
    made = store.insert_commit(
        connection, branch, spread.next_id(connection, branch.repo), origin=Origin.USER, status=CommitStatus.FINISHED,
        description=description, root=tree.root, size=tree.size, file_count=tree.file_count, now=now,
    )  # fmt: skip
    open_downstream(connection, publish, branch.id, made.commit.id, now)
    spread.finished(connection, publish, made, now)
    return made


def finish(
    connection: Connection, publish: Publisher, found: StoredCommit, description: str | None, now: float
) -> StoredCommit:
    """End a commit by hand: a person's own, or an AUTO commit of a repo that belongs to nobody.

    :raises StateError: ``commit_finished`` or ``output_branch``.
    """
    values: dict[str, Any] = {} if description is None else {"description": description}
    if found.commit.origin is Origin.AUTO:
        repo = refs.need_repo(connection, found.commit.project, found.commit.repo)
        if repo.owner is not None:
            raise StateError(
                f"commit {found.commit.address} is finished by the job that makes it: use 'stop job' to end that",
                kind="output_branch",
            )
        if found.commit.root is None:  # nothing was written: it shows what its parent shows
            root, size, count = store.shown_tree(connection, found.parent_pk)
            values |= {"root": root or EMPTY_ROOT.hex(), "size": size, "file_count": count}
    if not store.finish_commit(connection, found.pk, now, **values):
        raise _finished_already(found.commit)
    done = store.commit_by_pk(connection, found.pk)
    spread.finished(connection, publish, done, now)
    return done


def finish_output(
    connection: Connection,
    publish: Publisher,
    found: StoredCommit,
    tree: TreeInfo | None,
    error: str | None,
    now: float,
) -> None:
    """:raises StateError: ``commit_finished``, also where it has just been finished by somebody else."""
    if found.commit.origin is not Origin.AUTO:
        raise StateError(f"commit {found.commit.address} is not the output of a job", kind="not_output")
    values: dict[str, Any]
    if error is not None:
        root, size, count = store.shown_tree(connection, found.parent_pk)
        values = {"root": root, "size": size, "file_count": count, "error": error}
    elif tree is not None:
        from_hex(tree.root, "tree hash")
        values = {"root": tree.root, "size": tree.size, "file_count": tree.file_count}
    else:
        values = {"root": EMPTY_ROOT.hex(), "size": 0, "file_count": 0}
    if not store.finish_commit(connection, found.pk, now, **values):
        raise _finished_already(found.commit)
    spread.finished(connection, publish, store.commit_by_pk(connection, found.pk), now)


def _finished_already(commit: Commit) -> StateError:
    return StateError(
        f"commit {commit.address} is finished already", kind="commit_finished", details={"id": commit.id}
    )


def output_commit(connection: Connection, project: str, repo: str, commit_id: str) -> StoredCommit:
    """:raises NotFoundError: ``no_commit``."""
    return refs.need_commit(connection, refs.need_repo(connection, project, repo), commit_id)
