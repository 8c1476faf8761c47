"""Models of the registry, their versions and aliases."""

from __future__ import annotations

from trunkline.access.model import Scope
from trunkline.api.auth import allow
from trunkline.api.deps import Use
from trunkline.api.routes import new_router
from trunkline.core.ids import TreeHash
from trunkline.wire.base import Page
from trunkline.wire.models import CreateModel, CreateModelVersion, Model, ModelVersion, SetAlias, SetPackage

router = new_router("models")


@router.get("/models")
@allow(Scope.JOB)
def list_models(use: Use) -> Page[Model]:
    return Page(items=[Model.model_validate(found) for found in use.registry.list_models()])


@router.post("/models", status_code=201)
@allow(Scope.JOB)
def create_model(ask: CreateModel, use: Use) -> Model:
    return Model.model_validate(
        use.registry.create_model(
            ask.name, ask.description, labels=ask.labels, metadata=ask.metadata, exist_ok=ask.exist_ok
        )
    )


@router.get("/models/{name}")
@allow(Scope.JOB)
def inspect_model(name: str, use: Use) -> Model:
    return Model.model_validate(use.registry.get_model(name))


@router.get("/models/{name}/versions")
@allow(Scope.JOB)
def list_versions(name: str, use: Use) -> Page[ModelVersion]:
    return Page(items=[ModelVersion.model_validate(found) for found in use.registry.list_versions(name)])


@router.post("/models/{name}/versions", status_code=201)
@allow(Scope.JOB)
def create_version(name: str, ask: CreateModelVersion, use: Use) -> ModelVersion:
    root = TreeHash(ask.checkpoint_root) if ask.checkpoint_root is not None else None
    added = use.registry.add_version(
        name, ask.name, checkpoint=ask.checkpoint, checkpoint_root=root, metrics=ask.metrics,
        metadata=ask.metadata, notes=ask.notes,
    )  # fmt: skip
    return ModelVersion.model_validate(added)


@router.get("/models/{name}/versions/{ref}")
@allow(Scope.JOB)
def inspect_version(name: str, ref: str, use: Use) -> ModelVersion:
    return ModelVersion.model_validate(use.registry.get_version(name, ref))


@router.put("/models/{name}/versions/{ref}/package")
@allow(Scope.JOB)
def set_package(name: str, ref: str, ask: SetPackage, use: Use) -> ModelVersion:
    return ModelVersion.model_validate(use.registry.set_package(name, ref, TreeHash(ask.root)))


@router.put("/models/{name}/aliases/{alias}")
@allow(Scope.JOB)
def set_alias(name: str, alias: str, ask: SetAlias, use: Use) -> ModelVersion:
    return ModelVersion.model_validate(use.registry.set_alias(name, alias, ask.ref))
