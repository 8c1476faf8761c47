from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from anyio.from_thread import BlockingPortal
from starlette.testclient import TestClient

from tests.quick import app_over, client_of
from trunkline.services import Services, build
from trunkline.testing.stores import Stores

BASE_URL = "http://127.0.0.1:8900"


@pytest.fixture
def services(tmp_path: Path, stores: Stores) -> Iterator[Services]:
    """Real services on a real data directory; their background loops do not run."""
    home = tmp_path / "home"
    home.mkdir()
    found = build(stores.settings(home, request_bytes_max=100_000))
    yield found
    found.db.close()


@pytest.fixture
def anyone(services: Services, portal: BlockingPortal) -> TestClient:
    """A client without a token."""
    return client_of(app_over(services), portal, BASE_URL)


@pytest.fixture
def owner(services: Services, anyone: TestClient) -> TestClient:
    """A client with the owner's token."""
    anyone.headers["authorization"] = f"Bearer {services.access.admin_token(services.settings.token_file)}"
    return anyone
