"""Data: projects, repos, branches, commits and files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from trunkline.core.paths import Address, parse_address
from trunkline.errors import InvalidInputError
from trunkline.sdk.transport import Body, Transport, path_of
from trunkline.wire.base import Page, Wire
from trunkline.wire.branches import Branch, BranchDetails
from trunkline.wire.commits import Commit, CommitDetails, CommitSet
from trunkline.wire.files import DiffEntry, FileInfo, TreeInfo
from trunkline.wire.projects import Project
from trunkline.wire.repos import Repo

if TYPE_CHECKING:
    from trunkline.sdk.packing import Progress, Source

M = TypeVar("M", bound=Wire)

POLL_SECONDS = 30.0
"""How long one request of a wait lasts."""

PAGE_ITEMS_MAX = 1000
"""How many items of a long list are asked for at a time."""


class DataMethods(Transport):
    """The part of the client that speaks of data. Addresses are ``[project/]repo@branch-or-ID[:path]``; ``project`` is
    meant where the address names none."""

    # --- projects ---

    def create_project(self, name: str, description: str = "") -> Project:
        """Create a project.

        >>> client.create_project("vision")
        """
        body = {"name": name, "description": description}
        return Project.model_validate(self.call("POST", path_of("projects"), json=body))

    def list_projects(self) -> list[Project]:
        """All projects.

        >>> [project.name for project in client.list_projects()]
        """
        return [Project.model_validate(one) for one in self._items(path_of("projects"))]

    def inspect_project(self, name: str) -> Project:
        """One project.

        >>> client.inspect_project("default").created_at
        """
        return Project.model_validate(self.call("GET", path_of("projects", name)))

    def delete_project(self, name: str, *, force: bool = False) -> None:
        """Delete a project; one that holds repos only with ``force``.

        >>> client.delete_project("vision")
        """
        self.call("DELETE", path_of("projects", name), query={"force": force})

    # --- repos and branches ---

    def create_repo(
        self, name: str, description: str = "", *, project: str | None = None, update: bool = False
    ) -> Repo:
        """Create a repo; ``update`` changes the description of an existing one.

        >>> client.create_repo("images")
        """
        body = {"name": name, "description": description, "update": update}
        return Repo.model_validate(self.call("POST", self._in(project, "repos"), json=body))

    def list_repos(self, project: str | None = None) -> list[Repo]:
        """The repos of a project, or all.

        >>> [repo.name for repo in client.list_repos()]
        """
        path = path_of("repos") if project is None else path_of("projects", project, "repos")
        return [Repo.model_validate(one) for one in self._items(path)]

    def inspect_repo(self, name: str, *, project: str | None = None) -> Repo:
        """One repo.

        >>> client.inspect_repo("images").size
        """
        return Repo.model_validate(self.call("GET", self._in(project, "repos", name)))

    def delete_repo(self, name: str, *, project: str | None = None, force: bool = False) -> None:
        """Delete a repo; one that others follow only with ``force``.

        >>> client.delete_repo("images")
        """
        self.call("DELETE", self._in(project, "repos", name), query={"force": force})

    def create_branch(
        self, address: str, *, head: str | None = None, provenance: Sequence[str] | None = None,
        trigger: Mapping[str, Any] | None = None, drop_trigger: bool = False, project: str | None = None,
    ) -> Branch:  # fmt: skip
        """Create a branch, or change one: move it to ``head``, let it follow the branches ``provenance`` of other repos, or give
        it a ``trigger`` with the keys ``branch``, ``size``, ``commits``, ``rate_limit``, ``cron`` and ``all``.

        >>> client.create_branch("images@master", trigger={"branch": "staging", "size": "100MB"})
        """
        where = self._of_branch(address, project)
        if where.branch is None:
            raise InvalidInputError(f"{address!r} names no branch: write repo@branch", kind="bad_address")
        body = {
            "name": where.branch, "head": head, "drop_trigger": drop_trigger,
            "provenance": None if provenance is None else list(provenance),
            "trigger": None if trigger is None else dict(trigger),
        }  # fmt: skip
        path = path_of("projects", where.project, "repos", where.repo, "branches")
        return Branch.model_validate(self.call("POST", path, json=body))

    def list_branches(self, repo: str, *, project: str | None = None) -> list[Branch]:
        """The branches of a repo.

        >>> [branch.name for branch in client.list_branches("images")]
        """
        return [Branch.model_validate(one) for one in self._items(self._repo(repo, project, "branches"))]

    def inspect_branch(self, address: str, *, project: str | None = None) -> BranchDetails:
        """One branch, with all that it follows and all that follows it.

        >>> client.inspect_branch("images@master").head
        """
        return BranchDetails.model_validate(self.call("GET", self._branch(address, project)))

    def delete_branch(self, address: str, *, project: str | None = None, force: bool = False) -> None:
        """Delete a branch; one that others follow only with ``force``.

        >>> client.delete_branch("images@staging")
        """
        self.call("DELETE", self._branch(address, project), query={"force": force})

    # --- commits ---

    def start_commit(self, address: str, description: str = "", *, project: str | None = None) -> Commit:
        """Open a commit on a branch; what is put to the branch then gathers in it.

        >>> client.start_commit("images@master", "the second batch")
        """
        where = self._of_branch(address, project)
        body = {"branch": where.branch or "master", "description": description}
        path = path_of("projects", where.project, "repos", where.repo, "commits")
        return Commit.model_validate(self.call("POST", path, json=body))

    def finish_commit(
        self, address: str, description: str | None = None, *, project: str | None = None
    ) -> Commit:
        """Finish an open commit, which then never changes again.

        >>> client.finish_commit("images@master")
        """
        body = {"at": address, "description": description}
        return Commit.model_validate(self.call("POST", self._in(project, "commits", "finish"), json=body))

    def inspect_commit(self, address: str, *, project: str | None = None) -> CommitDetails:
        """One commit, with all that it was made from and what was made from it.

        >>> client.inspect_commit("images@master^").size
        """
        query = {"at": address, "details": True}
        return CommitDetails.model_validate(self.call("GET", self._in(project, "commits"), query=query))

    def list_commits(
        self, repo: str, *, branch: str | None = None, since: str | None = None, origin: str | None = None,
        limit: int | None = None, project: str | None = None,
    ) -> list[Commit]:  # fmt: skip
        """The commits of a repo, newest first: all, or at most ``limit``. ``branch`` may also be a commit's ID: that commit
        and its ancestors. ``since``: only those newer than this commit. ``origin``: ``user`` or ``auto``.

        >>> [commit.id for commit in client.list_commits("images", branch="master")]
        """
        query = {"branch": branch, "since": since, "origin": origin}
        found = self._pages(self._repo(repo, project, "commits"), query, limit)
        return [Commit.model_validate(one) for one in found]

    def list_commit_sets(self, *, limit: int | None = None) -> list[CommitSet]:
        """The commit sets, newest first: each is all that one change has caused. All, or at most ``limit``.

        >>> client.list_commit_sets(limit=1)[0].id
        """
        return [CommitSet.model_validate(one) for one in self._pages(path_of("commits"), limit=limit)]

    def inspect_commit_set(self, commit_id: str) -> CommitSet:
        """All commits that bear an ID.

        >>> client.inspect_commit_set("1035715e796f45caae7a1d3ffd1f93ca").commits
        """
        return CommitSet.model_validate(self.call("GET", path_of("commits", commit_id)))

    def wait_commit(self, address: str, *, project: str | None = None) -> Commit:
        """Wait until a commit is finished.

        >>> client.wait_commit("edges@1035715e796f45caae7a1d3ffd1f93ca").error
        """
        while True:
            query = {"at": address, "wait_seconds": POLL_SECONDS}
            commit = Commit.model_validate(self.call("GET", self._in(project, "commits"), query=query))
            if commit.is_finished:
                return commit
            address, project = f"{commit.repo}@{commit.id}", commit.project

    def wait_commit_set(self, commit_id: str) -> CommitSet:
        """Wait until all that a change causes is finished.

        >>> client.wait_commit_set("1035715e796f45caae7a1d3ffd1f93ca")
        """
        while True:
            query = {"wait_seconds": POLL_SECONDS}
            found = CommitSet.model_validate(self.call("GET", path_of("commits", commit_id), query=query))
            if found.is_finished:
                return found

    # --- files ---

    def put_file(
        self, address: str, content: Body, *, append: bool = False, modified_at: float | None = None,
        executable: bool = False, modified_ns: int | None = None, project: str | None = None,
    ) -> Commit:  # fmt: skip
        """Write one file from bytes, an iterable of bytes or an open binary file; returns its commit.

        >>> client.put_file("images@master:/notes.txt", b"hello")
        """
        answer = self.send_file(
            address, content, append=append, modified_at=modified_at, modified_ns=modified_ns,
            executable=executable, project=project,
        )  # fmt: skip
        return Commit.model_validate(answer)

    def put_files(
        self, address: str, files: Path | Iterable[tuple[str, Source]], *, append: bool = False,
        project: str | None = None, progress: Progress | None = None,
    ) -> Commit:  # fmt: skip
        """Write many files as one commit: all below a folder, or given as ``(name, path or bytes)``, where the path of a
        folder stands for all below it.

        >>> client.put_files("images@master:/cats", Path("cats/"))
        """
        answer = self.send_files(address, files, append=append, project=project, progress=progress)
        return Commit.model_validate(answer)

    def put_changed_files(
        self, address: str, files: Path | Iterable[tuple[str, Source]], *, project: str | None = None,
        progress: Progress | None = None,
    ) -> Commit | None:  # fmt: skip
        """As ``put_files``, but only of those files whose size, modification time or executable bit is not that of what is
        there; None, and no commit, if there are none. What is given as bytes is always written. Deletes nothing.

        >>> client.put_changed_files("images@master:/cats", Path("cats/"))
        """
        answer = self.send_changed_files(address, files, project=project, progress=progress)
        return None if answer is None else Commit.model_validate(answer)

    def inspect_file(self, address: str, *, project: str | None = None) -> FileInfo:
        """Size, hash and times of a file or directory.

        >>> client.inspect_file("images@master:/cats").size
        """
        return FileInfo.model_validate(self.call("GET", self._in(project, "stat"), query={"at": address}))

    def list_files(
        self, address: str, *, walk: bool = False, glob: str | None = None, limit: int | None = None,
        project: str | None = None,
    ) -> list[FileInfo]:  # fmt: skip
        """A directory's entries; with ``walk`` everything below it; with ``glob`` what matches in the whole commit. All, or
        at most ``limit``.

        >>> [file.path for file in client.list_files("images@master:/")]
        """
        query = {"at": address, "walk": walk, "glob": glob}
        return list(self._models(FileInfo, self._in(project, "tree"), query, limit))

    def diff_files(
        self, address: str, old: str | None = None, *, shallow: bool = False, project: str | None = None
    ) -> list[DiffEntry]:
        """What changed since ``old`` (any commit, also of another repo), or since the commit before. ``shallow``: the direct
        children that differ, directories as a whole.

        >>> [(entry.op, entry.new) for entry in client.diff_files("images@master:/")]
        """
        query = {"at": address, "old": old, "shallow": shallow}
        return list(self._models(DiffEntry, self._in(project, "diff"), query))

    def copy_file(
        self, source: str, target: str, *, append: bool = False, project: str | None = None
    ) -> Commit:
        """Copy a file or a directory inside the store; free of cost, whatever its size. It replaces what is there, unless
        ``append`` adds each file's content to the one of that name.

        >>> client.copy_file("images@staging:/cats", "images@master:/cats")
        """
        body = {"source": source, "to": target, "append": append}
        return Commit.model_validate(self.call("POST", self._in(project, "files", "copy"), json=body))

    def delete_file(self, address: str, *, recursive: bool = True, project: str | None = None) -> Commit:
        """Delete a file, or (unless ``recursive`` is False) a directory with all that is below it.

        >>> client.delete_file("images@master:/notes.txt")
        """
        query = {"at": address, "recursive": recursive}
        return Commit.model_validate(self.call("DELETE", self._in(project, "files"), query=query))

    def create_fileset(
        self, files: Path | Iterable[tuple[str, Source]], *, base: str | None = None
    ) -> TreeInfo:
        """Store files without a commit, e.g. the code of a pipeline.

        >>> client.create_fileset(Path("code/")).root
        """
        found = [("", files)] if isinstance(files, Path) else files
        return TreeInfo.model_validate(self.upload_files(path_of("filesets"), found, query={"base": base}))

    # --- helpers ---

    def _items(self, path: str, query: dict[str, Any] | None = None) -> Iterator[Any]:
        """All items of a list, page by page."""
        cursor = None
        while True:
            page = self.call("GET", path, query={**(query or {}), "cursor": cursor})
            yield from page["items"]
            cursor = page["next"]
            if cursor is None:
                return

    def _pages(
        self, path: str, query: dict[str, Any] | None = None, limit: int | None = None
    ) -> Iterator[Any]:
        """The items of a list that may be long: all, or the first ``limit``."""
        size = PAGE_ITEMS_MAX if limit is None else max(1, min(limit, PAGE_ITEMS_MAX))
        return islice(self._items(path, {**(query or {}), "limit": size}), limit)

    def _models(
        self, kind: type[M], path: str, query: dict[str, Any] | None = None, limit: int | None = None
    ) -> Iterator[M]:
        """The same as models, whole pages at once: a listing has thousands."""
        cursor, left = None, limit
        while left is None or left > 0:
            size = PAGE_ITEMS_MAX if left is None else min(left, PAGE_ITEMS_MAX)
            data = self.call_raw("GET", path, query={**(query or {}), "limit": size, "cursor": cursor})
            page = Page[kind].model_validate_json(data)  # type: ignore[valid-type]
            yield from page.items
            cursor, left = page.next, None if left is None else left - len(page.items)
            if cursor is None:
                return

    def _repo(self, repo: str, project: str | None, *parts: str) -> str:
        where = parse_address(repo.partition("@")[0], project or self.project)
        return path_of("projects", where.project, "repos", where.repo, *parts)

    def _of_branch(self, address: str, project: str | None) -> Address:
        where = parse_address(address, project or self.project)
        if where.commit is not None or where.ancestors or where.from_root is not None or where.dotted:
            raise InvalidInputError(
                f"{address!r} names a commit; a branch is needed here, as repo@branch", kind="bad_address"
            )
        return where

    def _branch(self, address: str, project: str | None) -> str:
        where = self._of_branch(address, project)
        return path_of("projects", where.project, "repos", where.repo, "branches", where.branch or "master")
