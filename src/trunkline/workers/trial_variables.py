"""The command and the whole environment of a trial's process. Pure, but for the worker's own environment."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trunkline.workers.variables import DEFAULT_PATH, PASSED_ON

VARIABLE_CHARACTERS_MAX = 100_000
"""Linux takes 128 KiB for one variable; what is longer is left out (the context has it all)."""


def command_of(entrypoint: str | list[str]) -> list[str]:
    """A string goes to ``sh -c``, a list is run as it is."""
    return ["sh", "-c", entrypoint] if isinstance(entrypoint, str) else list(entrypoint)


def trial_variables(
    payload: Mapping[str, Any], inherited: Mapping[str, str], *, temporary: str, socket: str
) -> dict[str, str]:
    """What Determined's trials had of use, the config's own variables, a PATH that leads to the right Python; nothing of the
    worker's own, whose token is among it."""
    place = payload["environment"]
    python = place["python"] or sys.executable
    latest = payload["latest_checkpoint"]
    restored = latest or payload["warm_start"]
    variables = {name: inherited[name] for name in PASSED_ON if name in inherited}
    threads = max(1, _processors() // max(1, payload["trials_running"]))
    variables |= {
        "PATH": os.pathsep.join(
            [str(Path(python).parent), *place["path"], inherited.get("PATH", DEFAULT_PATH)]
        ),
        "PYTHONUNBUFFERED": "1",  # else a log would stand still until its buffer is full
        "OMP_NUM_THREADS": inherited.get("OMP_NUM_THREADS", str(threads)),
        "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin while they wait halve the speed of whatever else runs here
        "TMPDIR": temporary,
        "DET_EXPERIMENT_ID": str(payload["experiment_id"]),
        "DET_TRIAL_ID": str(payload["trial_id"]),
        "DET_TRIAL_RUN_ID": str(payload["run_id"]),
        "DET_TRIAL_SEED": str(payload["seed"]),
        "DET_HPARAMS": json.dumps(payload["hparams"]),
        "DET_EXPERIMENT_CONFIG": json.dumps(payload["config"]),
        "DET_STEPS_COMPLETED": str(latest["steps_completed"] if latest else 0),
        **({"DET_LATEST_CHECKPOINT": restored["uuid"]} if restored else {}),
        **place["env"],
        **payload["environment_variables"],
        "TRUNKLINE_TRIAL_SOCKET": socket,
    }
    return {name: value for name, value in variables.items() if len(value) <= VARIABLE_CHARACTERS_MAX}


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
