"""Replicas as processes of this machine, which outlive the control server.

A replica tells what it is doing in a file of its own (``<home>/run/replicas/<id>/status.json``), written whole each time. The
file and the process's row are all that the next control server needs to go on.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trunkline.core.clock import Clock
from trunkline.jobs.engines.process import tail
from trunkline.jobs.model import LaunchSpec, Process
from trunkline.jobs.pool import ProcessTable
from trunkline.serving.model import Revision
from trunkline.serving.rollout import Crashes, Replica, ReplicaPhase
from trunkline.settings import Settings

KIND = "replica"
QUIET_SECONDS = 120.0
"""A revision whose replicas ran for this long has a clean slate again."""
LOGS_KEPT = 30
"""Log files of a service, one per replica, that are kept."""
HIDE = Path(__file__).parents[1] / "replica" / "hide.py"
_TAIL_LINES = 5
_TAIL_BYTES = 4000


class ProcessDeployer:
    """Launch, observe and end replicas. Remembers crashes only for as long as the control server lives: that is enough to
    slow down a crash loop, and a restart may well try again at once."""

    def __init__(self, *, settings: Settings, table: ProcessTable, clock: Clock) -> None:
        self._settings = settings
        self._table = table
        self._clock = clock
        self._folder = settings.run_dir / "replicas"
        self._crashes: dict[str, Crashes] = {}
        self._asked: dict[str, float] = {}

    def launch(self, revision: Revision, model: Path, env: dict[str, str]) -> None:
        """Start one more replica; it says by itself when it is ready.

        :raises UnavailableError: if no process can be started.
        """
        replica = uuid.uuid4().hex
        home = self._settings.home.resolve()
        work, model = self._folder.resolve() / replica, model.resolve()
        view = self._settings.run_dir.resolve() / "view"
        work.mkdir(parents=True, mode=0o700)
        view.mkdir(exist_ok=True)
        config = {
            "id": replica,
            "status_file": str(self._status_file(replica)),
            "model_dir": str(model),
            "work_dir": str(work),
            "format": revision.spec.format,
            "protocol": revision.spec.protocol,
            "model_name": revision.spec.model_name,
            "revision": revision.name,
            "commit_id": revision.commit_id,
            "body_bytes_max": self._settings.request_bytes_max,
            "drain_seconds": self._settings.drain_seconds,
            "sandbox": self._settings.sandbox,
            "home": str(home),
            "view": str(view),
            "keep": _needed_of(home),
        }
        config_file = work / "config.json"
        config_file.write_text(json.dumps(config))
        log_folder = self.log_folder(revision)
        log_folder.mkdir(parents=True, exist_ok=True)
        for old in self._log_files(log_folder)[:-LOGS_KEPT]:
            old.unlink(missing_ok=True)
        spec = LaunchSpec(
            id=replica,
            argv=(sys.executable, "-I", "-S", str(HIDE), str(config_file)),
            env=_environment(work, env),
            cwd=str(work),
            log_path=str(log_folder / f"{revision.number:05d}-{replica}.log"),
        )
        try:
            self._table.launch(kind=KIND, subject=revision.id, engine="process", spec=spec)
        except BaseException:
            self._clean(replica)
            raise

    def observe(self, revisions: Sequence[Revision]) -> list[Replica]:
        """The replicas of some revisions as they are now. One that has ended is reported this once."""
        now = self._clock.now()
        by_id = {revision.id: revision for revision in revisions}
        running = [process for process in self._table.running(KIND) if process.subject in by_id]
        for revision in revisions:
            crashes = self._crashes.get(revision.id)
            if crashes is not None and now - crashes.last_at > QUIET_SECONDS:
                del self._crashes[revision.id]
        return [self._observe(process, by_id[process.subject], now) for process in running]

    def crashes(self, revisions: Sequence[Revision]) -> dict[str, Crashes]:
        return {r.id: self._crashes[r.id] for r in revisions if r.id in self._crashes}

    def ready_ports(self) -> dict[str, list[int]]:
        """Revision -> ports of its ready replicas, as far as they are known to run; for all revisions."""
        found: dict[str, list[int]] = {}
        for process in self._table.running(KIND):
            said = self._said(process.id)
            if said.get("phase") == ReplicaPhase.READY:
                found.setdefault(process.subject, []).append(int(said["port"]))
        return found

    def end(self, replica: Replica, *, now: bool) -> None:
        """Ask a replica to finish what it has and end, without waiting for it; or end it."""
        process = self._table.get(replica.id)
        if process is None:
            return
        if now:
            self._table.stop(process, grace_seconds=0.0)
            self._clean(replica.id)
        elif replica.id not in self._asked and process.handle is not None and self._table.is_alive(process):
            self._asked[replica.id] = time.monotonic()
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(process.handle["pid"]), signal.SIGTERM)

    def clean(self) -> None:
        """Remove the folders of replicas that are gone without having been seen to. Not while any are launched."""
        running = {process.id for process in self._table.running(KIND)}
        for folder in self._folder.iterdir() if self._folder.is_dir() else ():
            if folder.name not in running:
                shutil.rmtree(folder, ignore_errors=True)

    def log_folder(self, revision: Revision) -> Path:
        return self._settings.logs_dir / "services" / revision.namespace / revision.service

    def logs(self, revision: Revision, size: int) -> str:
        """The end of what the revision's newest replica wrote."""
        files = self._log_files(self.log_folder(revision), f"{revision.number:05d}-*.log")
        return tail(files[-1], size) if files else ""

    def _log_files(self, folder: Path, pattern: str = "*.log") -> list[Path]:
        """Oldest first."""
        return sorted(folder.glob(pattern), key=lambda file: file.stat().st_mtime)

    # --- one replica ---

    def _status_file(self, replica: str) -> Path:
        return self._folder.resolve() / replica / "status.json"

    def _said(self, replica: str) -> dict[str, Any]:
        """What a replica last said of itself; empty if nothing yet."""
        try:
            return dict(json.loads(self._status_file(replica).read_text()))
        except (FileNotFoundError, ValueError):
            return {}

    def _observe(self, process: Process, revision: Revision, now: float) -> Replica:
        said = self._said(process.id)
        if process.handle is None and said:
            handle = {"pid": said["pid"], "started": said["started"], "log": process.log}
            self._table.adopt(process.id, handle)
            process = self._table.get(process.id) or process
        alive = self._table.is_alive(process)
        asked = self._asked.get(process.id)
        if not alive:
            said = self._said(process.id)  # it may have spoken between the two looks
        phase = ReplicaPhase(said.get("phase", ReplicaPhase.STARTING))
        if not alive and phase is not ReplicaPhase.FAILED:
            phase = ReplicaPhase.GONE
        error = str(said.get("error", ""))
        if phase in (ReplicaPhase.GONE, ReplicaPhase.FAILED) and not said.get("is_clear"):
            error = "; ".join(filter(None, [error, _last_words(process)]))
        if not alive:
            if asked is None:
                self._note_crash(revision, error, now)
            self._clean(process.id)
        return Replica(
            id=process.id,
            revision=revision.id,
            phase=phase,
            port=int(said.get("port", 0)),
            error=error,
            probe=str(said.get("probe", "")),
            launched_at=process.created_at,
            ending_for=None if asked is None else time.monotonic() - asked,
        )

    def _note_crash(self, revision: Revision, error: str, now: float) -> None:
        before = self._crashes.get(revision.id)
        count = 1 if before is None else before.count + 1
        self._crashes[revision.id] = Crashes(count=count, last_at=now, error=error)

    def _clean(self, replica: str) -> None:
        self._asked.pop(replica, None)
        shutil.rmtree(self._folder / replica, ignore_errors=True)


def _last_words(process: Process) -> str:
    lines = tail(Path(process.log or os.devnull), _TAIL_BYTES).strip().splitlines()[-_TAIL_LINES:]
    return f"last lines of its log: {' | '.join(line.strip() for line in lines)}" if lines else ""


def _needed_of(home: Path) -> list[str]:
    """What a replica's Python needs, if some of it lies in the data directory."""
    places = (Path(one).resolve() for one in (sys.prefix, *sys.path) if one)
    return list(dict.fromkeys(str(place) for place in places if home in place.parents and place.is_dir()))


def _environment(work: Path, given: dict[str, str]) -> dict[str, str]:
    """The whole environment of a replica: what the manifest says and what a program needs, nothing of the server's own."""
    return {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.defpath}",
        "HOME": str(work),
        "LANG": "C.UTF-8",
        "PYTHONUNBUFFERED": "1",
        # Half the processors for one prediction, and no spinning while they wait: with all of them spinning, a training
        # beside two small models took five times as long.
        "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // 2)),
        "OMP_WAIT_POLICY": "PASSIVE",
        **given,
    }
