"""All SQL on ``services`` and ``revisions``."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from trunkline.serving.model import InferenceService, Phase, PredictorSpec, Revision
from trunkline.storage.db.schema import namespaces, revisions, services

RECENT_REVISIONS = 5


def has_namespace(connection: Connection, name: str) -> bool:
    return (
        connection.execute(sa.select(namespaces.c.name).where(namespaces.c.name == name)).first() is not None
    )


def get_service(connection: Connection, namespace: str, name: str) -> InferenceService | None:
    """The row, also of a service that is being deleted."""
    row = connection.execute(sa.select(services).where(*_is(namespace, name))).one_or_none()
    return _service(row) if row is not None else None


def list_services(connection: Connection, namespace: str | None) -> list[InferenceService]:
    """Services in order of their names, those being deleted included."""
    statement = sa.select(services).order_by(services.c.namespace, services.c.name)
    if namespace is not None:
        statement = statement.where(services.c.namespace == namespace)
    return [_service(row) for row in connection.execute(statement)]


def put_service(connection: Connection, service: InferenceService) -> None:
    """Insert a service, or write over the one of that name."""
    values = {
        "uid": service.uid, "generation": service.generation, "observed_generation": service.observed_generation,
        "resource_version": service.resource_version, "manifest": service.manifest, "status": service.status,
        "deleted": service.deleted, "created_at": service.created_at,
    }  # fmt: skip
    where = _is(service.namespace, service.name)
    if connection.execute(sa.update(services).where(*where).values(**values)).rowcount == 0:
        connection.execute(
            sa.insert(services).values(namespace=service.namespace, name=service.name, **values)
        )


def set_status(connection: Connection, service: InferenceService, status: dict[str, Any]) -> bool:
    """Write a status that was worked out from ``service``; False if it was changed since, and then nothing is written."""
    done = connection.execute(
        sa.update(services)
        .where(
            *_is(service.namespace, service.name),
            services.c.uid == service.uid,
            services.c.generation == service.generation,
            services.c.resource_version == service.resource_version,
        )
        .values(
            status=status,
            observed_generation=service.generation,
            resource_version=services.c.resource_version + 1,
        )
    )
    return done.rowcount == 1


def remove_service(connection: Connection, namespace: str, name: str) -> bool:
    """Forget a deleted service with its revisions; False if it was applied again meanwhile."""
    done = connection.execute(sa.delete(services).where(*_is(namespace, name), services.c.deleted))
    if done.rowcount:
        connection.execute(
            sa.delete(revisions).where(revisions.c.namespace == namespace, revisions.c.service == name)
        )
    return done.rowcount == 1


def add_revision(connection: Connection, revision: Revision) -> None:
    connection.execute(
        sa.insert(revisions).values(
            id=revision.id, namespace=revision.namespace, service=revision.service, number=revision.number,
            generation=revision.generation, commit_id=revision.commit_id, spec=revision.spec.as_json(),
            model_root=revision.model_root, phase=revision.phase, reason=revision.reason, traffic=revision.traffic,
            created_at=revision.created_at, phase_since=revision.phase_since,
        )
    )  # fmt: skip


def list_revisions(connection: Connection, namespace: str, service: str) -> list[Revision]:
    """All revisions of a service, oldest first."""
    rows = connection.execute(
        sa.select(revisions)
        .where(revisions.c.namespace == namespace, revisions.c.service == service)
        .order_by(revisions.c.number)
    )
    return [_revision(row) for row in rows]


def current_revisions(connection: Connection, namespace: str, service: str) -> list[Revision]:
    """Those of a service that matter now, oldest first: all that are neither stopped nor failed, and the newest few."""
    of_service = sa.and_(revisions.c.namespace == namespace, revisions.c.service == service)
    newest = sa.select(sa.func.max(revisions.c.number)).where(of_service).scalar_subquery()
    rows = connection.execute(
        sa.select(revisions)
        .where(of_service, sa.or_(_is_active(), revisions.c.number > newest - RECENT_REVISIONS))
        .order_by(revisions.c.number)
    )
    return [_revision(row) for row in rows]


def active_revisions(connection: Connection) -> list[Revision]:
    """Revisions of all services that are neither stopped nor failed, oldest first."""
    rows = connection.execute(
        sa.select(revisions)
        .where(_is_active())
        .order_by(revisions.c.namespace, revisions.c.service, revisions.c.number)
    )
    return [_revision(row) for row in rows]


def revisions_of_commit(connection: Connection, commit_id: str) -> list[Revision]:
    rows = connection.execute(
        sa.select(revisions).where(revisions.c.commit_id == commit_id).order_by(revisions.c.created_at)
    )
    return [_revision(row) for row in rows]


def move_revision(
    connection: Connection, revision: Revision, phase: Phase, *, reason: str, traffic: int, now: float
) -> bool:
    """Change the phase, if it still is what was seen."""
    done = connection.execute(
        sa.update(revisions)
        .where(revisions.c.id == revision.id, revisions.c.phase == revision.phase)
        .values(phase=phase, reason=reason, traffic=traffic, phase_since=now)
    )
    return done.rowcount == 1


def _is_active() -> sa.ColumnElement[bool]:
    return revisions.c.phase.not_in([Phase.STOPPED, Phase.FAILED])


def _is(namespace: str, name: str) -> tuple[sa.ColumnElement[bool], sa.ColumnElement[bool]]:
    return services.c.namespace == namespace, services.c.name == name


def _service(row: Row[Any]) -> InferenceService:
    return InferenceService(
        namespace=row.namespace, name=row.name, uid=row.uid, generation=row.generation,
        observed_generation=row.observed_generation, resource_version=row.resource_version, manifest=row.manifest,
        status=row.status, deleted=row.deleted, created_at=row.created_at,
    )  # fmt: skip


def _revision(row: Row[Any]) -> Revision:
    return Revision(
        id=row.id, namespace=row.namespace, service=row.service, number=row.number, generation=row.generation,
        commit_id=row.commit_id, spec=PredictorSpec.from_json(row.spec), model_root=row.model_root or "",
        phase=Phase(row.phase), reason=row.reason, traffic=row.traffic, created_at=row.created_at,
        phase_since=row.phase_since,
    )  # fmt: skip
