"""The data directory as the control server finds and leaves it: its lock, its address book, its ports."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import ipaddress
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trunkline.errors import InvalidInputError, StateError, UnavailableError
from trunkline.settings import GATEWAY_HOST, Settings

BACKLOG = 1024
DOOR_PORTS = {"s3": "s3_port"}
"""The setting that names a door's port."""


def prepare(settings: Settings) -> None:
    """Make the data directory, for its owner alone.

    :raises UnavailableError: ``home_unusable``, saying why.
    """
    try:
        settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        settings.home.chmod(0o700)
        for folder in (settings.logs_dir, settings.run_dir):
            folder.mkdir(exist_ok=True)
    except OSError as error:
        raise UnavailableError(
            f"cannot use {settings.home} as the data directory: {error.strerror}; choose another with --home",
            kind="home_unusable",
        ) from error


def check_host(settings: Settings) -> None:
    """:raises InvalidInputError: ``remote_host``, if others could reach it and nobody said that they may."""
    with contextlib.suppress(ValueError):
        if ipaddress.ip_address(settings.host).is_loopback:
            return
    if settings.host != "localhost" and not settings.remote:
        raise InvalidInputError(
            f"host {settings.host} can be reached from other machines, and tokens would travel in clear text: "
            "put a TLS proxy in front and add --remote, or leave it at 127.0.0.1",
            kind="remote_host",
        )


@contextlib.contextmanager
def locked(home: Path) -> Iterator[None]:
    """Be the only server of a data directory. The lock goes with the process, however it ends.

    :raises StateError: ``already_running``, naming the process that has it.
    """
    path = home / "run" / "lock"
    path.parent.mkdir(exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            pid = holder(home)
            raise StateError(
                f"a server (process {pid}) runs in {home} already: see 'trunkline status', end it with 'trunkline down'",
                kind="already_running",
                details={"pid": pid},
            ) from error
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def holder(home: Path) -> int | None:
    """The process that last took the lock."""
    try:
        return int((home / "run" / "lock").read_text())
    except (OSError, ValueError):
        return None


def last_run(settings: Settings) -> dict[str, Any]:
    """What the last server of this data directory wrote down; empty if there was none."""
    try:
        found = json.loads(settings.server_file.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write_down(settings: Settings, *, started_at: float, is_up: bool = True) -> None:
    """Tell clients and children where the server is; whole or not at all. ``is_up`` False: it ended as it should."""
    content = {
        "url": settings.url, "gateway_url": settings.gateway_url, "pid": os.getpid() if is_up else None, "started": started_at,
        "port": settings.port, "gateway_port": settings.gateway_port, "doors": settings.door_urls,
        **{DOOR_PORTS[name]: getattr(settings, DOOR_PORTS[name]) for name in settings.doors},
    }  # fmt: skip
    temporary = settings.server_file.with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps(content))
    temporary.replace(settings.server_file)


def bind(settings: Settings, name: str = "port") -> socket.socket:
    """The listening socket of the API, or of the door whose setting is ``name``; at the port of the last run where
    ``_last_port`` says so and it is free.

    :raises UnavailableError: ``port_taken``.
    """
    flag = f"--{name.replace('_', '-')}"
    if (last := _last_port(settings, name)) is not None:
        with contextlib.suppress(UnavailableError):
            return listen(settings.host, last, flag)
    return listen(settings.host, getattr(settings, name), flag)


def _last_port(settings: Settings, name: str) -> int | None:
    """The port that children of the last run know, if it should be used again: it was to be any free one, or nobody names
    one now and the last run ended in a crash, so that what it left behind waits there."""
    last = last_run(settings)
    port = last.get(name)
    crashed = last.get("pid") is not None and name not in settings.model_fields_set
    return port if isinstance(port, int) and (getattr(settings, name) == 0 or crashed) else None


def choose_gateway_port(settings: Settings, *, is_ours: bool) -> int:
    """The gateway's port; ``is_ours``: a gateway of an earlier run still holds its own.

    :raises UnavailableError: ``port_taken``.
    """
    wanted = settings.gateway_port
    last = _last_port(settings, "gateway_port")
    if is_ours and wanted == last_run(settings).get("gateway_port"):
        return wanted
    if last is not None:
        if is_ours:
            return last
        with contextlib.suppress(UnavailableError):
            return _try(GATEWAY_HOST, last)
    return _try(GATEWAY_HOST, wanted)


def _try(host: str, port: int) -> int:
    with listen(host, port, "--gateway-port") as probe:
        return int(probe.getsockname()[1])


def listen(host: str, port: int, flag: str) -> socket.socket:
    """:raises UnavailableError: ``port_taken``, saying which and what to do."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind, protocol)
    except OSError as error:
        raise InvalidInputError(
            f"cannot listen on host {host!r}: {error.strerror}", kind="bad_host"
        ) from error
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.listen(BACKLOG)
    except OSError as error:
        found.close()
        if error.errno == errno.EADDRINUSE:
            raise UnavailableError(
                f"port {port} of {host} is taken by another program: end that, or choose another with {flag} N "
                "(0 picks a free one)",
                kind="port_taken",
                details={"port": port},
            ) from error
        if error.errno == errno.EADDRNOTAVAIL:
            raise InvalidInputError(
                f"cannot listen on host {host!r}: this machine does not have that address", kind="bad_host"
            ) from error
        raise UnavailableError(
            f"cannot listen on {host} port {port}: {error.strerror}; choose another with {flag} N",
            kind="port_refused",
        ) from error
    return found
