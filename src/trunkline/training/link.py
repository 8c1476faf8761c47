"""The two ends that a context can hang on: the trial's worker, or nothing (a run by hand). Standard library only."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import threading
from pathlib import Path
from typing import Any

from trunkline import errors
from trunkline.errors import InternalError, TrunklineError, UnavailableError

LOCAL_FOLDER = "checkpoints"
LOCAL_SEED = 0


class WorkerLink:
    """One request at a time over the worker's socket: a JSON line there, a JSON line back."""

    def __init__(self, path: str) -> None:
        self._lock = threading.Lock()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.connect(path)
        except OSError as error:
            self._socket.close()
            raise _gone() from error
        self._answers = self._socket.makefile("rb")

    def close(self) -> None:
        """Hang up. A process that ends does so by itself."""
        self._answers.close()
        self._socket.close()

    def hello(self) -> dict[str, Any]:
        """What the trial is."""
        return self.call("hello")

    def call(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Ask the worker to do something, and wait until it is done.

        :raises TrunklineError: as the worker or the control server raised it.
        """
        request = json.dumps({"do": do, **arguments}).encode() + b"\n"
        with self._lock:
            try:
                self._socket.sendall(request)
                line = self._answers.readline()
            except OSError as error:
                raise _gone() from error
        if not line:
            raise _gone()
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise _raised(answer["error"])
        return answer


class LocalLink:
    """A run by hand: writes to standard output and below the working directory."""

    def __init__(
        self, *, hparams: dict[str, Any], data_path: str | Path | None, config: dict[str, Any]
    ) -> None:
        self._folder = Path.cwd() / LOCAL_FOLDER
        self._pending = self._folder / f".new-{os.getpid()}"
        self._trial = {
            "hparams": hparams, "config": config, "data_path": str(Path(data_path or ".").absolute()), "new_files": None,
            "latest_checkpoint": None, "warm_start": False, "steps_completed": 0, "seed": LOCAL_SEED, "experiment_id": 0,
            "trial_id": 0, "run_id": 1, "checkpoints_path": str(self._pending),
            "stop_file": str(self._pending / "stop"),
        }  # fmt: skip

    def hello(self) -> dict[str, Any]:
        return self._trial

    def call(self, do: str, **arguments: Any) -> dict[str, Any]:
        if do == "report":
            shown = ", ".join(f"{name} {value}" for name, value in arguments["metrics"].items())
            sys.stdout.write(f"[{arguments['group']}] step {arguments['steps']}: {shown}\n")
        elif do == "checkpoint":
            self._keep(arguments)
        return {}

    def _keep(self, arguments: dict[str, Any]) -> None:
        target = self._folder / f"step-{arguments['steps']}"
        shutil.rmtree(target, ignore_errors=True)
        (self._pending / arguments["uuid"]).rename(target)
        shutil.rmtree(self._pending, ignore_errors=True)
        (target / "metadata.json").write_text(
            json.dumps({**arguments["metadata"], "steps_completed": arguments["steps"]})
        )
        sys.stdout.write(f"checkpoint in {target}\n")


def _gone() -> UnavailableError:
    return UnavailableError(
        "the worker of this trial is gone: nothing more can be reported", kind="no_worker"
    )


def _raised(body: dict[str, Any]) -> TrunklineError:
    named = getattr(errors, str(body["class"]), InternalError)
    kind, message = str(body["kind"]), str(body["message"])
    is_ours = isinstance(named, type) and issubclass(named, TrunklineError)
    return named(message, kind=kind) if is_ours else InternalError(message, kind=kind)
