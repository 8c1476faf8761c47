"""The use cases of the registry: check, decide, write."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Protocol

from sqlalchemy.engine import Connection

from trunkline.core.clock import Clock
from trunkline.core.ids import TreeHash
from trunkline.core.suggest import did_you_mean
from trunkline.errors import AlreadyExistsError, NotFoundError
from trunkline.registry import store
from trunkline.registry.model import LATEST, Model, ModelVersion
from trunkline.registry.names import as_number, check_registry_name
from trunkline.storage.db.engine import Database

Publisher = Callable[[Connection, str, dict[str, Any]], None]
"""Writes an event ``(topic, payload)`` in the given transaction; the outbox's ``publish``."""


class Trees(Protocol):
    """What the registry needs of versioning: to know that a tree exists."""

    def check_tree(self, root: TreeHash) -> object:
        """:raises NotFoundError: if there is no such tree."""


class RegistryService:
    """Models, versions and aliases. Published: ``model.version.created`` ``{model, number, name}``.

    A model is found by its exact name. A version is found by its name, its number, an alias, or ``latest``.
    """

    def __init__(self, *, db: Database, clock: Clock, versioning: Trees, publish: Publisher) -> None:
        self._db = db
        self._clock = clock
        self._versioning = versioning
        self._publish = publish

    def create_model(
        self,
        name: str,
        description: str = "",
        labels: Iterable[str] = (),
        metadata: Mapping[str, Any] | None = None,
        exist_ok: bool = False,
    ) -> Model:
        """Create a model, or with ``exist_ok`` return the one there is, unchanged.

        :raises InvalidInputError: ``bad_name``. :raises AlreadyExistsError: ``model_exists``.
        """
        check_registry_name("model", name)
        with self._db.write() as connection:
            if (found := store.find_model(connection, name)) is not None:
                if exist_ok:
                    return found
                raise AlreadyExistsError(
                    f"model {name!r} exists already: register a version of it, or choose another name",
                    kind="model_exists",
                    details={"model": name},
                )
            store.add_model(
                connection, name=name, description=description, labels=list(labels), metadata=dict(metadata or {}),
                created_at=self._clock.now(),
            )  # fmt: skip
            return self._model(connection, name)

    def list_models(self) -> list[Model]:
        """All models, by name."""
        with self._db.read() as connection:
            return store.list_models(connection)

    def get_model(self, name: str) -> Model:
        """:raises NotFoundError: ``no_such_model``."""
        with self._db.read() as connection:
            return self._model(connection, name)

    def add_version(
        self,
        model: str,
        name: str,
        *,
        checkpoint: str | None = None,
        checkpoint_root: TreeHash | None = None,
        metrics: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        notes: str = "",
    ) -> ModelVersion:
        """Register a checkpoint as the next version of a model.

        Repeating the call is harmless: the version of that name is returned as it is, if it is of the same checkpoint.

        :raises NotFoundError: no such model, or no such tree. :raises AlreadyExistsError: ``version_exists``, if the name
            stands for another checkpoint.
        """
        check_registry_name("version", name)
        if checkpoint_root is not None:
            self._versioning.check_tree(checkpoint_root)
        with self._db.write() as connection:
            row = self._model(connection, model)
            if (found := store.version_by_name(connection, row, name)) is not None:
                return _same(found, checkpoint, checkpoint_root)
            if store.alias_target(connection, row, name) is not None:
                raise AlreadyExistsError(
                    f"{name!r} is an alias of model {model!r}: choose another name for the version",
                    kind="version_exists",
                )
            number = store.add_version(
                connection, row, name=name, checkpoint=checkpoint, checkpoint_root=checkpoint_root,
                metrics=dict(metrics or {}), metadata=dict(metadata or {}), notes=notes, created_at=self._clock.now(),
            )  # fmt: skip
            self._publish(
                connection, "model.version.created", {"model": model, "number": number, "name": name}
            )
            return self._version(connection, model, str(number))

    def list_versions(self, model: str) -> list[ModelVersion]:
        """The versions of a model, newest first."""
        with self._db.read() as connection:
            return store.versions_of_model(connection, self._model(connection, model))

    def get_version(self, model: str, ref: str) -> ModelVersion:
        """:raises NotFoundError: ``no_such_model`` or ``no_such_version``, naming the nearest."""
        with self._db.read() as connection:
            return self._version(connection, model, ref)

    def set_package(self, model: str, ref: str, root: TreeHash) -> ModelVersion:
        """Say which tree a service loads for this version; replaces what was said before."""
        self._versioning.check_tree(root)
        with self._db.write() as connection:
            version = self._version(connection, model, ref)
            store.set_package(connection, self._model(connection, model), version.number, root)
            return self._version(connection, model, str(version.number))

    def set_alias(self, model: str, alias: str, ref: str) -> ModelVersion:
        """Let an alias point to a version; it moves if it pointed elsewhere.

        :raises AlreadyExistsError: ``version_exists``, if a version bears that name itself.
        """
        check_registry_name("alias", alias)
        with self._db.write() as connection:
            row = self._model(connection, model)
            if store.version_by_name(connection, row, alias) is not None:
                raise AlreadyExistsError(
                    f"a version of model {model!r} is called {alias!r}: choose another alias",
                    kind="version_exists",
                )
            version = self._version(connection, model, ref)
            store.set_alias(connection, row, alias, version.number)
            return self._version(connection, model, str(version.number))

    def versions_of(self, commit_id: str) -> list[ModelVersion]:
        """The versions, of whatever model, that bear a commit's ID as their name."""
        with self._db.read() as connection:
            return store.versions_named(connection, commit_id)

    def registered_checkpoints(self, connection: Connection, uuids: Collection[str]) -> set[str]:
        """Those of the given checkpoints that some version was made from, as the caller's transaction sees it."""
        return store.registered_checkpoints(connection, uuids)

    def _model(self, connection: Connection, name: str) -> Model:
        found = store.find_model(connection, name)
        if found is None:
            hint = did_you_mean(name, store.model_names(connection))
            raise NotFoundError(
                f"there is no model {name!r}{hint}", kind="no_such_model", details={"model": name}
            )
        return found

    def _version(self, connection: Connection, model: str, ref: str) -> ModelVersion:
        row = self._model(connection, model)
        found = store.version_by_name(connection, row, ref)
        if found is None and ref == LATEST:
            found = store.latest_version(connection, row)
        if found is None:
            number = as_number(ref)
            if number is None:
                number = store.alias_target(connection, row, ref)
            found = store.version_by_number(connection, row, number) if number is not None else None
        if found is None:
            hint = did_you_mean(ref, store.version_words(connection, row))
            has = f"it has {row.version_count}" if row.version_count else "it has none yet"
            raise NotFoundError(
                f"model {model!r} has no version {ref!r} ({has}){hint}",
                kind="no_such_version",
                details={"model": model, "ref": ref},
            )
        return found


def _same(found: ModelVersion, checkpoint: str | None, root: TreeHash | None) -> ModelVersion:
    if found.checkpoint != checkpoint or found.checkpoint_root != root:
        raise AlreadyExistsError(
            f"version {found.name!r} of model {found.model!r} exists already and is of another checkpoint "
            f"({found.checkpoint or 'none'}): versions do not change, choose another name",
            kind="version_exists",
            details={"model": found.model, "name": found.name, "checkpoint": found.checkpoint},
        )
    return found
