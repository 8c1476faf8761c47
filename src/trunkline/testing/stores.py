"""Where a test's data lives: a folder with SQLite, or PostgreSQL and a bucket. The same tests run on both."""

from __future__ import annotations

import functools
import os
import tempfile
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from trunkline.settings import Settings
from trunkline.storage.db.engine import Database
from trunkline.storage.objects import open_store
from trunkline.storage.objects.base import ObjectStore


class Stores(ABC):
    """The places of one test, empty at its start."""

    is_local: bool

    @property
    @abstractmethod
    def database_url(self) -> str: ...

    @abstractmethod
    def open_objects(self) -> ObjectStore:
        """The store, as a process that has just started opens it."""

    @abstractmethod
    def settings(self, home: Path, **more: Any) -> Settings:
        """Settings of a control server whose data lives here."""

    @abstractmethod
    def environment(self) -> dict[str, str]:
        """The same for a server in a process of its own, as environment variables."""


class LocalStores(Stores):
    """Files below one folder."""

    is_local = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._has_tables = False

    @classmethod
    def with_tables(cls, folder: Path) -> LocalStores:
        """With a new database: a copy of one, which takes a tenth of the time that it takes to make all tables."""
        made = cls(folder)
        made._has_tables = True
        _lay_database(folder)
        return made

    @property
    def database_url(self) -> str:
        return f"sqlite:///{self.folder / 'trunkline.db'}"

    def open_objects(self) -> ObjectStore:
        return open_store(self.folder / "objects")

    def settings(self, home: Path, **more: Any) -> Settings:
        if self._has_tables:
            _lay_database(home)
        return Settings(home=home, **more)

    def environment(self) -> dict[str, str]:
        return {}


def _lay_database(folder: Path) -> None:
    path = folder / "trunkline.db"
    if folder.is_dir() and not path.exists():
        path.write_bytes(_new_database())


@functools.cache
def _new_database() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trunkline.db"
        Database(f"sqlite:///{path}").close()
        return path.read_bytes()


class CloudStores(Stores):
    """A database and a prefix of a bucket; ``options`` name the bucket's endpoint and its credentials."""

    is_local = False

    def __init__(self, database_url: str, objects_url: str, options: dict[str, str]) -> None:
        self._database_url = database_url
        self.objects_url = objects_url
        self._options = options

    @property
    def database_url(self) -> str:
        return self._database_url

    def open_objects(self) -> ObjectStore:
        return open_store(self.objects_url, self._options)

    def settings(self, home: Path, **more: Any) -> Settings:
        """The credentials of the bucket must be in the environment, as a real server's are."""
        assert os.environ.get("AWS_ACCESS_KEY_ID") == self._options["access_key_id"]
        return Settings(
            home=home, database_url=self.database_url, objects=self.objects_url,
            objects_endpoint=self._options["endpoint"], objects_region=self._options["region"], **more,
        )  # fmt: skip

    def environment(self) -> dict[str, str]:
        return {
            "TRUNKLINE_DATABASE_URL": self.database_url,
            "TRUNKLINE_OBJECTS": self.objects_url,
            "TRUNKLINE_OBJECTS_ENDPOINT": self._options["endpoint"],
            "TRUNKLINE_OBJECTS_REGION": self._options["region"],
            "AWS_ACCESS_KEY_ID": self._options["access_key_id"],
            "AWS_SECRET_ACCESS_KEY": self._options["secret_access_key"],
        }
