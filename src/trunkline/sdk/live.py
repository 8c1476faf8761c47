"""What is live: namespaces, secrets, inference services, and the server itself."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

import yaml

from trunkline.core.suggest import did_you_mean
from trunkline.errors import InvalidInputError, StateError, UnavailableError
from trunkline.sdk.transport import path_of
from trunkline.sdk.work import WorkMethods
from trunkline.wire.inferenceservices import InferenceService, Revision
from trunkline.wire.namespaces import Namespace
from trunkline.wire.secrets import Secret
from trunkline.wire.status import Everything, Problem, S3Credentials, Status

LOOK_SECONDS = 0.25
FSCK_SECONDS = 24 * 3600.0
KINDS = ("Namespace", "Secret", "InferenceService")


@dataclass(frozen=True, kw_only=True)
class Applied:
    """What one document of an apply came to."""

    kind: str
    namespace: str
    name: str
    change: str
    """``created``, ``configured`` or ``unchanged``."""


class LiveMethods(WorkMethods):
    """The part of the client that speaks of what answers requests."""

    # --- namespaces and secrets ---

    def create_namespace(self, name: str, *, exist_ok: bool = False) -> Namespace:
        """Create a namespace.

        >>> client.create_namespace("models")
        """
        body = {"name": name, "exist_ok": exist_ok}
        return Namespace.model_validate(self.call("POST", path_of("namespaces"), json=body))

    def list_namespaces(self) -> list[Namespace]:
        """All namespaces.

        >>> [namespace.name for namespace in client.list_namespaces()]
        """
        return [Namespace.model_validate(one) for one in self._items(path_of("namespaces"))]

    def delete_namespace(self, name: str) -> None:
        """Delete an empty namespace.

        >>> client.delete_namespace("models")
        """
        self.call("DELETE", path_of("namespaces", name))

    def apply_secret(
        self, name: str, *, namespace: str = "default", secret_type: str = "Opaque", data: dict[str, str] | None = None,
        string_data: dict[str, str] | None = None,
    ) -> Secret:  # fmt: skip
        """Store a secret: ``data`` in base64, ``string_data`` as it is.

        >>> client.apply_secret("registry", string_data={"password": "…"})
        """
        body = {"type": secret_type, "data": data or {}, "string_data": string_data or {}}
        path = path_of("namespaces", namespace, "secrets", name)
        return Secret.model_validate(self.call("PUT", path, json=body))

    def list_secrets(self, namespace: str = "default") -> list[Secret]:
        """The secrets of a namespace, with their keys but without their values.

        >>> client.list_secrets()[0].keys
        """
        return [
            Secret.model_validate(one) for one in self._items(path_of("namespaces", namespace, "secrets"))
        ]

    def inspect_secret(self, name: str, *, namespace: str = "default") -> Secret:
        """One secret, without its values.

        >>> client.inspect_secret("registry").keys
        """
        return Secret.model_validate(self.call("GET", path_of("namespaces", namespace, "secrets", name)))

    def delete_secret(self, name: str, *, namespace: str = "default") -> None:
        """Delete a secret.

        >>> client.delete_secret("registry")
        """
        self.call("DELETE", path_of("namespaces", namespace, "secrets", name))

    # --- inference services ---

    def apply(self, text: str, *, namespace: str | None = None) -> list[Applied]:
        """Make things be as YAML documents say: Namespace, Secret and InferenceService, in the order given.

        Every document is looked at before the first one is applied. ``namespace`` is meant where a document names none.

        >>> client.apply(Path("service.yaml").read_text(), namespace="models")
        """
        documents = _documents(text)
        for number, document in enumerate(documents, 1):
            _check_document(document, number, namespace)
        return [self._apply_one(document, namespace) for document in documents]

    def _apply_one(self, document: dict[str, Any], namespace: str | None) -> Applied:
        kind, metadata = document["kind"], document["metadata"]
        name, where = metadata["name"], metadata.get("namespace") or namespace or "default"
        if kind == "Namespace":
            existed = any(found.name == name for found in self.list_namespaces())
            self.create_namespace(name, exist_ok=True)
            change = "unchanged" if existed else "created"
            return Applied(kind=kind, namespace="", name=name, change=change)
        if kind == "Secret":
            existed = any(found.name == name for found in self.list_secrets(where))
            self.apply_secret(
                name, namespace=where, secret_type=document.get("type") or "Opaque", data=document.get("data"),
                string_data=document.get("stringData"),
            )  # fmt: skip
            change = "configured" if existed else "created"
            return Applied(kind=kind, namespace=where, name=name, change=change)
        applied = self.apply_inference_service(document, namespace=where)
        return Applied(kind=kind, namespace=where, name=name, change=applied.change or "configured")

    def apply_inference_service(
        self, manifest: dict[str, Any], *, namespace: str = "default"
    ) -> InferenceService:
        """Create or change a service from KServe's manifest.

        >>> client.apply_inference_service(manifest, namespace="models").change
        """
        path = path_of("namespaces", namespace, "inferenceservices", str(manifest["metadata"]["name"]))
        return InferenceService.model_validate(self.call("PUT", path, json=manifest))

    def list_inference_services(self, namespace: str | None = None) -> list[InferenceService]:
        """The services of a namespace, or all.

        >>> [(service.name, service.ready) for service in client.list_inference_services()]
        """
        where = ("namespaces", namespace, "inferenceservices") if namespace else ("inferenceservices",)
        return [InferenceService.model_validate(one) for one in self._items(path_of(*where))]

    def inspect_inference_service(self, name: str, *, namespace: str = "default") -> InferenceService:
        """One service.

        >>> client.inspect_inference_service("digits", namespace="models").url
        """
        return InferenceService.model_validate(self.call("GET", self._service(namespace, name)))

    def wait_inference_service(
        self, name: str, *, namespace: str = "default", timeout_seconds: float = 300.0
    ) -> InferenceService:
        """Wait until a service answers with its newest spec.

        :raises StateError: ``not_ready``, if its newest revision fails. :raises UnavailableError: if time runs out.

        >>> client.wait_inference_service("digits", namespace="models").url
        """
        deadline = time.monotonic() + timeout_seconds
        while True:
            found = self.inspect_inference_service(name, namespace=namespace)
            transition = found.status.get("modelStatus", {}).get("transitionStatus")
            if found.is_current and found.ready == "True" and transition in (None, "", "UpToDate"):
                return found
            if found.is_current and transition in ("BlockedByFailedLoad", "InvalidSpec"):
                raise StateError(f"{name} does not become ready: {found.failure}", kind="not_ready")
            if time.monotonic() > deadline:
                raise UnavailableError(
                    f"{name} is not ready after {timeout_seconds:.0f} s: {found.failure or 'it is still starting'}",
                    kind="timeout",
                )
            time.sleep(LOOK_SECONDS)

    def delete_inference_service(self, name: str, *, namespace: str = "default") -> None:
        """Take a service down.

        >>> client.delete_inference_service("digits", namespace="models")
        """
        self.call("DELETE", self._service(namespace, name))

    def inference_service_logs(self, name: str, *, namespace: str = "default") -> str:
        """The end of what the newest replica wrote.

        >>> print(client.inference_service_logs("digits", namespace="models"))
        """
        with self.download(self._service(namespace, name, "logs")) as stream:
            return stream.read().decode("utf-8", "replace")

    def list_revisions(self, name: str, *, namespace: str = "default") -> list[Revision]:
        """The revisions of a service, oldest first.

        >>> client.list_revisions("digits", namespace="models")[-1].phase
        """
        found = self._items(self._service(namespace, name, "revisions"))
        return [Revision.model_validate(one) for one in found]

    def _service(self, namespace: str, name: str, *parts: str) -> str:
        return path_of("namespaces", namespace, "inferenceservices", name, *parts)

    # --- the server ---

    def status(self) -> Status:
        """The server's version, addresses and children.

        >>> client.status().gateway_url
        """
        return Status.model_validate(self.call("GET", path_of("status")))

    def inspect(self, commit_id: str) -> Everything:
        """Everything that bears an ID: commits, jobs, experiments, model versions, revisions.

        >>> client.inspect("1035715e796f45caae7a1d3ffd1f93ca").jobs
        """
        return Everything.model_validate(self.call("GET", path_of("inspect", commit_id)))

    def fsck(self) -> list[Problem]:
        """Verify every stored byte that commits refer to; returns what is lost or damaged, and what needs it.

        >>> client.fsck()
        []
        """
        with self.download(path_of("fsck"), read_seconds=FSCK_SECONDS) as stream:
            return [Problem.model_validate(one) for one in json.loads(stream.read())["items"]]

    def s3_credentials(self) -> S3Credentials:
        """The key pair with which S3 clients may do what this client's token may, and the URL of the S3 door.

        :raises UnavailableError: ``door_closed``.

        >>> keys = client.s3_credentials()
        >>> keys.endpoint_url
        'http://127.0.0.1:30600'
        """
        return S3Credentials.model_validate(self.call("GET", path_of("s3credentials")))

    def console_link(self) -> str:
        """A link that opens the console once, within ten minutes.

        >>> client.console_link()
        """
        return str(self.call("POST", path_of("console-link"))["url"])


def _documents(text: str) -> list[Any]:
    try:
        found = [one for one in yaml.safe_load_all(text) if one is not None]
    except yaml.YAMLError as error:
        raise InvalidInputError(f"not YAML: {' '.join(str(error).split())}", kind="bad_file") from error
    if not found:
        raise InvalidInputError("there is no document in the file", kind="bad_file")
    return found


def _check_document(document: Any, number: int, namespace: str | None) -> None:
    if not isinstance(document, dict) or "kind" not in document:
        raise InvalidInputError(f"document {number} has no 'kind'", kind="bad_manifest")
    kind = document["kind"]
    if kind not in KINDS:
        raise InvalidInputError(
            f"document {number}: kind {kind!r} cannot be applied; known are {', '.join(KINDS)}"
            f"{did_you_mean(str(kind), KINDS)}",
            kind="unknown_kind",
        )
    metadata = document.get("metadata")
    if not isinstance(metadata, dict) or not isinstance(metadata.get("name"), str):
        raise InvalidInputError(f"document {number} ({kind}) has no metadata.name", kind="bad_manifest")
    own = metadata.get("namespace")
    if kind != "Namespace" and namespace and own and own != namespace:
        raise InvalidInputError(
            f"document {number} ({kind} {metadata['name']}) is of namespace {own!r}, not {namespace!r}: "
            "leave out -n, or change metadata.namespace",
            kind="namespace_mismatch",
        )
