"""``apply``."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from trunkline.cli.client import client
from trunkline.cli.grammar import Output, command
from trunkline.cli.output import show, structured
from trunkline.errors import InvalidInputError

KUBECTL_NAMES = {
    "Namespace": "namespace", "Secret": "secret", "InferenceService": "inferenceservice.serving.kserve.io",
}  # fmt: skip


def register(app: typer.Typer) -> None:
    command(app, "apply", "trunkline apply -n models -f sklearn-iris.yaml")(apply)


def apply(
    file: Annotated[str, typer.Option("--file", "-f", help="YAML file, one or many documents; - is stdin.")],
    namespace: Annotated[
        str | None,
        typer.Option("--namespace", "-n", help="For documents that name none; default: 'default'."),
    ] = None,
    output: Output = None,
) -> None:
    """Make namespaces, secrets and inference services be as a file says."""
    applied = client().apply(read_text(file), namespace=namespace)
    if output is not None:
        structured([asdict(one) for one in applied], output)
        return
    for one in applied:
        show(f"{KUBECTL_NAMES[one.kind]}/{one.name} {one.change}")


def read_text(file: str) -> str:
    """A file, or stdin for ``-``."""
    try:
        return sys.stdin.read() if file == "-" else Path(file).read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise InvalidInputError(f"cannot read {file}: {reason}", kind="bad_file") from error
