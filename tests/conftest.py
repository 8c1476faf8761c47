"""Fixtures that every part uses: a real database in a temporary folder, and a clock that tests move by hand."""

from __future__ import annotations

import contextlib
import gc
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import HealthCheck, settings

import tests.dialect  # noqa: F401
from trunkline.core.garbage import keep_what_is_there
from trunkline.storage.db.engine import Database
from trunkline.testing.bucket import BucketServer, running_bucket_server
from trunkline.testing.bucket import is_installed as bucket_server_is_installed
from trunkline.testing.postgres import Postgres, running_postgres
from trunkline.testing.postgres import is_installed as postgres_is_installed
from trunkline.testing.stores import CloudStores, LocalStores, Stores

if TYPE_CHECKING:
    from trunkline.testing.server import ServerHarness

IN_MEMORY = Path("/dev/shm")
IN_MEMORY_BYTES_MIN = 6 << 30
"""What must be free there: the fast tests need up to 2 GB for each process."""

_ALL_SLOW = re.compile(r"^pytestmark = (\[\s*)?pytest\.mark\.slow\b", re.MULTILINE)

_QUIET = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
settings.register_profile("dev", max_examples=8, deadline=None, suppress_health_check=_QUIET)
settings.register_profile("ci", max_examples=30, deadline=None, suppress_health_check=_QUIET)
settings.register_profile(
    "nightly",
    max_examples=1000,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--stores",
        choices=("local", "cloud"),
        default="local",
        help="Where data lives in tests that use the fixture `stores`: in files, or in PostgreSQL and an S3 bucket.",
    )


def pytest_configure(config: pytest.Config) -> None:
    """The fast tests need no disk to be waited for: what they write is synced a hundred thousand times."""
    is_fast = config.getoption("markexpr", "") == "not slow"
    if is_fast and IN_MEMORY.is_dir() and shutil.disk_usage(IN_MEMORY).free >= IN_MEMORY_BYTES_MIN:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(IN_MEMORY))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Files that have only slow tests import large libraries: the fast part leaves them unread."""
    if config.getoption("markexpr", "") != "not slow" or collection_path.suffix != ".py":
        return None
    return True if _ALL_SLOW.search(collection_path.read_text()) else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if item.name == "runTest":  # what Hypothesis makes of a state machine
            item.add_marker(pytest.mark.machine)
    if config.getoption("--stores") == "cloud":
        skip = pytest.mark.skip(reason="about files on a local disk")
        for item in items:
            if item.get_closest_marker("local_only"):
                item.add_marker(skip)


def pytest_collection_finish() -> None:
    """What is imported stays until the end: no collection of garbage need look at it again, nor come every 700 objects."""
    keep_what_is_there()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # else libraries that look for what was left behind at the end find all of it


def folder_on_disk() -> Iterator[Path]:
    """Below /tmp, wherever the other tests have their ``tmp_path``."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


class FakeClock:
    """A clock that stands still until it is told to move."""

    def __init__(self) -> None:
        self.time = 1_000_000.0

    def now(self) -> float:
        return self.time

    def advance(self, seconds: float) -> None:
        self.time += seconds


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(scope="session")
def portal() -> Iterator[BlockingPortal]:
    """An event loop for the requests of all test clients of this process."""
    with start_blocking_portal() as found:
        yield found


@pytest.fixture(scope="session")
def server_of_this_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerHarness]:
    from trunkline.testing.server import running_server  # here, as it brings the whole application

    with running_server(tmp_path_factory.mktemp("server") / "t") as found:
        yield found


@pytest.fixture(scope="module")
def shared_server(server_of_this_process: ServerHarness) -> Iterator[ServerHarness]:
    """A server for all modules of this process that need nothing of it but that it runs. Each finds it without projects,
    repos, pipelines and transactions of those before; what cannot be deleted, as models, has names of its own."""
    yield server_of_this_process
    client = server_of_this_process.client()
    for transaction in client.list_transactions():
        client.delete_transaction(transaction.id)
    for pipeline in reversed(client.list_pipelines()):
        client.delete_pipeline(pipeline.name, project=pipeline.project, force=True)
    for repo in client.list_repos():
        client.delete_repo(repo.name, project=repo.project, force=True)
    for project in client.list_projects():
        if project.name != "default":
            client.delete_project(project.name)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server for all tests of this process."""
    if not postgres_is_installed():
        pytest.skip("there is no PostgreSQL server on this machine")
    with running_postgres() as server:
        yield server


@pytest.fixture(scope="session")
def bucket_server() -> Iterator[BucketServer]:
    """An S3 server for all tests of this process; its credentials are in the environment."""
    if not bucket_server_is_installed():
        pytest.skip("there is no program 'weed' on this machine")
    with running_bucket_server() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        yield server


@pytest.fixture
def cloud_stores(postgres: Postgres, bucket_server: BucketServer) -> Iterator[CloudStores]:
    """An empty database and an empty part of the bucket, whatever --stores says."""
    url = postgres.take_database()
    yield CloudStores(url, bucket_server.new_url(), bucket_server.options)
    postgres.give_back(url)


@pytest.fixture
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> Stores:
    """Where this test's data lives; --stores decides."""
    if request.config.getoption("--stores") == "cloud":
        found: CloudStores = request.getfixturevalue("cloud_stores")
        return found
    return LocalStores.with_tables(tmp_path)


@pytest.fixture
def fresh_stores(
    request: pytest.FixtureRequest,
) -> Iterator[Callable[[], Stores]]:
    """Makes empty stores, as many as a test of many runs needs; --stores decides of which kind. Only the last made are
    usable: those before are taken back."""
    with contextlib.ExitStack() as last:

        def make() -> Stores:
            last.close()
            if request.config.getoption("--stores") == "local":
                memory = IN_MEMORY if IN_MEMORY.is_dir() else None  # no disk is waited for
                return LocalStores.with_tables(
                    Path(last.enter_context(tempfile.TemporaryDirectory(dir=memory)))
                )
            postgres: Postgres = request.getfixturevalue("postgres")
            bucket: BucketServer = request.getfixturevalue("bucket_server")
            url = postgres.take_database()
            last.callback(postgres.give_back, url)
            return CloudStores(url, bucket.new_url(), bucket.options)

        yield make


@pytest.fixture
def db(stores: Stores) -> Iterator[Database]:
    database = Database(stores.database_url)
    yield database
    database.close()
