"""From addresses to rows: which repo, branch and commit somebody means. Reads only, in the caller's transaction."""

from __future__ import annotations

from sqlalchemy.engine import Connection

from trunkline.core.ids import DEFAULT_BRANCH, BranchName, CommitId
from trunkline.core.paths import Address, parse_address
from trunkline.core.suggest import did_you_mean
from trunkline.errors import InvalidInputError, NotFoundError, StateError
from trunkline.versioning import lineage, store, tagstore
from trunkline.versioning.model import Project
from trunkline.versioning.store import BranchRow, RepoRow, StoredCommit


def need_project(connection: Connection, name: str) -> Project:
    """:raises NotFoundError: ``no_project``."""
    project = store.find_project(connection, name)
    if project is None:
        names = [project.name for project in store.list_projects(connection)]
        raise NotFoundError(f"there is no project {name!r}{did_you_mean(name, names)}", kind="no_project")
    return project


def need_repo(connection: Connection, project: str, name: str) -> RepoRow:
    """:raises NotFoundError: ``no_project`` or ``no_repo``, naming the nearest name."""
    repo = store.find_repo(connection, project, name)
    if repo is None:
        need_project(connection, project)
        names = [other.name for other in store.list_repos(connection, project)]
        raise NotFoundError(
            f"there is no repo {name!r} in project {project!r}{did_you_mean(name, names)}",
            kind="no_repo",
            details={"project": project, "repo": name},
        )
    return repo


def need_branch(connection: Connection, repo: RepoRow, name: str) -> BranchRow:
    """:raises NotFoundError: ``no_branch``."""
    branch = store.find_branch(connection, repo, name)
    if branch is None:
        names = [other.name for other in store.list_branches(connection, repo)]
        raise NotFoundError(
            f"there is no branch {name!r} in repo {repo.address}{did_you_mean(name, names)}", kind="no_branch"
        )
    return branch


def need_commit(connection: Connection, repo: RepoRow, commit_id: str) -> StoredCommit:
    """:raises NotFoundError: ``no_commit``."""
    found = store.find_commit(connection, repo.id, commit_id)
    if found is None:
        raise NotFoundError(f"there is no commit {repo.address}@{commit_id}", kind="no_commit")
    return found


def head_of(connection: Connection, repo: RepoRow, name: str) -> int | None:
    """The commit (``commits.pk``) that a branch or tag points at; None for a branch without commits.

    :raises NotFoundError: ``no_branch``.
    """
    branch = store.find_branch(connection, repo, name)
    tag = tagstore.find_tag(connection, repo.id, name) if branch is None else None
    if tag is not None:
        return tag.commit_pk
    if branch is None:
        names: list[str] = [other.name for other in store.list_branches(connection, repo)]
        names += [other.tag.name for other in tagstore.list_tags(connection, repo.id, limit=1000)]
        raise NotFoundError(
            f"there is no branch or tag {name!r} in repo {repo.address}{did_you_mean(name, names)}",
            kind="no_branch",
        )
    return branch.head


def parse_branch(project: str, text: str) -> tuple[Address, str]:
    """An address that must name a branch and nothing more (``repo`` alone means its ``master``).

    :raises InvalidInputError: ``bad_address``.
    """
    address = parse_address(text, project)
    if (
        address.commit is not None
        or address.ancestors
        or address.from_root is not None
        or address.dotted is not None
    ):
        raise InvalidInputError(
            f"{text!r} names a commit; a branch is needed here, as repo@branch", kind="bad_address"
        )
    return address, address.branch or DEFAULT_BRANCH


def find(connection: Connection, address: Address) -> StoredCommit:
    """The commit that an address means.

    :raises NotFoundError: ``no_project``, ``no_repo``, ``no_branch``, ``no_commit`` or ``no_ancestor``.
    """
    repo = need_repo(connection, address.project, address.repo)
    if address.commit is not None:
        found = _by_id(connection, repo, address.commit, address.branch)
    else:
        address = _tag_or_counted(connection, repo, address)
        name = address.branch or DEFAULT_BRANCH
        head = head_of(connection, repo, name)
        if head is None:
            raise NotFoundError(f"branch {repo.address}@{name} has no commits yet", kind="no_commit")
        found = store.commit_by_pk(connection, head)
    return _ancestor(connection, found, address)


def refuse_tag(connection: Connection, repo: RepoRow, name: str) -> None:
    """:raises StateError: ``is_tag``."""
    if tagstore.find_tag(connection, repo.id, name) is not None:
        raise StateError(
            f"{repo.address}@{name} is a tag, and tags cannot be written to: write to a branch", kind="is_tag"
        )


def _tag_or_counted(connection: Connection, repo: RepoRow, address: Address) -> Address:
    """``X.3`` is a tag, if there is one of that name, else the third commit of the branch X. Both at once cannot be: no
    branch X is made beside a tag X.3, nor the other way round.

    :raises InvalidInputError: ``bad_address``, for what would be wrong of a branch.
    """
    name = address.dotted
    if name is None:
        return address
    if address.from_root is None or tagstore.find_tag(connection, repo.id, name) is not None:
        return address._replace(branch=BranchName(name), from_root=None)
    if address.from_root == 0 or address.ancestors:
        why = (
            "'^' and '.N' cannot be mixed" if address.ancestors else "commits are counted from .1, the first"
        )
        raise InvalidInputError(
            f"address {str(address)!r}: there is no tag {name!r}, and of a branch {why}", kind="bad_address"
        )
    if store.find_branch(connection, repo, address.branch or "") is None:
        head_of(connection, repo, name)  # says so, with the nearest name
    return address


def _ancestor(connection: Connection, start: StoredCommit, address: Address) -> StoredCommit:
    steps = address.ancestors
    if address.from_root is not None:
        steps = store.depth_of(connection, start.pk) + 1 - address.from_root
    found = store.ancestor(connection, start.pk, steps) if steps > 0 else start if steps == 0 else None
    if found is None:
        depth = store.depth_of(connection, start.pk)
        raise NotFoundError(
            f"there is no commit {address}: {start.commit.address} has {depth} ancestors", kind="no_ancestor"
        )
    return found


def _by_id(connection: Connection, repo: RepoRow, commit_id: CommitId, branch: str | None) -> StoredCommit:
    found = store.find_commit(connection, repo.id, commit_id)
    if found is None:
        found = _through_provenance(connection, repo, commit_id, branch)
    if found is None:
        raise NotFoundError(
            f"there is no commit {commit_id} in repo {repo.address}, nor one that a commit of that ID was made from",
            kind="no_commit",
            details={"repo": repo.address, "id": commit_id},
        )
    if branch is not None and found.commit.branch != branch:
        head = store.find_branch(connection, repo, branch)
        if head is None or head.head is None or not lineage.is_on(connection, head.head, found.pk):
            raise NotFoundError(
                f"commit {commit_id} is not on branch {repo.address}@{branch}", kind="no_commit"
            )
    return found


def _through_provenance(
    connection: Connection, repo: RepoRow, commit_id: CommitId, branch: str | None
) -> StoredCommit | None:
    """The commit of ``repo`` that the commit set was made from, by the shortest way up.

    :raises StateError: ``ambiguous``, where two branches of the repo are equally near.
    """
    level = [commit.pk for commit in store.commits_with_id(connection, commit_id)]
    seen = set(level)
    while level:
        links = store.upstream_commits(connection, level)
        level = [pk for pk in dict.fromkeys(upstream for _, _, upstream in links) if pk not in seen]
        seen.update(level)
        here = [one for one in store.commits_by_pk(connection, level) if one.repo_id == repo.id]
        if branch is not None:
            named = {pk for _, name, pk in links if name == branch}
            here = [commit for commit in here if commit.pk in named or commit.commit.branch == branch]
        if len(here) > 1:
            names = ", ".join(f"{commit.commit.branch}={commit.commit.id}" for commit in here)
            raise StateError(
                f"{repo.address}@{commit_id} could be any of {names}: name one", kind="ambiguous"
            )
        if here:
            return here[0]
    return None
