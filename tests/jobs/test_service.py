"""Claims, reports, control steps and worker processes, on real rows and real processes."""

from __future__ import annotations

import os
import signal
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import Connection

from trunkline.core.clock import SystemClock
from trunkline.core.status import Status
from trunkline.errors import ConflictError, NotFoundError, UnavailableError
from trunkline.jobs.engines.process import ProcessEngine, started_at
from trunkline.jobs.model import CONTROL_QUEUE, Again, Done, LaunchSpec, Outcome, Process, Report, Task
from trunkline.jobs.outbox import Outbox
from trunkline.jobs.pool import LAUNCH_AGAIN_SECONDS, Pool, ProcessTable
from trunkline.jobs.queue import Lease, TaskQueue
from trunkline.jobs.service import JobsService
from trunkline.storage.db.engine import Database


class Recorder:
    """A domain's side of a kind of work: retries twice, then gives up."""

    def __init__(self) -> None:
        self.reports: list[tuple[str, Report]] = []
        self.lost_keys: list[str] = []

    def describe(self, task: Task) -> dict[str, Any]:
        if task.payload.get("broken"):
            raise NotFoundError("what it needs is gone")
        return {"do": task.key}

    def started(self, connection: Connection, task: Task) -> None: ...

    def progress(self, connection: Connection, task: Task, results: Any, current: str | None) -> bool:
        return True

    def reported(self, connection: Connection, task: Task, report: Report) -> float | None:
        self.reports.append((task.key, report))
        return 0.0 if report.status == Status.FAILED and task.attempts < 3 and not report.error else None

    def lost(self, connection: Connection, task: Task) -> float | None:
        self.lost_keys.append(task.key)
        return 0.0


def _sleeper(tmp_path: Path) -> Callable[[str, str, str], LaunchSpec]:
    def command(process_id: str, _worker: str, _queue: str) -> LaunchSpec:
        return LaunchSpec(
            id=process_id, argv=(sys.executable, "-c", "import time; print('here', flush=True); time.sleep(60)"),
            env={}, cwd=str(tmp_path), log_path=str(tmp_path / f"{process_id}.log"),
        )  # fmt: skip

    return command


@pytest.fixture
def jobs(db: Database, tmp_path: Path) -> Iterator[JobsService]:
    clock = SystemClock()
    queue = TaskQueue(db, clock, lease_seconds=0.6)
    table = ProcessTable(db, clock, {"process": ProcessEngine()})
    pool = Pool(db=db, queue=queue, table=table, command=_sleeper(tmp_path), limits={"small": 1})
    service = JobsService(db=db, clock=clock, queue=queue, outbox=Outbox(db, clock), pool=pool)
    yield service
    service.stop()
    pool.stop_all()


def _until(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.01)


def _add(jobs: JobsService, db: Database, key: str, queue: str = "q", **payload: Any) -> None:
    with db.write() as connection:
        jobs.queue.enqueue(connection, kind="work", key=key, queue=queue, payload=payload)


def test_a_report_is_applied_once_and_only_under_its_lease(jobs: JobsService, db: Database) -> None:
    recorder = Recorder()
    jobs.on_worker("work", recorder)
    _add(jobs, db, "a")
    [(task, payload)] = jobs.claim("q", "w", 5)
    assert payload == {"do": "a"}
    lease = Lease(task_id=task.id, token=task.lease_token)
    jobs.report(lease, Report(status=Status.SUCCEEDED))
    with pytest.raises(ConflictError, match="lease on task"):
        jobs.report(lease, Report(status=Status.SUCCEEDED))
    assert len(recorder.reports) == 1


def test_the_last_results_end_a_task(jobs: JobsService, db: Database) -> None:
    recorder = Recorder()
    jobs.on_worker("work", recorder)
    _add(jobs, db, "a")
    [(task, _)] = jobs.claim("q", "w", 1)
    lease = Lease(task_id=task.id, token=task.lease_token)
    assert jobs.progress(lease, [{}], None)
    assert recorder.reports == []
    assert jobs.progress(lease, [{}], None, ends=True)
    assert recorder.reports == [("a", Report(status=Status.SUCCEEDED))]
    with pytest.raises(ConflictError, match="lease on task"):
        jobs.report(lease, Report(status=Status.SUCCEEDED))


def test_a_failed_task_is_retried_until_its_domain_gives_up(jobs: JobsService, db: Database) -> None:
    recorder = Recorder()
    jobs.on_worker("work", recorder)
    _add(jobs, db, "a")
    for _ in range(3):
        [(task, _)] = jobs.claim("q", "w", 1)
        jobs.report(Lease(task_id=task.id, token=task.lease_token), Report(status=Status.FAILED))
    assert jobs.claim("q", "w", 1) == []
    assert [report.status for _, report in recorder.reports] == [Status.FAILED] * 3


def test_a_task_that_cannot_be_described_fails_with_the_reason(jobs: JobsService, db: Database) -> None:
    recorder = Recorder()
    jobs.on_worker("work", recorder)
    _add(jobs, db, "a", broken=True)
    assert jobs.claim("q", "w", 1) == []
    assert recorder.reports == [("a", Report(status=Status.FAILED, error="what it needs is gone"))]


def test_a_silent_worker_loses_its_task_to_the_next(jobs: JobsService, db: Database) -> None:
    recorder = Recorder()
    jobs.on_worker("work", recorder)
    _add(jobs, db, "a")
    jobs.claim("q", "dies", 1)
    jobs.start()
    _until(lambda: recorder.lost_keys == ["a"])
    [(task, _)] = jobs.claim("q", "lives", 1)
    assert task.attempts == 2


def test_control_steps_run_again_until_settled_and_after_errors(jobs: JobsService, db: Database) -> None:
    calls: list[int] = []

    def handler(task: Task) -> Outcome:
        calls.append(task.attempts)
        if len(calls) == 1:
            raise UnavailableError("not yet")
        return Done() if len(calls) == 3 else Again(after_seconds=0.01)

    jobs.on_control("settle", handler)
    with db.write() as connection:
        jobs.queue.enqueue(connection, kind="settle", key="x", queue=CONTROL_QUEUE)
    jobs.start()
    _until(lambda: len(calls) == 3)
    time.sleep(0.2)
    assert len(calls) == 3


@pytest.mark.slow
def test_a_long_control_step_keeps_its_lease(jobs: JobsService, db: Database) -> None:
    applied: list[str] = []

    def handler(task: Task) -> Outcome:
        time.sleep(1.5)  # more than two lease terms
        return Done(apply=lambda _: applied.append(task.key))

    jobs.on_control("slow", handler)
    with db.write() as connection:
        jobs.queue.enqueue(connection, kind="slow", key="x", queue=CONTROL_QUEUE)
    jobs.start()
    _until(lambda: applied == ["x"])
    time.sleep(0.3)
    assert applied == ["x"]


def test_workers_come_for_work_within_their_bounds_and_are_adopted(jobs: JobsService, db: Database) -> None:
    jobs.on_worker("work", Recorder())
    with db.write() as connection:
        jobs.queue.declare(connection, "q", worker="any", workers_max=2, options={})
        jobs.queue.declare(connection, "r", worker="small", workers_max=5, options={})
    for number in range(4):
        _add(jobs, db, f"q{number}", queue="q")
        _add(jobs, db, f"r{number}", queue="r")
    jobs.pool.step()
    assert [len(jobs.pool.table.running("worker", subject)) for subject in ("q", "r")] == [2, 1]
    assert jobs.pool.step() is False
    again = ProcessTable(db, SystemClock(), {"process": ProcessEngine()})  # a restarted server's eyes
    [first, second] = again.running("worker", "q")
    assert again.is_alive(first)
    again.stop(first, grace_seconds=1)
    assert not again.is_alive(first)
    assert not jobs.pool.table.is_alive(first)
    assert again.is_alive(second)
    assert jobs.pool.step() is True


def test_a_reused_process_number_is_not_taken_for_the_process() -> None:
    engine = ProcessEngine()
    import os

    assert engine.is_alive({"pid": os.getpid(), "started": started_at(os.getpid())})
    assert not engine.is_alive({"pid": os.getpid(), "started": "1"})
    engine.stop({"pid": os.getpid(), "started": "1"}, grace_seconds=0)  # would end the tests if it were


def test_a_stopped_process_takes_its_children_along(tmp_path: Path) -> None:
    engine = ProcessEngine()
    log = tmp_path / "log"
    spec = LaunchSpec(
        id="x", argv=("/bin/sh", "-c", "sleep 60 & echo child $!; trap '' TERM; wait; sleep 60"), env={"PATH": "/bin:/usr/bin"},
        cwd=str(tmp_path), log_path=str(log),
    )  # fmt: skip
    handle = engine.launch(spec)
    _until(lambda: "child" in engine.logs(handle, tail_bytes=100))
    child = int(engine.logs(handle, tail_bytes=100).split()[1])
    engine.stop(handle, grace_seconds=0.2)
    assert not engine.is_alive(handle)
    _until(lambda: started_at(child) is None)


def test_a_process_that_a_killed_server_could_not_note_is_ended(db: Database, tmp_path: Path) -> None:
    """The server was killed between the start of a process and the row that says which one it is."""
    table = ProcessTable(db, SystemClock(), {"process": ProcessEngine()})
    name = uuid.uuid4().hex
    spec = LaunchSpec(
        id=name, argv=(sys.executable, "-c", "import time; time.sleep(60)"), env={"TRUNKLINE_PROCESS_ID": name},
        cwd=str(tmp_path), log_path=str(tmp_path / "log"),
    )  # fmt: skip
    launcher = ProcessEngine()
    handle = launcher.launch(spec)
    process = Process(
        id=name, kind="worker", subject="q", engine="process", handle=None, status="starting", log=None, info={},
        created_at=0.0,
    )  # fmt: skip
    table.stop(process)
    assert not launcher.is_alive(handle)


def test_a_program_that_is_not_there_is_a_clear_error(tmp_path: Path) -> None:
    spec = LaunchSpec(id="x", argv=("/no/such",), env={}, cwd=str(tmp_path), log_path=str(tmp_path / "log"))
    with pytest.raises(UnavailableError, match="cannot start /no/such"):
        ProcessEngine().launch(spec)


def test_the_task_of_a_killed_worker_is_taken_back_before_its_lease_ends(
    db: Database, tmp_path: Path
) -> None:
    clock = SystemClock()
    queue = TaskQueue(db, clock, lease_seconds=1000)
    table = ProcessTable(db, clock, {"process": ProcessEngine()})
    pool = Pool(db=db, queue=queue, table=table, command=_sleeper(tmp_path), limits={})
    jobs = JobsService(db=db, clock=clock, queue=queue, outbox=Outbox(db, clock), pool=pool)
    domain = Recorder()
    jobs.on_worker("work", domain)
    with db.write() as connection:
        queue.declare(connection, "q", worker="any", workers_max=1, options={})
    try:
        for killed_while_down in (False, True):
            _add(jobs, db, "a")
            pool.step()
            [worker] = table.running("worker")
            assert len(jobs.claim("q", worker.id, 1)) == 1
            os.kill((worker.handle or {})["pid"], signal.SIGKILL)
            _until(lambda worker=worker: not ProcessEngine().is_alive(worker.handle))
            pool.adopt() if killed_while_down else pool.step()
            assert jobs.reap()
        assert domain.lost_keys == ["a", "a"]
    finally:
        pool.stop_all()


def test_workers_that_fail_together_have_failed_once(
    db: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = SystemClock()
    queue = TaskQueue(db, clock, lease_seconds=1000)

    def command(process_id: str, _worker: str, _queue: str) -> LaunchSpec:
        return LaunchSpec(
            id=process_id, argv=("/no/such",), env={}, cwd=str(tmp_path), log_path=str(tmp_path / "log")
        )

    table = ProcessTable(db, clock, {"process": ProcessEngine()})
    pool = Pool(db=db, queue=queue, table=table, command=command, limits={})
    with db.write() as connection:
        queue.declare(connection, "q", worker="any", workers_max=8, options={})
        for number in range(8):
            queue.enqueue(connection, kind="work", key=str(number), queue="q")
    assert pool.step() is False
    assert [line.getMessage() for line in caplog.records if "next" in line.getMessage()] == [
        "a worker for q ended before it began (cannot start /no/such: No such file or directory): "
        "the next one is started in 0.5 s"
    ]


def test_workers_that_cannot_begin_are_started_less_and_less_often(
    db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = SystemClock()
    queue = TaskQueue(db, clock, lease_seconds=1000)
    engine = ProcessEngine()
    table = ProcessTable(db, clock, {"process": engine})
    launched: list[str] = []

    def command(process_id: str, _worker: str, name: str) -> LaunchSpec:
        launched.append(name)
        argv = ("/bin/false",) if name == "broken" else ("/bin/sleep", "60")
        return LaunchSpec(id=process_id, argv=argv, env={}, cwd=str(tmp_path), log_path=str(tmp_path / "log"))

    pool = Pool(db=db, queue=queue, table=table, command=command, limits={})
    jobs = JobsService(db=db, clock=clock, queue=queue, outbox=Outbox(db, clock), pool=pool)
    jobs.on_worker("work", Recorder())
    with db.write() as connection:
        for name in ("broken", "well"):
            queue.declare(connection, name, worker="any", workers_max=1, options={})
    passed = 0.0
    real = time.monotonic
    monkeypatch.setattr("trunkline.jobs.pool.time.monotonic", lambda: real() + passed)

    def step() -> list[str]:
        """What is launched, once all that cannot live is dead."""
        launched.clear()
        pool.step()
        for process in table.running("worker", "broken"):
            _until(lambda process=process: not engine.is_alive(process.handle))
        return list(launched)

    try:
        _add(jobs, db, "a", queue="broken")
        assert step() == ["broken"]
        for wait_seconds in LAUNCH_AGAIN_SECONDS:
            assert step() == [], "one died"
            _add(jobs, db, "b", queue="well")
            passed += wait_seconds - 0.3
            assert step() in ([], ["well"]), "only the queue whose workers die waits"
            passed += 0.4
            assert step() == ["broken"]
        assert "the next one is started in 30 s" in caplog.text
        [well] = table.running("worker", "well")
        pool.heard(well.id)
        os.kill((well.handle or {})["pid"], signal.SIGKILL)
        _until(lambda: not engine.is_alive(well.handle))
        assert "well" in step(), "a worker that had begun is replaced at once"
    finally:
        pool.stop_all()
