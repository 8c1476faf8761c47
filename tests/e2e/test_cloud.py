"""The real commands on PostgreSQL and a bucket: what was put is there after a restart, and only one server may run."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from trunkline.testing.server import running_server
from trunkline.testing.stores import CloudStores

pytestmark = pytest.mark.slow


def test_a_server_on_postgresql_and_a_bucket(cloud_stores: CloudStores, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    generator = random.Random(3)
    contents = {f"d{i % 3}/{i}": generator.randbytes(30_000) for i in range(40)}
    contents["large"] = generator.randbytes(20 * 2**20)
    for name, data in contents.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(data)
    password = cloud_stores.database_url.split(":")[2].partition("@")[0]
    environment = cloud_stores.environment()
    environment["TRUNKLINE_DATABASE_URL"] = cloud_stores.database_url.replace(f":{password}@", "@")
    word = tmp_path / "password"
    word.write_text(password + "\n")
    environment["TRUNKLINE_DATABASE_PASSWORD_FILE"] = str(word)
    with running_server(tmp_path / "home", settings=environment) as server:
        assert server.cli("create", "repo", "r").returncode == 0
        done = server.cli("put", "file", "r@master:/", "-r", "-f", str(tree))
        assert done.returncode == 0, done.stderr
        status = server.cli("status").stdout.decode()
        assert f"{cloud_stores.objects_url}" in status
        assert "***@127.0.0.1" in status or "trunkline@127.0.0.1" in status
        assert password not in status

        second = running_server(tmp_path / "second", settings=environment)
        with pytest.raises(Exception, match="another server runs on the database"), second:
            pass

        server.kill()
        server.start()
        out = tmp_path / "out"
        done = server.cli("get", "file", "r@master:/", "-r", "-o", str(out))
        assert done.returncode == 0, done.stderr
        got = {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file()}
        assert got == contents
        checked = server.cli("fsck")
        assert checked.returncode == 0 and checked.stderr.startswith(b"all is well: "), checked.stderr
        assert not (tmp_path / "home" / "trunkline.db").exists()
        assert not (tmp_path / "home" / "objects").exists()
    for log in (tmp_path / "home").rglob("*.log"):
        assert password not in log.read_text()
        assert environment["AWS_SECRET_ACCESS_KEY"] not in log.read_text()
