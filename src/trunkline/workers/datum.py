"""The datum worker: fetches a datum's inputs, runs the user's command on them, stores what it leaves in ``/pfs/out``."""

from __future__ import annotations

import errno
import itertools
import logging
import os
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trunkline.core.status import Status
from trunkline.errors import InvalidInputError, LimitError, TrunklineError, UnavailableError
from trunkline.sdk import Client
from trunkline.workers.lease import Interrupted, Outcome, TaskContext, WorkerEnvironment, serve
from trunkline.workers.logs import hiding
from trunkline.workers.outputs import files_of
from trunkline.workers.sandbox import Box, Ended, become_subreaper, choose_mode, run
from trunkline.workers.scratch import make_scratch, remove_tree

log = logging.getLogger(__name__)

PASSED_ON = (
    "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TERM", "SSL_CERT_FILE", "SSL_CERT_DIR",
    "http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "LD_LIBRARY_PATH",
    "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS",
)  # fmt: skip
"""Of the worker's own environment, all that user code gets to see."""
RETRY_SECONDS = 0.5
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def run_worker(environment: WorkerEnvironment) -> int:
    """Serve a queue of datums until it stays empty."""
    become_subreaper()
    scratch = make_scratch(environment.home, environment.process_id)
    try:
        return serve(environment, DatumRunner(environment, scratch))
    finally:
        remove_tree(scratch)


@dataclass(frozen=True, kw_only=True)
class _Stats:
    download_seconds: float
    download_bytes: int


class DatumRunner:
    """The handler of datum tasks: one at a time."""

    def __init__(self, environment: WorkerEnvironment, scratch: Path) -> None:
        self._environment = environment
        self._scratch = scratch
        self._numbers = itertools.count()
        self._mode: tuple[str, str] | None = None
        self._code: tuple[str, Path] | None = None
        """The code folder last fetched: a worker's datums all have the same one, until the pipeline changes."""

    def __call__(self, context: TaskContext) -> Outcome:
        for datum in context.task.payload["datums"]:
            context.check()
            result = self._until_done(context, datum)
            body = {"token": context.task.token, "results": [result], "current": None}
            answer = context.call("POST", f"/v1/leases/{context.task.id}/progress", body)
            if answer["stop"]:
                context.interrupt("cancelled")
        return Outcome()

    def _until_done(self, context: TaskContext, datum: Mapping[str, Any]) -> dict[str, Any]:
        """All tries of a datum; what the server is told of it."""
        payload = _single(context.task.payload, datum)
        attempts = datum["attempts"]
        while True:
            attempts += 1
            context.about = {"datum": datum["id"], "attempt": attempts}
            try:
                outcome = self._try(context, payload)
            except TrunklineError as error:
                outcome = Outcome(status=Status.FAILED, error=str(error))
            if outcome.status == Status.SUCCEEDED or attempts >= context.task.payload["tries"]:
                break
            time.sleep(RETRY_SECONDS)
        done = outcome.result
        status = "recovered" if done.get("recovered") else outcome.status.value
        return {
            "id": datum["id"], "status": status, "attempts": attempts,
            "reason": done.get("reason", outcome.error), "root": done.get("output_root"), "prefix": "",
            "size": done.get("size", 0), "file_count": done.get("file_count", 0), "stats": done.get("stats", {}),
        }  # fmt: skip

    def _try(self, context: TaskContext, payload: Mapping[str, Any]) -> Outcome:
        folder = self._scratch / f"{context.task.id}-{next(self._numbers)}"
        try:
            return self._run(context, payload, folder)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise LimitError(
                    "the disk is full: free some space in the data directory", kind="disk_full"
                ) from error
            raise
        finally:
            remove_tree(folder)

    def _run(self, context: TaskContext, payload: Mapping[str, Any], folder: Path) -> Outcome:
        if self._mode is None:
            self._mode = choose_mode(self._environment.sandbox, self._scratch)
        mode, why_not = self._mode
        if why_not:
            context.log(
                f"warning: user code is not isolated, and /pfs is at $PFS_ROOT: {why_not}", "trunkline"
            )
        box = self._box(payload, folder, mode)
        box.create()
        box.note_server(context.link.url)
        stats = self._fetch(context, payload, box)
        context.check()
        transform = payload["transform"]
        env, cwd = environment_of(payload, box, context.link.url), _working_dir(payload, box)
        timeout_seconds = payload.get("datum_timeout_seconds")
        ended = self._command(context, box, transform["cmd"], transform["stdin"], env, cwd, timeout_seconds)
        if ended.exit_code in (0, *transform["accept_return_code"]):
            return self._store(context, box, ended, stats)
        if not transform["err_cmd"]:
            return _failed(ended, stats)
        context.log(f"the command failed ({ended.reason}); running err_cmd", "trunkline")
        again = self._command(
            context, box, transform["err_cmd"], transform["err_stdin"], env, cwd, timeout_seconds
        )
        if again.exit_code != 0:
            return _failed(ended, stats, f"; and err_cmd failed: {again.reason}")
        result = {"recovered": True, "reason": ended.reason, "stats": _all_stats(stats, ended)}
        return Outcome(result=result)

    def _box(self, payload: Mapping[str, Any], folder: Path, mode: str) -> Box:
        home = self._environment.home.resolve()
        needed = [Path(one) for one in payload["environment"]["path"]]
        needed.append(Path(sys.prefix))
        if python := payload["environment"]["python"]:
            needed.append(Path(python).parent.parent)
        needed += [Path(one) for one in sys.path if one]
        keep = dict.fromkeys(
            path.resolve() for path in needed if home in path.resolve().parents and path.exists()
        )
        if mode == "paths" and payload["secret_files"]:
            raise UnavailableError(
                "secrets with a mount_path need a private mount namespace, which this system does not give: "
                "use env_var instead",
                kind="no_sandbox",
            )
        return Box(
            folder=folder.resolve(), home=home, inputs=tuple(one["name"] for one in payload["inputs"]),
            keep=tuple(keep), secret_files=payload["secret_files"], mode=mode,
        )  # fmt: skip

    # --- before ---

    def _fetch(self, context: TaskContext, payload: Mapping[str, Any], box: Box) -> _Stats:
        started = time.monotonic()
        for one in payload["inputs"]:
            target = box.pfs / one["name"]
            self._download(context, one["root"], one["glob_paths"], target)
        size = sum(path.stat().st_size for path in box.pfs.rglob("*") if path.is_file())
        if payload["code_root"]:
            code = self._code_folder(context, payload["code_root"])
            shutil.copytree(code, box.private_home / "code", dirs_exist_ok=True)
        return _Stats(download_seconds=time.monotonic() - started, download_bytes=size)

    def _download(self, context: TaskContext, root: str, paths: list[str], target: Path) -> None:
        def action(client: Client) -> None:
            client.download_folder(f"/v1/filesets/{root}/archive", target, query={"path": paths})

        try:
            context.link.retrying(action, give_up=context.interrupted.is_set)
        except UnavailableError:
            context.check()
            raise

    def _code_folder(self, context: TaskContext, root: str) -> Path:
        if self._code is None or self._code[0] != root:
            if self._code is not None:
                remove_tree(self._code[1])
                self._code = None
            folder = self._scratch / f"code-{root}"
            remove_tree(folder)
            folder.mkdir()
            self._download(context, root, ["/"], folder)
            self._code = (root, folder)
        return self._code[1]

    # --- during ---

    def _command(
        self,
        context: TaskContext,
        box: Box,
        argv: list[str],
        stdin_lines: list[str],
        env: dict[str, str],
        cwd: str,
        timeout_seconds: float | None,
    ) -> Ended:
        known_url = context.link.url

        def follow_server() -> None:
            nonlocal known_url
            if context.link.url != known_url:
                known_url = context.link.url
                box.note_server(known_url)

        ended = run(
            box, argv, stdin_lines=stdin_lines, env=env, cwd=cwd, on_line=context.log, interrupted=context.interrupted,
            timeout_seconds=timeout_seconds, on_wait=follow_server, shown=hiding(_secrets_of(context.task.payload)),
        )  # fmt: skip
        if ended.was_interrupted:
            raise Interrupted
        return ended

    # --- after ---

    def _store(self, context: TaskContext, box: Box, ended: Ended, stats: _Stats) -> Outcome:
        started = time.monotonic()
        try:
            files = list(files_of(box))
            stored = context.link.retrying(
                lambda client: client.upload_files("/v1/filesets", files), give_up=context.interrupted.is_set
            )
        except UnavailableError:
            context.check()
            raise
        except PermissionError as error:
            raise InvalidInputError(f"/pfs/out cannot be read: {error}", kind="bad_output") from error
        context.check()
        result = {
            "output_root": stored["root"],
            "size": stored["size"],
            "file_count": stored["file_count"],
            "stats": _all_stats(
                stats, ended, upload_seconds=round(time.monotonic() - started, 4), upload_bytes=stored["size"]
            ),
        }
        return Outcome(result=result)


def _single(payload: Mapping[str, Any], datum: Mapping[str, Any]) -> dict[str, Any]:
    """What one datum of a set needs."""
    inputs: dict[int, dict[str, Any]] = {}
    for number, path, *_ in datum["files"]:
        inputs.setdefault(number, {**payload["inputs"][number], "glob_paths": []})["glob_paths"].append(path)
    named = {"PACH_DATUM_ID": datum["id"], "TRUNKLINE_DATUM_ID": datum["id"]}
    return {
        **payload,
        "inputs": list(inputs.values()),
        "env_extra": {**payload["env_extra"], **datum["env"], **named},
    }


def _secrets_of(payload: Mapping[str, Any]) -> list[str]:
    return [payload["job_token"], *payload["secrets_env"].values(), *payload["secret_files"].values()]


def environment_of(payload: Mapping[str, Any], box: Box, url: str) -> dict[str, str]:
    """The whole environment of the user's command. What is most particular wins."""
    environment = payload["environment"]
    python = environment["python"] or sys.executable
    inherited = os.environ.get("PATH", DEFAULT_PATH)
    env = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    env |= {
        "PATH": os.pathsep.join([str(Path(python).parent), *environment["path"], inherited]),
        "PYTHONUNBUFFERED": "1",  # else a log would stand still until its buffer is full
        "TMPDIR": f"{box.seen_home}/tmp",
        "PWD": _working_dir(payload, box),
    }
    for one in payload["inputs"]:
        env[one["name"]] = f"{box.seen_pfs}/{one['name']}{one['glob_paths'][0].rstrip('/')}"
    env |= environment["env"]
    env |= payload["transform"]["env"]
    env |= payload["secrets_env"]
    env |= payload["env_extra"]
    env |= {"TRUNKLINE_URL": url, "TRUNKLINE_TOKEN": payload["job_token"], "TRUNKLINE_HOME": box.seen_home}
    if box.mode == "paths":
        env["PFS_ROOT"] = str(box.pfs)
    return env


def _working_dir(payload: Mapping[str, Any], box: Box) -> str:
    """A relative one is inside the private copy of the code."""
    wanted = payload["transform"]["working_dir"] or (
        "" if payload["code_root"] else payload["environment"]["working_dir"]
    )
    return str(Path(f"{box.seen_home}/code") / (wanted or ""))


def _all_stats(stats: _Stats, ended: Ended, **more: float) -> dict[str, float]:
    return {
        "download_seconds": round(stats.download_seconds, 4),
        "download_bytes": stats.download_bytes,
        "process_seconds": round(ended.seconds, 4),
        "exit_code": ended.exit_code,
        **more,
    }


def _failed(ended: Ended, stats: _Stats, more: str = "") -> Outcome:
    return Outcome(
        status=Status.FAILED, error=ended.reason + more, result={"stats": _all_stats(stats, ended)}
    )
