"""``gc``, ``fsck``, ``purge``, ``backup`` and ``restore``. ``fsck`` and ``restore`` work without a server, too."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from trunkline.cli.client import client
from trunkline.cli.grammar import Output, Project, command, new_verb
from trunkline.cli.output import counted, say, show, structured, time_text
from trunkline.core.sizes import size_text
from trunkline.errors import CorruptionError, InvalidInputError, TrunklineError
from trunkline.sdk import config
from trunkline.wire.keeping import Backup, FsckReport, GcReport, Purge

LOOK_SECONDS = 0.5
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
Home = Annotated[Path | None, typer.Option("--home", help="The data directory; default: $TRUNKLINE_HOME.")]


def register(app: typer.Typer) -> None:
    command(app, "gc", "trunkline gc --dry-run")(gc)
    command(app, "fsck", "trunkline fsck --repair")(fsck)
    purge = new_verb(app, "purge", "Remove content from all history.")
    command(
        purge, "file", "trunkline purge file people:/faces/17.png --everywhere --why 'asked by the person'"
    )(purge_file)
    command(app, "backup", "trunkline backup /mnt/backups/trunkline --keep 7")(backup)
    command(app, "restore", "trunkline restore /mnt/backups/trunkline --home ~/restored")(restore)


def seconds_of(text: str) -> float:
    """``90``, ``30m``, ``24h``, ``7d``.

    :raises InvalidInputError: ``bad_duration``.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw]?)", text.strip())
    if found is None:
        raise InvalidInputError(f"{text!r} is no length of time: write 30m, 24h or 7d", kind="bad_duration")
    return float(found[1]) * _UNITS[found[2] or "s"]


@contextmanager
def watched() -> Iterator[None]:
    """Show how far the work in the server is, on a terminal."""
    if not sys.stderr.isatty():
        yield
        return
    ended = threading.Event()

    def look() -> None:
        api = client()
        while not ended.wait(LOOK_SECONDS):
            with suppress(TrunklineError):
                now = api.work()
                part = f" {now.done}/{now.total}" if now.total else ""
                sys.stderr.write(f"\r{now.what}: {now.step}{part}\x1b[K" if now.what else "\r\x1b[K")
                sys.stderr.flush()
        sys.stderr.write("\r\x1b[K")

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


# --- gc -----------------------------------------------------------------------------------------------------------


def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    grace: Annotated[
        str | None, typer.Option("--grace", help="Leave alone what was stored less long ago: 30m, 24h, 7d …")
    ] = None,
    output: Output = None,
) -> None:
    """Delete what nothing refers to any more. Safe while others write; it can be interrupted and repeated."""
    with watched():
        done = client().gc(grace_seconds=None if grace is None else seconds_of(grace), dry_run=dry_run)
    if output is not None:
        structured(done, output)
        return
    for line in _gc_lines(done):
        show(line)


def _gc_lines(done: GcReport) -> list[str]:
    lines = [
        f"live          {size_text(done.live_bytes)} in {counted(done.packs, 'pack')} of {size_text(done.pack_bytes)}",
        f"dead          {size_text(done.dead_bytes)}, of which {size_text(done.young_bytes)} are too young or in use",
        f"reclaimable   {size_text(done.reclaimable_bytes)}",
        f"orphans       {counted(done.orphans, 'pack')} of {size_text(done.orphan_bytes)}",
        f"temporary     {counted(done.temporary_files, 'file')} of {size_text(done.temporary_bytes)}",
    ]
    if not done.dry_run:
        what = f"{counted(done.packs_deleted, 'pack')} deleted, {done.packs_rewritten} rewritten"
        if done.orphans:
            what += f", {counted(done.orphans, 'orphan')} deleted"
        lines.append(f"freed         {size_text(done.freed_bytes)}: {what}")
    return lines


# --- fsck ---------------------------------------------------------------------------------------------------------


def fsck(
    repair: Annotated[bool, typer.Option("--repair", help="Mend what can be mended.")] = False,
    home: Home = None,
    output: Output = None,
) -> None:
    """Verify every stored byte and every reference, and name what is lost and what needs it. Works without a server, too."""
    report = _check(home, repair)
    if output is not None:
        structured(report, output)
    else:
        _show_report(report)
    if report.problems:
        count = len(report.problems) + report.problems_more
        raise CorruptionError(f"{counted(count, 'problem')} found", kind="damaged")
    say(
        f"all is well: {counted(report.packs, 'pack')} of {size_text(report.pack_bytes)}, {counted(report.roots, 'tree')}"
    )


def _check(home: Path | None, repair: bool) -> FsckReport:
    if home is not None:
        config.use_home(home.absolute())
    if not config.names_a_server():
        from trunkline.api.offline import check  # noqa: PLC0415 (only where no server answers)
        from trunkline.api.server import is_running  # noqa: PLC0415
        from trunkline.settings import load_settings  # noqa: PLC0415

        settings = load_settings(home=config.home())
        if (settings.home / "run").is_dir() and not is_running(settings):
            say("no server runs: looking into the data directory itself")
            return FsckReport.model_validate(check(settings, repair=repair))
    with watched():
        return client().fsck(repair=repair)


def _show_report(report: FsckReport) -> None:
    for line in report.repaired:
        show(f"repaired: {line}")
    for problem in report.problems:
        show(f"{problem.kind}: {problem.message}")
        for name in problem.referred_by:
            show(f"  needed by {name}")
    if report.problems_more:
        show(f"… and {report.problems_more} more")
    for line in report.advice if report.problems else ():
        show(f"advice: {line}")
    if report.orphans:
        say(
            f"{counted(report.orphans, 'pack')} of failed writes ({size_text(report.orphan_bytes)}): 'trunkline gc' deletes them"
        )


# --- purge --------------------------------------------------------------------------------------------------------


def purge_file(
    address: Annotated[str, typer.Argument(metavar="REPO:PATH")],
    everywhere: Annotated[
        bool, typer.Option("--everywhere", help="Also from all other repos, results and checkpoints.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would happen.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Even if a model or live service breaks.")] = False,
    why: Annotated[str, typer.Option("--why", help="The reason; readers are told.")] = "",
    project: Project = None,
    output: Output = None,
) -> None:
    """Remove a file or directory from all history, bytes included. Cannot be undone; the record of what it was stays."""
    api = client()
    if not dry_run and not yes:
        planned = api.purge_file(
            address, everywhere=everywhere, force=force, dry_run=True, why=why, project=project
        )
        _show_purge(planned, to=say)
        if not sys.stdin.isatty():
            raise InvalidInputError(
                "nothing was purged: say --yes where nobody can be asked", kind="not_confirmed"
            )
        typer.confirm("This cannot be undone. Purge?", abort=True, err=True)
    with watched():
        done = api.purge_file(
            address, everywhere=everywhere, force=force, dry_run=dry_run, why=why, project=project
        )
    if output is not None:
        structured(done, output)
        return
    _show_purge(done, to=show)
    say("nothing was changed" if dry_run else f"purge {done.id} done")


def _show_purge(purge: Purge, to: Any) -> None:
    for content in purge.contents:
        to(f"content {content.hash}  {size_text(content.size)}  {content.path}")
    for kind, names in purge.report.items():
        if isinstance(names, list) and names:
            to(f"{kind.replace('_', ' ')}:")
            for name in names:
                to(f"  {name}")
        elif isinstance(names, int) and names:
            to(f"{kind.replace('_', ' ')}: {names}")


# --- backup and restore -------------------------------------------------------------------------------------------


def backup(
    target: Annotated[str, typer.Argument(metavar="DIR|s3://BUCKET/PREFIX")],
    keep: Annotated[
        int | None, typer.Option("--keep", min=1, help="Delete all but the newest so many.")
    ] = None,
    output: Output = None,
) -> None:
    """Copy everything to a folder or bucket while the server runs; a later backup copies only what is new."""
    place = target if not target or "://" in target else str(Path(target).expanduser().absolute())
    with watched():
        done = client().backup(place, keep=keep)
    if output is not None:
        structured(done, output)
        return
    made = done.manifest
    copied = f"{size_text(done.bytes_copied)} copied, {counted(done.packs_copied, 'pack')} of them new"
    show(f"backup {made.id}: {counted(made.packs, 'pack')} of {size_text(made.pack_bytes)}; {copied}")
    if done.backups_deleted:
        say(f"{done.backups_deleted} older backups deleted")


def restore(
    source: Annotated[str, typer.Argument(metavar="DIR|s3://BUCKET/PREFIX")],
    home: Home = None,
    backup_id: Annotated[str | None, typer.Option("--id", help="Which backup; default: the newest.")] = None,
    output: Output = None,
) -> None:
    """Make a new data directory from a backup, verify all of it, and say so. The place must be empty, but for a trunkline.toml
    that names another database or place of objects to restore into: those must be empty, too."""
    from trunkline.api.offline import restore as restore_home  # noqa: PLC0415
    from trunkline.settings import load_settings  # noqa: PLC0415

    place = source if "://" in source else str(Path(source).expanduser().absolute())
    settings = load_settings(home=(home or config.home()).absolute())
    manifest, report = restore_home(place, settings, backup_id=backup_id)
    found = Backup.model_validate(manifest)
    if output is not None:
        structured(found, output)
    else:
        made = time_text(found.created_at, full=True)
        show(
            f"backup {found.id} of {made}: {counted(found.packs, 'pack')} of {size_text(found.pack_bytes)} in {settings.home}"
        )
    if report.problems:
        _show_report(FsckReport.model_validate(report))
        raise CorruptionError(
            f"{counted(len(report.problems), 'problem')} found, as in the backup", kind="damaged"
        )
    say(f"all is well; start it with 'trunkline up --home {settings.home}'")
