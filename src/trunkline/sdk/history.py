"""History: tags, squash, drop, merge, and which commits touched a path."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Literal

from trunkline.core.paths import Address, parse_address
from trunkline.errors import InvalidInputError
from trunkline.sdk.data import PAGE_ITEMS_MAX, DataMethods
from trunkline.sdk.transport import path_of
from trunkline.wire.history import FoundCommit, Merge, Removed
from trunkline.wire.tags import Tag


class HistoryMethods(DataMethods):
    """The part of the client that names and changes history."""

    # --- tags ---

    def create_tag(
        self, address: str, commit: str = "master", *, description: str = "", move: bool = False,
        project: str | None = None,
    ) -> Tag:  # fmt: skip
        """Name a commit of the repo: it can be read by that name, and not be squashed or dropped. ``move`` lets a tag that
        exists name another commit.

        >>> client.create_tag("images@v1.0", "master")
        """
        where, name = self._tagged(address, project)
        body = {"name": name, "commit": commit, "description": description, "move": move}
        path = path_of("projects", where.project, "repos", where.repo, "tags")
        return Tag.model_validate(self.call("POST", path, json=body))

    def list_tags(self, repo: str, *, project: str | None = None) -> list[Tag]:
        """The tags of a repo.

        >>> [tag.name for tag in client.list_tags("images")]
        """
        return [Tag.model_validate(one) for one in self._pages(self._repo(repo, project, "tags"))]

    def inspect_tag(self, address: str, *, project: str | None = None) -> Tag:
        """One tag.

        >>> client.inspect_tag("images@v1.0").commit
        """
        return Tag.model_validate(self.call("GET", self._tag(address, project)))

    def delete_tag(self, address: str, *, project: str | None = None) -> None:
        """Delete a tag; its commit stays.

        >>> client.delete_tag("images@v1.0")
        """
        self.call("DELETE", self._tag(address, project))

    # --- taking commits out ---

    def squash_commits(self, address: str, *, recursive: bool = False, project: str | None = None) -> Removed:
        """Take a commit (or, by an ID alone, a commit set) out of history; its children stay and show what they showed.
        ``recursive``: also what was made from it.

        >>> client.squash_commits("images@master^")
        """
        body = {"at": address, "recursive": recursive}
        return Removed.model_validate(self.call("POST", self._in(project, "commits", "squash"), json=body))

    def drop_commits(self, address: str, *, recursive: bool = False, project: str | None = None) -> Removed:
        """Take back the newest commit (or, by an ID alone, a commit set); heads fall back to its parent. ``recursive``: also
        what was made from it.

        >>> client.drop_commits("images@master", recursive=True)
        """
        body = {"at": address, "recursive": recursive}
        return Removed.model_validate(self.call("POST", self._in(project, "commits", "drop"), json=body))

    # --- merging and searching ---

    def merge_branch(
        self, source: str, target: str, *, description: str = "",
        strategy: Literal["ours", "theirs"] | None = None, dry_run: bool = False, project: str | None = None,
    ) -> Merge:  # fmt: skip
        """Bring what has changed in ``source`` into the branch ``target``, as one new commit. Where both have changed the same,
        nothing is merged: ``ConflictError`` of kind ``merge_conflict`` with ``details["conflicts"]``; unless ``strategy`` says
        who wins, the target (ours) or the source (theirs).

        >>> client.merge_branch("images@feature", "images@master").commit
        """
        body = {
            "source": source, "target": target, "description": description, "strategy": strategy, "dry_run": dry_run,
        }  # fmt: skip
        return Merge.model_validate(self.call("POST", self._in(project, "merge"), json=body))

    def find_commits(
        self, address: str, *, since: str | None = None, limit: int | None = None, project: str | None = None
    ) -> Iterator[FoundCommit]:
        """The commits that added, deleted or changed a file or directory, newest first, as they are found. ``since``: only
        those after that commit.

        >>> [found.commit.id for found in client.find_commits("images@master:/cats", limit=10)]
        """
        size = PAGE_ITEMS_MAX if limit is None else max(1, min(limit, PAGE_ITEMS_MAX))
        query = {"at": address, "since": since, "limit": size}
        found = self._items(self._in(project, "commits", "find"), query)
        return (FoundCommit.model_validate(one) for one in islice(found, limit))

    def _tagged(self, address: str, project: str | None) -> tuple[Address, str]:
        where = parse_address(address, project or self.project)
        name = where.dotted or where.branch
        if name is None or where.commit is not None or where.ancestors or where.path is not None:
            raise InvalidInputError(f"{address!r} names no tag: write repo@TAG", kind="bad_address")
        return where, name

    def _tag(self, address: str, project: str | None) -> str:
        where, name = self._tagged(address, project)
        return path_of("projects", where.project, "repos", where.repo, "tags", name)
