"""Which target an ``egress`` means. Given drivers by the composition root; connects to nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from trunkline.core.ids import DEFAULT_PROJECT
from trunkline.errors import InvalidInputError, NotFoundError
from trunkline.pipelines.egress.base import Target
from trunkline.secrets.service import SecretsService

Driver = TypeVar("Driver")
OpenFiles = Callable[[str], Target]
"""A URL -> its target."""
OpenTables = Callable[[str, str | None, str, Sequence[str]], Target]
"""URL, password, format and columns -> its target."""


class Targets:
    """The ``OpenTarget`` of a server: drivers by the schemes of their URLs."""

    def __init__(
        self, *, secrets: SecretsService, files: Mapping[str, OpenFiles], tables: Mapping[str, OpenTables]
    ) -> None:
        self._secrets = secrets
        self._files = files
        self._tables = tables

    def __call__(self, project: str, egress: Mapping[str, Any]) -> Target:
        """:raises InvalidInputError: ``bad_egress``. :raises NotFoundError: ``no_secret``, ``no_secret_key``."""
        database = egress.get("sql_database")
        if database:
            return self._open_tables(project, database)
        url = egress.get("url") or (egress.get("object_storage") or {}).get("url", "")
        return _driver(self._files, url, "URL")(url)

    def _open_tables(self, project: str, database: Mapping[str, Any]) -> Target:
        url = database["url"]
        driver = _driver(self._tables, url, "sql_database.url")
        password = self._password(project, database.get("secret"))
        kind = database.get("file_format") or {}
        return driver(url, password, kind.get("type", "CSV"), kind.get("columns") or ())

    def _password(self, project: str, wanted: Mapping[str, Any] | None) -> str | None:
        if not wanted:
            return None
        name = wanted["name"]
        secret = self._secrets.find((project, DEFAULT_PROJECT), name)
        if secret is None:
            places = project if project == DEFAULT_PROJECT else f"{project} or {DEFAULT_PROJECT}"
            raise NotFoundError(
                f"there is no secret {name} in namespace {places}: create it with 'trunkline apply -f FILE'",
                kind="no_secret",
            )
        key = wanted.get("key") or (secret.keys[0] if len(secret.keys) == 1 else "")
        if not key:
            raise InvalidInputError(
                f"secret {name} has several keys: name one in sql_database.secret.key", kind="bad_egress"
            )
        return self._secrets.value(secret.namespace, name, key)


def _driver(drivers: Mapping[str, Driver], url: str, field: str) -> Driver:
    scheme = url.partition("://")[0].lower() if "://" in url else ""
    if scheme not in drivers:
        known = ", ".join(f"{name}://" for name in drivers)
        raise InvalidInputError(
            f"egress.{field} {url.partition('@')[0][:100]!r} is not known here: write {known}",
            kind="bad_egress",
        )
    return drivers[scheme]
