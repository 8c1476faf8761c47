"""The experiment config, as Determined AI defines it: validated, with defaults filled in. Pure.

Unknown fields are errors that name the nearest known one. Every optional field may be null, which is the same as leaving it
out. Fields that only steered Determined's own cluster are accepted, so that old files work, and are named so below.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from trunkline.core.suggest import did_you_mean
from trunkline.core.yamltext import load_yaml
from trunkline.errors import InvalidInputError
from trunkline.training import hyperparameters

RUNNABLE_SEARCHERS = ("single",)
LATER_SEARCHERS = ("random", "grid", "adaptive_asha", "async_halving")
REMOVED_SEARCHERS = ("custom", "adaptive", "adaptive_simple", "sync_halving")
CONFIG_BYTES_MAX = 1_000_000

_TRIAL_CLASS = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_DEVICES = ("cpu", "cuda", "rocm")


class Section(BaseModel):
    """A part of the config: null is unset, and unknown fields are refused with a hint."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _check_fields(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        unknown = [str(name) for name in given if name not in cls.model_fields]
        if unknown:
            hints = "; ".join(
                f"unknown field {name!r}{did_you_mean(name, cls.model_fields)}" for name in unknown
            )
            raise PydanticCustomError("unknown_field", "{hints}", {"hints": hints})
        return {name: value for name, value in given.items() if value is not None}


def _as_length(given: Any) -> Any:
    if isinstance(given, dict):
        given = {unit: count for unit, count in given.items() if count is not None}
        if len(given) != 1:
            raise PydanticCustomError("bad_length", "give exactly one of batches, records, epochs")
    return given


class _Batches(Section):
    batches: int | None = Field(default=None, ge=0)
    records: int | None = Field(default=None, ge=0)
    epochs: int | None = Field(default=None, ge=0)


Length = Annotated[Annotated[int, Field(ge=0)] | _Batches, BeforeValidator(_as_length)]
"""A number of batches, or one of ``{batches: n}``, ``{records: n}``, ``{epochs: n}``."""


class Searcher(Section):
    name: str = "single"
    metric: str = Field(min_length=1)
    smaller_is_better: bool = True
    source_trial_id: int | None = None
    source_checkpoint_uuid: str | None = None
    max_length: Length | None = None
    time_metric: str | None = None
    max_time: int | None = None
    max_trials: int | None = Field(default=None, ge=1)
    max_concurrent_trials: int = Field(default=16, ge=0)
    mode: Literal["aggressive", "standard", "conservative"] = "standard"
    divisor: float = Field(default=4, gt=1)
    max_rungs: int = Field(default=5, ge=1)
    num_rungs: int | None = Field(default=None, ge=1)
    bracket_rungs: list[int] = Field(default_factory=list)
    stop_once: bool = False


class CheckpointStorage(Section):
    """Where Determined kept checkpoints; here they are always in trunkline's own store, and only ``save_*`` matters."""

    type: Literal["shared_fs", "s3", "gcs", "azure", "directory"] = "shared_fs"
    save_experiment_best: int = Field(default=0, ge=0)
    save_trial_best: int = Field(default=1, ge=0)
    save_trial_latest: int = Field(default=1, ge=0)
    host_path: str | None = None
    storage_path: str | None = None
    container_path: str | None = None
    checkpoint_path: str | None = None
    tensorboard_path: str | None = None
    propagation: str | None = None
    bucket: str | None = None
    prefix: str | None = None
    access_key: str | None = None
    secret_key: str | None = None
    endpoint_url: str | None = None
    container: str | None = None
    connection_string: str | None = None
    account_url: str | None = None
    credential: str | None = None


class Resources(Section):
    slots_per_trial: int = Field(default=1, ge=0)
    max_slots: int | None = Field(default=None, ge=0)
    resource_pool: str = ""
    priority: int | None = Field(default=None, ge=1, le=99)
    weight: float = Field(default=1.0, ge=0)
    native_parallel: bool = False
    shm_size: int | str | None = None
    devices: list[Any] = Field(default_factory=list)
    is_single_node: bool | None = None


class EnvironmentSection(Section):
    image: str | dict[str, str | None] | None = None
    environment_variables: list[str] | dict[str, Any] = Field(default_factory=list)
    ports: dict[str, int] = Field(default_factory=dict)
    proxy_ports: list[Any] = Field(default_factory=list)
    force_pull_image: bool = False
    registry_auth: dict[str, Any] | None = None
    pod_spec: dict[str, Any] | None = None
    add_capabilities: list[str] = Field(default_factory=list)
    drop_capabilities: list[str] = Field(default_factory=list)


class Reproducibility(Section):
    experiment_seed: int | None = Field(default=None, ge=0, lt=2**32)


class Profiling(Section):
    enabled: bool = False
    begin_on_batch: int = 0
    end_after_batch: int | None = None
    sync_timings: bool = True


class ExperimentConfig(Section):
    name: str | None = None
    description: str | None = None
    labels: list[str] = Field(default_factory=list)
    data: dict[str, Any] = Field(default_factory=dict)
    workspace: str | None = None
    project: str | None = None
    entrypoint: str | list[str]
    hyperparameters: dict[str, Any] = Field(default_factory=dict)
    searcher: Searcher
    max_restarts: int = Field(default=5, ge=0)
    min_validation_period: Length = 0
    min_checkpoint_period: Length = 0
    scheduling_unit: int = Field(default=100, ge=1)
    records_per_epoch: int = Field(default=0, ge=0)
    perform_initial_validation: bool = False
    checkpoint_policy: Literal["best", "all", "none"] = "best"
    checkpoint_storage: CheckpointStorage = Field(default_factory=CheckpointStorage)
    resources: Resources = Field(default_factory=Resources)
    environment: EnvironmentSection = Field(default_factory=EnvironmentSection)
    bind_mounts: list[Any] = Field(default_factory=list)
    profiling: Profiling = Field(default_factory=Profiling)
    reproducibility: Reproducibility = Field(default_factory=Reproducibility)
    optimizations: dict[str, Any] = Field(default_factory=dict)
    log_policies: list[Any] = Field(default_factory=list)
    preemption_timeout: float = Field(default=3600.0, ge=0)
    debug: bool = False
    # Of Determined's own cluster: accepted, and without effect.
    retention_policy: dict[str, Any] | None = None
    integrations: dict[str, Any] | None = None
    slurm: dict[str, Any] | None = None
    pbs: dict[str, Any] | None = None
    data_layer: dict[str, Any] | None = None
    internal: dict[str, Any] | None = None
    security: dict[str, Any] | None = None
    tensorboard_storage: dict[str, Any] | None = None

    def image(self) -> str | None:
        """The image for this machine's processors: the one for ``cpu``, where it differs by device."""
        found = self.environment.image
        return found.get("cpu") if isinstance(found, dict) else found

    def environment_variables(self) -> dict[str, str]:
        """The environment variables, from whichever form they were given in."""
        given = self.environment.environment_variables
        if isinstance(given, dict) and given and all(name in _DEVICES for name in given):
            given = given.get("cpu") or []
        if isinstance(given, dict):
            return {str(name): str(value) for name, value in given.items()}
        return dict(entry.split("=", 1) for entry in given)

    def stored(self) -> dict[str, Any]:
        """JSON of the whole, defaults included."""
        return self.model_dump(mode="json")


def parse_config(given: Mapping[str, Any] | str) -> ExperimentConfig:
    """A config from YAML or JSON text, or from what that parses to.

    :raises InvalidInputError: ``bad_config``, with a line for each wrong field; ``not_supported_yet`` for what is right
        but not built.
    """
    raw = _load(given) if isinstance(given, str) else dict(given)
    try:
        config = ExperimentConfig.model_validate(raw)
    except ValidationError as error:
        problems = [_problem(item) for item in error.errors()]
        raise InvalidInputError(
            "\n".join(problems), kind="bad_config", details={"problems": problems}
        ) from error
    _check_searcher(config.searcher)
    hyperparameters.parse(config.hyperparameters)
    _check_entrypoint(config.entrypoint)
    _check_environment(config)
    if (config.workspace is None) != (config.project is None):
        raise _bad("give both 'workspace' and 'project', or neither")
    if config.resources.slots_per_trial > 1:
        raise _later(
            f"resources.slots_per_trial {config.resources.slots_per_trial}",
            "a trial is one process: set it to 1",
        )
    if config.bind_mounts:
        raise _later(
            "bind_mounts", "put the files into a repo and name it under 'data:', or use absolute paths"
        )
    return config


def _load(text: str) -> dict[str, Any]:
    if len(text) > CONFIG_BYTES_MAX:
        raise _bad(f"it is larger than {CONFIG_BYTES_MAX} bytes")
    try:
        raw = load_yaml(text)
    except yaml.YAMLError as error:
        raise _bad(f"it is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict):
        raise _bad("it must be a map of fields")
    return raw


def _problem(item: Any) -> str:
    path = ".".join(
        str(part) for part in item["loc"] if not str(part).startswith(("function-", "constrained-"))
    )
    where = f"experiment config: {path}" if path else "experiment config"
    message = item["msg"]
    if item["type"] == "missing":
        message = f"field {item['loc'][-1]!r} is required"
    elif item["type"] in ("dict_type", "model_type"):
        message = "it must be a map of fields"
    return f"{where}: {message}"


def _check_searcher(searcher: Searcher) -> None:
    if searcher.name in RUNNABLE_SEARCHERS:
        return
    if searcher.name in LATER_SEARCHERS:
        raise _later(f"searcher {searcher.name!r}", "use 'single', with one value for each hyperparameter")
    if searcher.name in REMOVED_SEARCHERS:
        raise _bad(f"searcher.name: {searcher.name!r} was removed by Determined; use 'single'")
    raise _bad(
        f"searcher.name: unknown searcher {searcher.name!r}{did_you_mean(searcher.name, RUNNABLE_SEARCHERS)}"
    )


def _check_entrypoint(entrypoint: str | list[str]) -> None:
    if not entrypoint or (isinstance(entrypoint, str) and not entrypoint.strip()):
        raise _bad("entrypoint: it is empty; give a command such as 'python3 train.py'")
    if isinstance(entrypoint, str) and _TRIAL_CLASS.fullmatch(entrypoint.strip()):
        raise _later(
            f"entrypoint {entrypoint!r} (a Trial class)", "give a command such as 'python3 train.py'"
        )


def _check_environment(config: ExperimentConfig) -> None:
    given = config.environment.environment_variables
    for entry in given if isinstance(given, list) else ():
        if "=" not in entry:
            raise _bad(f"environment.environment_variables: {entry!r} must be NAME=VALUE")
    for name in config.environment_variables():
        if not _VARIABLE_NAME.fullmatch(name):
            raise _bad(f"environment.environment_variables: {name!r} is not a name for a variable")


def _bad(problem: str) -> InvalidInputError:
    return InvalidInputError(f"experiment config: {problem}", kind="bad_config")


def _later(what: str, instead: str) -> InvalidInputError:
    return InvalidInputError(
        f"experiment config: {what} is not supported yet: {instead}", kind="not_supported_yet"
    )
