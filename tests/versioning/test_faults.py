"""A scenario of puts, commits and branches, broken at every single point in turn: each system call on an object, each object
operation, each statement and commit of the database. Whatever breaks: what was acknowledged is whole, the step that broke is
there as a whole or not at all, ``fsck`` finds nothing, and the same step works when it is tried again.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.versioning.faultruns import STEPS, CloudTemplates, LocalTemplates, Place, Templates, look
from trunkline.testing.bucket import BucketServer
from trunkline.testing.points import FaultPoints, How, in_a_fork
from trunkline.testing.postgres import Postgres
from trunkline.testing.stores import LocalStores, Stores


@pytest.fixture(scope="module")
def local() -> Iterator[LocalTemplates]:
    with LocalTemplates.in_memory() as templates:
        yield templates


@pytest.fixture(scope="module")
def cloud(postgres: Postgres, bucket_server: BucketServer) -> Iterator[CloudTemplates]:
    templates = CloudTemplates(postgres, bucket_server)
    yield templates
    templates.close()


def in_a_process(stores: Stores, step: int, points: FaultPoints) -> int:
    """Run a step in a new process, which the fault ends: the threads of the bucket's driver do not survive a fork."""
    argv = [sys.executable, "-m", "tests.versioning.faultruns", str(step), str(points.at), points.how]
    return -subprocess.run(argv, env={**os.environ, **stores.environment()}, check=False).returncode


def break_at(templates: Templates, step: int, at: int, how: How) -> None:
    """Break a fresh copy at one point, and see what is left."""
    points = FaultPoints(at, how)
    with templates.copy(step) as stores:
        place = Place(stores, points)
        if how in ("kill", "power_cut"):
            place.close()
            ended = (
                in_a_fork(lambda: place.break_it(step)[1])
                if stores.is_local
                else in_a_process(stores, step, points)
            )
            assert ended == signal.SIGKILL
            service = place.open()
        else:
            service, acknowledged = place.break_it(step)
            assert points.has_struck
            if acknowledged:  # what broke did not matter
                assert look(service) == templates.states[step + 1]
        place.check(service, step, templates.states)
        place.close()
        if how == "error" and isinstance(stores, LocalStores):
            assert list((stores.folder / "objects").rglob(".tmp-*")) == []


def every_point(templates: Templates, how: How, stride: int = 1, start: int = 0) -> int:
    """Break at every point of every step, or at one of ``stride`` of them; returns how often that was."""
    found = [
        (step, number + 1)
        for step in range(len(STEPS))
        for number, what in enumerate(templates.trail(step))
        if how != "power_cut" or not what.startswith("statement")  # there a power cut is no worse than a kill
    ]
    for step, at in found[start::stride]:
        break_at(templates, step, at, how)
    return len(found[start::stride])


@pytest.mark.slow
@pytest.mark.local_only
@pytest.mark.parametrize("how", ["error", "lost_response", "kill", "power_cut"])
def test_some_points(local: LocalTemplates, how: How) -> None:
    assert every_point(local, how, stride=19 if how == "power_cut" else 151, start=len(how)) >= 2


@pytest.mark.slow
@pytest.mark.local_only
@pytest.mark.parametrize("how", ["error", "lost_response", "kill", "power_cut"])
def test_many_points(local: LocalTemplates, how: How) -> None:
    assert every_point(local, how, stride=1 if how == "power_cut" else 5, start=1) > 25


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.local_only
@pytest.mark.parametrize("how", ["error", "lost_response", "kill", "power_cut"])
def test_every_point(local: LocalTemplates, how: How) -> None:
    assert every_point(local, how) > (25 if how == "power_cut" else 200)


@pytest.mark.slow
@pytest.mark.parametrize(("how", "stride"), [("error", 19), ("lost_response", 29), ("kill", 41)])
def test_points_on_postgresql_and_a_bucket(cloud: CloudTemplates, how: How, stride: int) -> None:
    assert every_point(cloud, how, stride=stride, start=len(how) % stride) >= 5


@pytest.mark.slow
@pytest.mark.parametrize("how", ["error", "lost_response", "kill"])
def test_every_object_operation_on_a_bucket(cloud: CloudTemplates, how: How) -> None:
    found = [
        (step, number + 1)
        for step in range(len(STEPS))
        for number, what in enumerate(cloud.trail(step))
        if what in ("object put", "commit")
    ]
    assert len(found) > 10
    for step, at in found[:: 4 if how == "kill" else 2]:
        break_at(cloud, step, at, how)
