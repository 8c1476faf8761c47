"""Inference services, in KServe's own shape."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import SerializerFunctionWrapHandler, model_serializer

from trunkline.wire.base import Wire


class InferenceService(Wire):
    """The object as a Kubernetes client would get it."""

    apiVersion: str  # noqa: N815 (Kubernetes' name)
    kind: str
    metadata: dict[str, Any]
    spec: dict[str, Any]
    status: dict[str, Any]
    change: Literal["created", "configured", "unchanged"] | None = None
    """What an apply did; not there in answers to other requests."""

    @model_serializer(mode="wrap")
    def _as_it_can_be_applied(self, made: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What was got must be a manifest: to apply what was got earlier is how a rollback is done."""
        fields: dict[str, Any] = made(self)
        if self.change is None:
            del fields["change"]
        return fields

    @property
    def name(self) -> str:
        return str(self.metadata["name"])

    @property
    def namespace(self) -> str:
        return str(self.metadata["namespace"])

    @property
    def url(self) -> str:
        return str(self.status.get("url", ""))

    @property
    def is_current(self) -> bool:
        """Whether the status speaks of the newest spec."""
        return bool(self.status.get("observedGeneration") == self.metadata.get("generation"))

    @property
    def ready(self) -> str:
        """``True``, ``False`` or ``Unknown``."""
        return self.condition("Ready").get("status", "Unknown")

    @property
    def failure(self) -> str:
        """Why the newest revision does not serve; empty if nothing is wrong."""
        found = self.status.get("modelStatus", {}).get("lastFailureInfo", {}).get("message", "")
        return str(found or (self.condition("Ready").get("message", "") if self.ready == "False" else ""))

    def condition(self, kind: str) -> dict[str, str]:
        """The condition of that type; empty if there is none."""
        return next((c for c in self.status.get("conditions", ()) if c.get("type") == kind), {})


class Revision(Wire):
    """One (spec, model, ID) of a service."""

    name: str
    namespace: str
    service: str
    number: int
    generation: int
    commit_id: str
    phase: str
    reason: str
    traffic: int
    created_at: float
