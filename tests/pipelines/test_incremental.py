"""Whatever happens to inputs, specs, datums and jobs: an output is what a run from scratch would have made, and counts add up."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.conftest import FakeClock
from tests.pipelines.conftest import World, lease_of, make_world
from trunkline.core.status import Status
from trunkline.pipelines import runner
from trunkline.pipelines.datum_store import NewDatum
from trunkline.pipelines.model import Job
from trunkline.pipelines.planning import Plan, Planner
from trunkline.storage.db.engine import Database
from trunkline.storage.db.schema import datums
from trunkline.testing.stores import LocalStores
from trunkline.versioning.model import DeletePath, PutFile

import sqlalchemy as sa  # isort: skip

PATHS = ["/a", "/b", "/c.x", "/d/a", "/d/b", "/d/e/a", "/f/a"]
BAD = "bad"

LEFT = {"repo": "left", "name": "left"}
RIGHT = {"repo": "right", "name": "right"}
INPUTS: dict[str, dict[str, Any]] = {
    "files": {"pfs": {**LEFT, "glob": "/*"}},
    "deep": {"pfs": {**LEFT, "glob": "/**"}},
    "all": {"pfs": {**LEFT, "glob": "/"}},
    "cross": {"cross": [{"pfs": {**LEFT, "glob": "/*"}}, {"pfs": {**RIGHT, "glob": "/d/*"}}]},
    "union": {"union": [{"pfs": {**LEFT, "glob": "/*"}}, {"pfs": {**RIGHT, "glob": "/d/*"}}]},
    "join": {
        "join": [
            {"pfs": {**LEFT, "glob": "/(*)", "join_on": "$1", "outer_join": True}},
            {"pfs": {**RIGHT, "glob": "/(*)", "join_on": "$1"}},
        ]
    },
    "group": {
        "group": [
            {"pfs": {**LEFT, "glob": "/**(a|b|x)", "group_by": "$1"}},
            {"pfs": {**RIGHT, "glob": "/d/(*)", "group_by": "$1"}},
        ]
    },
}  # fmt: skip
UNLIMITED = {"datum_set_spec": {"number": 3}, "datum_tries": 1}


FILES = st.dictionaries(st.sampled_from(PATHS), st.sampled_from(["1", "2", "3", BAD]), min_size=1, max_size=3)


class Killed(BaseException):
    """The end of the server."""


class Pipelines(RuleBasedStateMachine):
    """A pipeline with a worker that is instant: it fails where its input says so, and its output names all that it saw."""

    folders: Iterator[Path]

    @initialize(kind=st.sampled_from(sorted(INPUTS)), quarantine=st.booleans(), in_parts=st.booleans())
    def begin(self, kind: str, quarantine: bool, in_parts: bool) -> None:
        folder = next(self.folders)
        folder.mkdir()
        stores = LocalStores(folder)
        self.db = Database(f"sqlite:///{folder / 't.db'}")
        rows = 2 if in_parts else 500
        self.parts = mock.patch.multiple(runner, FIRST_ROWS=rows, ROWS_PER_WRITE=rows)
        self.parts.start()
        self.rows_left: int | None = None
        """So many datums are planned before the server dies."""
        self.world: World = make_world(self.db, FakeClock(), stores.settings(folder), stores)
        self.watch_plans()
        for repo in ("left", "right"):
            self.world.versioning.create_repo("default", repo)
        self.kind, self.code, self.on_failure = kind, 0, "quarantine" if quarantine else "fail"
        self.world.pipelines.create("default", self.spec())
        self.outputs: dict[str, dict[str, str]] = {}

    def teardown(self) -> None:
        if hasattr(self, "db"):
            self.parts.stop()
            self.db.close()

    def watch_plans(self) -> None:
        planner = self.world.pipelines._steps.planner
        plan = planner.plan

        def watched(*args: Any, **more: Any) -> Plan:
            made = plan(*args, **more)

            def rows() -> Iterator[NewDatum]:
                for row in made.rows:
                    if self.rows_left is not None:
                        if self.rows_left == 0:
                            raise Killed
                        self.rows_left -= 1
                    yield row

            return replace(made, rows=rows())

        planner.plan = watched  # type: ignore[method-assign]

    def spec(self) -> dict[str, Any]:
        return {
            "pipeline": {"name": "p"}, "input": INPUTS[self.kind], "on_failure": self.on_failure,
            "transform": {"cmd": ["sh"], "env": {"CODE": str(self.code)}}, **UNLIMITED,
        }  # fmt: skip

    # --- what people do ---

    @rule(
        repo=st.sampled_from(["left", "left", "right"]),
        files=FILES,
        gone=st.lists(st.sampled_from([*PATHS, "/d", "/d/e"]), max_size=2),
        work=st.integers(0, 3),
    )
    def commit(self, repo: str, files: dict[str, str], gone: list[str], work: int) -> None:
        changes: list[Any] = [DeletePath(path=path) for path in gone]
        changes += [PutFile(path=path, parts=[text.encode()]) for path, text in files.items()]
        self.world.versioning.modify("default", f"{repo}@master", changes)
        self.world.settle()
        self.work(work)

    @rule(kind=st.sampled_from(sorted(INPUTS)), code=st.integers(0, 1))
    def update(self, kind: str, code: int) -> None:
        self.kind, self.code = kind, code
        self.world.pipelines.create("default", self.spec(), update=True)
        self.world.settle()

    @rule(reprocess=st.booleans())
    def rerun(self, reprocess: bool) -> None:
        self.world.pipelines.rerun("default", "p", reprocess=reprocess)
        self.world.settle()

    @precondition(lambda self: self.unfinished())
    @rule(which=st.integers(0, 2))
    def stop(self, which: int) -> None:
        jobs = self.unfinished()
        self.world.pipelines.stop_job("default", "p", jobs[which % len(jobs)].id)
        self.world.settle()

    @rule(files=FILES, rows=st.integers(0, 5), held=st.integers(0, 2))
    def die_while_planning(self, files: dict[str, str], rows: int, held: int) -> None:
        """With what workers hold then, and have done meanwhile."""
        changes = [PutFile(path=path, parts=[text.encode()]) for path, text in files.items()]
        self.rows_left = rows
        try:
            self.world.versioning.modify("default", "left@master", changes)
            self.world.settle()
        except Killed:
            claimed = self.world.jobs.claim("pipeline:default/p", "w1", held)
            for task, payload in claimed[:1]:
                self.world.jobs.progress(
                    lease_of(task), [self.do(payload, one) for one in payload["datums"]], None
                )
        self.rows_left = None
        self.world = self.world.restart()
        self.watch_plans()
        self.world.clock.advance(
            2 * self.world.settings.lease_seconds + 1
        )  # a restart has prolonged all leases
        self.world.jobs.reap()
        self.world.settle()

    @rule()
    def lose_worker(self) -> None:
        self.world.claim("p", limit=1)
        self.world.clock.advance(self.world.settings.lease_seconds + 1)
        self.world.jobs.reap()
        self.world.settle()

    @rule()
    def work_off(self) -> None:
        self.work(10_000)
        assert not self.unfinished()

    # --- the worker ---

    def work(self, sets: int) -> None:
        for _ in range(sets):
            claimed = self.world.claim("p", limit=1)
            if not claimed:
                self.world.clock.advance(1)
                if not (claimed := self.world.claim("p", limit=1)):
                    return
            [(task, payload)] = claimed
            if not self.world.tell(task, *(self.do(payload, one) for one in payload["datums"])):
                self.world.report(task, Status.CANCELLED)
                continue
            self.world.report(task, Status.SUCCEEDED)

    def do(self, payload: dict[str, Any], datum: dict[str, Any]) -> dict[str, Any]:
        seen = []
        for number, path, digest, _ in datum["files"]:
            one = payload["inputs"][number]
            infos = self.world.versioning.walk(one["root"], path)
            text = {info.path: b"".join(self.world.versioning.read(one["root"], info.path)) for info in infos}
            if BAD.encode() in text.values():
                return {"id": datum["id"], "status": "failed", "reason": "bad", "attempts": 1, "stats": {}}
            seen.append((one["name"], path, digest))
        return self.world.result(datum["id"], output(seen, payload["transform"]["env"]["CODE"]))

    # --- what must hold ---

    def unfinished(self) -> list[Job]:
        if not hasattr(self, "world"):
            return []
        jobs = self.world.pipelines.list_jobs("default", "p", limit=1000)
        return [job for job in jobs if not job.status.is_final]

    @invariant()
    def every_success_is_what_a_run_from_scratch_gives(self) -> None:
        if not hasattr(self, "world"):
            return
        for job in self.world.pipelines.list_jobs("default", "p", limit=1000):
            if job.status == Status.RUNNING:
                assert job.processed + job.skipped + job.failed + job.recovered + job.quarantined <= job.total
            if job.status == Status.SUCCEEDED and job.id not in self.outputs:
                self.outputs[job.id] = self.world.files(f"p@{job.id}")
                self.check(job)

    def check(self, job: Job) -> None:
        pipeline = self.world.pipelines.inspect("default", "p", job.version)
        planner = Planner(db=self.db, versioning=self.world.versioning, settings=self.world.settings)
        with self.db.read() as connection:
            row = self.world.row("p", job.id)
            set_aside = set(
                connection.execute(
                    sa.select(datums.c.id).where(
                        datums.c.job_pk == row.pk, datums.c.status == Status.QUARANTINED
                    )
                ).scalars()
            )
        wanted: dict[str, str] = {}
        total = 0
        for datum, _, combination in planner.datums_of(pipeline, row):
            total += 1
            if datum not in set_aside:
                seen = [(one.leaf, one.path, one.hash) for one in combination]
                wanted |= output(seen, pipeline.spec["transform"]["env"]["CODE"])
        assert self.outputs[job.id] == wanted
        counts = job.processed, job.skipped, job.failed, job.recovered, job.quarantined
        assert (job.total, sum(counts), job.failed, job.quarantined) == (total, total, 0, len(set_aside))
        listed = self.world.pipelines.list_datums("default", "p", job.id)
        assert len({one.id for one in listed}) == len(listed) == total
        page = self.world.pipelines.list_datums("default", "p", job.id, limit=2)
        assert page == listed[:2]
        for one, after in itertools.pairwise(listed):
            assert self.world.pipelines.list_datums("default", "p", job.id, limit=1, after=one.id) == [after]


def output(seen: list[tuple[str, str, str]], code: str) -> dict[str, str]:
    """Two files, named by which files are seen; their content tells what they hold, and by which code."""
    name = hashlib.sha256(repr([one[:2] for one in seen]).encode()).hexdigest()[:8]
    return {f"/{name}": repr((sorted(seen), code)), f"/by/{name}": code}


@pytest.mark.slow
def test_incremental_is_from_scratch(tmp_path: Path) -> None:
    class Here(Pipelines):
        folders = (tmp_path / str(n) for n in itertools.count())

    case = Here.TestCase
    few = settings.default.max_examples <= 30
    phases = [Phase.explicit, Phase.reuse, Phase.generate] if few else list(Phase)  # shrinking takes minutes
    case.settings = settings(stateful_step_count=10 if few else 40, phases=phases)
    case().runTest()
