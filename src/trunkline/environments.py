"""What an ``image`` stands for on one machine: what a worker is told of it, and what of it decides a datum's result.

The texts of requirements files may hold the credentials of an index. Those reach the worker that installs from it, and
nothing else: not the hash (a new password is no new environment), not a log, not a message.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from trunkline.errors import InvalidInputError

KEY_CHARACTERS = 32
ASK_SECONDS = 30.0
_CREDENTIALS = re.compile(r"(\b[A-Za-z][A-Za-z0-9+.-]*://)[^/@\s]+@")
_ABOUT = (
    "import json, platform, sys, sysconfig; print(json.dumps([platform.python_implementation().lower(), "
    "platform.python_version(), sysconfig.get_platform(), sys.prefix, sys.path]))"
)


class Container(BaseModel):
    """How commands of an image run in containers."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    engine: list[str]
    """The command line of podman or docker, with global options."""
    image: str
    options: list[str] = Field(default_factory=list)
    """More options for ``run``."""


class ResolvedEnvironment(BaseModel):
    """What a worker is told. ``model_dump`` leaves out what is not in use, so that new kinds change no old identity."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    python: str | None = None
    path: list[str] = Field(default_factory=list)
    working_dir: str | None = None
    env: dict[str, str] = Field(default_factory=dict)
    requirements: str | None = Field(default=None, repr=False)
    """The text of the requirements file that the settings name."""
    interpreter: str | None = None
    """Python's version and platform, where packages are installed for it."""
    unused_days: float | None = None
    """How long its packages are kept without use."""
    container: Container | None = None

    @model_serializer(mode="wrap")
    def _without_unused(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        found: dict[str, Any] = handler(self)
        return {
            name: value
            for name, value in found.items()
            if value is not None or name in ("python", "working_dir")
        }

    def identity(self) -> dict[str, Any]:
        """What decides the result of a datum that runs here."""
        found = self.model_dump(exclude={"unused_days"})
        if self.requirements is not None:
            found["requirements"] = environment_key(self.interpreter or "", self.requirements)
        if self.container is not None:
            found["container"] = self.container.image
        return found


class Interpreter(BaseModel):
    """A Python, asked about itself."""

    model_config = ConfigDict(frozen=True)

    python: str
    name: str
    """``cpython-3.11.7-linux-x86_64``."""
    prefix: str
    paths: tuple[str, ...]
    """Where it finds packages; not the standard library."""


def without_credentials(text: str) -> str:
    """Text without the user and password of each URL in it."""
    return _CREDENTIALS.sub(r"\1", text)


def environment_key(interpreter: str, requirements: str, *more: str) -> str:
    """The hash that names a Python environment: which Python, which packages, nothing secret."""
    lines = [line.strip() for line in without_credentials(requirements).splitlines()]
    told = [interpreter, [line for line in lines if line and not line.startswith("#")], *more]
    return hashlib.blake2b(json.dumps(told).encode(), digest_size=32).hexdigest()[:KEY_CHARACTERS]


def interpreter_of(python: str | None) -> Interpreter:
    """What a Python says of itself; None is the one that runs trunkline. Asked again when the program changes.

    :raises InvalidInputError: ``no_python``, if it does not answer.
    """
    if python is None:
        return _interpreter(
            sys.executable, platform.python_implementation().lower(), platform.python_version(),
            sysconfig.get_platform(), sys.prefix, sys.path, sysconfig.get_paths(),
        )  # fmt: skip
    try:
        return _ask(python, os.stat(python).st_mtime_ns)  # noqa: PTH116
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise InvalidInputError(
            f"{python} does not answer as a Python does: {error}", kind="no_python"
        ) from error


@lru_cache(maxsize=64)
def _ask(python: str, _changed: int) -> Interpreter:
    done = subprocess.run(
        [python, "-I", "-c", _ABOUT], capture_output=True, text=True, check=True, timeout=ASK_SECONDS, env={}
    )
    implementation, version, system, prefix, paths = json.loads(done.stdout)
    return _interpreter(python, implementation, version, system, prefix, paths, {})


def _interpreter(
    python: str,
    implementation: str,
    version: str,
    system: str,
    prefix: str,
    paths: list[str],
    own: Mapping[str, str],
) -> Interpreter:
    short = "".join(version.split(".")[:2])
    library = re.compile(rf"(/lib(64)?/python[\d.]+(/lib-dynload)?|python{short}\.zip)$")
    standard = {own.get("stdlib"), own.get("platstdlib")}
    found = [one for one in paths if one.startswith("/") and one not in standard and not library.search(one)]
    return Interpreter(
        python=python,
        name=f"{implementation}-{version}-{system}",
        prefix=prefix,
        paths=tuple(dict.fromkeys(found)),
    )
