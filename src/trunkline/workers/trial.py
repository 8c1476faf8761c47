"""The trial worker: restores what a run needs, runs the entrypoint, and sees it to its end, whatever that is.

Ends: the command exits; the lease is lost (kill, discard); the experiment is killed (kill); it is paused or cancelled (the
code is told to stop, and is killed if it does not within ``preemption_timeout``); this worker is asked to end (the same, with
seconds instead).
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from trunkline.core.status import Status
from trunkline.errors import ConflictError, LimitError, TrunklineError
from trunkline.sdk.transport import Transport
from trunkline.workers.environments.base import Wanted
from trunkline.workers.environments.choice import Environments
from trunkline.workers.lease import Outcome, TaskContext, WorkerEnvironment, serve
from trunkline.workers.sandbox import Box, Ended, become_subreaper, choose_mode, run
from trunkline.workers.scratch import make_scratch, remove_tree
from trunkline.workers.trial_cache import cached_tree
from trunkline.workers.trial_talk import TrialTalk
from trunkline.workers.trial_variables import command_of, trial_variables

IDLE_SECONDS_MAX = 1.0
"""A trial worker takes one of few places on the machine: when its experiment has no more trials, it leaves."""
SIGNALS_SECONDS = 1.0
ENDING_GRACE_SECONDS = 3.0

# Inside the private folder that the trial sees in the place of the data directory:
CODE, LATEST, CHECKPOINTS, TEMPORARY, STOP_FILE = "code", "latest", "checkpoints", "tmp", "stop"


def run_worker(environment: WorkerEnvironment) -> int:
    """Run trials of one experiment until there are no more."""
    become_subreaper()
    scratch = make_scratch(environment.home, environment.process_id)
    idle_seconds = min(environment.idle_seconds, IDLE_SECONDS_MAX)
    try:
        return serve(dataclasses.replace(environment, idle_seconds=idle_seconds), TrialRunner(scratch))
    finally:
        remove_tree(scratch)


class TrialRunner:
    """The handler of trial tasks: one run of one trial at a time."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._mode: tuple[str, str] | None = None
        self._environments = Environments()

    def __call__(self, context: TaskContext) -> Outcome:
        payload = context.task.payload
        folder = self._scratch / f"trial-{payload['trial_id']}-{payload['run_id']}"
        try:
            return self._run(context, folder)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise LimitError(
                    "the disk is full: free some space in the data directory", kind="disk_full"
                ) from error
            raise
        finally:
            remove_tree(folder)

    def _run(self, context: TaskContext, folder: Path) -> Outcome:
        payload = context.task.payload
        with ExitStack() as stack:
            data = stack.enter_context(_data(context)) if payload["data"] is not None else None
            self._prepare(context)
            box = self._box(context, folder, data)
            _restore(context, box)
            talk = TrialTalk(context, box, _hello(payload, box, data), inbox=box.private_home / CHECKPOINTS)
            stack.callback(talk.close)
            talk.start()
            env = trial_variables(
                payload, os.environ, temporary=f"{box.seen_home}/{TEMPORARY}", socket=talk.seen_path
            )
            watch = _Watch(context, talk, box.private_home / STOP_FILE)
            with watch:
                ended = run(
                    box, command_of(payload["entrypoint"]), stdin_lines=(), env=env, cwd=f"{box.seen_home}/{CODE}",
                    on_line=context.log, interrupted=watch.kill_now, timeout_seconds=None, on_wait=watch.look,
                )  # fmt: skip
            talk.close()  # what was reported last is stored before the trial ends
            return watch.outcome(ended)

    def _prepare(self, context: TaskContext) -> None:
        """Have the packages of the image, if the settings name some; from then on its environment is the one with them."""
        payload = context.task.payload
        if self._mode is None:
            self._mode = choose_mode(context.environment.sandbox, self._scratch)
        if not payload["environment"].get("requirements"):
            return
        job = {
            "project": "experiments",
            "pipeline": str(payload["experiment_id"]),
            "id": str(payload["run_id"]),
        }
        wanted = Wanted(
            home=context.environment.home, scratch=self._scratch, mode=self._mode[0],
            payload={"environment": payload["environment"], "transform": {}, "job": job}, code=None, log=context.log,
            interrupted=context.interrupted, check=context.check,
        )  # fmt: skip
        prepared = self._environments.prepare(wanted)
        payload["environment"] = {
            "python": f"{prepared.path[0]}/python", "path": list(prepared.path[1:]), "env": dict(prepared.env),
            "working_dir": None,
        }  # fmt: skip

    def _box(self, context: TaskContext, folder: Path, data: Path | None) -> Box:
        assert self._mode is not None, "it was prepared"
        mode, why_not = self._mode
        if why_not:
            context.log(f"warning: the trial's code is not isolated: {why_not}", "trunkline")
        home = context.environment.home.resolve()
        place = context.task.payload["environment"]
        needed = [Path(sys.prefix), *(Path(one) for one in (*place["path"], *sys.path) if one)]
        if place["python"]:
            needed.append(Path(place["python"]).parent.parent)
        if data is not None:
            needed.append(data)
        inside = dict.fromkeys(
            path.resolve() for path in needed if home in path.resolve().parents and path.exists()
        )
        box = Box(folder=folder.resolve(), home=home, inputs=(), keep=tuple(inside), mode=mode)
        box.create()
        (box.private_home / CHECKPOINTS).mkdir()
        return box


class _Watch:
    """Looks after a trial while it runs: whether it is to stop, and whether it must be killed."""

    def __init__(self, context: TaskContext, talk: TrialTalk, stop_file: Path) -> None:
        self._context = context
        self._talk = talk
        self._stop_file = stop_file
        self._over = threading.Event()
        self._told_at: float | None = None
        self._overdue = False
        self.kill_now = threading.Event()
        """Set when the process is to be killed."""

    def __enter__(self) -> _Watch:
        threading.Thread(target=self._poll_signals, name="trial-signals", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def look(self) -> None:
        """Called several times a second while the process runs."""
        why = self._context.interruption
        if why == "stopping":
            self._say_stop()
        if why in ("lost", "cancelled") or self._talk.failure is not None:
            self.kill_now.set()
        elif self._is_overdue(ENDING_GRACE_SECONDS if why == "stopping" else self._timeout_seconds):
            self._overdue = why != "stopping"
            self.kill_now.set()

    def outcome(self, ended: Ended) -> Outcome:
        """How the run went.

        :raises Interrupted: if its worker was.
        """
        by_itself = ended.exit_code == 0 and not ended.was_interrupted
        if not (by_itself and self._context.interruption == "stopping"):
            self._context.check()
        if self._talk.failure is not None:
            raise self._talk.failure
        if self._overdue:
            self._context.log(f"killed: it did not stop within {self._timeout_seconds:g} s", "trunkline")
            return Outcome(result={"exit_code": ended.exit_code, "preempted": True})
        preempted = ended.exit_code == 0 and self._talk.acknowledged.is_set()
        result = {"exit_code": ended.exit_code, "preempted": preempted}
        if ended.exit_code == 0:
            return Outcome(result=result)
        return Outcome(status=Status.FAILED, result=result, error=ended.reason)

    @property
    def _timeout_seconds(self) -> float:
        return float(self._context.task.payload["preemption_timeout_seconds"])

    def _poll_signals(self) -> None:
        while not self._over.wait(SIGNALS_SECONDS):
            try:
                answer = self._context.link.retrying(self._ask_signals, give_up=self._over.is_set)
            except ConflictError:
                if not self._over.is_set():
                    self._context.interrupt("lost")
                return
            except TrunklineError:
                continue
            if answer["preempt"]:
                self._say_stop()
            elif self._context.interruption is None and not self._talk.acknowledged.is_set():
                self._told_at = None
                self._stop_file.unlink(missing_ok=True)

    def _ask_signals(self, client: Transport) -> Any:
        lease, trial_id = self._context.lease, self._context.task.payload["trial_id"]
        headers = {"x-lease-id": str(lease["id"]), "x-lease-token": lease["token"]}
        with client.download(f"/v1/trials/{trial_id}/signals", headers=headers) as answer:
            return json.loads(answer.read())

    def _say_stop(self) -> None:
        if self._told_at is None:
            self._told_at = time.monotonic()
            with suppress(FileNotFoundError):  # the run is over, and its folder gone
                self._stop_file.touch()

    def _is_overdue(self, seconds: float) -> bool:
        told_at = self._told_at
        return told_at is not None and time.monotonic() - told_at > seconds


@contextmanager
def _data(context: TaskContext) -> Iterator[Path]:
    """The data's folder, shared with other trials on the same tree."""
    root = context.task.payload["data"]["root"]

    def build(folder: Path) -> None:
        _fetch(context, root, folder)

    with cached_tree(context.environment.home.resolve(), root, build, give_up=context.check) as folder:
        yield folder


def _restore(context: TaskContext, box: Box) -> None:
    """Code and checkpoint on disk."""
    payload = context.task.payload
    if payload["code_root"] is not None:
        _fetch(context, payload["code_root"], box.private_home / CODE)
    source = payload["latest_checkpoint"] or payload["warm_start"]
    if source is not None:
        _fetch(context, source["root"], box.private_home / LATEST)
    context.check()


def _fetch(context: TaskContext, root: str, folder: Path) -> None:
    try:
        context.link.retrying(
            lambda client: client.download_folder(f"/v1/filesets/{root}/archive", folder),
            give_up=context.interrupted.is_set,
        )
    except TrunklineError:
        context.check()
        raise


def _hello(payload: dict[str, Any], box: Box, data: Path | None) -> dict[str, Any]:
    """What the context knows of the trial; paths as the trial sees them."""
    latest = payload["latest_checkpoint"]
    restored = latest or payload["warm_start"]
    return {
        "experiment_id": payload["experiment_id"],
        "trial_id": payload["trial_id"],
        "run_id": payload["run_id"],
        "seed": payload["seed"],
        "hparams": payload["hparams"],
        "config": payload["config"],
        "data_path": str(data) if data is not None else None,
        "new_files": payload["data"]["new_files"] if payload["data"] is not None else None,
        "latest_checkpoint": f"{box.seen_home}/{LATEST}" if restored is not None else None,
        "warm_start": latest is None and restored is not None,
        "steps_completed": latest["steps_completed"] if latest is not None else 0,
        "checkpoints_path": f"{box.seen_home}/{CHECKPOINTS}",
        "stop_file": f"{box.seen_home}/{STOP_FILE}",
    }
