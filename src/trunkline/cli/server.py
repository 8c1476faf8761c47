"""``up``, ``down``, ``status`` and ``version``. The one part of the CLI that may import the server, inside ``up``
and ``down``."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trunkline import __version__
from trunkline.cli import version
from trunkline.cli.client import client
from trunkline.cli.errors import exit_code
from trunkline.cli.grammar import Output, command
from trunkline.cli.output import duration_text, say, show, structured
from trunkline.core.garbage import look_for_none_yet
from trunkline.errors import InternalError, LimitError, TrunklineError, UnavailableError
from trunkline.sdk import config

if TYPE_CHECKING:
    from trunkline.wire.status import Status

START_SECONDS = 60.0
POLL_SECONDS = 0.05

Home = Annotated[Path | None, typer.Option("--home", help="The data directory; default: $TRUNKLINE_HOME.")]


def register(app: typer.Typer) -> None:
    command(app, "up", "trunkline up --detach")(up)
    command(app, "down", "trunkline down")(down)
    command(app, "status", "trunkline status")(status)
    command(app, "version", "trunkline version")(show_version)


def up(
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Run in the background.")] = False,
    port: Annotated[int | None, typer.Option("--port", help="Of the API; 0 picks a free one.")] = None,
    gateway_port: Annotated[
        int | None, typer.Option("--gateway-port", help="Of the predictions; 0 picks a free one.")
    ] = None,
    door: Annotated[
        list[str] | None,
        typer.Option("--door", help="Another system's API to speak, too: s3, or all. May be repeated."),
    ] = None,
    s3_port: Annotated[
        int | None, typer.Option("--s3-port", help="Of the S3 door; 0 picks a free one.")
    ] = None,
    home: Home = None,
    host: Annotated[str | None, typer.Option("--host", help="Address to listen on.")] = None,
    remote: Annotated[
        bool | None, typer.Option("--remote", help="Allow a host that others can reach.")
    ] = None,
    background: Annotated[bool, typer.Option("--background", hidden=True)] = False,
) -> None:
    """Start the server. Ctrl-C (or 'down') ends it with all that it started; after a crash its services go on."""
    flags = {"port": port, "gateway_port": gateway_port, "doors": ",".join(door) if door else None, "s3_port": s3_port,
             "home": home and home.absolute(), "host": host, "remote": remote}  # fmt: skip
    if detach:
        _detached(flags)
        return
    look_for_none_yet()
    from trunkline.api.server import serve  # noqa: PLC0415 (the server's imports, only where a server runs)
    from trunkline.doors import DOORS  # noqa: PLC0415
    from trunkline.settings import load_settings  # noqa: PLC0415

    settings = load_settings(**flags)
    if settings.remote:
        say("warning: other machines can reach this server; put TLS in front, or tokens travel in clear text")

    def greet(services: Any, link: str) -> None:
        if not background:  # else whoever waits for us greets, and the link stays out of the log
            found = services.settings
            _greet(found.url, found.gateway_url, found.door_urls, link, "Ctrl-C")

    serve(settings, to_stderr=not background, on_ready=greet, doors=DOORS)


def _greet(url: str, gateway_url: str, doors: Mapping[str, str], link: str, how_to_stop: str) -> None:
    say(f"trunkline {__version__}")
    say(f"  API          {url}")
    say(f"  predictions  {gateway_url}")
    for name, where in doors.items():
        say(f"  door {name:<8}{where}")
    say(f"  console      {link}   (works once, for ten minutes)")
    say(f"  stop with    {how_to_stop}")


def _detached(flags: dict[str, Any]) -> None:
    """Start ``up`` in a session of its own, and wait until it answers or ends."""
    config.use_home(flags["home"] or config.home())
    argv = [sys.executable, "-m", "trunkline.cli.main", "up", "--background"]
    for name, value in flags.items():
        if value is not None and value is not False:
            flag = "door" if name == "doors" else name.replace("_", "-")
            argv += [f"--{flag}"] + ([] if value is True else [str(value)])
    log = config.home() / "logs" / "up.log"
    _make_folder(log.parent)
    with log.open("wb") as out:
        child = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True, cwd=config.home()
        )
    from trunkline.sdk.client import Client  # noqa: PLC0415 (a third of a second, which the server starts in)

    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if (code := child.poll()) is not None:
            _fail_like(log, code)
        try:
            api = Client()
            if (found := api.status()).pid == child.pid:
                _greet(found.url, found.gateway_url, found.doors, api.console_link(), "trunkline down")
                return
        except TrunklineError:
            pass  # not yet: its files may be of the run before
        time.sleep(POLL_SECONDS)
    child.terminate()
    raise UnavailableError(
        f"the server did not answer within {START_SECONDS:.0f} s: see {log}", kind="slow_start"
    )


def _make_folder(folder: Path) -> None:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise UnavailableError(
            f"cannot use {folder.parent} as the data directory: {error.strerror}; choose another with --home",
            kind="home_unusable",
        ) from error


def _fail_like(log: Path, code: int) -> None:
    """End as the child did, with what it said."""
    said = log.read_text(errors="replace").strip()
    if code == exit_code(LimitError("")) and not said:  # not even its last words found room
        raise LimitError(
            f"the disk is full: free some space for {log.parent.parent}, then try again", kind="disk_full"
        )
    if code in range(2, 71) and said and "Traceback (most recent call last)" not in said:
        say(said.splitlines()[-1])
        raise typer.Exit(code)
    raise InternalError(f"the server ended with status {code}: see {log}")


def down(home: Home = None) -> None:
    """End the server with all that it started: workers, replicas, the gateway. Works when the server is dead, too."""
    from trunkline.api.server import shut_down  # noqa: PLC0415
    from trunkline.settings import load_settings  # noqa: PLC0415

    settings = load_settings(home=home and home.absolute())
    was_running, left = shut_down(settings)
    if was_running:
        say("stopped")
    else:
        say(
            f"no server was running; {left} processes that it had left were ended"
            if left
            else "nothing was running"
        )


def status(home: Home = None, output: Output = None) -> None:
    """Show where the server is, what it has started, and a new console link."""
    if home is not None:
        config.use_home(home)
    api = client()
    found = api.status()
    if output is not None:
        structured(found, output)
        return
    for line in _status_lines(found, api.console_link()):
        show(line)


def _status_lines(found: Status, link: str) -> list[str]:
    kinds: dict[str, int] = {}
    for process in found.processes:
        kinds[process.kind] = kinds.get(process.kind, 0) + 1
    children = ", ".join(f"{count} {kind}{'s' if count > 1 else ''}" for kind, count in sorted(kinds.items()))
    return [
        f"trunkline {found.version}, process {found.pid}, up for {duration_text(time.time() - found.started_at)}",
        f"  data directory  {found.home}",
        *([f"  database        {found.database}"] if "@" in found.database else []),
        *([f"  objects         {found.objects}"] if "://" in found.objects else []),
        f"  API             {found.url}",
        f"  predictions     {found.gateway_url}",
        *(f"  door {name:<11}{where}" for name, where in found.doors.items()),
        f"  console         {link}   (works once, for ten minutes)",
        f"  processes       {children or 'none'}",
    ]


def show_version(output: Output = None) -> None:
    """Show the version."""
    version.version(output)
