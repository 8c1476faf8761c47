"""A training service with everything that is below it, and a worker that a test plays by hand."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tests.conftest import FakeClock
from trunkline.core.ids import TreeHash
from trunkline.core.status import Status
from trunkline.jobs.model import Report, Task
from trunkline.jobs.outbox import Outbox
from trunkline.jobs.pool import Pool, ProcessTable
from trunkline.jobs.queue import Lease, TaskQueue
from trunkline.jobs.service import JobsService
from trunkline.registry.service import RegistryService
from trunkline.storage.db.engine import Database
from trunkline.storage.db.schema import events, outbox
from trunkline.testing.stores import Stores
from trunkline.training.lifecycle import queue_name
from trunkline.training.model import Experiment, Trial
from trunkline.training.service import TrainingService
from trunkline.versioning.model import PutFile
from trunkline.versioning.service import VersioningService

LEASE_SECONDS = 15.0


class World:
    """The services below training, as a control server has them; ``restart`` forgets all that is only in memory."""

    def __init__(self, home: Path, clock: FakeClock, stores: Stores) -> None:
        self.home = home
        self._stores = stores
        self.clock = clock
        self._open()

    def _open(self) -> None:
        self.settings = self._stores.settings(self.home)
        self.db = Database(self.settings.url_of_database)
        publish = Outbox(self.db, self.clock)
        queue = TaskQueue(self.db, self.clock, LEASE_SECONDS)
        table = ProcessTable(self.db, self.clock, {})
        pool = Pool(db=self.db, queue=queue, table=table, command=_no_worker, limits={})
        self.jobs = JobsService(db=self.db, clock=self.clock, queue=queue, outbox=publish, pool=pool)
        self.versioning = VersioningService(
            db=self.db,
            objects=self._stores.open_objects(),
            clock=self.clock,
            publish=publish.publish,
        )
        self.registry = RegistryService(
            db=self.db, clock=self.clock, versioning=self.versioning, publish=publish.publish
        )
        self.training = TrainingService(
            db=self.db, clock=self.clock, versioning=self.versioning, registry=self.registry, jobs=self.jobs,
            settings=self.settings,
        )  # fmt: skip
        self.training.register()

    def restart(self) -> None:
        self.close()
        self._open()
        self.jobs.queue.forgive()

    def close(self) -> None:
        self.db.close()

    def tree(self, **files: str) -> TreeHash:
        changes = [PutFile(path=f"/{name}", parts=[text.encode()]) for name, text in files.items()]
        return self.versioning.stage(changes).root

    def create(self, *, metric: str = "loss", **arguments: Any) -> Experiment:
        config = {
            "entrypoint": "python3 train.py", "searcher": {"name": "single", "metric": metric}, "max_restarts": 2,
            **arguments.pop("config", {}),
        }  # fmt: skip
        return self.training.create_experiment(config, **arguments)

    def trial(self, experiment: Experiment) -> Trial:
        (found,) = self.training.list_trials(experiment.id)
        return found

    def status(self, experiment: Experiment) -> Status:
        return self.training.get_experiment(experiment.id).status

    def claim(self, experiment: Experiment) -> Run | None:
        claimed = self.jobs.claim(queue_name(experiment.id), "worker", 1)
        return Run(self, *claimed[0]) if claimed else None

    def run(self, experiment: Experiment) -> Run:
        found = self.claim(experiment)
        assert found is not None, "no trial is ready"
        return found

    def finished_events(self) -> list[dict[str, Any]]:
        with self.db.read() as connection:
            found = connection.execute(
                sa.select(outbox.c.payload).where(outbox.c.topic == "experiment.finished")
            )
            return list(found.scalars())

    def history(self, noun: str, key: int) -> list[str]:
        with self.db.read() as connection:
            found = connection.execute(
                sa.select(events.c.new)
                .where(events.c.noun == noun, events.c.key == str(key))
                .order_by(events.c.seq)
            )
            return list(found.scalars())


class Run:
    """A trial's run, as its worker sees it."""

    def __init__(self, world: World, task: Task, payload: dict[str, Any]) -> None:
        self.world = world
        self.lease = Lease(task_id=task.id, token=task.lease_token)
        self.payload = payload
        self.trial_id: int = payload["trial_id"]

    def metrics(self, steps: int, group: str = "validation", **values: Any) -> None:
        self.world.training.report_metrics(self.lease, self.trial_id, group, steps, values)

    def checkpoint(self, steps: int, name: str | None = None) -> str:
        name = name or str(uuid.uuid4())
        root = self.world.tree(model=f"{self.trial_id} at {steps}")
        self.world.training.report_checkpoint(self.lease, self.trial_id, name, steps, root, {})
        return name

    @property
    def preempt(self) -> bool:
        return self.world.training.signals(self.lease, self.trial_id)["preempt"]

    def exits(self, code: int = 0, *, preempted: bool = False, error: str = "") -> None:
        status = Status.SUCCEEDED if code == 0 else Status.FAILED
        result = {"exit_code": code, "preempted": preempted}
        self.world.jobs.report(self.lease, Report(status=status, result=result, error=error))

    def goes_silent(self) -> None:
        self.world.clock.advance(LEASE_SECONDS + 1)
        assert self.world.jobs.reap()


def _no_worker(*_: str) -> Any:
    raise AssertionError("these tests play the worker themselves")


@pytest.fixture
def world(tmp_path: Path, clock: FakeClock, stores: Stores) -> Iterator[World]:
    (tmp_path / "home").mkdir()
    made = World(tmp_path / "home", clock, stores)
    yield made
    made.close()
