"""The specs of docs/guides/outputs.md do what it says of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.pipelines.test_staying import eventually, fetch
from trunkline.errors import NotFoundError
from trunkline.pipelines.spec import parse_spec
from trunkline.testing.programs import free_ports
from trunkline.testing.server import ServerHarness, running_server

GUIDE = (Path(__file__).parents[2] / "docs" / "guides" / "outputs.md").read_text()
SPECS: dict[str, dict[str, Any]] = {}
for text in re.findall(r"```json\n(\{.*?)```", GUIDE, re.DOTALL):
    SPECS[json.loads(text)["pipeline"]["name"]] = json.loads(text)
[TABLES] = re.findall(r"```json\n(\"egress\".*?)```", GUIDE, re.DOTALL)
[PYTHON] = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reports")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Iterator[ServerHarness]:
    settings = {"TRUNKLINE_EGRESS_FOLDERS": json.dumps([str(folder)])}
    with running_server(tmp_path_factory.mktemp("home") / "t", settings=settings) as found:
        yield found


def test_every_spec_is_one() -> None:
    assert set(SPECS) == {"report", "site", "ticks", "features"}
    for spec in SPECS.values():
        parse_spec(spec, "default")
    parse_spec({**SPECS["report"], **json.loads(f"{{{TABLES}}}")}, "default")


@pytest.mark.slow
def test_a_report_is_in_the_folder_when_its_commit_is_finished(
    server: ServerHarness, folder: Path, tmp_path: Path
) -> None:
    client = server.client()
    client.create_repo("sales")
    client.put_file("sales@master:/may", b"7")
    (tmp_path / "report.py").write_text(
        "import os, shutil\nshutil.copytree('/pfs/sales', '/pfs/out', dirs_exist_ok=True)\n"
    )
    spec = {**SPECS["report"], "egress": {"URL": folder.as_uri()}}
    client.create_pipeline(spec, folder=tmp_path)
    client.wait_commit("report@master")
    assert [file.name for file in folder.iterdir()] == ["may"]
    [job] = client.list_jobs("report")
    assert (job.egress["files_written"], job.egress["target"]) == (1, folder.as_uri())


@pytest.mark.slow
def test_a_site(server: ServerHarness) -> None:
    client = server.client()
    client.create_repo("pages")
    client.put_file("pages@master:/hello", b"hello")
    internal, external = free_ports(2)
    client.create_pipeline(
        {**SPECS["site"], "service": {"internal_port": internal, "external_port": external}}
    )
    assert eventually(lambda: fetch(external, "/hello"), "it serves") == ["hello"]
    client.delete_pipeline("site")


@pytest.mark.slow
def test_ticks(server: ServerHarness) -> None:
    client = server.client()
    client.create_pipeline(SPECS["ticks"])

    def first() -> bytes | None:
        try:
            found = client.list_files("ticks@master")
        except NotFoundError:
            return None
        return client.get_file(f"ticks@master:{found[0].path}").read() if found else None

    assert eventually(first, "it commits") == b"one\n"
    client.delete_pipeline("ticks")


@pytest.mark.slow
def test_features(server: ServerHarness, tmp_path: Path) -> None:
    client = server.client()
    client.create_repo("tables")
    client.put_file("tables@master:/2026.csv", b"a,b\n")
    (tmp_path / "features.py").write_text(PYTHON)
    client.create_pipeline(SPECS["features"], folder=tmp_path)
    client.wait_commit("features@master")
    assert client.get_file("features@master:/features.csv").read() == b"a,b\n"
