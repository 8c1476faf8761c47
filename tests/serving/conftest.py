"""A control server of the parts that serving needs, on a real database, with real processes; and a client of the gateway."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import urllib3

from trunkline.core.clock import SystemClock
from trunkline.errors import InvalidInputError
from trunkline.jobs.engines.process import ProcessEngine
from trunkline.jobs.outbox import Outbox
from trunkline.jobs.pool import Pool, ProcessTable
from trunkline.jobs.queue import TaskQueue
from trunkline.jobs.service import JobsService
from trunkline.serving.model import InferenceService, ModelSource, condition
from trunkline.serving.service import ServingService
from trunkline.storage.db.engine import Database
from trunkline.storage.db.schema import namespaces
from trunkline.testing.stores import LocalStores, Stores

WAIT_SECONDS = 60.0


def open_nothing(uri: str) -> ModelSource:
    raise InvalidInputError(f"storageUri {uri!r} is not supported", kind="bad_storage_uri")


class KnownSecrets:
    """One secret, as the secrets service would give it."""

    def value(self, namespace: str, name: str, key: str) -> str:
        assert (namespace, name, key) == ("models", "access", "word")
        return "open sesame"


class Control:
    """The control part: may be stopped and made again on the same home, as a restart does."""

    def __init__(
        self, home: Path, before: Control | None = None, *, run: bool = True, stores: Stores | None = None
    ) -> None:
        self.before = before
        stores = stores or LocalStores(home)
        self.settings = stores.settings(home, gateway_port=0, drain_seconds=5.0, service_start_seconds=60.0)
        home.mkdir(parents=True, exist_ok=True)
        clock = SystemClock()
        self.db = Database(self.settings.url_of_database)
        with self.db.write() as connection:
            known = connection.execute(sa.select(namespaces.c.name)).scalars().all()
            for name in {"default", "models"} - set(known):
                connection.execute(sa.insert(namespaces).values(name=name, created_at=clock.now()))
        queue = TaskQueue(self.db, clock, lease_seconds=15.0)
        self.engine = ProcessEngine()
        self.table = ProcessTable(self.db, clock, {"process": self.engine})
        pool = Pool(db=self.db, queue=queue, table=self.table, command=no_worker, limits={})
        self.jobs = JobsService(
            db=self.db, clock=clock, queue=queue, outbox=Outbox(self.db, clock), pool=pool
        )
        self.serving = ServingService(
            db=self.db, clock=clock, secrets=KnownSecrets(), settings=self.settings, table=self.table,
            open_model=open_nothing, jobs=self.jobs,
        )  # fmt: skip
        if run:
            self.serving.start()
            self.jobs.start()

    def stop(self) -> None:
        """Leave replicas and gateway running, as a crash of the server does."""
        self.serving.rest()
        self.jobs.stop()
        self.db.close()

    def end(self) -> None:
        self.jobs.stop()
        self.serving.stop_all()
        self.db.close()
        if self.before is not None:
            self.before.reap()

    def reap(self) -> None:
        """A real restart leaves orphans; in a test, what an earlier control part started stays this process's child."""
        for child in self.engine._children.values():
            child.wait(10)
        if self.before is not None:
            self.before.reap()

    # --- what tests do with it ---

    def apply(self, name: str, predictor: dict[str, Any], *, commit_id: str = "") -> InferenceService:
        return self.serving.apply("models", manifest(name, predictor, commit_id=commit_id))[0]

    def wait(
        self, name: str, test: Callable[[InferenceService], bool], seconds: float = WAIT_SECONDS
    ) -> InferenceService:
        deadline = time.monotonic() + seconds
        while True:
            service = self.serving.get("models", name)
            if test(service):
                return service
            if time.monotonic() > deadline:
                pytest.fail(
                    f"{name} after {seconds} s: {service.status}\n{self.serving.logs('models', name)}"
                )
            time.sleep(0.05)

    def wait_ready(self, name: str) -> InferenceService:
        return self.wait(name, lambda s: s.ready == "True" and s.observed_generation == s.generation)

    def wait_blocked(self, name: str) -> InferenceService:
        return self.wait(name, lambda s: s.status["modelStatus"]["transitionStatus"] == "BlockedByFailedLoad")

    def request(
        self, method: str, path: str, host: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> urllib3.BaseHTTPResponse:
        return http.request(
            method, self.serving.gateway.url + path, json=body, headers={"Host": host, **(headers or {})}, retries=False,
            timeout=30.0,
        )  # fmt: skip


http = urllib3.PoolManager(maxsize=16)


def no_worker(*_: str) -> Any:
    raise AssertionError("these tests need no worker processes")


def manifest(name: str, predictor: dict[str, Any], *, commit_id: str = "") -> dict[str, Any]:
    annotations = {"trunkline.dev/id": commit_id} if commit_id else {}
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": name, "annotations": annotations},
        "spec": {"predictor": predictor},
    }


def message(service: InferenceService, kind: str = "Ready") -> str:
    return condition(service.status, kind).get("message", "")


class Load:
    """Constant traffic from a few threads; counts what was not answered with 200."""

    def __init__(self, control: Control, host: str, path: str, body: Any, threads: int = 2) -> None:
        self.failures: list[str] = []
        self.ids: list[str] = []
        self.count = 0
        self._ask = lambda: control.request("POST", path, host, body)
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(threads)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                answer = self._ask()
                if answer.status != 200:
                    self.failures.append(f"{answer.status} {answer.data[:200]!r}")
                self.ids.append(answer.headers.get("x-trunkline-id", ""))
            except urllib3.exceptions.HTTPError as error:
                self.failures.append(repr(error))
            self.count += 1
            time.sleep(0.002)


@pytest.fixture
def control(tmp_path: Path, stores: Stores) -> Iterator[Control]:
    made = Control(tmp_path / "home", stores=stores)
    yield made
    made.end()


@pytest.fixture(scope="session")
def iris(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained scikit-learn model."""
    import joblib  # here, as it takes seconds, which only these tests are to wait
    from sklearn.datasets import load_iris
    from sklearn.svm import SVC

    folder = tmp_path_factory.mktemp("iris")
    features, target = load_iris(return_X_y=True)
    joblib.dump(SVC(gamma="scale").fit(features, target), folder / "model.joblib")
    return folder
