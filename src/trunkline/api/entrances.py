"""The other entrances of the control server: each door is an application of its own, on a port and in a thread of its own."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator, Mapping

import uvicorn
from starlette.types import ASGIApp

from trunkline.services import Services

MakeDoor = Callable[[Services, threading.Event], ASGIApp]
"""Makes the application; the event is set when the server ends, so that nothing in it waits any longer."""
GRACEFUL_SECONDS = 3
JOIN_SECONDS = 10.0


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


def _start(name: str, app: ASGIApp, entrance: socket.socket) -> tuple[uvicorn.Server, threading.Thread]:
    config = uvicorn.Config(
        app, log_config=None, access_log=False, lifespan="off", ws="none", loop="asyncio", server_header=False,
        timeout_graceful_shutdown=GRACEFUL_SECONDS,
    )  # fmt: skip
    server = uvicorn.Server(config)
    run = threading.Thread(target=server.run, args=([entrance],), name=f"door-{name}", daemon=True)
    run.start()
    return server, run
