"""Commands that stay: services and spouts. One process, started again whenever it ends, until nobody wants it any more; the
port of a service is led to from the one that people know.
"""

from __future__ import annotations

import contextlib
import errno
import selectors
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from trunkline.errors import StateError
from trunkline.workers.inputs import Datum, Part

if TYPE_CHECKING:
    from trunkline.workers.datum import SetRun

HOST = "127.0.0.1"
BACKOFF_SECONDS = (0.5, 1.0, 2.0, 5.0, 15.0, 60.0)
WELL_SECONDS = 60.0
"""One that ran for so long is well: its next end begins the backoff anew."""
PORT_TRIES = 40
PORT_TRY_SECONDS = 0.25
"""So long what had the port before may take to go."""
CONNECTIONS_MAX = 256
CONNECT_TRIES = 20
CONNECT_TRY_SECONDS = 0.1
PIECE_BYTES = 2**16


def stay(run: SetRun, part: Part) -> None:
    """Run the command of the one datum, again and again.

    :raises Interrupted: when it is not wanted any more; otherwise it only ends if it cannot run at all.
    """
    [datum] = part.datums
    if run.begin(part, datum) is not None:
        return
    service = run.payload.get("service")
    try:
        with _reachable(run, service):
            _keep_running(run, datum, service)
    except StateError as error:
        run.failed(datum, str(error), {}, may_help=False)


def _keep_running(run: SetRun, datum: Datum, service: Mapping[str, Any] | None) -> None:
    kind = "service" if run.payload["job"]["id"] else "spout"
    transform = run.payload["transform"]
    failures = 0
    env, _ = run.lay(datum)
    while True:
        began = time.monotonic()
        ended = run.run_command(transform["cmd"], "stdin", _with_port(env | run.job_env(), service), None)
        if time.monotonic() - began > WELL_SECONDS:
            failures = 0
        reason = run.take_problem() or ended.reason or "exit code 0"
        delay = BACKOFF_SECONDS[min(failures, len(BACKOFF_SECONDS) - 1)]
        failures += 1
        run.note(f"the {kind} has ended ({reason}); it is started again in {delay:g} s")
        run.pause(delay)
        run.clean()


def _with_port(env: Mapping[str, str], service: Mapping[str, Any] | None) -> dict[str, str]:
    return dict(env) | ({"TRUNKLINE_SERVICE_PORT": str(service["internal_port"])} if service else {})


# --- its port -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _reachable(run: SetRun, service: Mapping[str, Any] | None) -> Iterator[None]:
    """See that the ports are free, and lead from the external one to the internal one.

    :raises StateError: ``port_taken``.
    """
    if not service:
        yield
        return
    internal, external = service["internal_port"], service["external_port"]
    _free(run, internal).close()
    if external in (0, internal):
        yield
        return
    with contextlib.closing(_free(run, external)) as entrance, _forwarding(entrance, internal):
        yield


def _free(run: SetRun, port: int) -> socket.socket:
    """A socket at a port that nobody else listens on."""
    for attempt in range(PORT_TRIES):
        if attempt:
            run.pause(PORT_TRY_SECONDS)
        found = socket.socket()
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            found.bind((HOST, port))
            found.listen(CONNECTIONS_MAX)
        except OSError as error:
            found.close()
            if error.errno != errno.EADDRINUSE:
                raise StateError(
                    f"port {port} of {HOST} cannot be used: {error.strerror}", kind="port_taken"
                ) from error
        else:
            return found
    raise StateError(
        f"port {port} of {HOST} is taken by another program: end that, or choose another port in the spec",
        kind="port_taken",
    )


@contextlib.contextmanager
def _forwarding(entrance: socket.socket, port: int) -> Iterator[None]:
    """Connections to ``entrance`` go to ``port``."""
    entrance.setblocking(False)
    over, wake = socket.socketpair()
    room = threading.BoundedSemaphore(CONNECTIONS_MAX)

    def accept() -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(entrance, selectors.EVENT_READ)
            selector.register(over, selectors.EVENT_READ)
            while True:
                if any(key.fileobj is over for key, _ in selector.select()):
                    return
                with contextlib.suppress(OSError):
                    outer, _ = entrance.accept()
                    if room.acquire(blocking=False):
                        threading.Thread(target=lead, args=(outer,), daemon=True).start()
                    else:
                        outer.close()

    def lead(outer: socket.socket) -> None:
        try:
            outer.setblocking(True)
            inner = _connected(port)
            if inner is not None:
                with inner:
                    _join(outer, inner)
        finally:
            outer.close()
            room.release()

    thread = threading.Thread(target=accept, name="entrance", daemon=True)
    thread.start()
    try:
        yield
    finally:
        wake.close()
        thread.join()
        over.close()


def _connected(port: int) -> socket.socket | None:
    """A service that has just been started may take a moment to listen."""
    for attempt in range(CONNECT_TRIES):
        if attempt:
            time.sleep(CONNECT_TRY_SECONDS)
        with contextlib.suppress(OSError):
            return socket.create_connection((HOST, port))
    return None


def _join(one: socket.socket, other: socket.socket) -> None:
    """Pass on what comes from either side, until both have said all."""
    back = threading.Thread(target=_pass_on, args=(other, one), daemon=True)
    back.start()
    _pass_on(one, other)
    back.join()


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(PIECE_BYTES):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
