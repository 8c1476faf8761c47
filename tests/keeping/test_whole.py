"""Keeping beside everything else: pipelines, models and services refer to trees, too."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.keeping.test_gc import noise
from trunkline.core.ids import TreeHash
from trunkline.core.status import Status
from trunkline.errors import StateError
from trunkline.jobs.model import Report
from trunkline.jobs.queue import Lease
from trunkline.services import Services, build
from trunkline.settings import Settings
from trunkline.storage.db import schema
from trunkline.versioning.model import PutFile

pytestmark = pytest.mark.slow

SECRET = noise(1)


@pytest.fixture
def whole(tmp_path: Path) -> Iterator[Services]:
    home = tmp_path / "home"
    (home / "run").mkdir(parents=True)
    found = build(Settings(home=home))
    yield found
    found.db.close()


def settle(services: Services) -> None:
    while services.jobs.outbox.drain() or services.jobs.step():
        pass


def run_pipeline(services: Services) -> str:
    """A pipeline that copies a file; returns the commit set's ID."""
    services.versioning.create_repo("default", "people")
    spec = {
        "pipeline": {"name": "edges"},
        "input": {"pfs": {"repo": "people", "glob": "/*"}},
        "transform": {"cmd": ["sh"]},
    }
    services.pipelines.create("default", spec)
    settle(services)
    commit = services.versioning.modify(
        "default",
        "people@master",
        [PutFile(path="/1.png", parts=[SECRET]), PutFile(path="/2.png", parts=[b"2"])],
    )
    settle(services)
    for task, payload in services.jobs.claim("pipeline:default/edges", "w", 10):
        results = []
        for datum in payload["datums"]:
            path = datum["files"][0][1]
            content = SECRET if path == "/1.png" else b"other"
            tree = services.versioning.stage([PutFile(path=path, parts=[content])])
            results.append({"id": datum["id"], "status": "succeeded", "root": tree.root, "stats": {}})
        lease = Lease(task_id=task.id, token=task.lease_token)
        services.jobs.progress(lease, results, None)
        services.jobs.report(lease, Report(status=Status.SUCCEEDED))
    settle(services)
    assert services.pipelines.inspect_job("default", "edges", commit.id).status == Status.SUCCEEDED
    return commit.id


def test_gc_keeps_what_any_domain_refers_to(whole: Services) -> None:
    commit = run_pipeline(whole)
    package = whole.versioning.stage([PutFile(path="/model.pkl", parts=[noise(5)])]).root
    whole.registry.create_model("m")
    whole.registry.add_version("m", commit)
    whole.registry.set_package("m", commit, package)
    with whole.db.write() as connection:
        connection.execute(sa.delete(schema.tree_holds))
        roots = list(connection.execute(sa.select(schema.datum_results.c.output_root)).scalars())
    whole.versioning.gc(grace_seconds=0)
    for root in [*roots, package]:
        assert whole.versioning.check_tree(TreeHash(root)).size
    assert whole.versioning.check().problems == ()


def test_a_purge_names_all_that_was_built_from_it(whole: Services, tmp_path: Path) -> None:
    commit = run_pipeline(whole)
    whole.registry.create_model("m")
    whole.registry.add_version("m", commit)

    def purge(**more: bool):  # type: ignore[no-untyped-def]
        return whole.versioning.purge("default", "people:/1.png", lineage=whole.lineage, **more)

    with pytest.raises(StateError, match=r"edges@.*--everywhere"):
        purge()
    done = purge(everywhere=True)
    report = done.report
    assert report["commits made from it"] == [f"default/edges@{commit}"]
    assert report["jobs"] == [f"default/edges@{commit}"]
    assert len(report["datums"]) == 1 and commit in report["datums"][0]
    assert len(report["cached results of its datums"]) == 1
    assert report["model versions"] == [f"m/{commit}"]
    assert not any(SECRET[:500] in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert whole.versioning.check().problems == ()
    with whole.db.read() as connection:  # the result that held the same bytes is gone, the other one stays
        assert connection.execute(sa.select(sa.func.count()).select_from(schema.datum_results)).scalar() == 1


def test_a_model_that_holds_the_content_needs_force(whole: Services) -> None:
    whole.versioning.create_repo("default", "people")
    made = whole.versioning.modify("default", "people@master", [PutFile(path="/m/w.bin", parts=[SECRET])])
    whole.registry.create_model("m")
    whole.registry.add_version("m", made.id)
    whole.registry.set_package(
        "m", made.id, whole.versioning.stage([PutFile(path="/w", parts=[SECRET])]).root
    )
    with pytest.raises(StateError, match="package of model m") as caught:
        whole.versioning.purge("default", "people:/m", everywhere=True, lineage=whole.lineage)
    assert caught.value.kind == "needs_force"
    whole.versioning.purge("default", "people:/m", everywhere=True, force=True, lineage=whole.lineage)
    assert whole.versioning.check().problems == ()


def test_a_live_service_that_holds_the_content_needs_force(whole: Services) -> None:
    whole.versioning.create_repo("default", "models")
    whole.versioning.modify("default", "models@master", [PutFile(path="/iris/model.pkl", parts=[SECRET])])
    whole.secrets.create_namespace("live")
    manifest = {
        "apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService", "metadata": {"name": "iris"},
        "spec": {"predictor": {"sklearn": {"storageUri": "models@master:/iris"}}},
    }  # fmt: skip
    whole.serving.apply("live", manifest)
    with pytest.raises(StateError, match="service live/iris") as caught:
        whole.versioning.purge("default", "models:/iris/model.pkl", lineage=whole.lineage)
    assert caught.value.kind == "needs_force"
    done = whole.versioning.purge("default", "models:/iris/model.pkl", force=True, lineage=whole.lineage)
    assert [name.startswith("service live/iris-") for name in done.report["live services"]] == [True]


def test_repair_makes_an_output_commit_again(whole: Services) -> None:
    commit = run_pipeline(whole)
    root = whole.versioning.inspect_commit("default", f"edges@{commit}").root
    assert root is not None
    with whole.db.write() as connection:
        pack = connection.execute(
            sa.select(schema.chunks.c.pack_id).where(schema.chunks.c.hash == bytes.fromhex(root))
        ).scalar_one()
        name = connection.execute(
            sa.select(schema.packs.c.name).where(schema.packs.c.id == pack)
        ).scalar_one()
    (whole.settings.objects_dir / "packs" / name[:2] / name).unlink()
    whole.db.close()
    again = build(whole.settings)
    report = again.versioning.check(repair=True)
    assert report.problems == ()
    assert any("put together again" in line for line in report.repaired)
    assert again.versioning.stat(root, "/1.png").size == len(SECRET)
    again.db.close()
