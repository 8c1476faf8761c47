"""The data of an experiment: ``data: {repo, branch|commit, previous_commit, project}`` as trees.

Commits are pinned when the experiment is created, so that every run of every trial reads the same files whatever is
committed meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from trunkline.core.ids import DEFAULT_BRANCH, DEFAULT_PROJECT, TreeHash
from trunkline.errors import InvalidInputError, StateError
from trunkline.versioning.model import Commit, CommitStatus, DiffEntry, FileInfo

NEW_FILES_MAX = 1_000_000


class Versions(Protocol):
    """What training needs of versioning."""

    def resolve(self, project: str, address: str) -> tuple[Commit, TreeHash, str]: ...

    def check_tree(self, root: TreeHash) -> FileInfo: ...

    def diff(self, old: TreeHash, new: TreeHash, path: str = "/") -> Iterable[DiffEntry]: ...


class TrialData:
    """Reads commits for experiments; changes nothing."""

    def __init__(self, versioning: Versions) -> None:
        self._versioning = versioning

    def pin(self, data: dict[str, Any]) -> dict[str, Any]:
        """The ``data`` of a config with its branch replaced by the commit at its head. Without ``repo``, as it is.

        :raises NotFoundError: no such repo, branch or commit. :raises InvalidInputError: ``bad_config``.
        :raises StateError: ``commit_open``.
        """
        if data.get("repo") is None:
            return data
        for name in ("repo", "project", "branch", "commit", "previous_commit"):
            if data.get(name) is not None and not isinstance(data[name], str):
                raise InvalidInputError(f"experiment config: data.{name} must be text", kind="bad_config")
        project, _, repo = data["repo"].rpartition("/")
        project = data.get("project") or project or DEFAULT_PROJECT
        at = data.get("commit") or data.get("branch") or DEFAULT_BRANCH
        commit = self._finished(project, f"{repo}@{at}")
        pinned = {**data, "project": project, "repo": repo, "commit": commit.id}
        if data.get("previous_commit"):
            pinned["previous_commit"] = self._finished(project, f"{repo}@{data['previous_commit']}").id
        return pinned

    def describe(self, data: dict[str, Any]) -> dict[str, Any] | None:
        """Pinned data with its trees, and the files that are new since ``previous_commit`` (None if it names none)."""
        if data.get("repo") is None:
            return None
        _, root, _ = self._versioning.resolve(data["project"], f"{data['repo']}@{data['commit']}")
        previous_root = None
        if data.get("previous_commit"):
            _, previous_root, _ = self._versioning.resolve(
                data["project"], f"{data['repo']}@{data['previous_commit']}"
            )
        return {
            "project": data["project"],
            "repo": data["repo"],
            "commit": data["commit"],
            "root": root,
            "previous_root": previous_root,
            "new_files": self._new_files(previous_root, root) if previous_root is not None else None,
        }

    def _new_files(self, old: TreeHash, new: TreeHash) -> list[str]:
        found = [
            entry.new.path.lstrip("/")
            for entry in self._versioning.diff(old, new)
            if entry.new is not None and not entry.new.is_dir
        ]
        if len(found) > NEW_FILES_MAX:
            raise InvalidInputError(
                f"{len(found)} files are new since data.previous_commit: the limit is {NEW_FILES_MAX}; leave it out",
                kind="too_many_files",
            )
        return sorted(found)

    def _finished(self, project: str, address: str) -> Commit:
        commit, _, _ = self._versioning.resolve(project, address)
        if commit.status is not CommitStatus.FINISHED:
            raise StateError(
                f"commit {commit.address} is still open: finish it, then create the experiment",
                kind="commit_open",
            )
        return commit
