"""What the token of a spout may write: files of its own output branch, and nothing else."""

from __future__ import annotations

from trunkline.access.model import Identity, Scope
from trunkline.core.ids import DEFAULT_BRANCH
from trunkline.core.paths import parse_address
from trunkline.errors import PermissionDeniedError
from trunkline.services import Services


def writes_as(use: Services, caller: Identity, project: str, at: str) -> str | None:
    """The owner on whose behalf a caller writes to ``at``; None: on nobody's, as the owner of the data directory does.

    :raises PermissionDeniedError: ``wrong_scope``, for a job's token, and a spout's elsewhere than at its own output.
    """
    if caller.scope is Scope.ADMIN:
        return None
    where = parse_address(at, project)
    is_plain = (
        where.commit is None and not where.ancestors and where.dotted is None and where.from_root is None
    )
    owner = None
    if is_plain and caller.subject.startswith("spout:"):
        owner = use.pipelines.writes_as(
            caller.subject, where.project, where.repo, where.branch or DEFAULT_BRANCH
        )
    if owner is None:
        raise PermissionDeniedError(
            f"this token may not write to {at.partition(':')[0]}: a job's output is what it leaves in /pfs/out, and a spout "
            "writes to its own output branch, as long as it runs",
            kind="wrong_scope",
            details={"scope": caller.scope},
        )
    return owner
