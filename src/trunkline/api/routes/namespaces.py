"""Namespaces and their secrets. Values of secrets go in, and never come out."""

from __future__ import annotations

from trunkline.access.model import Scope
from trunkline.api.auth import allow
from trunkline.api.deps import Use
from trunkline.api.routes import new_router
from trunkline.wire.base import Page
from trunkline.wire.namespaces import CreateNamespace, Namespace
from trunkline.wire.secrets import ApplySecret, Secret

router = new_router("namespaces")


@router.get("/namespaces")
@allow(Scope.JOB)
def list_namespaces(use: Use) -> Page[Namespace]:
    return Page(items=[Namespace.model_validate(found) for found in use.secrets.list_namespaces()])


@router.post("/namespaces", status_code=201)
def create_namespace(ask: CreateNamespace, use: Use) -> Namespace:
    return Namespace.model_validate(use.secrets.create_namespace(ask.name, exist_ok=ask.exist_ok))


@router.delete("/namespaces/{namespace}", status_code=204)
def delete_namespace(namespace: str, use: Use) -> None:
    use.secrets.delete_namespace(namespace)


@router.get("/namespaces/{namespace}/secrets")
def list_secrets(namespace: str, use: Use) -> Page[Secret]:
    return Page(items=[Secret.model_validate(found) for found in use.secrets.list(namespace)])


@router.get("/namespaces/{namespace}/secrets/{name}")
def inspect_secret(namespace: str, name: str, use: Use) -> Secret:
    return Secret.model_validate(use.secrets.get(namespace, name))


@router.put("/namespaces/{namespace}/secrets/{name}")
def apply_secret(namespace: str, name: str, ask: ApplySecret, use: Use) -> Secret:
    return Secret.model_validate(use.secrets.apply(namespace, name, ask.type, ask.data, ask.string_data))


@router.delete("/namespaces/{namespace}/secrets/{name}", status_code=204)
def delete_secret(namespace: str, name: str, use: Use) -> None:
    use.secrets.delete(namespace, name)
