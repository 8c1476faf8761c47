"""The control server as a process: start, serve, stop; and ending what a dead one has left."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from logging.handlers import RotatingFileHandler
from types import FrameType

import uvicorn
from starlette.exceptions import HTTPException
from starlette.types import Message

from trunkline.api import home
from trunkline.api.app import create_app
from trunkline.api.direct import DirectProtocol
from trunkline.api.entrances import MakeDoor, job_door, open_doors
from trunkline.api.logs import JsonFormatter, TextFormatter
from trunkline.core.clock import SystemClock
from trunkline.core.garbage import keep_what_is_there
from trunkline.errors import StateError
from trunkline.jobs.engines.process import ProcessEngine, started_at
from trunkline.jobs.pool import ProcessTable
from trunkline.services import Services, build, open_database, stop_children
from trunkline.settings import Settings

log = logging.getLogger(__name__)

LOG_BYTES_MAX = 10 * 2**20
GRACEFUL_SECONDS = 3
DOWN_SECONDS = 90.0
JOB_DOOR = "s3-jobs"
"""Among the doors, the one that is opened for jobs, whatever the settings say."""
SIGNALS = (signal.SIGINT, signal.SIGTERM)


def serve(
    settings: Settings,
    *,
    to_stderr: bool,
    on_ready: Callable[[Services, str], None],
    doors: Mapping[str, MakeDoor] | None = None,
) -> None:
    """Be the control server until asked to end; then end everything that it started.

    ``on_ready`` is called with the services and a one-time link, when requests are answered. ``doors``: the programs behind
    the doors that the settings name.

    :raises StateError: ``already_running``. :raises UnavailableError: ``port_taken`` and others.
    """
    home.check_host(settings)
    home.prepare(settings)
    with home.locked(settings.home):
        _configure_logging(settings, to_stderr=to_stderr)
        listener = home.bind(settings)
        settings = settings.model_copy(update={"port": listener.getsockname()[1]})
        port = home.choose_gateway_port(settings, is_ours=_gateway_runs(settings))
        settings = settings.model_copy(update={"gateway_port": port})
        entrances = {name: home.bind(settings, home.DOOR_PORTS[name]) for name in settings.doors}
        ports = {home.DOOR_PORTS[name]: found.getsockname()[1] for name, found in entrances.items()}
        settings = settings.model_copy(update=ports)
        services = build(settings)
        behind = {name: ((doors or {})[name], entrances[name]) for name in entrances}
        with services.db.only_server():
            _serve(services, listener, behind, on_ready, (doors or {}).get(JOB_DOOR))
            services.stop()
        home.write_down(settings, started_at=services.started_at, is_up=False)


def _serve(
    services: Services,
    listener: socket.socket,
    doors: Mapping[str, tuple[MakeDoor, socket.socket]],
    on_ready: Callable[[Services, str], None],
    for_jobs: MakeDoor | None,
) -> None:
    settings = services.settings
    services.access.admin_token(settings.token_file)
    home.write_down(settings, started_at=services.started_at)
    server = _Server(services)
    with _signals_to(server.handle_exit), contextlib.ExitStack() as stack:
        if for_jobs is not None:
            stack.enter_context(job_door(services, for_jobs))
        services.start()
        log.info("serving at %s, process %d", settings.url, os.getpid())
        with open_doors(services, doors):
            on_ready(services, f"{settings.url}/login?link={services.access.console_link_token()}")
            server.run(sockets=[listener])
    log.info("stopping")


class _Server(uvicorn.Server):
    """Ends in the right order: the first signal ends the workers while the API still answers them, then the API."""

    def __init__(self, services: Services) -> None:
        self._app = app = create_app(services)
        self._stopping: threading.Event = app.state.stopping
        super().__init__(
            uvicorn.Config(
                app, http=DirectProtocol, log_config=None, access_log=False, lifespan="off", ws="none", loop="asyncio",
                server_header=False, timeout_graceful_shutdown=GRACEFUL_SECONDS,
            )
        )  # fmt: skip
        self._services = services
        self._ending = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._warming_up = asyncio.create_task(self._warm_up())

    async def _warm_up(self) -> None:
        """The routes are put together when the first request looks for one, which takes as long as a hundred requests; so one
        that finds none is made now."""
        nowhere = {
            "type": "http",
            "method": "GET",
            "path": "/-",
            "query_string": b"",
            "headers": [],
            "app": self._app,
        }

        async def receive() -> Message:
            return {"type": "http.request"}

        async def send(message: Message) -> None: ...

        try:
            with contextlib.suppress(HTTPException):
                await self._app.router(nowhere, receive, send)
        finally:
            keep_what_is_there()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._ending:
            self.should_exit = self.force_exit = True
            return
        self._ending = True
        threading.Thread(target=self._end, name="trunkline-stop").start()

    def _end(self) -> None:
        try:
            self._services.stop_work()
        finally:
            self._stopping.set()
            self.should_exit = True


@contextlib.contextmanager
def _signals_to(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Handle the signals ourselves, before, during and after uvicorn does."""
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def _gateway_runs(settings: Settings) -> bool:
    """Whether a gateway of an earlier run is alive; it goes on with its port."""
    db = open_database(settings)
    try:
        table = ProcessTable(db, SystemClock(), {"process": ProcessEngine()})
        return any(table.is_alive(process) for process in table.running("gateway"))
    finally:
        db.close()


def shut_down(settings: Settings) -> tuple[bool, int]:
    """End the server of a data directory, or what a dead one has left running.

    Returns whether a server ran, and how many processes had to be ended without it.

    :raises StateError: if there is no such data directory.
    """
    if not (settings.home / "run").is_dir():
        raise StateError(f"{settings.home} is not a data directory: nothing runs there", kind="no_home")
    was_running = _end_server(settings)
    with home.locked(settings.home):
        db = open_database(settings)
        try:
            return was_running, stop_children(ProcessTable(db, SystemClock(), {"process": ProcessEngine()}))
        finally:
            db.close()


def is_running(settings: Settings) -> bool:
    """Whether a server holds the data directory."""
    if not (settings.home / "run").is_dir():
        return False
    try:
        with home.locked(settings.home):
            return False
    except StateError:
        return True


def _end_server(settings: Settings) -> bool:
    pid = home.holder(settings.home)
    if pid is None or not is_running(settings):
        return False
    deadline = time.monotonic() + DOWN_SECONDS
    number = signal.SIGTERM
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
    while is_running(settings):
        if time.monotonic() > deadline:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    while started_at(pid) is not None and time.monotonic() < deadline:
        time.sleep(0.02)  # it gives the lock back a moment before it is gone
    return True


def _configure_logging(settings: Settings, *, to_stderr: bool) -> None:
    formatter: logging.Formatter = JsonFormatter() if settings.log_json else TextFormatter()
    file = RotatingFileHandler(
        settings.logs_dir / "server.log", maxBytes=LOG_BYTES_MAX, backupCount=3, delay=True
    )
    handlers: list[logging.Handler] = [file]
    if to_stderr:
        stderr = logging.StreamHandler()
        stderr.setLevel(logging.WARNING)
        handlers.append(stderr)
    for handler in handlers:
        handler.setFormatter(formatter)
    logging.basicConfig(level=logging.INFO, handlers=handlers, force=True)
