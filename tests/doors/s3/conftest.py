from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from anyio.from_thread import BlockingPortal
from starlette.testclient import TestClient

from tests.doors.s3.signing import S3
from tests.quick import client_of
from trunkline.doors.s3.app import create_app
from trunkline.services import Services, build
from trunkline.testing.stores import LocalStores

BASE_URL = "http://127.0.0.1:30600"


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    """Real services on a real data directory; their background loops do not run."""
    home = tmp_path / "home"
    home.mkdir()
    found = build(LocalStores.with_tables(home).settings(home))
    found.access.admin_token(found.settings.token_file)
    found.versioning.create_repo("default", "images")
    found.versioning.create_branch("default", "images@master")
    yield found
    found.db.close()


@pytest.fixture
def client(services: Services, portal: BlockingPortal) -> TestClient:
    return client_of(create_app(services, threading.Event()), portal, BASE_URL)


@pytest.fixture
def s3(services: Services, client: TestClient) -> S3:
    """Signed with the owner's key."""
    pair = services.access.key_pair(services.access.admin_token(services.settings.token_file))
    return S3(client, pair.id, pair.secret)
