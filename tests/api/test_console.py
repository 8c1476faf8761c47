"""The page that lists what exists: how far jobs are, and why they failed."""

from __future__ import annotations

from starlette.testclient import TestClient

from trunkline.jobs.queue import Lease
from trunkline.services import Services
from trunkline.versioning.model import PutFile


def settle(services: Services) -> None:
    while services.jobs.outbox.drain() or services.jobs.step():
        pass


def test_jobs_with_their_progress_and_reasons(services: Services, anyone: TestClient) -> None:
    services.versioning.create_repo("default", "images")
    services.pipelines.create(
        "default",
        {
            "pipeline": {"name": "edges"}, "input": {"pfs": {"repo": "images", "glob": "/*"}},
            "transform": {"cmd": ["true"]}, "datum_set_spec": {"number": 1},
        },
    )  # fmt: skip
    files = [PutFile(path=f"/{name}", parts=[b"x"]) for name in ("a", "b")]
    commit = services.versioning.modify("default", "images@master", files).id
    settle(services)
    (task, payload), _ = services.jobs.claim("pipeline:default/edges", "w", 2)
    [datum] = payload["datums"]
    failed = {
        "id": datum["id"],
        "status": "failed",
        "reason": "<b>no luck</b>",
        "attempts": 3,
        "stats": {"cpu_seconds": 1.5},
    }
    services.jobs.progress(Lease(task_id=task.id, token=task.lease_token), [failed], None)
    anyone.get(f"/login?link={services.access.console_link_token()}")
    page = anyone.get("/").text
    assert '<progress max="2" value="1">' in page
    assert "0 + 0 / 2, 1 failed" in page
    assert "processing" in page
    services.pipelines.stop_job("default", "edges", commit)
    for path in ("/", f"/id/{commit}"):
        page = anyone.get(path).text
        assert "it was stopped by request" in page
        assert "cancelled" in page
    assert "1 datums computed in" in page
    assert "1.50 s of CPU time" in page
