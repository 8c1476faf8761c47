"""The leased-row queue: each piece of work is done once, whoever dies."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import sqlalchemy as sa
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from tests.conftest import FakeClock
from trunkline.core.clock import SystemClock
from trunkline.core.ids import LeaseToken
from trunkline.core.status import Status
from trunkline.jobs.model import ANY_QUEUE, CONTROL_QUEUE
from trunkline.jobs.queue import Lease, TaskQueue
from trunkline.storage.db.engine import Database
from trunkline.storage.db.schema import tasks
from trunkline.testing.stores import Stores


def _queue(db: Database, clock: FakeClock) -> TaskQueue:
    return TaskQueue(db, clock, lease_seconds=10)


def _enqueue(queue: TaskQueue, db: Database, key: str, **more: float) -> None:
    with db.write() as connection:
        queue.enqueue(connection, kind="k", key=key, queue="q", payload={"of": key}, **more)


def _claim(queue: TaskQueue, db: Database, limit: int = 1) -> list[Lease]:
    with db.write() as connection:
        return [Lease(task_id=t.id, token=t.lease_token) for t in queue.claim(connection, "q", "me", limit)]


def _finish(queue: TaskQueue, db: Database, lease: Lease, status: Status = Status.SUCCEEDED) -> bool:
    with db.write() as connection:
        return queue.finish(connection, lease, status)


def _status(db: Database, key: str) -> str:
    with db.read() as connection:
        return str(connection.execute(sa.select(tasks.c.status).where(tasks.c.key == key)).scalar_one())


def test_work_asked_for_twice_is_one_task(db: Database, clock: FakeClock) -> None:
    queue = _queue(db, clock)
    _enqueue(queue, db, "a")
    _enqueue(queue, db, "a")
    assert len(_claim(queue, db, 10)) == 1


def test_work_asked_for_while_it_runs_runs_once_more(db: Database, clock: FakeClock) -> None:
    queue = _queue(db, clock)
    _enqueue(queue, db, "a")
    [lease] = _claim(queue, db)
    _enqueue(queue, db, "a")
    assert _claim(queue, db) == []
    assert _finish(queue, db, lease)
    [second] = _claim(queue, db)
    assert _finish(queue, db, second)
    assert _claim(queue, db) == []


def test_a_lease_that_ran_out_is_refused(db: Database, clock: FakeClock) -> None:
    queue = _queue(db, clock)
    _enqueue(queue, db, "a")
    [old] = _claim(queue, db)
    clock.advance(11)
    with db.write() as connection:
        [expired] = queue.expired(connection)
        assert queue.release(connection, Lease(task_id=expired.id, token=expired.lease_token), 0)
    [new] = _claim(queue, db)
    assert not _finish(queue, db, old)
    assert queue.keep_alive([old, new]) == ([old.task_id], [])
    assert _finish(queue, db, new)


def test_a_forged_token_is_refused(db: Database, clock: FakeClock) -> None:
    queue = _queue(db, clock)
    _enqueue(queue, db, "a")
    [lease] = _claim(queue, db)
    assert not _finish(queue, db, Lease(task_id=lease.task_id, token=LeaseToken("")))
    assert _status(db, "a") == Status.RUNNING


def test_cancelling_ends_queued_work_and_tells_running_work(db: Database, clock: FakeClock) -> None:
    queue = _queue(db, clock)
    _enqueue(queue, db, "runs")
    [lease] = _claim(queue, db)
    _enqueue(queue, db, "waits")
    with db.write() as connection:
        queue.cancel(connection, "k", ["runs", "waits"])
    assert queue.keep_alive([lease]) == ([], [lease.task_id])
    assert _claim(queue, db) == []
    assert _status(db, "waits") == Status.CANCELLED


def test_work_for_later_waits(db: Database, clock: FakeClock) -> None:
    queue = _queue(db, clock)
    _enqueue(queue, db, "a", after_seconds=5)
    assert _claim(queue, db) == []
    clock.advance(5)
    assert len(_claim(queue, db)) == 1


def test_a_restarted_server_forgives_silence_but_takes_back_its_own_steps(
    db: Database, clock: FakeClock
) -> None:
    queue = _queue(db, clock)
    _enqueue(queue, db, "a")
    [lease] = _claim(queue, db)
    with db.write() as connection:
        queue.enqueue(connection, kind="step", key="s", queue="control")
        queue.claim(connection, "control", "server", 1)
    clock.advance(1000)
    queue.forgive()
    with db.write() as connection:
        assert queue.expired(connection) == []
        assert [task.key for task in queue.claim(connection, "control", "server", 9)] == ["s"]
    assert _finish(queue, db, lease)


def test_threads_never_claim_the_same_task(db: Database) -> None:
    queue = TaskQueue(db, SystemClock(), lease_seconds=60)
    for number in range(60):
        _enqueue(queue, db, str(number))
    claimed: list[int] = []

    def work() -> None:
        while leases := _claim(queue, db, 3):
            claimed.extend(lease.task_id for lease in leases)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claimed) == sorted(set(claimed))
    assert len(claimed) == 60


class QueueMachine(RuleBasedStateMachine):
    """The queue beside a model of it: which keys wait, who holds what, what was applied."""

    def __init__(self, stores: Stores) -> None:
        super().__init__()
        self.stores = stores
        self.db = Database(stores.database_url)
        self.clock = FakeClock()
        self.queue = _queue(self.db, self.clock)
        self.waiting: set[str] = set()
        self.again: set[str] = set()
        self.held: dict[str, tuple[Lease, float]] = {}
        self.stale: list[Lease] = []

    def teardown(self) -> None:
        self.db.close()

    @rule(key=st.sampled_from("abc"))
    def ask(self, key: str) -> None:
        _enqueue(self.queue, self.db, key)
        if key in self.held:
            self.again.add(key)
        else:
            self.waiting.add(key)

    @rule(limit=st.integers(1, 3))
    def claim(self, limit: int) -> None:
        with self.db.write() as connection:
            claimed = self.queue.claim(connection, "q", "me", limit)
        assert len(claimed) == min(limit, len(self.waiting))
        for task in claimed:
            self.waiting.remove(task.key)
            lease = Lease(task_id=task.id, token=task.lease_token)
            self.held[task.key] = (lease, self.clock.now() + 10)

    @rule(key=st.sampled_from("abc"), keeps=st.booleans())
    def end(self, key: str, keeps: bool) -> None:
        if key not in self.held:
            return
        lease, _ = self.held.pop(key)
        with self.db.write() as connection:
            if keeps:
                assert self.queue.release(connection, lease, 0)
                self.waiting.add(key)
            else:
                assert self.queue.finish(connection, lease, Status.SUCCEEDED)
                if key in self.again:
                    self.waiting.add(key)
        self.again.discard(key)
        self.stale.append(lease)

    @rule(seconds=st.sampled_from([1, 6, 11]))
    def time_passes(self, seconds: int) -> None:
        self.clock.advance(seconds)
        with self.db.write() as connection:
            for task in self.queue.expired(connection):
                lease, until = self.held.pop(task.key)
                assert until < self.clock.now()
                self.queue.release(connection, lease, 0)
                self.stale.append(lease)
                self.again.discard(task.key)
                self.waiting.add(task.key)
        assert all(until >= self.clock.now() for _, until in self.held.values())

    @rule()
    def keep_alive(self) -> None:
        lost, cancelled = self.queue.keep_alive([lease for lease, _ in self.held.values()])
        assert (lost, cancelled) == ([], [])
        self.held = {key: (lease, self.clock.now() + 10) for key, (lease, _) in self.held.items()}

    @rule()
    def reopen(self) -> None:
        self.db.close()
        self.db = Database(self.stores.database_url)
        self.queue = _queue(self.db, self.clock)

    @invariant()
    def stale_leases_change_nothing(self) -> None:
        for lease in self.stale[-3:]:
            assert not _finish(self.queue, self.db, lease)


@pytest.mark.machine
def test_queue_machine(fresh_stores: Callable[[], Stores]) -> None:
    run_state_machine_as_test(lambda: QueueMachine(fresh_stores()))  # type: ignore[no-untyped-call]


def test_many_tasks_are_asked_for_at_once_like_one_by_one(db: Database, clock: FakeClock) -> None:
    queue = _queue(db, clock)
    _enqueue(queue, db, "running")
    [lease] = _claim(queue, db)
    with db.write() as connection:
        queue.enqueue_all(connection, kind="k", queue="q", payloads={})
        queue.enqueue_all(
            connection, kind="k", queue="q", payloads={key: {"of": key} for key in ("a", "b", "running")}
        )
    with db.write() as connection:
        assert [task.payload for task in queue.claim(connection, "q", "me", 10)] == [{"of": "a"}, {"of": "b"}]
    assert _finish(queue, db, lease)
    assert _status(db, "running") == "queued", "asked for while it ran: once more"


def test_the_leases_of_a_dead_worker_run_out_at_once(db: Database, clock: FakeClock) -> None:
    queue = _queue(db, clock)
    _enqueue(queue, db, "a")
    with db.write() as connection:
        [task] = queue.claim(connection, "q", "w1", 1)
        assert queue.owners(connection) == {"w1"}
        queue.expire_held_by(connection, ["w2"])
        assert queue.expired(connection) == []
        queue.expire_held_by(connection, ["w1"])
        assert [one.id for one in queue.expired(connection)] == [task.id]


def test_whoever_waits_for_a_queue_is_woken_by_what_may_be_taken_from_it_and_by_nothing_else(
    db: Database, clock: FakeClock
) -> None:
    queue = _queue(db, clock)
    this, other, work, steps = (queue.changes_of(name) for name in ("q", "other", ANY_QUEUE, CONTROL_QUEUE))

    def moved(action: Callable[[], object]) -> list[bool]:
        before = [one.count for one in (this, other, work, steps)]
        action()
        return [one.count != count for one, count in zip((this, other, work, steps), before, strict=True)]

    def revoke() -> None:
        with db.write() as connection:
            assert queue.revoke(connection, "k", "a")

    def release(lease: Lease) -> None:
        with db.write() as connection:
            assert queue.release(connection, lease, 0.0)

    wakes, nothing = [True, False, True, False], [False] * 4
    assert moved(lambda: _enqueue(queue, db, "a")) == wakes
    [lease] = _claim(queue, db)
    assert moved(lambda: queue.keep_alive([lease])) == nothing
    assert moved(lambda: release(lease)) == wakes
    assert moved(lambda: _claim(queue, db)) == nothing
    assert moved(revoke) == wakes
    [lease] = _claim(queue, db)
    assert moved(lambda: _finish(queue, db, lease)) == nothing
    _enqueue(queue, db, "a")
    [lease] = _claim(queue, db)
    _enqueue(queue, db, "a")
    assert moved(lambda: _finish(queue, db, lease)) == wakes, "it was asked for again"
    with db.write() as connection:
        queue.enqueue(connection, kind="step", key="a", queue=CONTROL_QUEUE)
    assert moved(lambda: None) == nothing
    assert steps.count == 1, "no worker takes a step of the server"
    assert moved(db.wake_all) == [True] * 4


def test_a_write_that_fails_wakes_nobody(db: Database, clock: FakeClock) -> None:
    queue = _queue(db, clock)
    changes = queue.changes_of("q")
    with pytest.raises(ZeroDivisionError), db.write() as connection:
        queue.enqueue(connection, kind="k", key="a", queue="q")
        raise ZeroDivisionError
    _claim(queue, db)
    assert changes.count == 0
