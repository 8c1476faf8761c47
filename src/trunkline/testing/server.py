"""A real control server for tests: a process of its own, in its own data directory, on free ports; nothing of it survives
the test."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from trunkline.api.home import last_run
from trunkline.api.server import shut_down
from trunkline.errors import InternalError, TrunklineError
from trunkline.sdk.client import Client
from trunkline.settings import Settings
from trunkline.testing.programs import end, stop_with_parent

START_SECONDS = 60.0
POLL_SECONDS = 0.02
PROGRAM = (sys.executable, "-m", "trunkline.cli.main")


class ServerHarness:
    """Starts, kills and restarts the server of one data directory."""

    def __init__(self, home: Path, *, settings: Mapping[str, str] | None = None) -> None:
        self.home = home
        self.process: subprocess.Popen[bytes] | None = None
        self._settings = dict(settings or {})

    @property
    def env(self) -> dict[str, str]:
        """The environment in which commands find this server, and no other."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("TRUNKLINE_")}
        return {**kept, **self._settings, "TRUNKLINE_HOME": str(self.home)}

    def start(self, *flags: str) -> None:
        """Start it and wait for its first answer."""
        self.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        log = self.home / "up.log"
        is_main = (
            threading.current_thread() is threading.main_thread()
        )  # the system means the thread that started it
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                [*PROGRAM, "up", "--port", "0", "--gateway-port", "0", *flags],
                env=self.env, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
                preexec_fn=stop_with_parent if is_main else None,
            )  # fmt: skip
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(TrunklineError, OSError, KeyError):
                if self.client().status().pid == self.process.pid:
                    return
            time.sleep(POLL_SECONDS)
        raise InternalError(f"the server did not start: {log.read_text(errors='replace')}")

    def client(self, retry_seconds: float = 0) -> Client:
        """A client of it, as its owner."""
        url = str(last_run(Settings(home=self.home))["url"])
        return Client(url=url, token=(self.home / "token").read_text().strip(), retry_seconds=retry_seconds)

    @property
    def gateway_url(self) -> str:
        return str(last_run(Settings(home=self.home))["gateway_url"])

    def cli(self, *words: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Run one command as a process."""
        return subprocess.run([*PROGRAM, *words], env=self.env, input=stdin, capture_output=True, check=False)

    def kill(self) -> None:
        """End the server as a crash would; what it started lives on."""
        assert self.process is not None, "it was started"
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def _own_settings(self) -> Settings:
        given = {
            name.removeprefix("TRUNKLINE_").lower(): json.loads(value)
            if value.startswith(("[", "{"))
            else value
            for name, value in self._settings.items()
            if name.startswith("TRUNKLINE_")
        }
        return Settings(home=self.home, **given)  # type: ignore[arg-type]  # text, as an environment has it

    def stop(self) -> None:
        """End the server, dead or alive, with all that it started."""
        try:
            with contextlib.suppress(TrunklineError):
                shut_down(self._own_settings())
        finally:
            if self.process is not None:
                end(self.process, signal.SIGTERM)


@contextlib.contextmanager
def running_server(home: Path, *, settings: Mapping[str, str] | None = None) -> Iterator[ServerHarness]:
    """A server for the length of a block."""
    server = ServerHarness(home, settings=settings)
    try:
        server.start()
        yield server
    finally:
        server.stop()
