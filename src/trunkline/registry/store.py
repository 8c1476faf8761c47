"""All SQL on ``models``, ``model_versions`` and ``model_aliases``."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from trunkline.core.ids import TreeHash
from trunkline.registry.model import Model, ModelVersion
from trunkline.storage.db.schema import model_aliases, model_versions, models
from trunkline.storage.db.upsert import upsert

VERSIONS_MAX = 1000
MODELS_MAX = 1000


def add_model(connection: Connection, **values: Any) -> None:
    connection.execute(sa.insert(models).values(**values))


def list_models(connection: Connection) -> list[Model]:
    return [_model(row) for row in connection.execute(_models().order_by(models.c.name).limit(MODELS_MAX))]


def find_model(connection: Connection, name: str) -> Model | None:
    row = connection.execute(_models().where(models.c.name == name)).one_or_none()
    return _model(row) if row is not None else None


def model_names(connection: Connection) -> list[str]:
    return list(connection.execute(sa.select(models.c.name).limit(MODELS_MAX)).scalars())


def add_version(connection: Connection, model: Model, **values: Any) -> int:
    """Insert the next version of a model; returns its number."""
    last = connection.execute(
        sa.select(sa.func.max(model_versions.c.number)).where(model_versions.c.model_id == model.id)
    ).scalar()
    number = (last or 0) + 1
    connection.execute(sa.insert(model_versions).values(model_id=model.id, number=number, **values))
    return number


def versions(connection: Connection, *where: Any) -> list[ModelVersion]:
    """Versions that match, newest first within a model, with their aliases."""
    rows = connection.execute(
        sa.select(model_versions, models.c.name.label("model"))
        .join(models, models.c.id == model_versions.c.model_id)
        .where(*where)
        .order_by(models.c.name, model_versions.c.number.desc())
        .limit(VERSIONS_MAX)
    ).all()
    ids = {row.model_id for row in rows}
    aliases: dict[tuple[int, int], list[str]] = {}
    for row in connection.execute(
        sa.select(model_aliases).where(model_aliases.c.model_id.in_(ids)).order_by(model_aliases.c.alias)
    ):
        aliases.setdefault((row.model_id, row.number), []).append(row.alias)
    return [_version(row, aliases.get((row.model_id, row.number), [])) for row in rows]


def versions_of_model(connection: Connection, model: Model) -> list[ModelVersion]:
    return versions(connection, model_versions.c.model_id == model.id)


def versions_named(connection: Connection, name: str) -> list[ModelVersion]:
    return versions(connection, model_versions.c.name == name)


def version_by_number(connection: Connection, model: Model, number: int) -> ModelVersion | None:
    return next(iter(versions(connection, _of(model, model_versions.c.number == number))), None)


def version_by_name(connection: Connection, model: Model, name: str) -> ModelVersion | None:
    return next(iter(versions(connection, _of(model, model_versions.c.name == name))), None)


def latest_version(connection: Connection, model: Model) -> ModelVersion | None:
    number = connection.execute(
        sa.select(sa.func.max(model_versions.c.number)).where(model_versions.c.model_id == model.id)
    ).scalar()
    return version_by_number(connection, model, number) if number else None


def version_words(connection: Connection, model: Model) -> list[str]:
    """Names and aliases, to suggest from."""
    names = sa.select(model_versions.c.name).where(model_versions.c.model_id == model.id)
    aliases = sa.select(model_aliases.c.alias).where(model_aliases.c.model_id == model.id)
    return list(connection.execute(names.union(aliases).limit(VERSIONS_MAX)).scalars())


def set_package(connection: Connection, model: Model, number: int, root: TreeHash) -> None:
    connection.execute(
        sa.update(model_versions)
        .where(_of(model, model_versions.c.number == number))
        .values(package_root=root)
    )


def alias_target(connection: Connection, model: Model, alias: str) -> int | None:
    return connection.execute(
        sa.select(model_aliases.c.number).where(
            model_aliases.c.model_id == model.id, model_aliases.c.alias == alias
        )
    ).scalar()


def set_alias(connection: Connection, model: Model, alias: str, number: int) -> None:
    statement = upsert(model_aliases).values(model_id=model.id, alias=alias, number=number)
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=[model_aliases.c.model_id, model_aliases.c.alias], set_={"number": number}
        )
    )


def registered_checkpoints(connection: Connection, uuids: Collection[str]) -> set[str]:
    found = sa.select(model_versions.c.checkpoint).where(model_versions.c.checkpoint.in_(list(uuids)))
    return {uuid for uuid in connection.execute(found).scalars() if uuid is not None}


def _models() -> sa.Select[Any]:
    count = (
        sa.select(sa.func.count())
        .where(model_versions.c.model_id == models.c.id)
        .scalar_subquery()
        .label("version_count")
    )
    return sa.select(models, count)


def _of(model: Model, condition: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
    return sa.and_(model_versions.c.model_id == model.id, condition)


def _model(row: Row[Any]) -> Model:
    return Model(
        id=row.id, name=row.name, description=row.description, labels=tuple(row.labels), metadata=row.metadata,
        version_count=row.version_count, created_at=row.created_at,
    )  # fmt: skip


def _version(row: Row[Any], aliases: list[str]) -> ModelVersion:
    return ModelVersion(
        model=row.model, number=row.number, name=row.name, checkpoint=row.checkpoint,
        checkpoint_root=row.checkpoint_root, package_root=row.package_root, metrics=row.metrics,
        metadata=row.metadata, notes=row.notes, aliases=tuple(aliases), created_at=row.created_at,
    )  # fmt: skip
