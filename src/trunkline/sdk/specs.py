"""Spec files: JSON, YAML or Jsonnet; one spec, a list, or several documents."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from datetime import date, datetime
from pathlib import Path
from typing import Any

import yaml

from trunkline.core.yamltext import TwiceError, load_all_yaml
from trunkline.errors import InvalidInputError

JSONNET_SUFFIXES = (".jsonnet", ".libsonnet")


def read_specs(
    path: Path, args: Mapping[str, str] | None = None, *, is_jsonnet: bool = False
) -> list[dict[str, Any]]:
    """The pipeline specs in a file; ``-`` is stdin. ``args`` are the arguments of a Jsonnet file's function.

    >>> [spec["pipeline"]["name"] for spec in read_specs(Path("pipelines.yaml"))]
    """
    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text()
    except OSError as error:
        raise InvalidInputError(f"cannot read {path}: {error.strerror}", kind="bad_file") from error
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{path} is neither JSON nor YAML: {error}", kind="bad_file") from error
    if is_jsonnet or path.suffix in JSONNET_SUFFIXES:
        text = evaluate_jsonnet(text, str(path), args or {})
    elif args:
        raise InvalidInputError(
            f"{path} takes no --arg: only a Jsonnet file (.jsonnet, or --jsonnet FILE) does", kind="bad_file"
        )
    return parse_specs(text, "stdin" if str(path) == "-" else str(path))


def parse_specs(text: str, name: str) -> list[dict[str, Any]]:
    """The specs in a text; ``name`` says in errors where it is from.

    >>> parse_specs('{"pipeline": {"name": "a"}} {"pipeline": {"name": "b"}}', "two.json")
    """
    try:
        documents = _json_documents(text) if text.lstrip()[:1] in ("{", "[") else None
        if documents is None:
            documents = list(load_all_yaml(text))
        specs = [
            spec
            for one in map(_as_json, documents)
            if one is not None
            for spec in (one if isinstance(one, list) else [one])
        ]
    except TwiceError as error:
        raise InvalidInputError(f"{name}: {error}", kind="bad_file") from error
    except (yaml.YAMLError, ValueError) as error:  # the latter of a time that there is not
        said = " ".join(str(error).replace('"<unicode string>", ', "").split())
        raise InvalidInputError(f"{name} is neither JSON nor YAML: {said}", kind="bad_file") from error
    except RecursionError as error:
        raise InvalidInputError(f"{name} is nested too deeply", kind="bad_file") from error
    if not specs or not all(isinstance(spec, dict) for spec in specs):
        raise InvalidInputError(f"{name} holds no pipeline spec", kind="bad_file")
    return specs


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise TwiceError(f"the key {key!r} is there twice")
        found[key] = value
    return found


def _json_documents(text: str) -> list[Any] | None:
    """One JSON document after the other; None if it is no JSON, which YAML may still be."""
    decoder, found, at = json.JSONDecoder(object_pairs_hook=_once), [], 0
    while at < len(text):
        try:
            value, end = decoder.raw_decode(text, at)
        except json.JSONDecodeError:
            return None
        found.append(value)
        rest = text[end:].lstrip()
        at = len(text) - len(rest)
    return found


def _as_json(value: Any) -> Any:
    """YAML knows times; JSON has text for them."""
    if isinstance(value, dict):
        return _once([(str(key), _as_json(inner)) for key, inner in value.items()])
    if isinstance(value, list):
        return [_as_json(inner) for inner in value]
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    return value.isoformat() if isinstance(value, date) else value


def evaluate_jsonnet(text: str, name: str, args: Mapping[str, str]) -> str:
    """The JSON that a Jsonnet text stands for; ``args`` are the arguments of its function, all of them strings.

    >>> evaluate_jsonnet("function(n) { pipeline: { name: n } }", "p.jsonnet", {"n": "edges"})
    """
    try:
        import _jsonnet  # noqa: PLC0415 (an extra)
    except ImportError as error:
        raise InvalidInputError(
            f"{name} is Jsonnet, which needs an extra: pip install 'trunkline[jsonnet]'", kind="no_jsonnet"
        ) from error
    try:
        return str(_jsonnet.evaluate_snippet(name, text, tla_vars=dict(args)))
    except RuntimeError as error:
        said = " ".join(str(error).split())
        raise InvalidInputError(f"{name} cannot be evaluated: {said}", kind="bad_file") from error
