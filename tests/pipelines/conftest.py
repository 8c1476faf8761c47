"""Real services over a database and objects in a temporary folder; jobs are driven by hand, as a worker would."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tests.conftest import FakeClock
from trunkline.core.status import Status
from trunkline.jobs.engines.process import ProcessEngine
from trunkline.jobs.model import SLOW_QUEUE, Done, LaunchSpec, Report, Task
from trunkline.jobs.outbox import Outbox
from trunkline.jobs.pool import Pool, ProcessTable
from trunkline.jobs.queue import Lease, TaskQueue
from trunkline.jobs.service import JobsService
from trunkline.pipelines import store
from trunkline.pipelines.service import PipelineService
from trunkline.secrets.service import SecretsService
from trunkline.services import egress_targets
from trunkline.settings import Settings
from trunkline.storage.db.engine import Database
from trunkline.storage.db.schema import pipeline_versions, tasks
from trunkline.testing.stores import Stores
from trunkline.versioning.model import PutFile, TreeInfo
from trunkline.versioning.service import VersioningService


def no_worker(_process_id: str, _worker: str, _queue: str) -> LaunchSpec:
    raise AssertionError("these tests take the tasks themselves")


@dataclass
class World:
    """Everything that a control server has, without its threads."""

    db: Database
    clock: FakeClock
    versioning: VersioningService
    jobs: JobsService
    secrets: SecretsService
    settings: Settings
    pipelines: PipelineService
    stores: Stores

    def restart(self) -> World:
        """What a new server process would see after ``kill -9``."""
        self.jobs.queue.forgive()
        return make_world(self.db, self.clock, self.settings, self.stores)

    def settle(self) -> None:
        """Let the background work run until there is none that is ready."""
        while self.jobs.outbox.drain() or self.jobs.step() or self.jobs.step(SLOW_QUEUE):
            pass

    def put(self, address: str, files: dict[str, str]) -> str:
        changes = [PutFile(path=path, parts=[text.encode()]) for path, text in files.items()]
        commit = self.versioning.modify("default", address, changes)
        self.settle()
        return commit.id

    def claim(self, pipeline: str, limit: int = 100) -> list[tuple[Task, dict[str, Any]]]:
        return self.jobs.claim(f"pipeline:default/{pipeline}", "w1", limit)

    def report(self, task: Task, status: Status, error: str = "") -> None:
        """The end of a set."""
        self.jobs.report(lease_of(task), Report(status=status, error=error))
        self.settle()

    def tell(self, task: Task, *results: dict[str, Any], current: str | None = None) -> bool:
        """Datums of a set have ended; returns whether to go on."""
        found = self.jobs.progress(lease_of(task), results, current)
        self.settle()
        return found

    def result(self, datum: str, files: dict[str, str]) -> dict[str, Any]:
        """A success, with the output below the datum's ID as workers upload it."""
        tree = self.versioning.stage(
            [PutFile(path=f"/{datum}{path}", parts=[text.encode()]) for path, text in files.items()]
        )
        return {
            "id": datum, "status": "succeeded", "attempts": 1, "root": tree.root if files else None,
            "prefix": f"/{datum}", "size": tree.size, "file_count": tree.file_count,
            "stats": {"process_seconds": 1.5, "exit_code": 0},
        }  # fmt: skip

    def succeed(self, task: Task, payload: dict[str, Any], files: dict[str, str]) -> None:
        """The end of a set of one datum."""
        self.tell(task, self.result(only(payload)["id"], files))
        self.report(task, Status.SUCCEEDED)

    def fail(self, task: Task, payload: dict[str, Any], reason: str, status: str = "failed") -> None:
        tries = payload["tries"] if status == "failed" else 1
        self.tell(
            task,
            {"id": only(payload)["id"], "status": status, "reason": reason, "attempts": tries, "stats": {}},
        )
        self.report(task, Status.SUCCEEDED)

    def work(self, pipeline: str, make: Callable[[str], dict[str, str]]) -> int:
        """Do all datums that wait, given by their first path; returns how many."""
        done = 0
        while claimed := self.claim(pipeline):
            for task, payload in claimed:
                results = [self.result(one["id"], make(one["files"][0][1])) for one in payload["datums"]]
                self.tell(task, *results)
                self.report(task, Status.SUCCEEDED)
                done += len(results)
        return done

    def puts(self, files: dict[str, str]) -> list[PutFile]:
        return [PutFile(path=path, parts=[text.encode()]) for path, text in files.items()]

    def lease(self, task: Task) -> Lease:
        return lease_of(task)

    def tasks(self, kind: str) -> list[str]:
        """Keys of the tasks of a kind that are there, whatever their state."""
        with self.db.read() as connection:
            return list(connection.execute(sa.select(tasks.c.key).where(tasks.c.kind == kind)).scalars())

    def set_spec(self, pipeline: str, **fields: Any) -> None:
        """Fields of a stored spec, also such as cannot be given yet."""
        with self.db.write() as connection:
            for row in connection.execute(sa.select(pipeline_versions)).all():
                where = (
                    pipeline_versions.c.pipeline_id == row.pipeline_id, pipeline_versions.c.version == row.version,
                )  # fmt: skip
                connection.execute(
                    sa.update(pipeline_versions).where(*where).values(spec={**row.spec, **fields})
                )

    def row(self, pipeline: str, job: str) -> store.JobRow:
        with self.db.read() as connection:
            found = store.get_job(connection, "default", pipeline, job)
        assert found is not None
        return found

    def egressed(self, task: Task) -> Done:
        """As the step that has sent a job's output elsewhere."""
        payload = task.payload
        tree = TreeInfo(root=payload["root"], size=payload["size"], file_count=payload["file_count"])

        def apply(connection: Connection) -> None:
            row = store.get_job_by_pk(connection, payload["job_pk"])
            assert row is not None
            self.pipelines._steps.end(connection, row, Status.SUCCEEDED, tree=tree)

        return Done(apply=apply)

    def files(self, address: str) -> dict[str, str]:
        _, root, _ = self.versioning.resolve("default", address)
        return {
            info.path: b"".join(self.versioning.read(root, info.path)).decode()
            for info in self.versioning.walk(root)
            if not info.is_dir
        }


def make_world(db: Database, clock: FakeClock, settings: Settings, stores: Stores) -> World:
    outbox = Outbox(db, clock)
    queue = TaskQueue(db, clock, settings.lease_seconds)
    table = ProcessTable(db, clock, {"process": ProcessEngine()})
    pool = Pool(db=db, queue=queue, table=table, command=no_worker, limits={})
    jobs = JobsService(db=db, clock=clock, queue=queue, outbox=outbox, pool=pool)
    versioning = VersioningService(db=db, objects=stores.open_objects(), clock=clock, publish=outbox.publish)
    secrets = SecretsService(db, clock)
    issued: list[str] = []

    def issue(scope: str, subject: str, _seconds: float | None) -> str:
        issued.append(subject)
        return f"{scope}-token-{len(issued)}"

    targets = egress_targets(settings, secrets)
    pipelines = PipelineService(db, clock, versioning, jobs, secrets, settings, issue, targets)
    pipelines.register()
    return World(db, clock, versioning, jobs, secrets, settings, pipelines, stores)


@pytest.fixture
def world(db: Database, clock: FakeClock, tmp_path: Path, stores: Stores) -> World:
    made = make_world(db, clock, stores.settings(tmp_path), stores)
    made.versioning.create_repo("default", "images")
    return made


def lease_of(task: Task) -> Lease:
    return Lease(task_id=task.id, token=task.lease_token)


def only(payload: dict[str, Any]) -> dict[str, Any]:
    """The datum of a set of one."""
    [datum] = payload["datums"]
    return datum  # type: ignore[no-any-return]


def spec(name: str = "edges", repo: str = "images", glob: str = "/*", **more: Any) -> dict[str, Any]:
    transform = {"cmd": ["sh"], "stdin": ["echo hi"], **more.pop("transform", {})}
    return {
        "pipeline": {"name": name},
        "input": {"pfs": {"repo": repo, "glob": glob}},
        "transform": transform,
        "datum_set_spec": {"number": 1},  # a task for each datum, unless a test says otherwise
        **more,
    }
