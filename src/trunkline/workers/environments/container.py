"""Commands in containers of podman or docker: one container for each command, removed with all that it started.

The command sees the image's files, with ``/pfs``, its code and its secrets bound where they are in a Python environment, the
same variables (but for those that describe this machine: PATH, HOME …), the host's network, or none. A container for each
command costs more time than a process; datum batching makes that one for many datums.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trunkline.core.sizes import size_text
from trunkline.errors import InvalidInputError
from trunkline.workers.box import Box
from trunkline.workers.environments.base import Prepared, Wanted
from trunkline.workers.limits import Limits
from trunkline.workers.sandbox import Command, Ended, Sandbox
from trunkline.workers.scratch import remove_tree, started_at

MEMORY = Path("/dev/shm")
GUARD = Path(__file__).with_name("guard.py")
ENGINE_SECONDS_MAX = 60.0
PULL_POLL_SECONDS = 0.2
NOT_FOUND, KILLED = 127, 137
NOTHING: Mapping[str, str] = {}
NOT_STARTED = (125, 126, 127)
"""What the client ends with if there was no command; a command may do so, too."""
_ENGINE_SAYS = re.compile(r"\b(?:docker: )?(?:Error|Error response from daemon): (.*)")
OF_THE_HOST = (
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "PWD",
    "TERM",
    "LD_LIBRARY_PATH",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
)
"""Variables that say nothing true inside an image; passed on only if the spec or the settings set them."""
_OF_THE_ENGINE = re.compile(
    r"^(PATH|HOME|TMPDIR|LD_.*|XDG_.*|SSL_CERT_(FILE|DIR)|GO(DEBUG|MAXPROCS|TRACEBACK|GC|MEMLIMIT)|STORAGE_(DRIVER|OPTS)|"
    r"DOCKER_(HOST|CONFIG|CONTEXT|TLS.*|CERT_PATH|API_VERSION)|CONTAINER_(HOST|CONNECTION|SSHKEY|PROXY)|CONTAINERS_.*|"
    r"_CONTAINERS_.*|_PODMAN.*|PODMAN_.*|REGISTRY_AUTH_FILE|NOTIFY_SOCKET|LISTEN_.*|DBUS_.*)$"
)
"""Variables that podman or docker would take for their own."""


class ContainerDriver:
    """Containers of one worker."""

    def __init__(self) -> None:
        self._has_image: set[str] = set()
        self._guard: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count(1)
        self._prefix = f"trunkline-{os.getpid()}-{re.sub('[^0-9]', '', started_at(os.getpid()) or '')}-"

    def prepare(self, wanted: Wanted) -> Prepared:
        """Have the image here, and a guard that ends containers if this worker dies."""
        place, payload = wanted.payload["environment"], wanted.payload
        if payload["transform"].get("requirements"):
            raise InvalidInputError(
                "transform.requirements: an image in a container has its packages already",
                kind="bad_requirements",
            )
        for secret in payload.get("secrets_env", {}):
            if _OF_THE_ENGINE.match(secret):
                raise InvalidInputError(
                    f"a secret cannot be the variable {secret} in a container: give it another name",
                    kind="bad_environment",
                )
        engine, image = list(place["container"]["engine"]), str(place["container"]["image"])
        if image not in self._has_image:
            _fetch(wanted, engine, image)
            self._has_image.add(image)
        self._watch(engine)
        transform = payload["transform"]
        given = {*place["env"], *transform.get("env", {}), *payload.get("secrets_env", {})}
        has_working_dir = transform.get("working_dir") or payload.get("code_root") or place.get("working_dir")
        image_of = _Image(
            engine=tuple(engine), name=image, options=tuple(place["container"].get("options", ())),
            user=str(transform.get("user") or ""), has_working_dir=bool(has_working_dir), given=frozenset(given),
            next_name=lambda: f"{self._prefix}{next(self._numbers)}",
        )  # fmt: skip
        return Prepared(env=place["env"], start=functools.partial(ContainerSandbox, image=image_of))

    def close(self) -> None:
        """Remove what is left, which is nothing unless something went wrong."""
        if self._guard is not None and self._guard.stdin is not None:
            self._guard.stdin.close()
            self._guard.wait()
            self._guard = None

    def _watch(self, engine: list[str]) -> None:
        if self._guard is None or self._guard.poll() is not None:
            self._guard = subprocess.Popen(
                [sys.executable, "-I", "-S", str(GUARD), self._prefix, *engine], stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, cwd="/",
            )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Image:
    """What containers are made from."""

    engine: tuple[str, ...]
    name: str
    options: tuple[str, ...]
    user: str
    has_working_dir: bool
    given: frozenset[str] = field(repr=False)
    """Variables that somebody wanted to be set."""
    next_name: Callable[[], str]


class ContainerSandbox(Sandbox):
    """Looks like any sandbox. What runs in its zygote, on this machine, is the engine's client; the command is elsewhere."""

    def __init__(self, box: Box, *, image: _Image) -> None:
        super().__init__(box.in_mode("container"), own_pids=False)
        self._image = image
        self._variables: dict[str, str] = {}
        self._name = ""
        self._made: list[Path] = []
        """Folders outside the box."""

    def configure(self, box: Box, env: Mapping[str, str], limits: Limits) -> None:
        """The engine sees to limits, users and the network."""
        super().configure(box.in_mode("container"), _engine_env(), Limits())
        self._limits = limits
        given = self._image.given
        self._variables = {key: value for key, value in env.items() if key not in OF_THE_HOST or key in given}
        box.out.chmod(0o777)  # the image's user is whoever it says
        self._binds = [(box.pfs, "/pfs", True), (box.out, "/pfs/out", False)]
        self._binds.append((box.private_home, self.box.seen_home, False))
        self._binds += self._secrets(box)
        for source, target, _ in self._binds:
            if ":" in f"{source}{target}":
                raise InvalidInputError(
                    f"{source} cannot be bound to {target} in a container: ':' is not allowed there",
                    kind="bad_environment",
                )

    def _secrets(self, box: Box) -> list[tuple[Path, str, bool]]:
        """Files in memory, bound where they are to be seen: never on a disk. The guard removes them, too."""
        found = []
        for folder, files in box.secrets():
            place = (MEMORY if MEMORY.is_dir() else box.folder) / self._image.next_name()
            place.mkdir(mode=0o700)  # nobody else on this machine gets further; who is in the container does
            self._made.append(place)
            place /= "s"
            place.mkdir()
            for name, value in files.items():
                (place / name).write_text(value)
            found.append((place, folder, True))
        return found

    def begin(self, command: Command) -> None:
        """Start a container with a command."""
        self._name = self._image.next_name()
        variables = {**self._variables, **command.common, **command.env}
        argv = [*self._client(variables, command.cwd), *command.argv]
        passed = {key: value for key, value in variables.items() if not _OF_THE_ENGINE.match(key)}
        super().begin(command._replace(argv=argv, env=passed, common=NOTHING, cwd="/"))

    def _client(self, variables: Mapping[str, str], cwd: str) -> list[str]:
        image, limits = self._image, self._limits
        argv = [*image.engine, "run", "--interactive", "--name", self._name, "--log-driver", "none"]
        argv += ["--network", "host" if limits.network else "none", "--security-opt", "no-new-privileges"]
        for source, target, is_read_only in self._binds:
            argv += ["--volume", f"{source}:{target}{':ro' if is_read_only else ''}"]
        for key, value in variables.items():
            # A name without a value is taken from the client's own environment: nothing secret is in its arguments.
            argv += ["--env", f"{key}={value}" if _OF_THE_ENGINE.match(key) else key]
        if image.has_working_dir:
            argv += ["--workdir", cwd]
        if image.user:
            argv += ["--user", image.user]
        if limits.memory_bytes is None:
            argv.append("--rm")
        else:  # it must stay, to be asked what it died of
            argv += ["--memory", str(limits.memory_bytes), "--memory-swap", str(limits.memory_bytes)]
        if limits.cpus is not None:
            argv += ["--cpus", str(limits.cpus)]
        return [*argv, *image.options, "--entrypoint", "", image.name]

    def kill(self) -> None:
        """End the container, and with it the client."""
        self._remove()
        super().kill()

    def close(self) -> None:
        """End it, with all that runs in it."""
        if self.is_busy:
            self._remove()
        super().close()
        for place in self._made:
            remove_tree(place)

    def _ended(
        self, answer: dict[str, Any] | None, stopped: str, seconds: float, timeout_seconds: float | None
    ) -> Ended:
        ended = super()._ended(answer, stopped, seconds, timeout_seconds)
        # What the client used says nothing of the command.
        ended = ended._replace(cpu_seconds=0.0, memory_bytes=0)
        if self._limits.memory_bytes is not None:
            if ended.exit_code == KILLED and not stopped and self._ran_out():
                limit = size_text(self._limits.memory_bytes)
                ended = ended._replace(oom=True, reason=f"out of memory: its limit is {limit}")
            self._remove()
        said = _ENGINE_SAYS.search(ended.reason)
        if ended.exit_code in NOT_STARTED and said and not stopped:
            return ended._replace(kind="no_container", reason=self._why_not(ended, said[1]))
        return ended

    def _why_not(self, ended: Ended, said: str) -> str:
        if ended.exit_code == NOT_FOUND:
            return f"command not found in image {self._image.name}: {said}"
        return f"no container of image {self._image.name} could be started: {said}"

    def _ran_out(self) -> bool:
        what = [*self._image.engine, "container", "inspect", "--format", "{{.State.OOMKilled}}", self._name]
        done = _engine(what)
        return done is not None and done.stdout.strip() == "true"

    def _remove(self) -> None:
        _engine([*self._image.engine, "rm", "--force", self._name])


def _engine_env() -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("TRUNKLINE_")}
    return {name: value for name, value in own.items() if _OF_THE_ENGINE.match(name)}


def _engine(argv: list[str]) -> subprocess.CompletedProcess[str] | None:
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        return subprocess.run(
            argv, capture_output=True, text=True, check=False, timeout=ENGINE_SECONDS_MAX, env=_engine_env()
        )
    return None


def _fetch(wanted: Wanted, engine: list[str], image: str) -> None:
    """Have the image here; what the engine says goes to the job's log."""
    here = _engine([*engine, "image", "inspect", "--format", "{{.Id}}", image])
    if here is not None and here.returncode == 0:
        return
    wanted.log(f"pulling image {image}", "trunkline")
    try:
        pulling = subprocess.Popen(
            [*engine, "pull", "--quiet", image], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, env=_engine_env(),
        )  # fmt: skip
    except OSError as error:
        raise InvalidInputError(
            f"{engine[0]} cannot be run: {error.strerror}", kind="no_container_engine"
        ) from error
    said: list[str] = []

    def read() -> None:
        assert pulling.stdout is not None, "it is a pipe"
        for line in pulling.stdout:
            said.append(line.strip())
            wanted.log(line.rstrip(), "trunkline")

    reader = threading.Thread(target=read, name="pull", daemon=True)
    reader.start()
    try:
        while pulling.poll() is None:
            wanted.check()
            time.sleep(PULL_POLL_SECONDS)
    finally:
        pulling.kill()
        pulling.wait()
        reader.join()
    if pulling.returncode != 0:
        last: Any = next((line for line in reversed(said) if line), "it did not say why")
        raise InvalidInputError(f"image {image} is not here, and cannot be pulled: {last}", kind="no_image")
