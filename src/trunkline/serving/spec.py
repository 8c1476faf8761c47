"""InferenceService manifests, old style and new, checked and brought to one internal form.

Kubernetes' and KServe's own fields all parse. Fields about placement (tolerations, resources, …) have no effect on one machine;
fields that would change what a client gets, and that are not built yet, are refused by name rather than ignored.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from trunkline.core.ids import check_dns_label
from trunkline.core.suggest import did_you_mean
from trunkline.errors import InvalidInputError
from trunkline.serving.model import ID_KEY, KIND, EnvVar, PredictorSpec

API_VERSIONS = ("serving.kserve.io/v1beta1", "serving.kubeflow.org/v1beta1")
REPLICAS_MAX = 64
TIMEOUT_SECONDS_DEFAULT = 60
FORMATS = {"sklearn": ("v1", "v2"), "pytorch": ("v1",)}
"""Model formats that have a runtime here -> the protocols that it speaks."""
RUNTIMES = {"kserve-sklearnserver": "sklearn", "kserve-torchserve": "pytorch"}
"""KServe's names of the runtimes that ours stand for."""
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_ID = re.compile(r"[\x21-\x7e]{1,128}")
_STOP_KEY = "serving.kserve.io/stop"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", alias_generator=to_camel, populate_by_name=False)


class _Metadata(_Part):
    name: str
    namespace: str | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    # set by servers and written back by clients that edit what they got
    generate_name: Any = None
    uid: Any = None
    generation: Any = None
    resource_version: Any = None
    creation_timestamp: Any = None
    deletion_timestamp: Any = None
    deletion_grace_period_seconds: Any = None
    self_link: Any = None
    finalizers: Any = None
    owner_references: Any = None
    managed_fields: Any = None


class _SecretKey(_Part):
    name: str
    key: str
    optional: bool = False


class _ValueFrom(_Part):
    secret_key_ref: _SecretKey | None = None
    config_map_key_ref: Any = None
    field_ref: Any = None
    resource_field_ref: Any = None


class _Env(_Part):
    name: str
    value: str | None = None
    value_from: _ValueFrom | None = None


class _Storage(_Part):
    key: str | None = None
    path: str | None = None
    parameters: dict[str, str] | None = None
    schema_path: str | None = None


class _Container(_Part):
    """A Kubernetes container; of it, ``env`` and ``args`` have an effect here."""

    name: str | None = None
    args: list[str] | None = None
    env: list[_Env] | None = None
    env_from: Any = None
    image: str | None = None
    image_pull_policy: Any = None
    command: Any = None
    working_dir: Any = None
    ports: Any = None
    resources: Any = None
    volume_mounts: Any = None
    volume_devices: Any = None
    liveness_probe: Any = None
    readiness_probe: Any = None
    startup_probe: Any = None
    lifecycle: Any = None
    security_context: Any = None
    stdin: Any = None
    tty: Any = None
    termination_message_path: Any = None
    termination_message_policy: Any = None
    resize_policy: Any = None
    restart_policy: Any = None


class _Framework(_Container):
    """``sklearn:``, ``pytorch:`` and so on, of the old style."""

    storage_uri: str | None = None
    storage_uris: Any = None
    storage: _Storage | None = None
    runtime_version: str | None = None
    protocol_version: str | None = None
    model_class_name: str | None = None


class _Format(_Part):
    name: str
    version: str | None = None


class _Model(_Framework):
    model_format: _Format
    runtime: str | None = None


class _Predictor(_Part):
    model: _Model | None = None
    sklearn: _Framework | None = None
    xgboost: _Framework | None = None
    tensorflow: _Framework | None = None
    pytorch: _Framework | None = None
    triton: _Framework | None = None
    onnx: _Framework | None = None
    huggingface: _Framework | None = None
    pmml: _Framework | None = None
    lightgbm: _Framework | None = None
    paddle: _Framework | None = None
    containers: list[_Container] | None = None
    # how it is run
    name: str | None = None
    min_replicas: int | None = Field(default=None, ge=0, le=REPLICAS_MAX)
    max_replicas: int | None = Field(default=None, ge=0)
    timeout: int | None = Field(default=None, ge=1, le=86_400)
    container_concurrency: int | None = Field(default=None, ge=0)
    scale_target: Any = None
    scale_metric: Any = None
    scale_metric_type: Any = None
    auto_scaling: Any = None
    canary_traffic_percent: int | None = Field(default=None, ge=0, le=100)
    batcher: Any = None
    logger: Any = None
    worker_spec: Any = None
    deployment_strategy: Any = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    storage_uris: Any = None
    storage_container_name: Any = None
    # where it is run (PodSpec)
    service_account_name: Any = None
    service_account: Any = None
    tolerations: Any = None
    node_selector: Any = None
    node_name: Any = None
    affinity: Any = None
    volumes: Any = None
    init_containers: Any = None
    image_pull_secrets: Any = None
    security_context: Any = None
    priority_class_name: Any = None
    runtime_class_name: Any = None
    scheduler_name: Any = None
    topology_spread_constraints: Any = None
    termination_grace_period_seconds: Any = None
    automount_service_account_token: Any = None
    dns_policy: Any = None
    dns_config: Any = None
    host_aliases: Any = None
    host_network: Any = Field(default=None, alias="hostNetwork")
    host_ipc: Any = Field(default=None, alias="hostIPC")
    restart_policy: Any = None
    enable_service_links: Any = None


class _Spec(_Part):
    predictor: _Predictor
    transformer: Any = None
    explainer: Any = None
    canary: Any = None


class _Manifest(_Part):
    api_version: str
    kind: str
    metadata: _Metadata
    spec: _Spec
    status: Any = None


FRAMEWORKS = (
    "sklearn", "xgboost", "tensorflow", "pytorch", "triton", "onnx", "huggingface", "pmml", "lightgbm", "paddle",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Parsed:
    """A checked manifest."""

    name: str
    namespace: str | None
    commit_id: str
    kept: dict[str, Any]
    """What is stored of it: labels, annotations and spec, as written."""
    predictor: PredictorSpec


def parse(manifest: Mapping[str, Any]) -> Parsed:
    """Check a manifest and bring it to the internal form.

    :raises InvalidInputError: ``bad_manifest``, one line that names the field; ``unsupported`` for what is not built.
    """
    _check_kind(manifest)
    try:
        parsed = _Manifest.model_validate(manifest)
    except ValidationError as error:
        raise _translated(error) from error
    metadata = parsed.metadata
    check_dns_label("inference service", metadata.name)
    labels, annotations = metadata.labels or {}, metadata.annotations or {}
    if annotations.get(_STOP_KEY, "false").lower() == "true":
        raise _unsupported(f"metadata.annotations[{_STOP_KEY!r}]", "delete the service to stop it")
    kept = {"metadata": {"labels": labels, "annotations": annotations}, "spec": manifest["spec"]}
    return Parsed(
        name=metadata.name,
        namespace=metadata.namespace,
        commit_id=_checked_id(annotations.get(ID_KEY) or labels.get(ID_KEY) or ""),
        kept=kept,
        predictor=_predictor(metadata.name, parsed.spec),
    )


def _checked_id(given: str) -> str:
    """It becomes a header of every answer."""
    if given and not _ID.fullmatch(given):
        raise _bad(
            f"metadata.annotations[{ID_KEY!r}] must be 1 to 128 visible ASCII characters: a commit's ID"
        )
    return given


def _check_kind(manifest: Mapping[str, Any]) -> None:
    if not isinstance(manifest, Mapping):
        raise _bad("the manifest is not a mapping of fields")
    if manifest.get("kind") != KIND:
        raise _bad(f"kind is {manifest.get('kind')!r}; expected {KIND!r}")
    if manifest.get("apiVersion") not in API_VERSIONS:
        raise _bad(f"apiVersion is {manifest.get('apiVersion')!r}; expected {API_VERSIONS[0]!r}")


def _predictor(service: str, spec: _Spec) -> PredictorSpec:
    for unbuilt in ("transformer", "explainer", "canary"):
        if getattr(spec, unbuilt) is not None:
            raise _unsupported(f"spec.{unbuilt}")
    predictor = spec.predictor
    for name, hint in (
        ("batcher", ""),
        ("logger", ""),
        ("worker_spec", ""),
        ("storage_uris", "use storageUri"),
    ):
        if getattr(predictor, name) is not None:
            raise _unsupported(f"spec.predictor.{to_camel(name)}", hint)
    if predictor.canary_traffic_percent not in (None, 100):
        raise _unsupported(
            "spec.predictor.canaryTrafficPercent", "a new revision takes all traffic once it is proved"
        )
    if predictor.min_replicas == 0:
        raise _unsupported("spec.predictor.minReplicas 0 (scale to zero)", "use 1 or more")
    path, format_name, part = _chosen(predictor)
    if part.storage_uri is None:
        hint = "; storage.key is not supported yet" if part.storage is not None else ""
        raise _bad(
            f"{path}.storageUri is missing: where is the model? e.g. file:///models/iris or repo@branch:/path{hint}"
        )
    if part.storage_uris is not None or part.storage is not None:
        raise _unsupported(f"{path}.storage and storageUris", "use storageUri alone")
    for name in ("command", "env_from"):
        if getattr(part, name) is not None:
            raise _unsupported(f"{path}.{to_camel(name)}")
    args = tuple(part.args or ())
    return PredictorSpec(
        format=format_name,
        protocol=_protocol(path, format_name, part.protocol_version),
        storage_uri=part.storage_uri,
        model_name=_argument(args, "model_name") or service,
        replicas=predictor.min_replicas or 1,
        timeout_seconds=float(predictor.timeout or TIMEOUT_SECONDS_DEFAULT),
        env=_environment(path, part.env or []),
        args=args,
    )


def _chosen(predictor: _Predictor) -> tuple[str, str, _Framework]:
    """The one predictor that is given: its path, its model format and itself."""
    given = [name for name in ("model", *FRAMEWORKS, "containers") if getattr(predictor, name) is not None]
    if len(given) != 1:
        found = " and ".join(given) or "none"
        raise _bad(f"spec.predictor must have exactly one of model, {', '.join(FRAMEWORKS)}; found {found}")
    path = f"spec.predictor.{given[0]}"
    if given[0] == "containers":
        raise _unsupported(path, f"formats with a runtime here: {', '.join(FORMATS)}")
    part: _Framework = getattr(predictor, given[0])
    name, where = given[0], path
    if isinstance(part, _Model):
        name, where = part.model_format.name, f"{path}.modelFormat.name"
        if part.runtime is not None and RUNTIMES.get(part.runtime) != name:
            fitting = ", ".join(r for r, f in RUNTIMES.items() if f == name) or ", ".join(RUNTIMES)
            raise _bad(
                f"{path}.runtime {part.runtime!r} is not there for format {name!r}; there is: {fitting}"
            )
    if name not in FORMATS:
        raise InvalidInputError(
            f"{where}: there is no runtime for format {name!r} here; formats with one: {', '.join(FORMATS)}"
            + did_you_mean(name, FORMATS),
            kind="no_runtime",
            details={"format": name},
        )
    return path, name, part


def _protocol(path: str, format_name: str, given: str | None) -> str:
    protocol = given or "v1"
    if protocol not in FORMATS[format_name]:
        raise _unsupported(
            f"{path}.protocolVersion {protocol!r} for {format_name}",
            f"use {' or '.join(FORMATS[format_name])}",
        )
    return protocol


def _environment(path: str, given: Sequence[_Env]) -> tuple[EnvVar, ...]:
    found = []
    for index, item in enumerate(given):
        where = f"{path}.env[{index}]"
        if not _ENV_NAME.fullmatch(item.name):
            raise _bad(f"{where}.name {item.name!r} is not the name of an environment variable")
        if item.value_from is None:
            found.append(EnvVar(name=item.name, value=item.value or ""))
        elif item.value_from.secret_key_ref is None:
            raise _unsupported(f"{where}.valueFrom other than secretKeyRef")
        else:
            reference = item.value_from.secret_key_ref
            found.append(EnvVar(name=item.name, secret=reference.name, key=reference.key))
    return tuple(found)


def _argument(args: Sequence[str], name: str) -> str | None:
    """The value of ``--name value`` or ``--name=value``."""
    for index, word in enumerate(args):
        flag, equals, value = word.partition("=")
        if flag == f"--{name}":
            return value if equals else next(iter(args[index + 1 : index + 2]), None)
    return None


def _translated(error: ValidationError) -> InvalidInputError:
    problem = error.errors(include_url=False, include_input=False)[0]
    place = problem["loc"]
    path = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in place).lstrip(".")
    if problem["type"] == "extra_forbidden":
        word, known = str(place[-1]), _fields_at(place[:-1])
        same = [name for name in known if name.lower() == word.replace("_", "").lower()]
        return _bad(
            f"{path}: unknown field {word!r}{did_you_mean(word, known) if not same else did_you_mean(same[0], same)}"
        )
    if problem["type"] == "missing":
        return _bad(f"{path} is missing")
    if problem["type"] in ("model_type", "model_attributes_type", "dict_type"):
        return _bad(f"{path} must be a mapping of fields")
    return _bad(f"{path}: {problem['msg']}")


def _fields_at(place: Sequence[int | str]) -> list[str]:
    """Names of the fields that are known at a place in the manifest."""
    model: type[BaseModel] = _Manifest
    for step in place:
        if isinstance(step, str):
            field = next((f for f in model.model_fields.values() if f.alias == step), None)
            inner = _model_in(field.annotation) if field else None
            if inner is None:
                return []
            model = inner
    return [f.alias or name for name, f in model.model_fields.items()]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    arguments = typing.get_args(annotation)
    if not arguments:
        return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
    return next((m for m in map(_model_in, arguments) if m is not None), None)


def _bad(message: str) -> InvalidInputError:
    return InvalidInputError(f"InferenceService: {message}", kind="bad_manifest")


def _unsupported(what: str, hint: str = "") -> InvalidInputError:
    return InvalidInputError(
        f"InferenceService: {what} is not supported yet" + (f": {hint}" if hint else ""), kind="unsupported"
    )
