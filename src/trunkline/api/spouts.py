"""What the token of a spout may write: files of its own output branch, and nothing else."""

from __future__ import annotations

from trunkline.access.model import Identity, Scope
from trunkline.core.ids import DEFAULT_BRANCH
from trunkline.core.paths import parse_address
from trunkline.errors import PermissionDeniedError
from trunkline.pipelines.service import owner_of_output
from trunkline.pipelines.staying import spout_subject


def writes_as(caller: Identity, project: str, at: str) -> str | None:
    """The owner on whose behalf a caller writes to ``at``; None: on nobody's, as the owner of the data directory does.

    :raises PermissionDeniedError: ``wrong_scope``, for a job's token, and a spout's elsewhere than at its own output.
    """
    if caller.scope is Scope.ADMIN:
        return None
    where = parse_address(at, project)
    is_plain = (
        where.commit is None and not where.ancestors and where.dotted is None and where.from_root is None
    )
    own = spout_subject(where.project, where.repo, where.branch or DEFAULT_BRANCH)
    if not is_plain or caller.subject != own:
        raise PermissionDeniedError(
            f"this token may not write to {at.partition(':')[0]}: a job's output is what it leaves in /pfs/out, and a spout "
            "writes to its own output branch",
            kind="wrong_scope",
            details={"scope": caller.scope},
        )
    return owner_of_output(where.repo)
