"""Pachyderm's pipeline spec: checked, and turned into one effective form. Pure.

Every field of Pachyderm's is known: it works, or is kept although it has no effect on one machine (a note says so), or is
refused as not supported yet. ``transform.code`` is the one extension: a folder beside the spec file that travels with it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import UnionType
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator
from pydantic.alias_generators import to_camel
from pydantic_core import ErrorDetails, PydanticCustomError

from trunkline.core.suggest import did_you_mean, nearest
from trunkline.errors import InvalidInputError

DEFAULT_IMAGE = "trunkline"
PARALLELISM_MAX = 1024
DATUM_TRIES_MAX = 100


def _refuse(value: Any) -> Any:
    if value in (None, False, "", 0, {}, []):
        return None
    raise PydanticCustomError("not_supported_yet", "not supported yet")


NotYet = Annotated[Any, BeforeValidator(_refuse)]
"""A field of Pachyderm's that trunkline does not know how to honour: refused unless it says nothing."""

Kept = Any
"""A field that only means something to Kubernetes: kept in the spec, without effect here."""

KEPT_FIELDS = {
    "resource_requests": "resources are not reserved on one machine",
    "resource_limits": "resources are not limited on one machine",
    "sidecar_resource_requests": "there is no sidecar",
    "sidecar_resource_limits": "there is no sidecar",
    "scheduling_spec": "it only has an effect on Kubernetes",
    "tolerations": "they only have an effect on Kubernetes",
    "pod_spec": "it only has an effect on Kubernetes",
    "pod_patch": "it only has an effect on Kubernetes",
    "maximum_expected_uptime": "there are no alerts yet",
}


class _Model(BaseModel):
    model_config = ConfigDict(
        extra="forbid", alias_generator=to_camel, validate_by_name=True, validate_by_alias=True, strict=False
    )


class SecretRef(_Model):
    """A key of a secret, as an environment variable or as a file below ``mount_path``."""

    name: str
    key: str = ""
    env_var: str = ""
    mount_path: str = ""

    @field_validator("mount_path")
    @classmethod
    def _absolute(cls, value: str) -> str:
        if value and (not value.startswith("/") or value.rstrip("/") == "" or ".." in value.split("/")):
            raise PydanticCustomError("bad_path", "must be an absolute path below /")
        return value


def _as_text(value: Any) -> Any:
    # YAML turns `PORT: 80` into a number; an environment holds text.
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int | float) else value


EnvValue = Annotated[str, BeforeValidator(_as_text)]


class Transform(_Model):
    image: str = DEFAULT_IMAGE
    cmd: list[str] = Field(min_length=1)
    stdin: list[str] = Field(default_factory=list)
    err_cmd: list[str] = Field(default_factory=list)
    err_stdin: list[str] = Field(default_factory=list)
    env: dict[str, EnvValue] = Field(default_factory=dict)
    secrets: list[SecretRef] = Field(default_factory=list)
    accept_return_code: list[int] = Field(default_factory=list)
    working_dir: str = ""
    code: str = ""
    """trunkline's own: a folder beside the spec file; the command runs in a private copy of it."""
    requirements: str = ""
    """trunkline's own: a requirements file in the code folder, whose packages are there for the command."""
    image_pull_secrets: Kept = None
    debug: bool = False
    user: NotYet = None
    dockerfile: NotYet = None
    memory_volume: NotYet = None
    datum_batching: NotYet = None

    @field_validator("env")
    @classmethod
    def _names(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value:
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]*", name):
                raise PydanticCustomError(
                    "bad_env", "{name} is not a name for an environment variable", {"name": repr(name)}
                )
        return value


class PfsInput(_Model):
    name: str = ""
    project: str = ""
    repo: str
    repo_type: Literal["", "user"] = "user"
    branch: str = "master"
    glob: str
    commit: NotYet = None
    join_on: NotYet = None
    outer_join: NotYet = None
    group_by: NotYet = None
    lazy: NotYet = None
    empty_files: NotYet = None
    s3: NotYet = None
    trigger: NotYet = None
    propagation_spec: NotYet = None
    reference: NotYet = None


class Input(_Model):
    pfs: PfsInput | None = None
    cross: NotYet = None
    union: NotYet = None
    join: NotYet = None
    group: NotYet = None
    cron: NotYet = None
    git: NotYet = None


class PipelineRef(_Model):
    name: str
    project: Any = None

    @field_validator("project")
    @classmethod
    def _project_name(cls, value: Any) -> str:
        if isinstance(value, Mapping):
            value = value.get("name", "")
        if not isinstance(value, str | None):
            raise PydanticCustomError("bad_project", "must be a project's name")
        return value or ""


class Parallelism(_Model):
    constant: int = Field(default=1, ge=1, le=PARALLELISM_MAX)


class DatumSetSpec(_Model):
    number: int = Field(default=0, ge=0)
    size_bytes: int = Field(default=0, ge=0)
    per_worker: int = Field(default=0, ge=0)


class Metadata(_Model):
    labels: dict[str, EnvValue] = Field(default_factory=dict)
    annotations: dict[str, EnvValue] = Field(default_factory=dict)


_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)")
_UNIT_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def _duration(value: Any) -> Any:
    """Go's durations: ``90s``, ``1h30m``; a bare number is seconds."""
    if value in (None, ""):
        return None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    text = str(value)
    if not text or _DURATION.sub("", text):
        raise PydanticCustomError("bad_duration", "is no duration: write it as 90s, 5m or 1h30m")
    return sum(float(number) * _UNIT_SECONDS[unit] for number, unit in _DURATION.findall(text))


Seconds = Annotated[float | None, BeforeValidator(_duration), Field(gt=0)]


class PipelineSpec(_Model):
    """The whole of a spec."""

    pipeline: PipelineRef
    description: str = ""
    transform: Transform
    input: Input
    parallelism_spec: Parallelism = Field(default_factory=Parallelism)
    output_branch: str = "master"
    datum_tries: int = Field(default=3, ge=1, le=DATUM_TRIES_MAX)
    datum_timeout: Seconds = None
    datum_set_spec: DatumSetSpec | None = None
    reprocess_spec: Literal["", "until_success", "every_job"] = "until_success"
    autoscaling: bool = False
    metadata: Metadata | None = None
    salt: str = ""
    update: bool = False
    reprocess: bool = False
    resource_requests: Kept = None
    resource_limits: Kept = None
    sidecar_resource_requests: Kept = None
    sidecar_resource_limits: Kept = None
    scheduling_spec: Kept = None
    tolerations: Kept = None
    pod_spec: Kept = None
    pod_patch: Kept = None
    maximum_expected_uptime: Kept = None
    job_timeout: NotYet = None
    egress: NotYet = None
    s3_out: NotYet = None
    service: NotYet = None
    spout: NotYet = None
    spec_commit: NotYet = None
    dry_run: NotYet = None
    determined: NotYet = None
    tf_job: NotYet = None

    @property
    def pfs(self) -> PfsInput:
        assert self.input.pfs is not None, "parse_spec has seen to it"
        return self.input.pfs


def parse_spec(document: Mapping[str, Any], project: str) -> PipelineSpec:
    """A checked spec; ``project`` is the pipeline's where the spec names none, and fills in for its inputs.

    :raises InvalidInputError: ``bad_spec``: all problems in one line, each naming its field by the path.
    """
    if not isinstance(document, Mapping):
        raise InvalidInputError("a pipeline spec must be a JSON or YAML object", kind="bad_spec")
    given = {key: value for key, value in document.items() if key != "$schema"}
    try:
        spec = PipelineSpec.model_validate(given)
    except ValidationError as error:
        problems = _problems(error.errors())
        raise InvalidInputError(
            f"pipeline spec: {' | '.join(problems)}", kind="bad_spec", details={"problems": problems}
        ) from error
    if spec.input.pfs is None:
        raise InvalidInputError("pipeline spec: input.pfs: missing (its repo and glob)", kind="bad_spec")
    spec.pipeline.project = spec.pipeline.project or project
    spec.pfs.project = spec.pfs.project or spec.pipeline.project
    spec.pfs.name = spec.pfs.name or spec.pfs.repo
    _check_input_name(spec.pfs.name)
    _check_secrets(spec.transform.secrets)
    if spec.transform.code and (
        spec.transform.code.startswith("/") or ".." in spec.transform.code.split("/")
    ):
        raise InvalidInputError(
            f"pipeline spec: transform.code: {spec.transform.code!r} must be a folder beside the spec file",
            kind="bad_spec",
        )
    return spec


def effective(spec: PipelineSpec) -> dict[str, Any]:
    """What is stored and shown: snake_case, defaults filled in, what was not said left out."""
    shown = spec.model_dump(mode="json", exclude_none=True)
    for passing in ("update", "reprocess", "salt"):
        shown.pop(passing, None)
    return shown


def notes(spec: Mapping[str, Any]) -> tuple[str, ...]:
    """Which fields of an effective spec have no effect here, and why."""
    found = [f"{name} is ignored: {why}" for name, why in KEPT_FIELDS.items() if spec.get(name)]
    if spec["transform"].get("image_pull_secrets"):
        found.append("transform.image_pull_secrets is ignored: no image is pulled")
    return tuple(found)


def input_in_short(spec: Mapping[str, Any]) -> str:
    """The inputs as ``list pipeline`` shows them: ``default/images:/*``."""
    pfs = spec["input"]["pfs"]
    return f"{pfs['project']}/{pfs['repo']}:{pfs['glob']}"


def _check_input_name(name: str) -> None:
    if name in ("out", ".env") or not re.fullmatch(r"[a-zA-Z0-9_-]+", name):
        raise InvalidInputError(
            f"pipeline spec: input.pfs.name: {name!r} is not allowed: use letters, digits, '-' and '_', and not 'out'",
            kind="bad_spec",
        )


def _check_secrets(secrets: list[SecretRef]) -> None:
    for number, secret in enumerate(secrets):
        where = f"pipeline spec: transform.secrets[{number}]"
        if bool(secret.env_var) == bool(secret.mount_path):
            raise InvalidInputError(f"{where}: give either env_var or mount_path", kind="bad_spec")
        if secret.env_var and not secret.key:
            raise InvalidInputError(
                f"{where}: key is missing (env_var {secret.env_var} needs one)", kind="bad_spec"
            )


def _problems(errors: list[ErrorDetails]) -> list[str]:
    """Each problem once. A field that is missing because its name was mistyped is one problem, not two."""
    unknown = [one["loc"] for one in errors if one["type"] == "extra_forbidden"]
    mistyped = {(*loc[:-1], nearest(str(loc[-1]), _fields_at(loc[:-1]))) for loc in unknown}
    shown = [one for one in errors if one["type"] != "missing" or one["loc"] not in mistyped]
    return list(dict.fromkeys(map(_problem, shown)))


def _problem(problem: ErrorDetails) -> str:
    location = problem["loc"]
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")
    if problem["type"] == "extra_forbidden":
        return f"unknown field {path!r}{did_you_mean(str(location[-1]), _fields_at(location[:-1]))}"
    if problem["type"] == "not_supported_yet":
        return f"not supported yet: {path}"
    if problem["type"] == "missing":
        return f"{path}: missing"
    return f"{path}: {problem['msg'][:1].lower()}{problem['msg'][1:]}"


def _fields_at(location: tuple[int | str, ...]) -> list[str]:
    """The names known at a place in the spec, both spellings."""
    model: type[BaseModel] = PipelineSpec
    for part in location:
        if isinstance(part, int):
            continue
        names = {alias: name for name in model.model_fields for alias in (name, to_camel(name))}
        inner = _model_in(model.model_fields[names[part]].annotation) if part in names else None
        if inner is None:
            return []
        model = inner
    return [alias for name in model.model_fields for alias in dict.fromkeys((name, to_camel(name)))]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) is not None or isinstance(annotation, UnionType):
        return next((found for inner in get_args(annotation) if (found := _model_in(inner))), None)
    return None
