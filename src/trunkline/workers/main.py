"""``python -m trunkline.workers.main --worker datum|trial --queue NAME``: what the engines start."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

from trunkline.workers.lease import WorkerEnvironment

ENVIRONMENT_NAMES = ("TRUNKLINE_HOME", "TRUNKLINE_URL", "TRUNKLINE_WORKER_TOKEN", "TRUNKLINE_PROCESS_ID")


def main(argv: list[str] | None = None) -> int:
    """Run one worker process until it has nothing more to do."""
    parser = argparse.ArgumentParser(
        prog="trunkline.workers.main", description="A worker process of trunkline."
    )
    parser.add_argument("--worker", required=True, choices=("datum", "trial"))
    parser.add_argument("--queue", required=True)
    arguments = parser.parse_args(argv)
    missing = [name for name in ENVIRONMENT_NAMES if not os.environ.get(name)]
    if missing:
        parser.error(f"the environment lacks {', '.join(missing)}: workers are started by `trunkline up`")
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    environment = WorkerEnvironment(
        worker=arguments.worker,
        queue=arguments.queue,
        home=Path(os.environ["TRUNKLINE_HOME"]),
        url=os.environ["TRUNKLINE_URL"],
        token=os.environ["TRUNKLINE_WORKER_TOKEN"],
        process_id=os.environ["TRUNKLINE_PROCESS_ID"],
        sandbox=os.environ.get("TRUNKLINE_SANDBOX", "auto"),
        idle_seconds=float(os.environ.get("TRUNKLINE_WORKER_IDLE_SECONDS", "10")),
    )
    return _program(arguments.worker)(environment)


def _program(worker: str) -> Callable[[WorkerEnvironment], int]:
    # Imported late: a datum worker must not pay for what only trials need.
    if worker == "datum":
        from trunkline.workers.datum import run_worker as run_datums  # noqa: PLC0415

        return run_datums
    from trunkline.workers.trial import run_worker as run_trials  # noqa: PLC0415

    return run_trials


if __name__ == "__main__":
    sys.exit(main())
