"""A whole data store in a temporary folder, and short ways to say things to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import sqlalchemy as sa

from tests.conftest import FakeClock
from trunkline.core.ids import TreeHash
from trunkline.jobs.outbox import Outbox
from trunkline.storage.db.engine import Database
from trunkline.storage.db.schema import outbox
from trunkline.storage.objects.base import ObjectStore
from trunkline.testing.stores import Stores
from trunkline.versioning.model import Change, PutFile
from trunkline.versioning.service import VersioningService


@pytest.fixture
def objects(stores: Stores) -> ObjectStore:
    return stores.open_objects()


@pytest.fixture
def versioning(db: Database, objects: ObjectStore, clock: FakeClock) -> VersioningService:
    return open_service(db, objects, clock)


def open_service(db: Database, objects: ObjectStore, clock: FakeClock) -> VersioningService:
    return VersioningService(db=db, objects=objects, clock=clock, publish=Outbox(db, clock).publish)


def put(path: str, data: bytes = b"", **more: Any) -> PutFile:
    return PutFile(path=path, parts=[data], **more)


def contents(service: VersioningService, root: TreeHash | None) -> dict[str, bytes]:
    """All files of a tree."""
    assert root is not None
    return {info.path: b"".join(service.read(root, info.path)) for info in service.walk(root)}


def shown(service: VersioningService, address: str) -> dict[str, bytes]:
    """All files that an address shows."""
    _, root, _ = service.resolve("default", address)
    return contents(service, root)


def stage(
    service: VersioningService, files: Mapping[str, bytes] | list[Change], base: TreeHash | None = None
) -> TreeHash:
    changes = [put(path, data) for path, data in files.items()] if isinstance(files, Mapping) else files
    return service.stage(changes, base).root


def events(db: Database) -> list[tuple[str, str, str, str | None]]:
    """The events that were published: topic, branch, ID, error."""
    with db.read() as connection:
        rows = connection.execute(sa.select(outbox).order_by(outbox.c.seq)).all()
    return [
        (row.topic, f"{row.payload['repo']}@{row.payload['branch']}", row.payload["id"], row.payload["error"])
        for row in rows
    ]


def broken_references(connection: sa.Connection) -> list[object]:
    """Rows that refer to what is not there; PostgreSQL never lets any come to be."""
    if connection.dialect.name != "sqlite":
        return []
    return list(connection.exec_driver_sql("PRAGMA foreign_key_check").all())
