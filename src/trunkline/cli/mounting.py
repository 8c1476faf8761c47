"""``mount`` and ``unmount``: a commit as a read-only folder."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from trunkline.cli.client import client
from trunkline.cli.grammar import Project, command
from trunkline.cli.output import say
from trunkline.errors import StateError, UnavailableError
from trunkline.readers.mountpoints import is_mounted

READY_SECONDS = 20.0
POLL_SECONDS = 0.02
RETRY_SECONDS = 30.0


def register(app: typer.Typer) -> None:
    command(app, "mount", "trunkline mount images@master pictures/ --detach")(mount)
    command(app, "unmount", "trunkline unmount pictures/")(unmount)


def mount(
    address: Annotated[str, typer.Argument(metavar="REPO@BRANCH[:DIRECTORY]")],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="An empty folder.", readable=False)],
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Run in the background.")] = False,
    project: Project = None,
) -> None:
    """Show the files of a commit below a folder, read-only, until Ctrl-C or 'unmount'. Needs FUSE and trunkline[mount]."""
    # Here, because only this command needs them.
    from trunkline.readers.commit import CommitFiles  # noqa: PLC0415
    from trunkline.readers.mount import check, mount  # noqa: PLC0415

    api = client()
    files = CommitFiles(api, address, project=project)
    where = f"{files.commit.project}/{files.commit.repo}@{files.commit.id}"
    check(files, folder)  # before anything is said
    if detach:
        _mount_in_background(address, folder, project or api.project)
        say(f"{where} is at {folder}; end it with 'trunkline unmount {folder}'")
        return
    api.retry_seconds = RETRY_SECONDS  # a server that is restarted is waited for
    say(f"{where} is at {folder}; end it with Ctrl-C")
    mount(files, folder)


def _mount_in_background(address: str, folder: Path, project: str) -> None:
    # The token travels in the environment or the data directory, never as an argument.
    argv = [sys.executable, "-m", "trunkline.cli.main", "mount", address, str(folder), "--project", project]
    process = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    deadline = time.monotonic() + READY_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        if is_mounted(folder):
            return
        time.sleep(POLL_SECONDS)
    process.kill()
    said = process.communicate()[1].decode(errors="replace").strip().splitlines()
    why = said[-1].removeprefix("error: ") if said else "it did not become ready in time"
    raise UnavailableError(f"{folder} could not be mounted: {why}", kind="not_mounted")


def unmount(folder: Annotated[Path, typer.Argument(metavar="FOLDER", readable=False)]) -> None:
    """End a mount."""
    if not is_mounted(folder):
        raise StateError(f"nothing is mounted at {folder}", kind="not_mounted")
    for program in ("fusermount3", "fusermount", "umount"):
        if path := shutil.which(program):
            argv = [path, str(folder)] if program == "umount" else [path, "-u", str(folder)]
            done = subprocess.run(argv, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                say(f"{folder} is unmounted")
                return
            raise StateError(f"{folder} could not be unmounted: {done.stderr.strip()}", kind="busy")
    raise UnavailableError("neither fusermount3 nor umount is installed", kind="no_fuse")
