"""The leased-row queue: claim, keep alive, finish; every write fenced by the lease token.

A lease that ran out makes its task available again; whoever still works on it finds the token refused and its result
discarded. Enqueueing happens in the caller's transaction, so work exists exactly when the rows that need it do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from trunkline.core.clock import Clock
from trunkline.core.ids import LeaseToken, TaskId, new_token
from trunkline.core.status import Status
from trunkline.jobs.model import ANY_QUEUE, CONTROL_QUEUE, SLOW_QUEUE, Task
from trunkline.storage.db.engine import Changes, Database
from trunkline.storage.db.many import Many
from trunkline.storage.db.prepared import Prepared
from trunkline.storage.db.schema import queues, tasks
from trunkline.storage.db.upsert import Insert, upsert

CLAIM_TASKS_MAX = 256
SERVER_QUEUES = (CONTROL_QUEUE, SLOW_QUEUE)


@dataclass(frozen=True, kw_only=True)
class Lease:
    """What a worker shows with every call about a task."""

    task_id: TaskId
    token: LeaseToken


class TaskQueue:
    """All SQL on ``tasks`` and ``queues``."""

    def __init__(self, db: Database, clock: Clock, lease_seconds: float) -> None:
        self._db = db
        self._clock = clock
        self.lease_seconds = lease_seconds

    def changes_of(self, queue: str) -> Changes:
        """Moves when there may be something new to take from a queue; of ``ANY_QUEUE``: from one that worker processes serve."""
        return self._db.changes_of(_name(queue))

    def _touch(self, queue: str) -> None:
        self._db.touch(_name(queue))
        if queue not in SERVER_QUEUES:
            self._db.touch(_name(ANY_QUEUE))

    # --- asking for work (inside the caller's transaction) ---

    def enqueue(
        self,
        connection: Connection,
        *,
        kind: str,
        key: str,
        queue: str,
        payload: Mapping[str, Any] | None = None,
        after_seconds: float = 0.0,
    ) -> None:
        """Ask for ``(kind, key)`` to be worked on. If it runs just now, it will run once more when it ends."""
        self.enqueue_all(
            connection, kind=kind, queue=queue, payloads={key: payload or {}}, after_seconds=after_seconds
        )

    def enqueue_all(
        self,
        connection: Connection,
        *,
        kind: str,
        queue: str,
        payloads: Mapping[str, Mapping[str, Any]],
        after_seconds: float = 0.0,
    ) -> None:
        """The same for many tasks of one kind, given by their keys, in one statement."""
        if not payloads:
            return
        self._touch(queue)
        now = self._clock.now()
        rows = [
            {
                "kind": kind, "key": key, "queue": queue, "payload": dict(payload), "status": Status.QUEUED,
                "attempts": 0, "run_after": now + after_seconds, "again": False, "cancel": False, "created_at": now,
                "updated_at": now,
            }
            for key, payload in payloads.items()
        ]  # fmt: skip
        _ENQUEUE(connection, rows)

    def cancel(self, connection: Connection, kind: str, keys: Iterable[str]) -> None:
        """Queued tasks end now; running ones are told at their next sign of life."""
        for key in keys:
            where = (tasks.c.kind == kind, tasks.c.key == key)
            connection.execute(
                sa.update(tasks).where(*where, tasks.c.status == Status.QUEUED).values(
                    status=Status.CANCELLED, updated_at=self._clock.now()
                )
            )  # fmt: skip
            connection.execute(
                sa.update(tasks)
                .where(*where, tasks.c.status == Status.RUNNING)
                .values(cancel=True, again=False)
            )

    def declare(
        self, connection: Connection, name: str, *, worker: str, workers_max: int, options: dict[str, Any]
    ) -> None:
        """Say which worker program serves a queue, and how many of them at most."""
        _DECLARE.run(connection, name=name, worker=worker, workers_max=workers_max, options=options)
        self._touch(name)

    def drop_queue(self, connection: Connection, name: str) -> None:
        connection.execute(sa.delete(queues).where(queues.c.name == name))
        connection.execute(sa.delete(tasks).where(tasks.c.queue == name, tasks.c.status != Status.RUNNING))
        connection.execute(sa.update(tasks).where(tasks.c.queue == name).values(cancel=True, again=False))

    def drop(self, connection: Connection, kind: str, prefix: str, *, stop: bool = True) -> None:
        """Tasks whose key begins so are not wanted any more: they go. With ``stop`` whoever works on one is told so; else its
        end is near, and it is let go on to that."""
        wanted = _prefixed(kind, prefix)
        _DROP_IDLE.run(connection, **wanted)
        (_STOP if stop else _LET_END).run(connection, **wanted)

    def forget(self, connection: Connection, task_id: TaskId) -> None:
        """Take a task away, whoever holds it."""
        connection.execute(sa.delete(tasks).where(tasks.c.id == task_id))

    def forget_all(self, connection: Connection, kind: str, prefix: str) -> None:
        """Take tasks away whose key begins so, whoever holds them."""
        _FORGET_ALL.run(connection, **_prefixed(kind, prefix))

    def revoke(self, connection: Connection, kind: str, key: str) -> bool:
        """Take a task from whoever works on it, to be given to another; False if nobody did."""
        queue = connection.execute(
            sa.update(tasks)
            .where(tasks.c.kind == kind, tasks.c.key == key, tasks.c.status == Status.RUNNING)
            .values(
                status=Status.QUEUED, again=False, lease_token=None, lease_owner=None, lease_expires_at=None,
                updated_at=self._clock.now(),
            )
            .returning(tasks.c.queue)
        ).scalar_one_or_none()  # fmt: skip
        if queue is not None:
            self._touch(queue)
        return queue is not None

    # --- working ---

    def claim(self, connection: Connection, queue: str, owner: str, limit: int) -> list[Task]:
        """Up to ``limit`` ready tasks of a queue, now leased to ``owner``; oldest first."""
        now = self._clock.now()
        until = now + self.lease_seconds
        claimed = []
        for task_id in _READY.scalars(connection, queue=queue, now=now, limit=min(limit, CLAIM_TASKS_MAX)):
            row = _LEASE.first(
                connection, task_id=task_id, owner=owner, token=new_token(), until=until, now=now
            )
            if row is not None:
                claimed.append(_task(row))
        return claimed

    def next_ready_at(self, connection: Connection, queue: str) -> float | None:
        """When the next task of a queue becomes ready; None if there is none."""
        found: float | None = _NEXT_READY_AT.scalar(connection, queue=queue)
        return found

    def ready_queues(self, connection: Connection, worker: str) -> list[tuple[str, int]]:
        """Queues of a kind of worker that have tasks ready, the one that has waited longest first, and how many workers each
        may have."""
        rows = _READY_QUEUES.all(connection, worker=worker, now=self._clock.now())
        return [(row.name, row.workers_max) for row in rows]

    def keep_alive(self, leases: Iterable[Lease]) -> tuple[list[TaskId], list[TaskId]]:
        """Renew leases. Returns the tasks whose lease is lost, and those that are to be cancelled."""
        lost, cancelled = [], []
        with self._db.write(wakes=False, syncs=False) as connection:
            for lease in leases:
                row = _RENEW.first(connection, **self._renewed(lease))
                if row is None:
                    lost.append(lease.task_id)
                elif row.cancel:
                    cancelled.append(lease.task_id)
        return lost, cancelled

    def is_wanted(self, connection: Connection, lease: Lease) -> bool:
        """A sign of life in passing; False if the task is to be given up."""
        cancelled = _RENEW.scalar(connection, **self._renewed(lease))
        return cancelled is not None and not cancelled

    def is_held(self, connection: Connection, queue: str) -> bool:
        """Whether somebody works on a task of a queue, and is to go on."""
        where = (tasks.c.queue == queue, tasks.c.status == Status.RUNNING, tasks.c.cancel.is_(False))
        return connection.execute(sa.select(tasks.c.id).where(*where).limit(1)).one_or_none() is not None

    def running(self, connection: Connection, kind: str, key: str) -> Task | None:
        """A task, if somebody works on it and is to go on."""
        where = (tasks.c.kind == kind, tasks.c.key == key, tasks.c.status == Status.RUNNING)
        row = connection.execute(sa.select(tasks).where(*where, tasks.c.cancel.is_(False))).one_or_none()
        return _task(row) if row is not None else None

    def held(self, connection: Connection, lease: Lease) -> Task | None:
        """The task, if the lease still holds it."""
        row = _HELD_TASK.first(connection, **_lease(lease))
        return _task(row) if row is not None else None

    def finish(self, connection: Connection, lease: Lease, status: Status) -> bool:
        """End a task; False if the lease was lost, and then nothing must be applied. Runs again if asked to meanwhile. One that
        was cancelled leaves no row: nobody will ask for it again."""
        if _FORGET_CANCELLED.run(connection, **_lease(lease)) == 1:
            return True
        row = _FINISH.first(connection, **_lease(lease), end=status, now=self._clock.now())
        if row is not None and row.status == Status.QUEUED:
            self._touch(row.queue)
        return row is not None

    def release(self, connection: Connection, lease: Lease, after_seconds: float) -> bool:
        """Give a task back, to be taken again after a while (at once if it was asked for meanwhile)."""
        now = self._clock.now()
        queue = _RELEASE.scalar(connection, **_lease(lease), now=now, later=now + after_seconds)
        if queue is not None:
            self._touch(queue)
        return queue is not None

    # --- looking after it ---

    def expired(self, connection: Connection) -> list[Task]:
        """Running tasks whose lease ran out."""
        return [_task(row) for row in _EXPIRED.all(connection, now=self._clock.now())]

    def expire_held_by(self, connection: Connection, owners: Iterable[str]) -> None:
        """Let the leases of workers that are known to be dead run out now."""
        connection.execute(
            sa.update(tasks)
            .where(tasks.c.status == Status.RUNNING, tasks.c.lease_owner.in_(list(owners)))
            .values(lease_expires_at=self._clock.now() - 1.0)
        )

    def holders(self, connection: Connection, kind: str, prefix: str) -> list[tuple[str, dict[str, Any]]]:
        """Who works on tasks whose key begins so, and what was asked of them."""
        rows = connection.execute(
            sa.select(tasks.c.lease_owner, tasks.c.payload)
            .where(
                tasks.c.kind == kind, tasks.c.key >= prefix, tasks.c.key < prefix + "\U0010ffff",
                tasks.c.status == Status.RUNNING,
            )
            .order_by(tasks.c.id)
        )  # fmt: skip
        return [(row.lease_owner or "", row.payload) for row in rows]

    def owners(self, connection: Connection) -> set[str]:
        """Who holds a lease."""
        rows = connection.execute(
            sa.select(tasks.c.lease_owner).where(tasks.c.status == Status.RUNNING).distinct()
        )
        return {owner for owner in rows.scalars() if owner is not None}

    def forgive(self) -> None:
        """At the server's start: nobody could renew while it was down, so every lease gets a fresh term; steps that the
        former control server itself was taking are free at once."""
        now = self._clock.now()
        with self._db.write() as connection:
            running = tasks.c.status == Status.RUNNING
            connection.execute(
                sa.update(tasks).where(running).values(lease_expires_at=now + 2 * self.lease_seconds)
            )
            connection.execute(
                sa.update(tasks)
                .where(running, tasks.c.queue.in_(SERVER_QUEUES))
                .values(
                    status=Status.QUEUED,
                    lease_token=None,
                    lease_owner=None,
                    lease_expires_at=None,
                    run_after=now,
                )
            )

    def demand(self, connection: Connection) -> list[tuple[Row[Any], int]]:
        """Each declared queue that has tasks ready or running, with their number."""
        by_queue = {row[0]: row[1] for row in _COUNTS.all(connection, now=self._clock.now())}
        rows = [row for name in by_queue for row in _QUEUE.all(connection, name=name)]
        return [(row, by_queue[row.name]) for row in rows]

    def _renewed(self, lease: Lease) -> dict[str, Any]:
        return {**_lease(lease), "until": self._clock.now() + self.lease_seconds}


# --- statements that are asked for at every step: to build one takes longer than to run it ---

_HELD = (
    tasks.c.id == sa.bindparam("task_id"),
    tasks.c.status == Status.RUNNING,
    tasks.c.lease_token == sa.bindparam("token"),
)
_FREE = {"lease_token": None, "lease_owner": None, "lease_expires_at": None}


def _lease(lease: Lease) -> dict[str, Any]:
    return {"task_id": lease.task_id, "token": lease.token}


_READY = Prepared(
    sa.select(tasks.c.id)
    .where(
        tasks.c.status == Status.QUEUED, tasks.c.queue == sa.bindparam("queue"),
        tasks.c.run_after <= sa.bindparam("now"),
    )
    .order_by(tasks.c.run_after, tasks.c.id)
    .limit(sa.bindparam("limit", type_=sa.Integer))
)  # fmt: skip
_NEXT_READY_AT = Prepared(
    sa.select(sa.func.min(tasks.c.run_after)).where(
        tasks.c.status == Status.QUEUED, tasks.c.queue == sa.bindparam("queue")
    )
)
_READY_QUEUES = Prepared(
    sa.select(queues.c.name, queues.c.workers_max)
    .join(tasks, tasks.c.queue == queues.c.name)
    .where(
        queues.c.worker == sa.bindparam("worker"), tasks.c.status == Status.QUEUED,
        tasks.c.run_after <= sa.bindparam("now"),
    )
    .group_by(queues.c.name, queues.c.workers_max)
    .order_by(sa.func.min(tasks.c.run_after), queues.c.name)
)  # fmt: skip
_IS_READY = sa.and_(tasks.c.status == Status.QUEUED, tasks.c.run_after <= sa.bindparam("now"))
_COUNTS = Prepared(
    sa.select(tasks.c.queue, sa.func.count().label("number"))
    .where(sa.or_(tasks.c.status == Status.RUNNING, _IS_READY))
    .group_by(tasks.c.queue)
)
_QUEUE = Prepared(sa.select(queues).where(queues.c.name == sa.bindparam("name")))
_LEASE = Prepared(
    sa.update(tasks)
    .where(tasks.c.id == sa.bindparam("task_id"), tasks.c.status == Status.QUEUED)
    .values(
        status=Status.RUNNING, attempts=tasks.c.attempts + 1, lease_owner=sa.bindparam("owner"),
        lease_token=sa.bindparam("token"), lease_expires_at=sa.bindparam("until"), updated_at=sa.bindparam("now"),
    )
    .returning(tasks)
)  # fmt: skip
_RENEW = Prepared(
    sa.update(tasks).where(*_HELD).values(lease_expires_at=sa.bindparam("until")).returning(tasks.c.cancel)
)
_EXPIRED = Prepared(
    sa.select(tasks).where(tasks.c.status == Status.RUNNING, tasks.c.lease_expires_at < sa.bindparam("now"))
)
_HELD_TASK = Prepared(sa.select(tasks).where(*_HELD))
_FORGET_CANCELLED = Prepared(
    sa.delete(tasks).where(*_HELD, tasks.c.cancel.is_(True), tasks.c.again.is_(False))
)
_FINISH = Prepared(
    sa.update(tasks)
    .where(*_HELD)
    .values(
        **_FREE, status=sa.case((tasks.c.again, Status.QUEUED), else_=sa.bindparam("end", type_=sa.Text)), again=False,
        attempts=sa.case((tasks.c.again, 0), else_=tasks.c.attempts), updated_at=sa.bindparam("now"),
    )
    .returning(tasks.c.queue, tasks.c.status)
)  # fmt: skip
_RELEASE = Prepared(
    sa.update(tasks)
    .where(*_HELD)
    .values(
        **_FREE, status=Status.QUEUED, again=False, updated_at=sa.bindparam("now"),
        run_after=sa.case((tasks.c.again, sa.bindparam("now", type_=sa.Float)), else_=sa.bindparam("later", type_=sa.Float)),
    )
    .returning(tasks.c.queue)
)  # fmt: skip


def _declare() -> Insert:
    statement = upsert(queues).values(
        {name: sa.bindparam(name) for name in ("name", "worker", "workers_max", "options")}
    )
    return statement.on_conflict_do_update(
        index_elements=[queues.c.name],
        set_={name: statement.excluded[name] for name in ("worker", "workers_max", "options")},
    )


_DECLARE = Prepared(_declare())


def _enqueue() -> Insert:
    statement = upsert(tasks)
    is_running = tasks.c.status == Status.RUNNING
    return statement.on_conflict_do_update(
        index_elements=[tasks.c.kind, tasks.c.key],
        set_={
            "again": is_running,
            "status": sa.case((is_running, Status.RUNNING), else_=Status.QUEUED),
            "attempts": sa.case((is_running, tasks.c.attempts), else_=0),
            "run_after": statement.excluded.run_after,
            "payload": statement.excluded.payload,
            "cancel": sa.case((is_running, tasks.c.cancel), else_=False),
            "updated_at": statement.excluded.updated_at,
        },
    )


_ENQUEUE = Many(
    _enqueue(),
    [
        "kind", "key", "queue", "payload", "status", "attempts", "run_after", "again", "cancel", "created_at",
        "updated_at",
    ],
)  # fmt: skip


_PREFIXED = (
    tasks.c.kind == sa.bindparam("of_kind"), tasks.c.key >= sa.bindparam("prefix"), tasks.c.key < sa.bindparam("behind"),
)  # fmt: skip
_FORGET_ALL = Prepared(sa.delete(tasks).where(*_PREFIXED))
_DROP_IDLE = Prepared(sa.delete(tasks).where(*_PREFIXED, tasks.c.status != Status.RUNNING))
_STOP = Prepared(sa.update(tasks).where(*_PREFIXED).values(cancel=True, again=False))
_LET_END = Prepared(sa.update(tasks).where(*_PREFIXED).values(again=False))


def _prefixed(kind: str, prefix: str) -> dict[str, str]:
    return {"of_kind": kind, "prefix": prefix, "behind": prefix + "\U0010ffff"}


def _name(queue: str) -> str:
    return f"tasks/{queue}"


def _task(row: Row[Any]) -> Task:
    return Task(
        id=TaskId(row.id), kind=row.kind, key=row.key, queue=row.queue, payload=row.payload, attempts=row.attempts,
        lease_token=LeaseToken(row.lease_token or ""), owner=row.lease_owner or "",
    )  # fmt: skip
