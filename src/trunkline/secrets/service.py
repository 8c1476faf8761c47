"""Namespaces and secrets as Kubernetes shows them: opaque values by key, in base64."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping

from trunkline.core.clock import Clock
from trunkline.core.ids import check_dns_label
from trunkline.errors import AlreadyExistsError, InvalidInputError, LimitError, NotFoundError, StateError
from trunkline.secrets import store
from trunkline.secrets.model import DEFAULT_NAMESPACE, Namespace, Secret
from trunkline.storage.db.engine import Database

SECRET_BYTES_MAX = 2**20
_KEY = re.compile(r"[-._a-zA-Z0-9]{1,253}")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")


class SecretsService:
    """Use cases of namespaces and secrets. No error message ever carries a value."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock
        with db.read() as connection:
            existing = {namespace.name for namespace in store.list_namespaces(connection)}
        if DEFAULT_NAMESPACE not in existing:
            with db.write() as connection:
                store.insert_namespace(connection, DEFAULT_NAMESPACE, clock.now())

    # --- namespaces ---

    def create_namespace(self, name: str, exist_ok: bool = False) -> Namespace:
        """:raises AlreadyExistsError: unless ``exist_ok``."""
        check_dns_label("namespace", name)
        with self._db.write() as connection:
            if not store.insert_namespace(connection, name, self._clock.now()) and not exist_ok:
                raise AlreadyExistsError(f"namespace {name} exists already", kind="namespace_exists")
            return next(found for found in store.list_namespaces(connection) if found.name == name)

    def list_namespaces(self) -> list[Namespace]:
        with self._db.read() as connection:
            return store.list_namespaces(connection)

    def delete_namespace(self, name: str) -> None:
        """:raises StateError: while something is in it, or if it is ``default``."""
        if name == DEFAULT_NAMESPACE:
            raise StateError("namespace default cannot be deleted", kind="namespace_kept")
        with self._db.write() as connection:
            inside = store.contents(connection, name)
            if inside:
                shown = ", ".join(inside[:5]) + (" …" if len(inside) > 5 else "")
                raise StateError(
                    f"namespace {name} is not empty ({shown}): delete those first", kind="namespace_not_empty"
                )
            if not store.delete_namespace(connection, name):
                raise _no_namespace(name)

    # --- secrets ---

    def apply(
        self,
        namespace: str,
        name: str,
        type: str = "Opaque",  # noqa: A002  (Kubernetes' own word)
        data_b64: Mapping[str, str] | None = None,
        string_data: Mapping[str, str] | None = None,
    ) -> Secret:
        """Create or replace a secret; ``string_data`` wins over ``data_b64``, as in Kubernetes."""
        if not _SUBDOMAIN.fullmatch(name):
            raise InvalidInputError(
                f"secret name {name!r} is not allowed: use lower-case letters, digits, '-' and '.'",
                kind="bad_name",
            )
        data = {key: _checked_base64(name, key, value) for key, value in (data_b64 or {}).items()}
        for key, value in (string_data or {}).items():
            if not isinstance(value, str):
                raise InvalidInputError(
                    f"secret {name}: stringData.{key} must be a string; quote it", kind="bad_secret"
                )
            data[key] = base64.b64encode(value.encode()).decode()
        _check_keys(name, data)
        with self._db.write() as connection:
            if not store.has_namespace(connection, namespace):
                raise _no_namespace(namespace)
            store.put_secret(
                connection, namespace=namespace, name=name, type_=type, data=data, now=self._clock.now()
            )
            found = store.get_secret(connection, namespace, name)
        assert found is not None, "it was written in the same transaction"
        return found[0]

    def get(self, namespace: str, name: str) -> Secret:
        """The secret without its values."""
        with self._db.read() as connection:
            found = store.get_secret(connection, namespace, name)
            if found is None:
                raise self._no_secret(namespace, name)
        return found[0]

    def value(self, namespace: str, name: str, key: str) -> str:
        """One value, decoded.

        :raises NotFoundError: naming the secret or the key; ``InvalidInputError`` if the value is not text.
        """
        with self._db.read() as connection:
            found = store.get_secret(connection, namespace, name)
        if found is None:
            raise self._no_secret(namespace, name)
        secret, data = found
        if key not in data:
            raise NotFoundError(
                f"secret {name} has no key {key!r}; it has {', '.join(secret.keys) or 'none'}",
                kind="no_secret_key",
            )
        try:
            return base64.b64decode(data[key]).decode()
        except UnicodeDecodeError as error:
            raise InvalidInputError(
                f"secret {name}: the value of {key} is not text", kind="bad_secret"
            ) from error

    def find(self, namespaces: Iterable[str], name: str) -> Secret | None:
        """The first secret of that name in these namespaces, tried in order."""
        with self._db.read() as connection:
            for namespace in namespaces:
                if (found := store.get_secret(connection, namespace, name)) is not None:
                    return found[0]
        return None

    def list(self, namespace: str) -> list[Secret]:
        with self._db.read() as connection:
            if not store.has_namespace(connection, namespace):
                raise _no_namespace(namespace)
            return store.list_secrets(connection, namespace)

    def delete(self, namespace: str, name: str) -> None:
        with self._db.write() as connection:
            if not store.delete_secret(connection, namespace, name):
                raise self._no_secret(namespace, name)

    def _no_secret(self, namespace: str, name: str) -> NotFoundError:
        return NotFoundError(
            f"there is no secret {name} in namespace {namespace}: see 'trunkline get secrets -n {namespace}'",
            kind="no_secret",
        )


def _no_namespace(name: str) -> NotFoundError:
    return NotFoundError(
        f"there is no namespace {name}: create it with 'trunkline create namespace {name}'",
        kind="no_namespace",
    )


def _checked_base64(name: str, key: str, value: object) -> str:
    try:
        if not isinstance(value, str):
            raise TypeError
        base64.b64decode(value, validate=True)
    except (TypeError, ValueError, binascii.Error):
        # "from None": the cause would carry the value.
        raise InvalidInputError(
            f"secret {name}: data.{key} is not base64; put plain text under stringData", kind="bad_secret"
        ) from None
    return value


def _check_keys(name: str, data: Mapping[str, str]) -> None:
    for key in data:
        if not _KEY.fullmatch(key):
            raise InvalidInputError(
                f"secret {name}: key {key!r} is not allowed: use letters, digits, '-', '_' and '.'",
                kind="bad_secret",
            )
    if sum(map(len, data.values())) > SECRET_BYTES_MAX:
        raise LimitError(f"secret {name} is larger than {SECRET_BYTES_MAX} bytes", kind="secret_too_large")
