"""The nouns of serving. All frozen; mutable state is in rows that only ``store.py`` touches."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

API_VERSION = "serving.kserve.io/v1beta1"
KIND = "InferenceService"
ID_KEY = "trunkline.dev/id"
"""Annotation (or label) that carries the one ID."""


class Phase(StrEnum):
    """How far a revision has come. ``STOPPED`` and ``FAILED`` are final."""

    PULLING = "pulling"
    LOADING = "loading"
    PROBING = "probing"
    LIVE = "live"
    DRAINING = "draining"
    STOPPED = "stopped"
    FAILED = "failed"

    @property
    def is_final(self) -> bool:
        return self in (Phase.STOPPED, Phase.FAILED)

    @property
    def is_coming(self) -> bool:
        """On the way to live."""
        return self in (Phase.PULLING, Phase.LOADING, Phase.PROBING)


class ModelSource(Protocol):
    """A model's files, wherever they are kept. ``open_model`` of the composition root makes one from a ``storageUri``."""

    @property
    def identity(self) -> str:
        """A hash of the content in hex: equal exactly when the files are."""

    @property
    def uri(self) -> str:
        """An address that will name this same content for good, e.g. with a branch replaced by its head's ID."""

    @property
    def commit_id(self) -> str:
        """The commit it comes from, or the empty string."""

    def copy_to(self, folder: Path) -> None:
        """Write the files below ``folder``, which exists and is empty."""


@dataclass(frozen=True, kw_only=True)
class EnvVar:
    """A variable of a replica's environment: a value, or a reference to a key of a secret, read at every start."""

    name: str
    value: str = ""
    secret: str = ""
    key: str = ""


@dataclass(frozen=True, kw_only=True)
class PredictorSpec:
    """What either style of manifest comes to."""

    format: str
    protocol: str
    storage_uri: str
    model_name: str
    """Of runtimes whose models do not name themselves."""
    replicas: int
    timeout_seconds: float
    env: tuple[EnvVar, ...] = ()
    args: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> PredictorSpec:
        env = tuple(EnvVar(**item) for item in data["env"])
        return PredictorSpec(**{**data, "env": env, "args": tuple(data["args"])})


@dataclass(frozen=True, kw_only=True)
class Revision:
    """One (spec, model content, ID) of a service; what replicas are replicas of."""

    id: str
    namespace: str
    service: str
    number: int
    generation: int
    commit_id: str
    spec: PredictorSpec
    model_root: str
    phase: Phase
    reason: str
    traffic: int
    created_at: float
    phase_since: float

    @property
    def name(self) -> str:
        return f"{self.service}-{self.number:05d}"

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.service}"


@dataclass(frozen=True, kw_only=True)
class InferenceService:
    """A service as users see it."""

    namespace: str
    name: str
    uid: str
    generation: int
    observed_generation: int
    resource_version: int
    manifest: dict[str, Any]
    """``metadata`` (labels and annotations only) and ``spec``, as applied."""
    status: dict[str, Any] = field(default_factory=dict)
    deleted: bool = False
    created_at: float

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def url(self) -> str:
        return str(self.status.get("url", ""))

    @property
    def ready(self) -> str:
        """``True``, ``False`` or ``Unknown``, as in the condition of that name."""
        return condition(self.status, "Ready").get("status", "Unknown")

    @property
    def message(self) -> str:
        """Why it is not ready, or why its newest revision does not serve; empty if all is well."""
        failure = self.status.get("modelStatus", {}).get("lastFailureInfo", {})
        return failure.get("message", "") or condition(self.status, "Ready").get("message", "")

    def as_manifest(self) -> dict[str, Any]:
        """The object as a Kubernetes client would get it."""
        metadata = {
            **self.manifest["metadata"], "name": self.name, "namespace": self.namespace, "uid": self.uid,
            "generation": self.generation, "resourceVersion": str(self.resource_version),
            "creationTimestamp": timestamp(self.created_at),
        }  # fmt: skip
        return {
            "apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": self.manifest["spec"],
            "status": self.status,
        }  # fmt: skip


def condition(status: Mapping[str, Any], kind: str) -> dict[str, str]:
    """The condition of that type, or an empty dict."""
    return next((dict(c) for c in status.get("conditions", ()) if c["type"] == kind), {})


def timestamp(seconds: float) -> str:
    """RFC 3339 in whole seconds, as Kubernetes writes it."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
