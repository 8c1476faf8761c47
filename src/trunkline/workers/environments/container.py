"""Commands in containers of podman or docker: one container for each command, removed with all that it started.

The command sees the image's files, with ``/pfs``, its code and its secrets bound where they are in a Python environment, the
same variables (but for those that describe this machine: PATH, HOME …), the host's network, or none. A container for each
command costs more time than a process; datum batching makes that one for many datums.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trunkline.errors import InvalidInputError, UnavailableError
from trunkline.workers.environments.base import Prepared, Wanted
from trunkline.workers.environments.hosted import Told, run_client
from trunkline.workers.sandbox import Box, Ended, OnLine
from trunkline.workers.scratch import started_at

GUARD = Path(__file__).with_name("guard.py")
ENGINE_SECONDS_MAX = 60.0
PULL_POLL_SECONDS = 0.2
STARTING_FAILED = 125
NOT_EXECUTABLE, NOT_FOUND = 126, 127
KILLED = 137
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
        self._number = 0
        self._prefix = f"trunkline-{os.getpid()}-{re.sub('[^0-9]', '', started_at(os.getpid()) or '')}-"

    def prepare(self, wanted: Wanted) -> Prepared:
        """Have the image here, and a guard that ends containers if this worker dies."""
        place, payload = wanted.payload["environment"], wanted.payload
        if payload["transform"].get("requirements"):
            raise InvalidInputError(
                "transform.requirements: an image in a container has its packages already",
                kind="bad_requirements",
            )
        engine, image = list(place["container"]["engine"]), str(place["container"]["image"])
        if image not in self._has_image:
            _fetch(wanted, engine, image)
            self._has_image.add(image)
        self._watch(engine)
        limits = payload.get("limits") or {}
        for secret in payload.get("secrets_env", {}):
            if _OF_THE_ENGINE.match(secret):
                raise InvalidInputError(
                    f"a secret cannot be the variable {secret} in a container: give it another name",
                    kind="bad_environment",
                )
        given = {*place["env"], *payload["transform"].get("env", {}), *payload.get("secrets_env", {})}
        runner = _Runner(
            engine=engine, image=image, options=list(place["container"].get("options", [])), name=self._next_name,
            user=payload["transform"].get("user") or "", memory_bytes=limits.get("memory_bytes"),
            cpus=limits.get("cpus"), has_network=limits.get("network", True), given=frozenset(given),
            has_working_dir=bool(
                payload["transform"].get("working_dir") or payload.get("code_root") or place.get("working_dir")
            ),
        )  # fmt: skip
        return Prepared(env=place["env"], run=runner)

    def close(self) -> None:
        """Remove what is left, which is nothing unless something went wrong."""
        if self._guard is not None and self._guard.stdin is not None:
            self._guard.stdin.close()
            self._guard.wait()
            self._guard = None

    def _next_name(self) -> str:
        self._number += 1
        return f"{self._prefix}{self._number}"

    def _watch(self, engine: list[str]) -> None:
        if self._guard is None or self._guard.poll() is not None:
            self._guard = subprocess.Popen(
                [sys.executable, "-I", "-S", str(GUARD), self._prefix, *engine], stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, cwd="/",
            )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Runner:
    """Runs commands in one image: a ``RunsCommands``."""

    engine: list[str]
    image: str
    options: list[str]
    name: Callable[[], str]
    user: str
    memory_bytes: int | None
    cpus: float | None
    has_network: bool
    has_working_dir: bool
    given: frozenset[str] = field(repr=False)
    """Variables that somebody wanted to be set."""

    def __call__(
        self,
        box: Box,
        argv: Sequence[str],
        *,
        stdin_lines: Sequence[str],
        env: Mapping[str, str],
        cwd: str,
        on_line: OnLine,
        interrupted: threading.Event,
        timeout_seconds: float | None,
        on_wait: Callable[[], None] = lambda: None,
        shown: Callable[[str], str] = lambda line: line,
    ) -> Ended:
        name = self.name()
        variables = {key: value for key, value in env.items() if key not in OF_THE_HOST or key in self.given}
        command = [*self._run_command(box, name, variables, cwd), *argv]
        box.out.chmod(0o777)  # the image's user is whoever it says
        stdin_file = box.folder / "stdin"
        stdin_file.write_text("".join(f"{line}\n" for line in stdin_lines))
        passed = {key: value for key, value in variables.items() if not _OF_THE_ENGINE.match(key)}
        try:
            told = run_client(
                command, stdin_file=stdin_file, env={**_engine_env(), **passed}, on_line=on_line, interrupted=interrupted,
                timeout_seconds=timeout_seconds, on_wait=on_wait, shown=shown, stop=lambda: self._remove(name),
            )  # fmt: skip
            return self._ended(told, name, argv[0], timeout_seconds)
        finally:
            self._remove(name)

    def _run_command(self, box: Box, name: str, variables: Mapping[str, str], cwd: str) -> list[str]:
        binds = [(box.pfs / one, f"/pfs/{one}", True) for one in box.inputs]
        binds += [(box.out, "/pfs/out", False), (box.private_home, box.seen_home, False)]
        binds += [(source, folder, True) for folder, source in box.write_secrets()]
        command = [*self.engine, "run", "--interactive", "--name", name, "--log-driver", "none"]
        command += [
            "--network",
            "host" if self.has_network else "none",
            "--security-opt",
            "no-new-privileges",
        ]
        for source, target, is_read_only in binds:
            if ":" in f"{source}{target}":
                raise InvalidInputError(
                    f"{source} cannot be bound into a container: ':' is not allowed in its path",
                    kind="bad_environment",
                )
            command += ["--volume", f"{source}:{target}{':ro' if is_read_only else ''}"]
        for key, value in variables.items():
            # A name without a value is taken from the engine's own environment: nothing secret is in its arguments.
            command += ["--env", f"{key}={value}" if _OF_THE_ENGINE.match(key) else key]
        if self.has_working_dir:
            command += ["--workdir", cwd]
        if self.user:
            command += ["--user", self.user]
        if self.memory_bytes:
            command += ["--memory", str(self.memory_bytes), "--memory-swap", str(self.memory_bytes)]
        if self.cpus:
            command += ["--cpus", str(self.cpus)]
        return [*command, *self.options, "--entrypoint", "", self.image]

    def _ended(self, told: Told, name: str, program: str, timeout_seconds: float | None) -> Ended:
        said = f": {told.tail}" if told.tail else ""
        if told.stopped == "interrupted":
            return Ended(exit_code=KILLED, reason="interrupted", seconds=told.seconds, was_interrupted=True)
        if told.stopped == "timeout":
            reason = f"ran past its datum_timeout of {timeout_seconds:g} s{said}"
            return Ended(exit_code=KILLED, reason=reason, seconds=told.seconds)
        code = told.code if told.code >= 0 else 128 - told.code
        reason = f"exit code {code}{said}" if code else ""
        if code == STARTING_FAILED and not self._state(name):
            raise UnavailableError(
                f"no container of {self.image} could be started{said or ': it did not say why'}",
                kind="no_container",
            )
        if code in (NOT_EXECUTABLE, NOT_FOUND) and not self._state(name):
            what = "command not found" if code == NOT_FOUND else "it cannot be executed"
            reason = f"{what}: {program}"
        elif code == KILLED and self._state(name) == "true":
            limit = f", its limit is {self.memory_bytes} bytes" if self.memory_bytes else ""
            reason = f"killed: out of memory{limit}{said}"
        return Ended(exit_code=code, reason=reason, seconds=told.seconds)

    def _state(self, name: str) -> str:
        """Whether it ran out of memory: ``true`` or ``false``; empty if it never ran."""
        what = "{{.State.OOMKilled}} {{.State.StartedAt}}"
        done = _engine([*self.engine, "container", "inspect", "--format", what, name])
        if done is None or done.returncode != 0:
            return ""
        killed, _, started = done.stdout.strip().partition(" ")
        return "" if started.startswith("0001-") else killed

    def _remove(self, name: str) -> None:
        _engine([*self.engine, "rm", "--force", name])


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
