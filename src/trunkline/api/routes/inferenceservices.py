"""Inference services, as KServe's manifests."""

from __future__ import annotations

from typing import Any

from fastapi import Response

from trunkline.access.model import Scope
from trunkline.api.auth import allow
from trunkline.api.deps import Caller, Use
from trunkline.api.routes import new_router
from trunkline.core.ids import is_commit_id
from trunkline.wire.base import Page
from trunkline.wire.inferenceservices import InferenceService, Revision

router = new_router("inferenceservices")


@router.get("/inferenceservices")
@allow(Scope.JOB)
def list_all_services(use: Use) -> Page[InferenceService]:
    return Page(items=[InferenceService(**found.as_manifest()) for found in use.serving.list(None)])


@router.get("/namespaces/{namespace}/inferenceservices")
@allow(Scope.JOB)
def list_services(namespace: str, use: Use) -> Page[InferenceService]:
    return Page(items=[InferenceService(**found.as_manifest()) for found in use.serving.list(namespace)])


@router.get("/namespaces/{namespace}/inferenceservices/{name}")
@allow(Scope.JOB)
def inspect_service(namespace: str, name: str, use: Use) -> InferenceService:
    return InferenceService(**use.serving.get(namespace, name).as_manifest())


@router.put("/namespaces/{namespace}/inferenceservices/{name}")
@allow(Scope.JOB)
def apply_service(
    namespace: str, name: str, manifest: dict[str, Any], use: Use, caller: Caller
) -> InferenceService:
    """Create or change a service; ``metadata.name`` may be left out."""
    manifest["metadata"] = {"name": name, "namespace": namespace, **(manifest.get("metadata") or {})}
    job_id = caller.subject.rpartition("@")[2] if caller.subject.startswith("job:") else ""
    applied, change = use.serving.apply(namespace, manifest, job_id=job_id if is_commit_id(job_id) else "")
    return InferenceService(**applied.as_manifest(), change=change)


@router.delete("/namespaces/{namespace}/inferenceservices/{name}", status_code=204)
def delete_service(namespace: str, name: str, use: Use) -> None:
    use.serving.delete(namespace, name)


@router.get("/namespaces/{namespace}/inferenceservices/{name}/logs", response_class=Response)
@allow(Scope.JOB)
def service_logs(namespace: str, name: str, use: Use) -> Response:
    return Response(use.serving.logs(namespace, name), media_type="text/plain; charset=utf-8")


@router.get("/namespaces/{namespace}/inferenceservices/{name}/revisions")
@allow(Scope.JOB)
def list_revisions(namespace: str, name: str, use: Use) -> Page[Revision]:
    return Page(items=[Revision.model_validate(found) for found in use.serving.revisions(namespace, name)])
