"""From a document to a checked spec and its one effective form. Pure.

Every field of Pachyderm's is known: it works, or is kept although it has no effect on one machine (a note says so), or is
refused as not supported.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import UnionType
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.alias_generators import to_camel
from pydantic_core import ErrorDetails

from trunkline.core.suggest import did_you_mean, nearest
from trunkline.errors import InvalidInputError
from trunkline.pipelines.spec.fields import parse_quantity
from trunkline.pipelines.spec.inputs import Problem, fill_in, problems_of
from trunkline.pipelines.spec.model import PipelineSpec, SecretRef

NESTING_MAX = 100
PASSING = ("update", "reprocess", "dry_run", "salt", "spec_commit")
"""What a spec asks for once: it is not part of what is stored."""

ONLY_KUBERNETES = "it only has an effect on Kubernetes"
KEPT_FIELDS = {
    "resource_requests": "resources are not reserved on one machine",
    "sidecar_resource_requests": "there is no sidecar",
    "sidecar_resource_limits": "there is no sidecar",
    "scheduling_spec": ONLY_KUBERNETES,
    "tolerations": "they only have an effect on Kubernetes",
    "pod_spec": ONLY_KUBERNETES,
    "pod_patch": ONLY_KUBERNETES,
    "determined": "a pipeline's code reaches the training service without it",
    "maximum_expected_uptime": "there are no alerts yet",
    "transform.image_pull_secrets": "no image is pulled",
    "transform.dockerfile": "no image is built: name its requirements in transform.requirements",
    "transform.memory_volume": "scratch space is where the data directory is",
    "resource_limits.gpu": "GPUs are not shared out on one machine",
}


def with_defaults(document: Mapping[str, Any], *defaults: Mapping[str, Any]) -> Mapping[str, Any]:
    """A spec with what it does not say filled in from ``defaults``, the first ones before the later ones; in snake_case. What
    is no mapping is taken whole: a spec's own list replaces that of the defaults."""
    if not isinstance(document, Mapping) or not any(defaults):
        return document
    found: Mapping[str, Any] = _spelled(PipelineSpec, document)
    for one in defaults:
        found = _merged(found, _spelled(PipelineSpec, one))
    return found


def _merged(said: Any, default: Any) -> Any:
    if isinstance(said, Mapping) and isinstance(default, Mapping):
        names = dict.fromkeys((*said, *default))
        return {
            name: _merged(said[name], default.get(name)) if name in said else default[name] for name in names
        }
    return said


def _spelled(model: type[BaseModel] | None, value: Any) -> Any:
    """With the names of fields in snake_case, so that both spellings meet."""
    if model is None or not isinstance(value, Mapping):
        return value
    names = {to_camel(name): name for name in model.model_fields}
    found: dict[str, Any] = {}
    for key, inner in value.items():
        name = names.get(str(key), str(key))
        field = model.model_fields.get(name)
        found[name] = _spelled(_model_in(field.annotation) if field is not None else None, inner)
    return found


def parse_spec(document: Mapping[str, Any], project: str) -> PipelineSpec:
    """A checked spec; ``project`` is the pipeline's where the spec names none, and fills in for its inputs.

    :raises InvalidInputError: ``bad_spec``: all problems in one line, each naming its field by the path; ``bad_glob``.
    """
    if not isinstance(document, Mapping):
        raise InvalidInputError("a pipeline spec must be a JSON or YAML object", kind="bad_spec")
    if not _is_flat_enough(document):
        raise InvalidInputError(f"pipeline spec: it is nested more than {NESTING_MAX} deep", kind="bad_spec")
    given = {key: value for key, value in document.items() if key != "$schema"}
    try:
        spec = PipelineSpec.model_validate(given)
    except ValidationError as error:
        raise _bad_spec([Problem("", one) for one in _problems(error.errors())]) from error
    spec.pipeline.project = spec.pipeline.project or project
    problems = list(_problems_of_whole(spec))
    if spec.input is not None:
        fill_in(spec.input, spec.pipeline.project, spec.pipeline.name)
        problems += problems_of(spec.input)
    if problems:
        raise _bad_spec(problems)
    return spec


def _bad_spec(problems: list[Problem]) -> InvalidInputError:
    said = [f"{one.where}: {one.what}" if one.where else one.what for one in problems]
    kinds = {one.kind for one in problems}
    return InvalidInputError(
        f"pipeline spec: {' | '.join(said)}",
        kind=kinds.pop() if len(kinds) == 1 else "bad_spec",
        details={"problems": said},
    )


def _is_flat_enough(document: Any) -> bool:
    level: list[Any] = [document]
    for _ in range(NESTING_MAX):
        inner: list[Any] = []
        for value in level:
            if isinstance(value, Mapping):
                inner += value.values()
            elif isinstance(value, list | tuple):
                inner += value
        if not inner:
            return True
        level = inner
    return False


# --- what fields mean together ------------------------------------------------------------------------------------


def _problems_of_whole(spec: PipelineSpec) -> Iterator[Problem]:
    if spec.spout is not None:
        if spec.input is not None and spec.input.model_dump(exclude_none=True):
            yield Problem("input", "a spout has none: it commits by itself")
        if spec.service is not None:
            yield Problem("service", "a spout has its service inside: spout.service")
        spec.input = None
    elif spec.input is None or not spec.input.model_dump(exclude_none=True):
        yield Problem("input", "missing (for example input.pfs with its repo and glob)")
        spec.input = None
    yield from _problems_of_service(spec)
    if spec.service is not None:
        if spec.parallelism_spec.constant != 1:
            yield Problem("parallelism_spec.constant", "a service is one process: it must be 1")
        for field in ("egress", "s3_out"):
            if getattr(spec, field):
                yield Problem(field, "a service has no output that is finished")
    if spec.transform.datum_batching:
        for field in ("service", "spout", "s3_out"):
            if getattr(spec, field):
                yield Problem("transform.datum_batching", f"says nothing together with {field}")
    if spec.transform.requirements and not spec.transform.code:
        yield Problem("transform.requirements", "is a file in the folder of transform.code, which is missing")
    folder = spec.transform.working_dir
    if folder not in ("", ".", "./") and not folder.startswith("/") and not spec.transform.code:
        yield Problem(
            "transform.working_dir",
            f"{folder!r} is not absolute: begin it with '/' (only with transform.code it may be a folder in that)",
        )
    yield from _problems_of_secrets(spec.transform.secrets)
    if spec.egress is not None:
        places = [name for name in ("url", "object_storage", "sql_database") if getattr(spec.egress, name)]
        if len(places) != 1:
            yield Problem("egress", "name one place: URL, object_storage.url or sql_database")
        elif spec.egress.sql_database is not None and spec.egress.sql_database.file_format.type == "PARQUET":
            yield Problem("egress.sql_database.file_format.type", "not supported: PARQUET; use CSV or JSON")


def _problems_of_service(spec: PipelineSpec) -> Iterator[Problem]:
    in_spout = spec.spout.service if spec.spout is not None else None
    for where, service in (("service", spec.service), ("spout.service", in_spout)):
        if service is not None and not service.internal_port:
            yield Problem(f"{where}.internal_port", "missing: the port that the command listens on")
        if service is not None and not spec.transform.network:
            yield Problem("transform.network", f"a {where.partition('.')[0]} with a port needs it")
    if not spec.transform.network and (spec.s3_out or any(leaf.s3 for leaf in spec.pfs_inputs)):
        yield Problem("transform.network", "what is read or written by S3 needs it")
    if spec.spout is not None:
        for field in ("egress", "s3_out", "job_timeout", "supersede"):
            if getattr(spec, field):
                yield Problem(field, "a spout has no jobs")


def _problems_of_secrets(secrets: list[SecretRef]) -> Iterator[Problem]:
    for number, secret in enumerate(secrets):
        where = f"transform.secrets[{number}]"
        if bool(secret.env_var) == bool(secret.mount_path):
            yield Problem(where, "give either env_var or mount_path")
        elif secret.env_var and not secret.key:
            yield Problem(where, f"key is missing (env_var {secret.env_var} needs one)")


# --- the effective form -------------------------------------------------------------------------------------------


def effective(spec: PipelineSpec) -> dict[str, Any]:
    """What is stored and shown: snake_case, defaults filled in, what was not said left out."""
    shown = spec.model_dump(mode="json", exclude_none=True)
    for passing in PASSING:
        shown.pop(passing, None)
    shown["input"] = _without_nothing(shown.get("input", {}))
    return shown


def _without_nothing(value: Any) -> Any:
    """Inputs have many options, of which few are ever used."""
    if isinstance(value, dict):
        return {
            key: _without_nothing(inner) for key, inner in value.items() if inner not in (False, "", None)
        }
    return [_without_nothing(inner) for inner in value] if isinstance(value, list) else value


def notes(spec: Mapping[str, Any]) -> tuple[str, ...]:
    """Which fields of an effective spec have no effect here, and why."""
    found = []
    for name, why in KEPT_FIELDS.items():
        value: Any = spec
        for part in name.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if value:
            found.append(f"{name} is ignored: {why}")
    return tuple(found)


def limits_of(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What an effective spec allows a worker: ``memory_bytes``, ``cpus``, ``disk_bytes`` (None: no limit), ``network``."""
    said = spec.get("resource_limits")
    said = said if isinstance(said, Mapping) else {}

    def quantity(name: str) -> float | None:
        try:
            return parse_quantity(said[name]) if said.get(name) else None
        except (TypeError, ValueError):  # stored when nobody looked at it yet
            return None

    memory, disk = quantity("memory"), quantity("disk")
    return {
        "memory_bytes": None if memory is None else int(memory),
        "cpus": quantity("cpu"),
        "disk_bytes": None if disk is None else int(disk),
        "network": spec["transform"].get("network", True),
    }


SIGNS = {"cross": " ⨯ ", "join": " ⋈ ", "union": " ∪ "}


def input_in_short(spec: Mapping[str, Any]) -> str:
    """The inputs as ``list pipeline`` shows them: ``(default/images:/* ⨯ default/edges:/)``."""
    return _in_short(spec["input"]) if spec.get("input") else "none"


def _in_short(node: Mapping[str, Any]) -> str:
    if node.get("pfs"):
        return f"{node['pfs']['project']}/{node['pfs']['repo']}:{node['pfs']['glob']}"
    if node.get("cron"):
        return f"{node['cron']['name']}:{node['cron']['spec']}"
    if node.get("group"):
        return f"(Group: {', '.join(map(_in_short, node['group']))})"
    return next(
        f"({sign.join(map(_in_short, node[kind]))})" for kind, sign in SIGNS.items() if node.get(kind)
    )


# --- what pydantic found ------------------------------------------------------------------------------------------


def _problems(errors: list[ErrorDetails]) -> list[str]:
    """Each problem once. A field that is missing because its name was mistyped is one problem, not two."""
    unknown = [one["loc"] for one in errors if one["type"] == "extra_forbidden"]
    mistyped = {(*loc[:-1], nearest(str(loc[-1]), _fields_at(loc[:-1]))) for loc in unknown}
    shown = [one for one in errors if one["type"] != "missing" or one["loc"] not in mistyped]
    return list(dict.fromkeys(map(_problem, shown)))


SAID_PLAINLY = {
    "list_type": 'must be a list, as ["sh", "-c", "…"]',
    "too_short": "is empty",
    "string_type": 'must be text: put it in quotes, as "5"',
    "model_type": 'must be an object, as {"name": …}',
    "model_attributes_type": 'must be an object, as {"name": …}',
    "dict_type": 'must be an object, as {"name": …}',
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
}
"""Where the words of the library are about Python, not about the file."""


def _problem(problem: ErrorDetails) -> str:
    location = problem["loc"]
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")
    if problem["type"] == "extra_forbidden":
        return f"unknown field {path!r}{did_you_mean(str(location[-1]), _fields_at(location[:-1]))}"
    if problem["type"] == "not_supported":
        return f"not supported: {path}"
    if problem["type"] == "dropped":
        return f"not supported: {path}, which Pachyderm has dropped, too: {problem['msg']}"
    if problem["type"] == "missing":
        return f"{path}: missing"
    said = SAID_PLAINLY.get(problem["type"], problem["msg"])
    return f"{path}: {said[:1].lower()}{said[1:]}"


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
