"""One settings object: flags > ``TRUNKLINE_*`` environment > ``trunkline.toml`` in the data directory > defaults.

Nothing else in trunkline's control process reads ``os.environ``; a test sees to that.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import tomllib
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from trunkline.core.suggest import did_you_mean
from trunkline.environments import Container, ResolvedEnvironment, interpreter_of
from trunkline.errors import InvalidInputError


class Environment(BaseModel):
    """Where the code of a pipeline with a given ``image`` runs on this machine."""

    model_config = ConfigDict(extra="forbid")

    python: str | None = None
    """A Python interpreter whose folder comes first in PATH; None: the one that runs trunkline."""
    path: list[str] = Field(default_factory=list)
    """More folders for the front of PATH."""
    working_dir: str | None = None
    """The working directory, where the spec names none."""
    env: dict[str, str] = Field(default_factory=dict)
    requirements: Path | None = None
    """A requirements file: its packages are installed once, into an environment of their own on top of ``python``."""
    container: bool | str = False
    """Run commands in a container: of this image, or of the one that is named here."""


BUILTIN_ENVIRONMENTS = {
    "trunkline": Environment(),
    "trunkline/train": Environment(),
    "trunkline/deploy": Environment(),
}
"""Images that need no mapping: they stand for the Python environment in which trunkline itself is installed."""


def default_home() -> Path:
    """``$TRUNKLINE_HOME``, or ``~/.trunkline``."""
    return Path(os.environ.get("TRUNKLINE_HOME") or Path.home() / ".trunkline").absolute()


GATEWAY_HOST = "127.0.0.1"
"""Predictions are asked for without authentication, so the gateway never listens anywhere else."""

DOORS = ("s3",)
"""The doors that there are."""

PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR")
"""All that worker processes get of the server's own environment."""


def inherited_environment() -> dict[str, str]:
    """What children may inherit; everything else (credentials above all) stays here."""
    return {name: os.environ[name] for name in PASSED_ON if name in os.environ}


class Settings(BaseSettings):
    """All that can be set. Field order is the order of the reference page that is generated from here."""

    model_config = SettingsConfigDict(env_prefix="TRUNKLINE_", extra="forbid", env_nested_delimiter="__")

    home: Path = Field(default_factory=default_home, description="The data directory.")
    host: str = Field(
        default="127.0.0.1",
        description="Address of the API and the console; see `remote`. The gateway stays on the loopback interface.",
    )
    remote: bool = Field(
        default=False,
        description="Allow a `host` that other machines can reach. Put TLS in front of it: tokens travel in clear text.",
    )
    port: int = Field(
        default=8900, ge=0, le=65535, description="Port of the API and console; 0 picks a free one."
    )
    gateway_port: int = Field(
        default=8081, ge=0, le=65535, description="Port of the prediction gateway; 0 picks a free one."
    )
    doors: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="APIs of other systems that are spoken, too: `s3`; `all` means all of them. By comma, or a list.",
    )
    s3_port: int = Field(
        default=30600,
        ge=0,
        le=65535,
        description="Port of the S3 door, where `host` listens; 0 picks a free one.",
    )
    domain: str = Field(
        default="example.com", description="Services answer to the host NAME.NAMESPACE.<domain>."
    )
    database_url: SecretStr | None = Field(
        default=None,
        description="`postgresql://USER@HOST:PORT/DATABASE`; default: SQLite in the data directory.",
    )
    database_password: SecretStr | None = Field(
        default=None,
        description="Password for `database_url`; better in the environment or in `database_password_file` than in the URL.",
    )
    database_password_file: Path | None = Field(
        default=None, description="A file whose first line is the password for `database_url`."
    )
    objects: str | None = Field(
        default=None,
        description="Where stored bytes live: a folder, or `s3://BUCKET/PREFIX`, `gs://…`, `az://…`; default: `objects` in the "
        "data directory. Credentials come from the environment (`AWS_ACCESS_KEY_ID` …), never from here.",
    )
    objects_endpoint: str | None = Field(
        default=None, description="URL of an S3 service other than Amazon's."
    )
    objects_region: str | None = Field(default=None, description="Region of the bucket.")
    pipeline_defaults: dict[str, Any] = Field(
        default_factory=dict, description="Fields of pipeline specs that hold where a spec does not say them."
    )
    project_pipeline_defaults: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="The same for the pipelines of one project; before `pipeline_defaults`.",
    )
    environments: dict[str, Environment] = Field(
        default_factory=dict, description="Maps the `image` of a pipeline to an environment on this machine."
    )
    container_images: bool = Field(
        default=False,
        description="Run images that `environments` does not map in containers; podman or docker may download them.",
    )
    container_engine: str = Field(
        default="auto",
        min_length=1,
        description="What runs containers: `auto` (podman, else docker), or a command line such as `podman --runtime runc`.",
    )
    container_options: list[str] = Field(
        default_factory=list,
        description="More options for the engine's `run`, as `--ulimit=nofile=1024:4096`.",
    )
    environments_unused_days: float = Field(
        default=30.0,
        ge=0,
        description="Python environments made from requirements files that nothing used for so long are removed when the next "
        "is made; 0: never.",
    )
    lease_seconds: float = Field(
        default=15.0, gt=0, description="A worker that is silent for this long loses its work to another."
    )
    worker_idle_seconds: float = Field(
        default=10.0, ge=0, description="An idle worker leaves after this long."
    )
    standby_workers: int = Field(
        default=1,
        ge=0,
        description="Idle workers that are kept ready for the next pipeline that has work; 0: none.",
    )
    job_log_bytes_max: int = Field(
        default=256 * 2**20, ge=1024, description="Where the log of one job ends, in bytes."
    )
    trials_max: int = Field(
        default_factory=lambda: max(1, (os.cpu_count() or 1)),
        ge=1,
        description="Trials that run at once on this machine; default: its processors.",
    )
    service_start_seconds: float = Field(
        default=120.0, gt=0, description="How long a replica may take to load and answer its probe."
    )
    drain_seconds: float = Field(
        default=30.0, ge=0, description="How long a replica that left the traffic may finish what it has."
    )
    request_bytes_max: int = Field(
        default=64 * 2**20, ge=1, description="Largest JSON request body, in bytes."
    )
    gc_every_hours: float = Field(
        default=24.0, ge=0, description="How often garbage is collected; 0: only by 'trunkline gc'."
    )
    gc_grace_hours: float = Field(
        default=24.0, ge=0, description="Garbage in packs that are younger than this is left alone."
    )
    sandbox: str = Field(
        default="auto",
        pattern="^(auto|namespace|paths)$",
        description="How user code gets its /pfs: a private mount namespace, or rewritten paths.",
    )
    allow_lookalikes: bool = Field(
        default=False,
        description="Allow file names beside each other that differ only in how Unicode composes their letters.",
    )
    fetch_private: bool = Field(
        default=False,
        description="Let 'put file' fetch URLs from this machine and private networks (never from link-local addresses).",
    )
    fetch_hosts: list[str] = Field(
        default_factory=list,
        description="Hosts ('name', 'name:port', address or network) from which 'put file' may fetch whatever they are.",
    )
    fetch_bytes_max: int = Field(
        default=100 * 2**30, ge=1, description="Largest content of a URL that is fetched."
    )
    fetch_seconds_max: float = Field(
        default=6 * 3600.0, gt=0, description="Longest time that one URL may take."
    )
    fetch_s3_endpoint: str | None = Field(
        default=None,
        pattern="^https?://[^/?#@]+/?$",
        description="Where s3:// URLs of 'put file' and `egress` lead, if not to Amazon, e.g. http://127.0.0.1:8333.",
    )
    unpack_bytes_max: int = Field(
        default=100 * 2**30, ge=1, description="What an archive may grow to when it is unpacked."
    )
    unpack_ratio_max: float = Field(
        default=200.0,
        gt=1,
        description="How many times as large as it came an archive may grow (above 64 MiB).",
    )
    link_roots: list[Path] | None = Field(
        default=None,
        description="Folders whose files 'put file --link' may use; default: the home folder of the server's user, without "
        "hidden ones; nothing if `remote` is set.",
    )
    egress_folders: list[Path] = Field(
        default_factory=list,
        description="Folders below which `egress` of a pipeline may write (`file:///…`, `sqlite:///…`); default: none.",
    )
    log_json: bool = Field(default=False, description="Write the server's log as JSON lines.")

    @field_validator("doors", mode="before")
    @classmethod
    def _known_doors(cls, value: object) -> object:
        names = value.split(",") if isinstance(value, str) else value
        if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
            raise ValueError("write the doors' names, divided by commas")
        wanted = [name.strip() for name in names if name.strip()]
        for name in wanted:
            if name not in (*DOORS, "all"):
                raise ValueError(f"there is no door {name!r}; known are {', '.join(DOORS)} and all")
        return tuple(name for name in DOORS if name in wanted or "all" in wanted)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        home = init_settings.init_kwargs.get("home") if hasattr(init_settings, "init_kwargs") else None
        file = Path(home or default_home()) / "trunkline.toml"
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, toml_file=file)

    # Places inside the data directory; the layout is part of docs/format.md.

    @property
    def objects_dir(self) -> Path:
        return self.home / "objects"

    @property
    def logs_dir(self) -> Path:
        return self.home / "logs"

    @property
    def run_dir(self) -> Path:
        return self.home / "run"

    @property
    def token_file(self) -> Path:
        return self.home / "token"

    @property
    def server_file(self) -> Path:
        """JSON ``{"url", "gateway_url", "pid", "started"}`` of the control server; how clients find it."""
        return self.run_dir / "server.json"

    @property
    def url(self) -> str:
        """Where clients on this machine find the API; ``port`` must be known by then, not 0."""
        return f"http://{_reachable(self.host)}:{self.port}"

    @property
    def gateway_url(self) -> str:
        return f"http://{GATEWAY_HOST}:{self.gateway_port}"

    @property
    def door_urls(self) -> dict[str, str]:
        """Where clients on this machine find the doors that are open."""
        ports = {"s3": self.s3_port}
        return {name: f"http://{_reachable(self.host)}:{ports[name]}" for name in self.doors}

    @property
    def url_of_database(self) -> str:
        """With its password: for the driver, not for people.

        :raises InvalidInputError: ``bad_database_url``; ``no_password_file``.
        """
        if self.database_url is None:
            return f"sqlite:///{self.home / 'trunkline.db'}"
        url, password = self.database_url.get_secret_value(), self._database_password()
        return url if password is None else _with_password(url, password)

    def _database_password(self) -> str | None:
        if self.database_password is not None:
            return self.database_password.get_secret_value()
        if self.database_password_file is None:
            return None
        try:
            return self.database_password_file.read_text().partition("\n")[0].strip()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInputError(
                f"database_password_file {self.database_password_file} cannot be read: "
                f"{getattr(error, 'strerror', None) or 'it is not text'}",
                kind="no_password_file",
            ) from error

    @property
    def place_of_objects(self) -> str:
        """A folder or a URL."""
        return self.objects or str(self.objects_dir)

    @property
    def options_of_objects(self) -> dict[str, str]:
        """What the driver of a URL must know beside it."""
        options = {"endpoint": self.objects_endpoint, "region": self.objects_region}
        return {name: value for name, value in options.items() if value is not None}

    def environment_for(self, image: str, *, requirements: bool = False) -> ResolvedEnvironment:
        """The environment that stands for ``image``; tags and digests are ignored for the built-in ones. ``requirements``:
        the spec brings a requirements file of its own.

        :raises InvalidInputError: ``unmapped_image``, saying how to map it; ``no_python``, if its Python is not there;
            ``no_container_engine``; ``no_requirements``.
        """
        found = self.environments.get(image) or BUILTIN_ENVIRONMENTS.get(image.split("@")[0].split(":")[0])
        if found is None and self.container_images:
            found = Environment(container=True)
        if found is None:
            raise InvalidInputError(
                f"image {image!r} is not mapped to an environment on this machine: add "
                f'`environments.{json.dumps(image)}.python = "/path/to/venv/bin/python"` at the top of '
                f"{self.home / 'trunkline.toml'} and restart, or use the image 'trunkline'",
                kind="unmapped_image",
                details={"image": image},
            )
        if found.python is not None and not os.access(found.python, os.X_OK):
            raise InvalidInputError(
                f"image {image!r} is mapped to {found.python}, which is no program: correct it in "
                f"{self.home / 'trunkline.toml'} and restart",
                kind="no_python",
                details={"image": image, "python": found.python},
            )
        text = self._requirements_of(image, found)
        if found.container and (requirements or text is not None):
            raise InvalidInputError(
                f"image {image!r} runs in a container, which has its packages already: leave out requirements",
                kind="bad_environment",
            )
        needs_packages = requirements or text is not None
        return ResolvedEnvironment(
            python=found.python, path=found.path, working_dir=found.working_dir, env=found.env, requirements=text,
            interpreter=interpreter_of(found.python).name if needs_packages else None,
            unused_days=self.environments_unused_days if needs_packages else None,
            container=self._container_of(image, found),
        )  # fmt: skip

    def _requirements_of(self, image: str, environment: Environment) -> str | None:
        if environment.requirements is None:
            return None
        file = self.home / environment.requirements
        try:
            return file.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInputError(
                f"the requirements of image {image!r} cannot be read from {file}: "
                f"{getattr(error, 'strerror', None) or 'it is not text'}",
                kind="no_requirements",
            ) from error

    def _container_of(self, image: str, environment: Environment) -> Container | None:
        if not environment.container:
            return None
        if self.container_engine == "auto":
            engine = [name for name in ("podman", "docker") if shutil.which(name)][:1]
        else:
            engine = shlex.split(self.container_engine)
        if not engine or shutil.which(engine[0]) is None:
            raise InvalidInputError(
                f"image {image!r} runs in a container, and {engine[0] if engine else 'neither podman nor docker'} is "
                "not here: install one, or map the image to a Python in `environments`",
                kind="no_container_engine",
            )
        name = environment.container if isinstance(environment.container, str) else image
        return Container(engine=engine, image=name, options=self.container_options)


def _with_password(url: str, password: str) -> str:
    scheme, found, rest = url.partition("://")
    user, found_at, place = rest.partition("@")
    if not found or not found_at or not user.partition(":")[0]:
        raise InvalidInputError(
            "database_url names no user for the password: write postgresql://USER@HOST:PORT/DATABASE",
            kind="bad_database_url",
        )
    return f"{scheme}://{user.partition(':')[0]}:{quote(password, safe='')}@{place}"


def _reachable(host: str) -> str:
    """An address to connect to, for one to listen on."""
    local = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)
    return f"[{local}]" if ":" in local else local


def load_settings(**flags: Any) -> Settings:
    """Settings from all sources; flags that are None count as not given.

    :raises InvalidInputError: ``bad_setting``, naming each setting that has a bad value; ``bad_settings_file``.
    """
    given = {k: v for k, v in flags.items() if v is not None}
    try:
        return Settings(**given)
    except ValidationError as error:
        problems = [_problem(one) for one in error.errors()]
        raise InvalidInputError(" | ".join(problems), kind="bad_setting") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        file = Path(given.get("home") or default_home()) / "trunkline.toml"
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InvalidInputError(f"{file} cannot be read: {reason}", kind="bad_settings_file") from error


def _problem(problem: ErrorDetails) -> str:
    *parents, last = (str(part) for part in problem["loc"])
    name = ".".join([*parents, last])
    if problem["type"] != "extra_forbidden":
        return f"setting {name!r}: {problem['msg']}"
    known = Environment.model_fields if parents else Settings.model_fields
    return f"there is no setting {name!r}{did_you_mean(last, known)}"
