"""The lease loop of worker processes."""

from __future__ import annotations

from typing import Any

from fastapi import Response

from trunkline.access.model import Scope
from trunkline.api.auth import allow
from trunkline.api.deps import Caller, Use
from trunkline.api.routes import new_router
from trunkline.api.stream import LongPoll
from trunkline.core.ids import LeaseToken, TaskId
from trunkline.core.status import Status
from trunkline.errors import InvalidInputError, NotFoundError, PermissionDeniedError
from trunkline.jobs.model import Report
from trunkline.jobs.queue import Lease
from trunkline.wire.leases import (
    Announce,
    Claim,
    Claimed,
    Heartbeat,
    HeartbeatAnswer,
    LeasedTask,
    LogLines,
    Progress,
    ProgressAnswer,
    ReportTask,
)

router = new_router("workers")


@router.post("/leases/claim", response_model=Claimed)
@allow(Scope.WORKER)
def claim(ask: Claim, use: Use) -> Response:
    def look() -> Claimed:
        # A look that finds nothing must not write: every write wakes those who wait for any, and one writes at a time.
        if not use.jobs.has_work(ask.queue):
            return Claimed(tasks=[])
        found = use.jobs.claim(ask.queue, ask.worker, ask.limit)
        return Claimed(
            tasks=[
                LeasedTask(
                    id=task.id,
                    kind=task.kind,
                    key=task.key,
                    queue=task.queue,
                    token=task.lease_token,
                    payload=payload,
                )
                for task, payload in found
            ]
        )

    return LongPoll(
        look,
        is_settled=lambda claimed: bool(claimed.tasks),
        wait_seconds=ask.wait_seconds,
        changes=use.jobs.queue.changes_of(ask.queue),
    )


@router.post("/leases/heartbeat")
@allow(Scope.WORKER)
def heartbeat(ask: Heartbeat, use: Use) -> HeartbeatAnswer:
    leases = [lease_of(ref.id, ref.token) for ref in ask.leases]
    lost, cancelled = use.jobs.queue.keep_alive(leases)
    return HeartbeatAnswer(lost=list(lost), cancelled=list(cancelled))


@router.post("/leases/{task_id}/report", status_code=204)
@allow(Scope.WORKER)
def report(task_id: int, ask: ReportTask, use: Use) -> None:
    try:
        status = Status(ask.status)
    except ValueError as error:
        raise InvalidInputError(f"unknown status {ask.status!r}", kind="bad_status") from error
    use.jobs.report(lease_of(task_id, ask.token), Report(status=status, result=ask.result, error=ask.error))


@router.post("/leases/{task_id}/progress")
@allow(Scope.WORKER)
def progress(task_id: int, ask: Progress, use: Use) -> ProgressAnswer:
    results = [{**vars(one), "stats": vars(one.stats)} for one in ask.results]  # quicker than ``model_dump``
    is_wanted = use.jobs.progress(lease_of(task_id, ask.token), results, ask.current, ends=ask.ends)
    return ProgressAnswer(stop=not is_wanted, ended=is_wanted and ask.ends)


@router.post("/leases/{task_id}/logs", status_code=204)
@allow(Scope.WORKER)
def append_log(task_id: int, ask: LogLines, use: Use) -> None:
    lease = lease_of(task_id, ask.token)
    with use.db.read() as connection:
        task = use.jobs.held(connection, lease)
    domain: Any = use.training if task.kind == "trial" else use.pipelines
    domain.append_log(lease, ask.offset, ask.lines)


@router.put("/workers/{process_id}", status_code=204)
@allow(Scope.WORKER)
def announce(process_id: str, ask: Announce, use: Use, caller: Caller) -> None:
    process = use.table.get(process_id)
    if process is None:
        raise NotFoundError(f"there is no worker {process_id}", kind="no_worker")
    if caller.scope is Scope.WORKER and caller.subject != f"worker:{process_id}":
        raise PermissionDeniedError("a worker speaks only for itself", kind="wrong_worker")
    use.jobs.pool.heard(process_id)
    use.table.adopt(process_id, {"pid": ask.pid, "started": ask.started, "log": process.log})


def lease_of(task_id: int, token: str) -> Lease:
    """The lease that a request shows."""
    return Lease(task_id=TaskId(task_id), token=LeaseToken(token))
