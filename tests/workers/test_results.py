"""What a worker says of a set while it works on it, when nobody wants to hear it any more."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from trunkline.errors import ConflictError
from trunkline.workers import results
from trunkline.workers.lease import Interrupted, LeasedTask, TaskContext, WorkerEnvironment
from trunkline.workers.link import Link
from trunkline.workers.results import Result, Results


class Refusing(Link):
    """A server that has given the work to somebody else."""

    def call(self, method: str, path: str, json: Any = None, query: Any = None, **_: Any) -> Any:
        raise ConflictError("the lease is lost", kind="lease_lost")


@pytest.fixture
def lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Results:
    """Of a set whose datum takes long, after the server was told which one it is."""
    monkeypatch.setattr(results, "TELL_CURRENT_SECONDS", 0.01)
    environment = WorkerEnvironment(
        worker="datum", queue="q", home=tmp_path, url="http://127.0.0.1:1", token="t", process_id="p"
    )
    link = Refusing(url=environment.url, token="t", home=tmp_path)
    task = LeasedTask(id=1, kind="datum-set", key="k", token="t", payload={})
    context = TaskContext(task, link, environment)
    made = Results(context, tmp_path / "set")
    made.begin("one")
    assert context.interrupted.wait(10)
    time.sleep(0.1)  # there is time for more of it
    return made


def test_a_lost_lease_is_noticed_once_and_the_worker_goes_on(lost: Results, tmp_path: Path) -> None:
    lost.abandon()
    assert len(list((tmp_path / "set").iterdir())) <= 1


def test_what_is_added_after_that_says_so(lost: Results) -> None:
    with pytest.raises(Interrupted):
        lost.add(Result(id="one", status="succeeded", attempts=1))
    lost.abandon()
