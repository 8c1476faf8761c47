"""Datum sets for real worker processes under a real control server, without the pipelines that would make them: what the
server says of a set is given, and what the worker says of it is kept."""

from __future__ import annotations

import dataclasses
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import uvicorn
from sqlalchemy.engine import Connection

from trunkline.api import home
from trunkline.api.app import create_app
from trunkline.jobs.model import Report, Task
from trunkline.services import build
from trunkline.settings import Settings
from trunkline.versioning.model import PutFile
from trunkline.wire.leases import DatumResult

WAIT_SECONDS = 60.0
JOB = "a" * 32


class Sets:
    """The domain's side of datum sets."""

    def __init__(self) -> None:
        self.payloads: dict[str, dict[str, Any]] = {}
        self.results: list[dict[str, Any]] = []
        self.currents: list[str | None] = []
        self.lines: list[Mapping[str, Any]] = []
        self.reports: list[Report] = []
        self.lost_count = 0
        self.over = threading.Event()

    def describe(self, task: Task) -> dict[str, Any]:
        return self.payloads[task.key]

    def started(self, connection: Connection, task: Task) -> None:
        pass

    def progress(
        self, connection: Connection, task: Task, results: Sequence[Mapping[str, Any]], current: str | None
    ) -> bool:
        self.results += map(dict, results)
        self.currents.append(current)
        return True

    def reported(self, connection: Connection, task: Task, report: Report) -> float | None:
        self.reports.append(report)
        self.over.set()
        return None

    def lost(self, connection: Connection, task: Task) -> float | None:
        self.lost_count += 1
        self.over.set()
        return None

    def append_log(self, lease: Any, offset: int, lines: Sequence[Mapping[str, Any]]) -> None:
        self.lines += lines


class SetServer:
    """Runs sets, one after the other."""

    def __init__(self, folder: Path, **given: Any) -> None:
        wanted = {"lease_seconds": 4.0, "worker_idle_seconds": 1.0, "standby_workers": 0, **given}
        settings = Settings(home=folder, port=0, **wanted)
        home.prepare(settings)
        listener = home.bind(settings)
        settings = settings.model_copy(update={"port": listener.getsockname()[1]})
        self.sets = Sets()
        pipelines: Any = self.sets
        self.services = dataclasses.replace(build(settings), pipelines=pipelines)
        home.write_down(settings, started_at=self.services.started_at)
        self.services.jobs.on_worker("datum-set", self.sets)
        config = uvicorn.Config(create_app(self.services), log_config=None, lifespan="off", ws="none")
        self._http = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._http.run, kwargs={"sockets": [listener]}, daemon=True)
        self._thread.start()
        self.services.jobs.start()

    def close(self) -> None:
        self.services.stop_work()
        self._http.should_exit = True
        self._thread.join()
        self.services.db.close()

    def tree(self, files: Mapping[str, str]) -> str:
        changes = [PutFile(path=path, parts=[text.encode()]) for path, text in files.items()]
        return self.services.versioning.stage(changes).root

    def input(self, root: str, name: str = "images", **more: Any) -> dict[str, Any]:
        found = {
            "name": name, "project": "default", "repo": name, "branch": "master", "commit": "c" * 32, "root": root,
            "lazy": False, "empty_files": False, "s3": False,
        }  # fmt: skip
        return found | more

    def start(
        self,
        script: str,
        inputs: Sequence[dict[str, Any]],
        datums: Sequence[Sequence[tuple[int, str] | tuple[int, str, int]]],
        *,
        transform: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> None:
        """Have a set done: each datum is given by its files, as ``(number of the input, path)``, and perhaps its size."""
        base: dict[str, Any] = {
            "cmd": ["sh", "-e"], "stdin": script.splitlines(), "env": {}, "err_cmd": [], "err_stdin": [],
            "working_dir": None, "accept_return_code": [], "user": None, "datum_batching": False,
        }  # fmt: skip
        payload = {
            "job": {"project": "default", "pipeline": "edges", "id": JOB, "version": 1}, "set": 1, "careful": False,
            "tries": 1, "transform": base | dict(transform or {}), "code_root": None, "job_token": "the-job-token",
            "environment": {"python": None, "path": [], "env": {}, "working_dir": None}, "secrets_env": {},
            "secret_files": {}, "datum_timeout_seconds": None, "env_extra": {"PACH_JOB_ID": JOB}, "service": None,
            "limits": {"memory_bytes": None, "cpus": None, "disk_bytes": None, "network": True}, "s3_out": False,
            "inputs": list(inputs),
            "datums": [
                {
                    "id": f"{number:064x}", "identity": "", "attempts": 0, "env": {},
                    "files": [[index, path, "", *(size or [1])] for index, path, *size in files],
                }
                for number, files in enumerate(datums)
            ],
        } | more  # fmt: skip
        sets, key = self.sets, uuid.uuid4().hex
        sets.results, sets.currents, sets.lines, sets.reports = [], [], [], []
        sets.over.clear()
        sets.payloads[key] = payload
        queue = self.services.jobs.queue
        with self.services.db.write() as connection:
            queue.declare(connection, "sets", worker="datum", workers_max=1, options={})
            queue.enqueue(connection, kind="datum-set", key=key, queue="sets")

    def run(self, *given: Any, **more: Any) -> list[dict[str, Any]]:
        """The same, to its end; what the worker said of each datum, in the order of their numbers."""
        self.start(*given, **more)
        assert self.sets.over.wait(WAIT_SECONDS), self.log()
        assert [report.error for report in self.sets.reports] == [""], self.sets.reports
        results = [DatumResult.model_validate(one).model_dump() for one in self.sets.results]
        return sorted(results, key=lambda result: str(result["id"]))

    def wait_for(self, line: str) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while line not in self.log():
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.02)

    def log(self, number: int | None = None) -> list[str]:
        """The lines of all datums, or of one."""
        return [
            line["text"] for line in self.sets.lines if number is None or int(line["datum"], 16) == number
        ]

    def output(self, result: Mapping[str, Any]) -> dict[str, str]:
        root, prefix, versioning = result["root"], result["prefix"], self.services.versioning
        if root is None:
            return {}
        return {
            info.path[len(prefix) :]: b"".join(versioning.read(root, info.path)).decode()
            for info in versioning.walk(root, prefix)
            if not info.is_dir
        }
