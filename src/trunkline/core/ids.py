"""Names and identifiers. Each is a ``NewType``, so that swapping two of them fails type checking."""

from __future__ import annotations

import re
from typing import NewType

from trunkline.errors import InvalidInputError

ProjectName = NewType("ProjectName", str)
RepoName = NewType("RepoName", str)
BranchName = NewType("BranchName", str)
TagName = NewType("TagName", str)
CommitId = NewType("CommitId", str)
"""32 hex digits: one ID for a commit, all that follows from it, and the jobs that made it."""
PipelineName = NewType("PipelineName", str)
TreeHash = NewType("TreeHash", str)
"""64 hex digits: the BLAKE3 hash of a tree's root; names a whole directory tree, content included."""
TaskId = NewType("TaskId", int)
LeaseToken = NewType("LeaseToken", str)

DEFAULT_PROJECT = ProjectName("default")
DEFAULT_BRANCH = BranchName("master")

NAME_LENGTH_MAX = 128
PIPELINE_NAME_LENGTH_MAX = 51

_NAME = re.compile(r"[a-zA-Z0-9_-]+")
_TAG = re.compile(r"[a-zA-Z0-9_-]+(\.[a-zA-Z0-9_-]+)*")
_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_COMMIT_ID = re.compile(r"[0-9a-f]{32}")


def new_commit_id() -> CommitId:
    """A random (version 4) UUID as 32 hex digits."""
    import uuid  # noqa: PLC0415 (not for commands that must start at once)

    return CommitId(uuid.uuid4().hex)


def new_token() -> str:
    """256 bits from the system's generator, safe in URLs and headers."""
    import secrets  # noqa: PLC0415 (brings hashlib and more along)

    return secrets.token_urlsafe(32)


def is_commit_id(text: str) -> bool:
    return _COMMIT_ID.fullmatch(text) is not None


def is_name(text: str) -> bool:
    """Whether it may name a repo, branch, project or pipeline."""
    return _NAME.fullmatch(text) is not None and len(text) <= NAME_LENGTH_MAX


def check_name(kind: str, name: str) -> str:
    """Return ``name`` if it may name a repo, branch, project or pipeline.

    :raises InvalidInputError: naming the kind, the name and the rule.
    """
    if not is_name(name):
        raise InvalidInputError(
            f"{kind} name {name!r} is not allowed: use letters, digits, '-' and '_', at most {NAME_LENGTH_MAX}",
            kind="bad_name",
            details={"kind": kind, "name": name},
        )
    return name


def check_tag_name(name: str) -> TagName:
    """As other names, and dots may stand between its parts: ``v1.0``. It may not look like a commit's ID.

    :raises InvalidInputError: ``bad_name``.
    """
    if not _TAG.fullmatch(name) or len(name) > NAME_LENGTH_MAX or is_commit_id(name.partition(".")[0]):
        raise InvalidInputError(
            f"tag name {name!r} is not allowed: use letters, digits, '-' and '_', with single dots between them, at "
            f"most {NAME_LENGTH_MAX}, and nothing that looks like a commit's ID",
            kind="bad_name",
            details={"kind": "tag", "name": name},
        )
    return TagName(name)


def check_pipeline_name(name: str) -> PipelineName:
    check_name("pipeline", name)
    if len(name) > PIPELINE_NAME_LENGTH_MAX or not name[0].isalnum():
        raise InvalidInputError(
            f"pipeline name {name!r} is not allowed: start with a letter or digit, "
            f"at most {PIPELINE_NAME_LENGTH_MAX} characters",
            kind="bad_name",
            details={"kind": "pipeline", "name": name},
        )
    return PipelineName(name)


def check_dns_label(kind: str, name: str) -> str:
    """Kubernetes names (RFC 1123 labels): they become host names, so they are lower case."""
    if not _DNS_LABEL.fullmatch(name):
        raise InvalidInputError(
            f"{kind} name {name!r} is not allowed: use lower-case letters, digits and '-' (RFC 1123), at most 63",
            kind="bad_name",
            details={"kind": kind, "name": name},
        )
    return name
