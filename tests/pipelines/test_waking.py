"""From a commit to a datum that can be claimed, and on to the end of the job: nothing on the way waits for a clock."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from trunkline.core.status import Status
from trunkline.jobs.model import Report
from trunkline.jobs.queue import Lease
from trunkline.services import build
from trunkline.settings import Settings
from trunkline.versioning.model import PutFile


def test_every_loop_is_woken_by_what_it_waits_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trunkline.jobs.service.POLL_SECONDS", 3600.0)
    (tmp_path / "run").mkdir()
    services = build(Settings(home=tmp_path, gc_every_hours=0))
    monkeypatch.setattr(services.jobs.pool, "step", lambda: False)  # the test is the worker
    services.versioning.create_repo("default", "in")
    spec = {
        "pipeline": {"name": "p"}, "input": {"pfs": {"repo": "in", "glob": "/*"}}, "transform": {"cmd": ["true"]},
    }  # fmt: skip
    services.jobs.start()
    try:
        services.pipelines.create("default", spec)
        commit = services.versioning.modify("default", "in@master", [PutFile(path="/a", parts=[b"1"])])
        deadline = time.monotonic() + 60
        while not (claimed := services.jobs.claim("pipeline:default/p", "w", 1)):
            assert time.monotonic() < deadline
            services.db.changes.wait(services.db.changes.count, 0.01)
        [(task, payload)] = claimed
        lease = Lease(task_id=task.id, token=task.lease_token)
        result = {
            "id": payload["datums"][0]["id"],
            "status": "succeeded",
            "attempts": 1,
            "root": None,
            "stats": {},
        }
        services.jobs.progress(lease, [result], None)
        services.jobs.report(lease, Report(status=Status.SUCCEEDED))
        while not services.pipelines.inspect_job("default", "p", commit.id).status.is_final:
            assert time.monotonic() < deadline
            services.db.changes.wait(services.db.changes.count, 0.01)
    finally:
        services.jobs.stop()
        services.db.close()
