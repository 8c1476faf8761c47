"""A control server in a process of its own, so that it can be killed: ``python -m tests.workers.control HOME``."""

from __future__ import annotations

import sys
from pathlib import Path

import uvicorn

from trunkline.api import home
from trunkline.api.app import create_app
from trunkline.services import build
from trunkline.settings import Settings


def main() -> None:
    settings = Settings(
        home=Path(sys.argv[1]), port=0, lease_seconds=5.0, worker_idle_seconds=2.0, standby_workers=0
    )
    home.prepare(settings)
    listener = home.bind(settings)
    settings = settings.model_copy(update={"port": listener.getsockname()[1]})
    services = build(settings)
    home.write_down(settings, started_at=services.started_at)
    services.jobs.start()
    config = uvicorn.Config(create_app(services), log_config=None, lifespan="off", ws="none")
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
