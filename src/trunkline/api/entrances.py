"""The other entrances of the control server: each door is an application of its own, on a port and in a thread of its own."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from trunkline.errors import UnavailableError
from trunkline.services import Services

MakeDoor = Callable[[Services, threading.Event], ASGIApp]
"""Makes the application; the event is set when the server ends, so that nothing in it waits any longer."""
GRACEFUL_SECONDS = 3
JOIN_SECONDS = 10.0
JOB_HOST = "127.0.0.1"


@contextlib.contextmanager
def open_doors(services: Services, doors: Mapping[str, tuple[MakeDoor, socket.socket]]) -> Iterator[None]:
    """Answer at all the doors, by name, as long as the block runs."""
    stopping = threading.Event()
    running = [_start(name, make(services, stopping), entrance) for name, (make, entrance) in doors.items()]
    try:
        yield
    finally:
        stopping.set()
        for server, thread in running:
            server.should_exit = True
            thread.join(JOIN_SECONDS)


@contextlib.contextmanager
def job_door(services: Services, make: MakeDoor) -> Iterator[None]:
    """A door on the loopback interface that only jobs use. It is opened when the first of them needs it, and from then on at
    every start, at the same port: jobs go on while the server is away."""
    note = services.settings.run_dir / "job-door.json"
    stopping, lock = threading.Event(), threading.Lock()
    running: list[tuple[uvicorn.Server, threading.Thread]] = []
    urls: list[str] = []

    def opened() -> str:
        with lock:
            if not urls:
                entrance = _entrance(note)
                running.append(_start("s3-jobs", make(services, stopping), entrance))
                urls.append(f"http://{JOB_HOST}:{entrance.getsockname()[1]}")
            return urls[0]

    services.job_door.opens_with(opened)
    if note.exists():
        opened()
    try:
        yield
    finally:
        services.job_door.opens_with(None)
        stopping.set()
        for server, thread in running:
            server.should_exit = True
            thread.join(JOIN_SECONDS)


def _entrance(note: Path) -> socket.socket:
    """At the port of before, if that is free."""
    wanted = 0
    with contextlib.suppress(OSError, ValueError):
        wanted = int(json.loads(note.read_text())["port"])
    for port in dict.fromkeys((wanted, 0)):
        found = socket.socket()
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            found.bind((JOB_HOST, port))
            found.listen()
        except (OSError, OverflowError):
            found.close()
            continue
        note.write_text(json.dumps({"port": found.getsockname()[1]}))
        return found
    raise UnavailableError(f"no port of {JOB_HOST} is free for the jobs' S3 door", kind="port_taken")


def _start(name: str, app: ASGIApp, entrance: socket.socket) -> tuple[uvicorn.Server, threading.Thread]:
    config = uvicorn.Config(
        app, log_config=None, access_log=False, lifespan="off", ws="none", loop="asyncio", server_header=False,
        timeout_graceful_shutdown=GRACEFUL_SECONDS,
    )  # fmt: skip
    server = uvicorn.Server(config)
    run = threading.Thread(target=server.run, args=([entrance],), name=f"door-{name}", daemon=True)
    run.start()
    return server, run
