"""Names of buckets: ``[[commit.]branch.]repo[.project]``. Pure text."""

from __future__ import annotations

from dataclasses import dataclass

from trunkline.core.ids import DEFAULT_BRANCH, DEFAULT_PROJECT, check_name, is_commit_id
from trunkline.doors.s3.errors import S3Error


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """What a bucket's name means."""

    name: str
    project: str
    repo: str
    branch: str | None
    """None: any, where a commit is named."""
    commit: str | None
    owner: str | None = None
    """As whom it is written to, if it is a job's output."""
    is_pinned: bool = False
    """Whether no other commit can be asked for."""

    @property
    def address(self) -> str:
        """As the services want it."""
        ref = "=".join(part for part in (self.branch, self.commit) if part is not None)
        return f"{self.project}/{self.repo}@{ref}"

    @property
    def branch_address(self) -> str:
        """:raises S3Error: for a bucket that is a commit."""
        if self.commit is not None:
            raise S3Error(
                "InvalidBucketName", f"{self.name!r} names a commit: use branch.repo[.project] here"
            )
        return self.address


def parse_bucket(name: str) -> Bucket:
    """One part is a repo (its ``master``), two are branch and repo, three have the project; a commit's ID may be in front of
    each. That is Pachyderm's rule: what a name means depends on the number of its parts, never on what exists.

    :raises S3Error: ``InvalidBucketName``. :raises InvalidInputError: ``bad_name``.
    """
    commit: str | None = None
    parts = name.split(".")
    if len(parts) > 1 and is_commit_id(parts[0]):
        commit, *parts = parts
    if len(parts) > 3:
        raise S3Error(
            "InvalidBucketName", f"{name!r} has too many parts: write [[commit.]branch.]repo[.project]"
        )
    branch = parts.pop(0) if len(parts) > 1 else None
    project = parts[1] if len(parts) == 2 else DEFAULT_PROJECT
    if branch is None and commit is None:
        branch = DEFAULT_BRANCH
    if branch is not None:
        check_name("branch", branch)
    return Bucket(
        name=name,
        project=check_name("project", project),
        repo=check_name("repo", parts[0]),
        branch=branch,
        commit=commit,
    )


def bucket_name(project: str, repo: str, branch: str) -> str:
    """The name under which a branch is listed."""
    return f"{branch}.{repo}" if project == DEFAULT_PROJECT else f"{branch}.{repo}.{project}"
