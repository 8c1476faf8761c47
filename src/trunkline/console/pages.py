"""Renders pages out of what the services say. Everything shown is escaped by the template engine."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from trunkline.services import Services
from trunkline.wire.status import Everything

ROWS_MAX = 50
FOLDER = Path(__file__).parent
METHODS = ("get", "post", "put", "delete")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(FOLDER / "templates"), autoescape=True, undefined=StrictUndefined
    )
    environment.filters["when"] = _when
    environment.filters["size"] = _size
    return environment


def index_page(services: Services) -> str:
    """What exists, newest first."""
    return (
        _environment()
        .get_template("index.html")
        .render(
            home=str(services.settings.home),
            gateway_url=services.settings.gateway_url,
            repos=services.versioning.list_repos(),
            pipelines=services.pipelines.list_pipelines(None),
            jobs=services.pipelines.list_jobs(None, None, limit=ROWS_MAX),
            experiments=services.training.list_experiments()[:ROWS_MAX],
            models=services.registry.list_models(),
            services=services.serving.list(),
        )
    )


def id_page(found: Everything) -> str:
    """Everything that bears one ID."""
    return _environment().get_template("id.html").render(found=found)


def reference_page(schema: dict[str, Any]) -> str:
    """The API's reference, out of its OpenAPI schema."""
    tags: dict[str, list[dict[str, Any]]] = {}
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            if method in METHODS:
                tags.setdefault(operation.get("tags", ["other"])[0], []).append(
                    {
                        "method": method.upper(), "path": path, "summary": operation.get("summary", ""),
                        "parameters": operation.get("parameters", []),
                        "asks": _body_name(operation.get("requestBody", {})),
                        "answers": _answer_name(operation.get("responses", {})),
                    }
                )  # fmt: skip
    models = schema.get("components", {}).get("schemas", {})
    rows = {name: _fields(model) for name, model in sorted(models.items()) if "properties" in model}
    return _environment().get_template("reference.html").render(tags=tags, models=rows, info=schema["info"])


def stylesheet() -> str:
    return (FOLDER / "static" / "style.css").read_text()


def _body_name(holder: dict[str, Any]) -> str:
    for media in holder.get("content", {}).values():
        return type_name(media.get("schema", {}))
    return ""


def _answer_name(responses: dict[str, Any]) -> str:
    return next((_body_name(answer) for status, answer in responses.items() if status.startswith("2")), "")


def _fields(model: dict[str, Any]) -> list[dict[str, str]]:
    required = model.get("required", [])
    return [
        {"name": name, "type": type_name(field), "required": "required" if name in required else ""}
        for name, field in model["properties"].items()
    ]


def type_name(field: dict[str, Any]) -> str:
    """A schema in a few words: ``list of Commit``, ``string or null``."""
    if "$ref" in field:
        return str(field["$ref"].rpartition("/")[2])
    if "anyOf" in field:
        return " or ".join(type_name(one) for one in field["anyOf"])
    if "enum" in field:
        return " | ".join(str(one) for one in field["enum"])
    if field.get("type") == "array":
        return f"list of {type_name(field.get('items', {}))}"
    return str(field.get("type", "any"))


def _when(seconds: float | None) -> str:
    return "" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _size(size: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:.4g} TiB"
