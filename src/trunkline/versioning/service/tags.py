"""Tags: names for commits that stay where they are, and protect what they name."""

from __future__ import annotations

from sqlalchemy.engine import Connection

from trunkline.core.ids import TagName, check_tag_name
from trunkline.core.paths import Address, parse_address
from trunkline.core.suggest import did_you_mean
from trunkline.errors import AlreadyExistsError, InvalidInputError, NotFoundError, StateError
from trunkline.versioning import refs, store, tagstore
from trunkline.versioning.model import CommitStatus, Tag
from trunkline.versioning.service.base import UseCases
from trunkline.versioning.store import RepoRow, StoredCommit


class Tags(UseCases):
    """Tags of a repo. ``address`` is always ``repo@TAG``."""

    def create_tag(
        self, project: str, address: str, *, commit: str, description: str = "", move: bool = False
    ) -> Tag:
        """Name a finished commit: an address, or a branch or ID alone of the same repo.

        :raises AlreadyExistsError: ``tag_exists``, unless ``move`` (or it names that commit already); ``branch_exists``.
        :raises StateError: ``commit_open``.
        """
        where, name = _named(project, address)
        with self._db.write() as connection:
            repo = refs.need_repo(connection, where.project, where.repo)
            target = self._target_of(connection, repo, commit)
            found = tagstore.find_tag(connection, repo.id, name)
            if found is None:
                _refuse_branch(connection, repo, name)
                tagstore.insert_tag(connection, repo.id, name, target.pk, description, self._clock.now())
            elif found.commit_pk != target.pk:
                if not move:
                    raise AlreadyExistsError(
                        f"tag {found.address} names commit {found.tag.commit} already: use another name, or --move",
                        kind="tag_exists",
                        details={"commit": found.tag.commit},
                    )
                tagstore.move_tag(connection, found.id, target.pk, self._clock.now(), description)
            return self._need_tag(connection, repo, name).tag

    def list_tags(
        self, project: str, repo: str, *, limit: int | None = None, after: str | None = None
    ) -> list[Tag]:
        """In the order of their names; ``after``: the name that was listed last."""
        with self._db.read() as connection:
            row = refs.need_repo(connection, project, repo)
            return [found.tag for found in tagstore.list_tags(connection, row.id, limit, after)]

    def inspect_tag(self, project: str, address: str) -> Tag:
        """:raises NotFoundError: ``no_tag``."""
        where, name = _named(project, address)
        with self._db.read() as connection:
            repo = refs.need_repo(connection, where.project, where.repo)
            return self._need_tag(connection, repo, name).tag

    def delete_tag(self, project: str, address: str) -> None:
        """The name goes, its commit stays. :raises NotFoundError: ``no_tag``."""
        where, name = _named(project, address)
        with self._db.write() as connection:
            repo = refs.need_repo(connection, where.project, where.repo)
            tagstore.delete_tag(connection, self._need_tag(connection, repo, name).id)

    def _target_of(self, connection: Connection, repo: RepoRow, commit: str) -> StoredCommit:
        text = commit if "@" in commit or ":" in commit else f"{repo.address}@{commit}"
        found = refs.find(connection, parse_address(text, repo.project))
        if found.repo_id != repo.id:
            raise InvalidInputError(f"{commit!r} is not a commit of repo {repo.address}", kind="other_repo")
        if found.commit.status is CommitStatus.OPEN:
            raise StateError(
                f"commit {found.commit.address} is open and may still change: finish it, then tag it",
                kind="commit_open",
            )
        return found

    def _need_tag(self, connection: Connection, repo: RepoRow, name: str) -> tagstore.TagRow:
        found = tagstore.find_tag(connection, repo.id, name)
        if found is None:
            names = [other.tag.name for other in tagstore.list_tags(connection, repo.id, limit=1000)]
            raise NotFoundError(
                f"there is no tag {name!r} in repo {repo.address}{did_you_mean(name, names)}", kind="no_tag"
            )
        return found


def _named(project: str, address: str) -> tuple[Address, TagName]:
    """An address that names a tag and nothing more."""
    where = parse_address(address, project)
    name = where.dotted or where.branch
    if name is None or where.commit is not None or where.ancestors or where.path is not None:
        raise InvalidInputError(f"{address!r} names no tag: write repo@TAG", kind="bad_address")
    return where, check_tag_name(name)


def _refuse_branch(connection: Connection, repo: RepoRow, name: str) -> None:
    """One address must not mean two things: neither a branch of that name, nor ``X.3`` beside a branch X."""
    if store.find_branch(connection, repo, name) is not None:
        raise AlreadyExistsError(
            f"there is a branch {repo.address}@{name}: use another name for the tag", kind="branch_exists"
        )
    base, dot, rest = name.rpartition(".")
    if dot and rest.isdigit() and store.find_branch(connection, repo, base) is not None:
        raise AlreadyExistsError(
            f"{repo.address}@{name} means commit number {int(rest)} of branch {base!r}: use another name for the tag",
            kind="branch_exists",
        )
