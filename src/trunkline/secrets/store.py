"""All SQL on ``namespaces`` and ``secrets``."""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from trunkline.secrets.model import DEFAULT_NAMESPACE, Namespace, Secret
from trunkline.storage.db.schema import namespaces, secrets, services
from trunkline.storage.db.upsert import upsert


def insert_namespace(connection: Connection, name: str, now: float) -> bool:
    """False if it is there already."""
    statement = upsert(namespaces).values(name=name, created_at=now).on_conflict_do_nothing()
    return connection.execute(statement.returning(namespaces.c.name)).one_or_none() is not None


def has_namespace(connection: Connection, name: str) -> bool:
    if name == DEFAULT_NAMESPACE:
        return True
    found = connection.execute(sa.select(namespaces.c.name).where(namespaces.c.name == name))
    return found.one_or_none() is not None


def list_namespaces(connection: Connection) -> list[Namespace]:
    rows = connection.execute(sa.select(namespaces).order_by(namespaces.c.name))
    return [Namespace(name=row.name, created_at=row.created_at) for row in rows]


def contents(connection: Connection, namespace: str) -> list[str]:
    """What keeps a namespace from being deleted, in words."""
    found = [
        f"secret {name}"
        for name in connection.execute(
            sa.select(secrets.c.name).where(secrets.c.namespace == namespace)
        ).scalars()
    ]
    running = sa.select(services.c.name).where(services.c.namespace == namespace, ~services.c.deleted)
    return found + [f"inference service {name}" for name in connection.execute(running).scalars()]


def delete_namespace(connection: Connection, name: str) -> bool:
    return connection.execute(sa.delete(namespaces).where(namespaces.c.name == name)).rowcount == 1


def put_secret(
    connection: Connection, *, namespace: str, name: str, type_: str, data: Mapping[str, str], now: float
) -> None:
    statement = upsert(secrets).values(
        namespace=namespace, name=name, type=type_, data=dict(data), created_at=now
    )
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=[secrets.c.namespace, secrets.c.name],
            set_={"type": type_, "data": statement.excluded.data},
        )
    )


def get_secret(connection: Connection, namespace: str, name: str) -> tuple[Secret, dict[str, str]] | None:
    """The secret, and its values in base64."""
    row = connection.execute(
        sa.select(secrets).where(secrets.c.namespace == namespace, secrets.c.name == name)
    ).one_or_none()
    return (_secret(row), dict(row.data)) if row is not None else None


def list_secrets(connection: Connection, namespace: str) -> list[Secret]:
    rows = connection.execute(
        sa.select(secrets).where(secrets.c.namespace == namespace).order_by(secrets.c.name)
    )
    return [_secret(row) for row in rows]


def delete_secret(connection: Connection, namespace: str, name: str) -> bool:
    return (
        connection.execute(
            sa.delete(secrets).where(secrets.c.namespace == namespace, secrets.c.name == name)
        ).rowcount
        == 1
    )


def _secret(row: Row[tuple[object, ...]]) -> Secret:
    return Secret(
        namespace=row.namespace,
        name=row.name,
        type=row.type,
        keys=tuple(sorted(row.data)),
        created_at=row.created_at,
    )
