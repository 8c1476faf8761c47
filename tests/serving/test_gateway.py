"""The gateway's process: found again, started again, and honest about ports."""

from __future__ import annotations

import dataclasses
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
import urllib3

from trunkline.core.clock import SystemClock
from trunkline.errors import UnavailableError
from trunkline.jobs.engines.process import ProcessEngine
from trunkline.jobs.pool import ProcessTable
from trunkline.serving import envoy
from trunkline.serving.gateway import Gateway
from trunkline.settings import Settings
from trunkline.storage.db.engine import Database
from trunkline.storage.db.schema import processes


@pytest.fixture
def table(db: Database) -> ProcessTable:
    return ProcessTable(db, SystemClock(), {"process": ProcessEngine()})


@pytest.fixture
def gateway(tmp_path: Path, table: ProcessTable) -> Iterator[Gateway]:
    made = Gateway(settings=Settings(home=tmp_path / "home", gateway_port=0), table=table)
    yield made
    made.stop()


def status_of(gateway: Gateway) -> int:
    return urllib3.request("GET", gateway.url, retries=False, timeout=5.0).status


@pytest.mark.slow
def test_started_again_on_the_same_port_with_what_it_had(
    gateway: Gateway, table: ProcessTable, tmp_path: Path
) -> None:
    gateway.ensure()
    url = gateway.url
    assert status_of(gateway) == 404
    (process,) = table.running("gateway")
    assert process.handle is not None
    os.kill(int(process.handle["pid"]), signal.SIGKILL)
    while table.is_alive(process):
        time.sleep(0.01)
    later = Gateway(settings=Settings(home=tmp_path / "home", gateway_port=0), table=table)
    route = envoy.Route(
        host="b.a.example.com", cluster="a/b-1", timeout_seconds=1.0, headers={"x-trunkline-id": "50%"}
    )
    later.sync(lambda: ([envoy.Cluster(name="a/b-1", ports=(1,))], [route]))
    assert later.url == url
    assert status_of(later) == 404
    answer = urllib3.request("GET", url, headers={"Host": "b.a.example.com"}, retries=False)
    assert (answer.status, answer.headers["x-trunkline-id"]) == (504, "50%"), "held until its time is up"
    assert answer.headers["x-request-id"]
    later.sync(lambda: ([], []))
    assert urllib3.request("GET", url, headers={"Host": "b.a.example.com"}, retries=False).status == 404


def test_a_launch_that_a_crash_cut_short_is_adopted(
    gateway: Gateway, table: ProcessTable, db: Database
) -> None:
    gateway.ensure()
    (process,) = table.running("gateway")
    with db.write() as connection:
        connection.execute(sa.update(processes).values(handle=None, status="starting"))
    gateway.ensure()
    (adopted,) = table.running("gateway")
    assert adopted == dataclasses.replace(process, handle=adopted.handle)
    assert adopted.handle == process.handle


def test_a_port_that_is_taken(tmp_path: Path, table: ProcessTable) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        gateway = Gateway(settings=Settings(home=tmp_path / "home", gateway_port=port), table=table)
        with pytest.raises(UnavailableError, match=f"port {port} of 127.0.0.1.*--gateway-port") as caught:
            gateway.ensure()
    assert caught.value.kind == "port_taken"
    assert table.running("gateway") == []


def test_without_envoy(tmp_path: Path, table: ProcessTable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "envoy", None)  # as if the wheel were not installed
    gateway = Gateway(settings=Settings(home=tmp_path / "home", gateway_port=0), table=table)
    with pytest.raises(UnavailableError, match=r"pip install 'trunkline\[serve\]'") as caught:
        gateway.ensure()
    assert caught.value.kind == "no_envoy"


def test_its_admin_interface_is_its_own(gateway: Gateway, tmp_path: Path) -> None:
    gateway.ensure()
    folder = tmp_path / "home" / "run" / "gateway"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "admin.sock").is_socket()
