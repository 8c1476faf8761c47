"""The fields of a pipeline spec, each with its default. What they mean together is checked in ``reading``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BeforeValidator, Field, field_validator
from pydantic_core import PydanticCustomError

from trunkline.pipelines.spec.fields import EnvValue, Kept, Quantity, Seconds, SpecModel, dropped
from trunkline.pipelines.spec.inputs import CronInput, Input, PfsInput, leaves_of

DEFAULT_IMAGE = "trunkline"
PARALLELISM_MAX = 1024
DATUM_TRIES_MAX = 100
USER_LENGTH_MAX = 100
PATH_LENGTH_MAX = 4000
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_USER = re.compile(r"[^\s:\x00-\x1f\x7f-\x9f-][^\s:\x00-\x1f\x7f-\x9f]*(:[^\s:\x00-\x1f\x7f-\x9f]+)?")
"""Also what the users of images may be called."""


class SecretRef(SpecModel):
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


class Transform(SpecModel):
    image: str = DEFAULT_IMAGE
    cmd: list[str] = Field(min_length=1)
    stdin: list[str] = Field(default_factory=list)
    err_cmd: list[str] = Field(default_factory=list)
    err_stdin: list[str] = Field(default_factory=list)
    env: dict[str, EnvValue] = Field(default_factory=dict)
    secrets: list[SecretRef] = Field(default_factory=list)
    accept_return_code: list[int] = Field(default_factory=list)
    user: EnvValue = ""
    working_dir: str = ""
    code: str = ""
    """trunkline's own: a folder beside the spec file; the command runs in a private copy of it."""
    requirements: str = ""
    """trunkline's own: a requirements.txt in that folder; the command runs in an environment made of it."""
    network: bool = True
    """trunkline's own: false cuts the command off from the network, where the machine can do that."""
    datum_batching: bool = False
    debug: bool = False
    image_pull_secrets: Kept = None
    dockerfile: Kept = None
    memory_volume: Kept = None

    @field_validator("cmd")
    @classmethod
    def _a_program(cls, value: list[str]) -> list[str]:
        if not value[0].strip():
            raise PydanticCustomError("bad_cmd", "its first word, the program, is empty")
        if any("\0" in word for word in value):
            raise PydanticCustomError("bad_cmd", "a word of it has a NUL character")
        return value

    @field_validator("env")
    @classmethod
    def _names(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value:
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]*", name):
                raise PydanticCustomError(
                    "bad_env", "{name} is not a name for an environment variable", {"name": repr(name)}
                )
        return value

    @field_validator("user")
    @classmethod
    def _user(cls, value: str) -> str:
        if value and (len(value) > USER_LENGTH_MAX or not _USER.fullmatch(value)):
            raise PydanticCustomError(
                "bad_user", "{value} is no user: write a name or a number, or either with a group, as nobody:nogroup",
                {"value": repr(value[:USER_LENGTH_MAX])},
            )  # fmt: skip
        return value

    @field_validator("working_dir")
    @classmethod
    def _folder(cls, value: str) -> str:
        if len(value) > PATH_LENGTH_MAX:
            raise PydanticCustomError("bad_folder", f"is longer than {PATH_LENGTH_MAX} characters")
        if _CONTROL.search(value):
            raise PydanticCustomError(
                "bad_folder", "{value} has a control character in it", {"value": repr(value)}
            )
        if ".." in value.split("/"):
            raise PydanticCustomError(
                "bad_folder", "{value} has '..' in it: name the folder itself", {"value": repr(value)}
            )
        return value

    @field_validator("code", "requirements")
    @classmethod
    def _below(cls, value: str) -> str:
        if value.startswith("/") or ".." in value.split("/"):
            raise PydanticCustomError(
                "bad_folder", "{value} must be beside the spec file, or below that", {"value": repr(value)}
            )
        return value


class PipelineRef(SpecModel):
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


class Parallelism(SpecModel):
    constant: int = Field(default=1, ge=1, le=PARALLELISM_MAX)


class DatumSetSpec(SpecModel):
    """How many datums a worker takes at once; all zero: as many as seem right."""

    number: int = Field(default=0, ge=0)
    size_bytes: int = Field(default=0, ge=0)
    per_worker: int = Field(default=0, ge=0)


class Metadata(SpecModel):
    labels: dict[str, EnvValue] = Field(default_factory=dict)
    annotations: dict[str, EnvValue] = Field(default_factory=dict)


class Gpu(SpecModel):
    type: str = ""
    number: int = Field(default=0, ge=0)


class Resources(SpecModel):
    cpu: Quantity = None
    memory: Quantity = None
    disk: Quantity = None
    gpu: Gpu | None = None


class ObjectStorage(SpecModel):
    url: str = Field(min_length=1)


class SqlFileFormat(SpecModel):
    type: Literal["CSV", "JSON", "PARQUET", "UNKNOWN"] = "CSV"
    columns: list[str] = Field(default_factory=list)


class SqlSecret(SpecModel):
    name: str
    key: str = ""


class SqlDatabase(SpecModel):
    url: str = Field(min_length=1)
    file_format: SqlFileFormat = Field(default_factory=SqlFileFormat)
    secret: SqlSecret | None = None


class Egress(SpecModel):
    """Where a job's output is put besides; one of the three."""

    url: str = Field(default="", validation_alias=AliasChoices("URL", "url"))
    object_storage: ObjectStorage | None = None
    sql_database: SqlDatabase | None = None


Port = Annotated[int, Field(ge=0, le=65535)]


class Service(SpecModel):
    """A process that stays, with a port."""

    internal_port: Port = 0
    external_port: Port = 0
    ip: str = ""
    type: str = "NodePort"


class Spout(SpecModel):
    """A process that stays, and commits by itself."""

    service: Service | None = None


def _something(value: Any) -> Any:
    return None if value in ({}, False, "") else value


def _unless_false(value: Any) -> Any:
    return None if value is False else value  # {} is a spout


class PipelineSpec(SpecModel):
    """The whole of a spec."""

    pipeline: PipelineRef
    description: str = ""
    transform: Transform
    input: Input | None = None
    parallelism_spec: Parallelism = Field(default_factory=Parallelism)
    output_branch: str = "master"
    datum_tries: int = Field(default=3, ge=1, le=DATUM_TRIES_MAX)
    datum_timeout: Seconds = None
    job_timeout: Seconds = None
    datum_set_spec: DatumSetSpec | None = None
    reprocess_spec: Literal["", "until_success", "every_job"] = "until_success"
    on_failure: Literal["fail", "quarantine"] = "fail"
    """trunkline's own: ``quarantine`` sets bad datums aside on a branch, and the job succeeds without them."""
    supersede: bool = False
    """trunkline's own: a newer job cancels older ones that have not ended."""
    autoscaling: bool = False
    egress: Annotated[Egress | None, BeforeValidator(_something)] = None
    s3_out: bool = False
    service: Annotated[Service | None, BeforeValidator(_something)] = None
    spout: Annotated[Spout | None, BeforeValidator(_unless_false)] = None
    metadata: Metadata | None = None
    salt: str = ""
    resource_requests: Resources | None = None
    resource_limits: Resources | None = None
    sidecar_resource_requests: Resources | None = None
    sidecar_resource_limits: Resources | None = None
    scheduling_spec: Kept = None
    tolerations: Kept = None
    pod_spec: Kept = None
    pod_patch: Kept = None
    determined: Kept = None
    maximum_expected_uptime: Seconds = None
    spec_commit: Kept = None
    update: bool = False
    reprocess: bool = False
    dry_run: bool = False
    tf_job: Annotated[Any, dropped("train in transform.cmd, or with an experiment that it creates")] = None

    @property
    def pfs_inputs(self) -> list[PfsInput]:
        """From left to right."""
        return [leaf for leaf in self._leaves() if isinstance(leaf, PfsInput)]

    @property
    def cron_inputs(self) -> list[CronInput]:
        """From left to right."""
        return [leaf for leaf in self._leaves() if isinstance(leaf, CronInput)]

    def _leaves(self) -> Iterator[PfsInput | CronInput]:
        return (leaf for _, leaf in leaves_of(self.input)) if self.input is not None else iter(())
