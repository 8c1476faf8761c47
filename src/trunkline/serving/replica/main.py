"""``python -m trunkline.serving.replica.main CONFIG``: load one model, probe it, answer until told to end.

It listens before it loads, so that health checks are answered from the start; it is ready when the model has answered its probe.
SIGTERM: no new connections, open requests are finished, then it ends.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
import traceback
from pathlib import Path

import uvicorn

from trunkline.errors import TrunklineError
from trunkline.serving.replica.app import App
from trunkline.serving.replica.config import ReplicaConfig, StatusFile
from trunkline.serving.replica.probe import probe
from trunkline.serving.replica.runtimes import open_runtime
from trunkline.serving.replica.whole import http_protocol

LISTEN_BACKLOG = 1024
FAILED_EXIT = 3

log = logging.getLogger("trunkline.replica")


def main(config_file: str) -> int:
    """Returns the exit status: 0 after SIGTERM, 3 if the model could not be served."""
    config = ReplicaConfig.read(Path(config_file))
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stdout
    )
    status = StatusFile(config.status_file)
    app = App(config)
    # The protocol is named: asyncio turns off Nagle's delay, 40 ms per answer, only for sockets that say they are TCP.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen(LISTEN_BACKLOG)
    port = listener.getsockname()[1]
    status.say("loading", port=port)
    log.info("revision %s listens on port %d", config.revision, port)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            http=http_protocol(),
            log_level="warning",
            access_log=False,
            lifespan="off",
            ws="none",
            server_header=False,
            timeout_keep_alive=86_400,  # connections are the gateway's, which closes them itself
            timeout_graceful_shutdown=int(config.drain_seconds) + 1,
        )
    )
    failed = threading.Event()

    def load() -> None:
        try:
            _load(config, status, app)
        except BaseException as error:
            line = _line(error)
            log.error("the model cannot be served: %s", line)
            status.say("failed", error=line, is_clear=isinstance(error, TrunklineError | ModuleNotFoundError))
            failed.set()
            server.should_exit = True

    # In the app's own model thread: some libraries tie state to the thread that loaded the model.
    app.model_thread.submit(load)
    server.run(sockets=[listener])
    app.model_thread.shutdown(wait=not failed.is_set(), cancel_futures=True)
    logging.shutdown()
    return FAILED_EXIT if failed.is_set() else 0


def _load(config: ReplicaConfig, status: StatusFile, app: App) -> None:
    runtime = open_runtime(config)
    runtime.load()
    app.runtime = runtime
    status.say("probing")
    how = probe(config, runtime)
    app.is_ready = True
    status.say("ready", probe=how, model=runtime.model_name)
    log.info("model %s is ready; probe: %s", runtime.model_name, how)


def _line(error: BaseException) -> str:
    """One line for people; what is not one of our own errors also goes to the log in full."""
    if isinstance(error, TrunklineError):
        return str(error)
    traceback.print_exception(error)
    if isinstance(error, ModuleNotFoundError):
        return f"the model needs the Python module {error.name!r}, which is not installed in this environment"
    return f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"


if __name__ == "__main__":
    # Not sys.exit: a model's libraries may have left threads behind that would keep a finished process alive.
    code = main(sys.argv[1])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
