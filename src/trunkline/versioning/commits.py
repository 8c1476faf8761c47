"""How commits begin and end, and how one causes others downstream. Works in the caller's transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from sqlalchemy.engine import Connection

from trunkline.core.hashing import from_hex
from trunkline.core.ids import CommitId, new_commit_id
from trunkline.errors import AlreadyExistsError, InvalidInputError, StateError
from trunkline.versioning import refs, store
from trunkline.versioning.model import Commit, CommitStatus, Origin, TreeInfo
from trunkline.versioning.nodes import EMPTY_ROOT
from trunkline.versioning.store import BranchRow, RepoRow, StoredCommit

Publisher = Callable[[Connection, str, dict[str, Any]], None]
"""Writes an event ``(topic, payload)`` in the given transaction; the outbox's ``publish``."""


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


def publish_commit(connection: Connection, publish: Publisher, topic: str, commit: Commit) -> None:
    publish(
        connection,
        topic,
        {
            "project": commit.project,
            "repo": commit.repo,
            "branch": commit.branch,
            "id": commit.id,
            "error": commit.error,
        },
    )


# --- provenance ---------------------------------------------------------------------------------------------------


def downstream_in_order(edges: Iterable[tuple[int, int]], start: int) -> list[int]:
    """The branches that follow ``start``, directly or not, each after all that it follows among them."""
    followers: dict[int, list[int]] = {}
    for branch, upstream in edges:
        followers.setdefault(upstream, []).append(branch)
    order: list[int] = []
    seen = {start}
    stack = [(start, iter(followers.get(start, ())))]
    while stack:
        branch, rest = stack[-1]
        follower = next((other for other in rest if other not in seen), None)
        if follower is None:
            stack.pop()
            order.append(branch)
        else:
            seen.add(follower)
            stack.append((follower, iter(followers.get(follower, ()))))
    return order[-2::-1]


def open_auto(
    connection: Connection, publish: Publisher, branch: BranchRow, commit_id: CommitId, now: float
) -> StoredCommit:
    """An open AUTO commit on a branch, made from the present heads of what the branch follows."""
    if store.find_commit(connection, branch.repo.id, commit_id) is not None:
        raise AlreadyExistsError(
            f"repo {branch.repo.address} has a commit {commit_id} already", kind="commit_exists"
        )
    opened = store.insert_commit(
        connection, branch, commit_id, origin=Origin.AUTO, status=CommitStatus.OPEN, now=now
    )
    upstream = store.upstream_branches(connection, branch.id)
    links = [(other.head, other.name) for other in upstream if other.head is not None]
    store.add_commit_provenance(connection, opened.pk, links)
    opened = store.commit_by_pk(connection, opened.pk)
    publish_commit(connection, publish, "commit.opened", opened.commit)
    return opened


def open_downstream(
    connection: Connection, publish: Publisher, branch_id: int, commit_id: CommitId, now: float
) -> None:
    """One AUTO commit of the same ID on every branch that follows, in topological order."""
    edges = store.provenance_edges(connection)
    for follower in downstream_in_order(edges, branch_id):
        branch = store.branches_by_id(connection, [follower])[follower]
        open_auto(connection, publish, branch, commit_id, now)


def move_head(
    connection: Connection, publish: Publisher, branch: BranchRow, head: StoredCommit, now: float
) -> None:
    """Point a branch at another commit; what follows it gets commits, of the same ID unless that is taken."""
    store.set_head(connection, branch.id, head.pk)
    edges = store.provenance_edges(connection)
    following = store.branches_by_id(connection, downstream_in_order(edges, branch.id))
    taken = any(store.find_commit(connection, other.repo.id, head.commit.id) for other in following.values())
    open_downstream(connection, publish, branch.id, new_commit_id() if taken else head.commit.id, now)


def set_provenance(
    connection: Connection,
    publish: Publisher,
    branch: BranchRow,
    upstream: Iterable[str],
    commit_id: CommitId,
    now: float,
) -> None:
    wanted: dict[int, BranchRow] = {}
    for text in upstream:
        address, name = refs.parse_branch(branch.repo.project, text)
        repo = refs.need_repo(connection, address.project, address.repo)
        other = store.find_branch(connection, repo, name) or store.insert_branch(connection, repo, name, now)
        wanted[other.id] = other
    _check_acyclic(connection, branch, wanted)
    store.replace_provenance(connection, branch.id, wanted)
    _check_one_branch_per_repo(connection, wanted)
    if wanted:
        open_auto(connection, publish, branch, commit_id, now)
        open_downstream(connection, publish, branch.id, commit_id, now)


def _check_acyclic(connection: Connection, branch: BranchRow, wanted: dict[int, BranchRow]) -> None:
    downstream = {branch.id, *downstream_in_order(store.provenance_edges(connection), branch.id)}
    for other in wanted.values():
        if other.id in downstream:
            raise InvalidInputError(
                f"{branch.address} cannot follow {other.address}, which follows it already: that would be a cycle",
                kind="provenance_cycle",
            )


def _check_one_branch_per_repo(connection: Connection, wanted: dict[int, BranchRow]) -> None:
    """A commit set has one commit per repo, so one change may reach only one branch of each."""
    edges = store.provenance_edges(connection)
    above: dict[int, list[int]] = {}
    for branch, upstream in edges:
        above.setdefault(branch, []).append(upstream)
    sources = list(wanted)
    for branch in sources:
        sources.extend(other for other in above.get(branch, ()) if other not in sources)
    for source in sources:
        reached = store.branches_by_id(connection, [source, *downstream_in_order(edges, source)])
        by_repo: dict[int, BranchRow] = {}
        for other in reached.values():
            twin = by_repo.setdefault(other.repo.id, other)
            if twin.id != other.id:
                raise InvalidInputError(
                    f"a change of {reached[source].address} would reach both {twin.address} and {other.address}; "
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
        connection, branch, new_commit_id(), origin=Origin.USER, status=CommitStatus.OPEN, description=description,
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
    made = store.insert_commit(
        connection, branch, new_commit_id(), origin=Origin.USER, status=CommitStatus.FINISHED,
        description=description, root=tree.root, size=tree.size, file_count=tree.file_count, now=now,
    )  # fmt: skip
    open_downstream(connection, publish, branch.id, made.commit.id, now)
    publish_commit(connection, publish, "commit.finished", made.commit)
    return made


def finish(
    connection: Connection, publish: Publisher, found: StoredCommit, description: str | None, now: float
) -> StoredCommit:
    """:raises StateError: ``commit_finished`` or ``output_branch``."""
    if found.commit.origin is Origin.AUTO:
        raise StateError(
            f"commit {found.commit.address} is finished by the job that makes it: use 'stop job' to end that",
            kind="output_branch",
        )
    values = {} if description is None else {"description": description}
    if not store.finish_commit(connection, found.pk, now, **values):
        raise _finished_already(found.commit)
    finished = store.commit_by_pk(connection, found.pk)
    publish_commit(connection, publish, "commit.finished", finished.commit)
    return finished


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
    publish_commit(connection, publish, "commit.finished", store.commit_by_pk(connection, found.pk).commit)


def _finished_already(commit: Commit) -> StateError:
    return StateError(
        f"commit {commit.address} is finished already", kind="commit_finished", details={"id": commit.id}
    )


def output_commit(connection: Connection, project: str, repo: str, commit_id: str) -> StoredCommit:
    """:raises NotFoundError: ``no_commit``."""
    return refs.need_commit(connection, refs.need_repo(connection, project, repo), commit_id)
