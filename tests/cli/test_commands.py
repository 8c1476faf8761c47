"""Commands against a real server, in this process."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import yaml

from tests.cli.conftest import Shell, run_here
from trunkline.testing.server import running_server


def test_data_in_and_out(shell: Shell, tmp_path: Path) -> None:
    source = tmp_path / "pictures"
    (source / "cats").mkdir(parents=True)
    (source / "cats" / "1.png").write_bytes(b"cat")
    (source / "dog.png").write_bytes(b"dog!")
    shell("create repo pets -d 'small ones'")
    assert shell("create repo pets", code=5).err.startswith("error: ")
    shell(f"put file pets@master:/data1 -r -f {source}")
    listed = shell("list files pets@master:/data1").out
    assert listed.splitlines()[0].split() == ["SIZE", "NAME"]
    assert "/data1/cats/" in listed and "4B   /data1/dog.png" in listed
    shell(f"get file pets@master:/data1 -r -o {tmp_path / 'out'}")
    assert (tmp_path / "out" / "cats" / "1.png").read_bytes() == b"cat"
    assert shell("get file pets@master:/data1/dog.png").out == "dog!"
    shell("put file pets@master:/note.txt -f -", stdin=b"one\n")
    shell("put file pets@master:/note.txt -a -f -", stdin=b"two\n")
    shell(f"get file pets@master:/note.txt -o {tmp_path / 'note'}")
    assert (tmp_path / "note").read_text() == "one\ntwo\n"
    assert [line.split()[0] for line in shell("diff file pets@master").out.splitlines()[1:]][-1] == "~"
    assert "/data1/cats/1.png" in shell("glob file 'pets@master:/**.png'").out
    shell("copy file pets@master:/data1 pets@master:/data2")
    shell("delete file pets@master:/data1 -r")
    names = [file["path"] for file in json.loads(shell("list files pets@master -o json").out)]
    assert names == ["/data2/", "/note.txt"]


def test_where_files_go(shell: Shell, tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(name)
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "c.txt").write_text("c")
    a, b, d = tmp_path / "a.txt", tmp_path / "b.txt", tmp_path / "d"
    shell("create repo places")
    shell(f"put file places@master -f {a}")
    shell(f"put file places@master:/one -f {a}")
    shell(f"put file places@master:/in/ -f {a}")
    shell(f"put file places@master:/many -f {a} -f {b}")
    shell(f"put file places@master -r -f {d}")
    shell(f"put file places@master:/ -r -f {d}")
    files = json.loads(shell("list files places@master -r -o json").out)
    assert {f["path"] for f in files if not f["is_dir"]} == {
        "/a.txt", "/one", "/in/a.txt", "/many/a.txt", "/many/b.txt", "/d/c.txt", "/c.txt",
    }  # fmt: skip
    for way in (f"-f {a}", f"-f {a} -p 2", f"-f {a} -f {b}", f"-r -f {d}"):
        shell("create repo bare")
        shell(f"put file bare@master: {way}")
        listed = json.loads(shell("list files bare@master -r -o json").out)
        shell("delete repo bare")
        shell("create repo bare")
        shell(f"put file bare@master:/ {way}")
        same = json.loads(shell("list files bare@master -r -o json").out)
        assert [one["path"] for one in listed] == [one["path"] for one in same]
        shell("delete repo bare")
    assert "put it with -r" in shell(f"put file places@master -f {d}", code=2).err
    assert "no file" in shell(f"put file places@master -f {tmp_path / 'nope'}", code=2).err
    commits = len(json.loads(shell("list commits places -o json").out))
    shell(f"put file places@master -f {a} -f {tmp_path / 'nope'}", code=2)
    assert len(json.loads(shell("list commits places -o json").out)) == commits


def test_open_commits(shell: Shell) -> None:
    shell("create repo opened")
    commit = shell("start commit opened@master -m first").out.strip()
    shell("put file opened@master:/a -f -", stdin=b"a")
    shell("put file opened@master:/b -f -", stdin=b"b")
    shell("finish commit opened@master")
    shell(f"wait commit opened@{commit}")
    assert "opened" in shell(f"inspect {commit}").out
    assert shell(f"inspect {'f' * 32}", code=4).err.startswith("error: nothing bears the ID")
    row = shell("list commits opened").out.splitlines()[1].split()
    assert row[:4] == ["default", "opened", "master", commit] and row[-2:] == ["USER", "first"]
    assert shell("list commits").out.splitlines()[0].split() == [
        "ID",
        "SUBCOMMITS",
        "PROGRESS",
        "CREATED",
        "MODIFIED",
    ]
    shell("create branch opened@side --head master")
    assert "side" in shell("list branches opened").out
    shell("delete branch opened@side")


@pytest.mark.slow
def test_a_pipeline_from_its_file(shell: Shell, tmp_path: Path) -> None:
    code = tmp_path / "code"
    code.mkdir()
    (code / "count.py").write_text(
        "import os, pathlib\n"
        "assert len(os.environ['GREETING']) == 5\n"
        "print('counting', os.environ['GREETING'])\n"
        "root = pathlib.Path(os.environ['numbers'])\n"
        "n = sum(1 for p in (root.rglob('*') if root.is_dir() else [root]) if p.is_file())\n"
        "pathlib.Path('/pfs/out/n').write_text(str(n))\n"
    )
    spec = {
        "pipeline": {"name": "count"},
        "input": {"pfs": {"repo": "numbers", "glob": "/"}},
        "transform": {
            "image": "trunkline", "code": "code", "cmd": ["python", "count.py"],
            "secrets": [{"name": "greeting", "key": "word", "env_var": "GREETING"}],
        },
    }  # fmt: skip
    (tmp_path / "count.json").write_text(json.dumps(spec))
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "greeting"},
        "stringData": {"word": "aloud"},
    }
    shell("apply -f -", stdin=yaml.safe_dump(secret).encode())
    listed = shell("get secrets").out
    assert "greeting" in listed and "aloud" not in listed
    shell("create repo numbers")
    shell("put file numbers@master:/1 -f -", stdin=b"1")
    shell(f"create pipeline -f {tmp_path / 'count.json'}")
    shell("wait commit count@master")
    assert shell("get file count@master:/n").out == "1"
    assert shell("logs -p count").out == "counting ***\n", "secrets stay out of logs"
    commit = json.loads(shell("list commits count -o json").out)[0]["id"]
    assert f"ID: {commit}" in shell(f"inspect job count@{commit}").out
    assert "default count" in shell("list jobs -p count").out
    assert "default/numbers:/" in shell("list pipelines").out
    assert "succeeded" in shell(f"list datums count@{commit}").out
    shell("stop pipeline count")
    shell("start pipeline count")
    shell("delete pipeline count")


def test_bad_specs_are_one_line(shell: Shell, tmp_path: Path) -> None:
    spec = {
        "pipeline": {"name": "x"},
        "input": {"pfs": {"repo": "r", "glub": "/"}},
        "transform": {"cmd": ["true"]},
    }
    (tmp_path / "x.json").write_text(json.dumps(spec))
    done = shell(f"create pipeline -f {tmp_path / 'x.json'}", code=2)
    assert "input.pfs.glub" in done.err and "did you mean 'glob'" in done.err
    spec["input"] = {"pfs": {"repo": "r", "glob": "/"}}
    spec["transform"] |= {"cmdd": ["x"], "imag": "y", "working_dir": 3}
    (tmp_path / "x.json").write_text(json.dumps(spec))
    several = shell(f"create pipeline -f {tmp_path / 'x.json'}", code=2).err
    assert len(several.splitlines()) == 1 and several.count(" | ") == 2
    shell("create repo r", code=0)
    spec["transform"] = {"cmd": ["true"], "image": "nobody/knows:1"}
    (tmp_path / "x.json").write_text(json.dumps(spec))
    unmapped = shell(f"create pipeline -f {tmp_path / 'x.json'}", code=2).err
    assert len(unmapped.splitlines()) == 1
    assert '`environments."nobody/knows:1".python = "/path/to/venv/bin/python"`' in unmapped
    (tmp_path / "y.json").write_text("{nope: [")
    assert "neither JSON nor YAML" in shell(f"create pipeline -f {tmp_path / 'y.json'}", code=2).err
    spec["input"]["pfs"] = {"repo": "r", "glob": "/"}
    spec["transform"]["code"] = "missing"
    (tmp_path / "x.json").write_text(json.dumps(spec))
    assert "there is no folder" in shell(f"create pipeline -f {tmp_path / 'x.json'}", code=2).err


def test_nothing_of_a_long_list_is_cut(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "many").mkdir()
    for number in range(1005):
        (tmp_path / "many" / f"{number:04}").write_text("")
    shell("create repo long")
    shell(f"put file long@master:/ -r -f {tmp_path / 'many'}")
    assert len(json.loads(shell("list files long@master -o json").out)) == 1005
    assert len(json.loads(shell("glob file 'long@master:/*' -o json").out)) == 1005
    assert len(json.loads(shell("diff file long@master -o json").out)) == 1005
    for _ in range(2):
        shell("put file long@master:/0000 -f -", stdin=b"x")
    assert len(json.loads(shell("list commits long -n 2 -o json").out)) == 2
    assert len(json.loads(shell("list commits long -o json").out)) == 3
    head = json.loads(shell("list commits long@master -o json").out)[1]["id"]
    assert len(json.loads(shell(f"list commits long@{head} -o json").out)) == 2


def test_what_changes_something_can_print_it(shell: Shell, tmp_path: Path) -> None:
    shell("create repo printed")
    put = json.loads(shell("put file printed@master:/a -f - -o json", stdin=b"x").out)
    shown = yaml.safe_load(shell(f"inspect commit printed@{put['id']} -o yaml").out)
    assert {name: shown[name] for name in put} == put
    assert json.loads(shell("copy file printed@master:/a printed@master:/b -o json").out)["repo"] == "printed"
    assert yaml.safe_load(shell("delete file printed@master:/a -o yaml").out)["file_count"] == 1
    spec = {"input": {"pfs": {"repo": "printed", "glob": "/"}}, "transform": {"cmd": ["true"]}}
    both = [{**spec, "pipeline": {"name": name}} for name in ("one", "two")]
    (tmp_path / "both.json").write_text(json.dumps(both))
    made = json.loads(shell(f"create pipeline -f {tmp_path / 'both.json'} -o json").out)
    assert [pipeline["name"] for pipeline in made] == ["one", "two"]
    assert json.loads(shell("stop pipeline one -o json").out)["state"] == "paused"
    for name in ("one", "two"):
        shell(f"delete pipeline {name}")


def test_a_full_disk_behind_stdout_is_one_line(shell: Shell) -> None:
    with Path("/dev/full").open("w") as full:
        argv = [sys.executable, "-m", "trunkline.cli.main", "list", "projects"]
        done = subprocess.run(
            argv, env=shell.server.env, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (6, "error: the disk is full: free some space, then try again\n")


@pytest.mark.parametrize("token", [b"", b"\xff\xfe", "ключ".encode(), b"a\x00b"])
def test_a_token_file_that_holds_none_is_one_line(shell: Shell, tmp_path: Path, token: bytes) -> None:
    home = tmp_path / "home"
    (home / "run").mkdir(parents=True)
    (home / "run" / "server.json").write_text(json.dumps({"url": "http://127.0.0.1:1"}))
    (home / "token").write_bytes(token)
    done = run_here("list repos", {**shell.server.env, "TRUNKLINE_HOME": str(home)})
    assert (done.code, done.err.splitlines()) == (
        3, [f"error: {home / 'token'} holds no token: delete it and restart the server, which makes a new one"],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"[[[bad", "trunkline.toml cannot be read: Invalid initial character"),
        (b"port = '\xff'", "trunkline.toml cannot be read: 'utf-8' codec"),
        (b"prot = 1\nlease_seconds = -1", "there is no setting 'prot'; did you mean 'port'?"),
        (
            b"[environments.x]\npyton = 'x'",
            "there is no setting 'environments.x.pyton'; did you mean 'python'?",
        ),
    ],
)
def test_a_bad_settings_file_is_one_line(tmp_path: Path, text: bytes, said: str) -> None:
    (tmp_path / "trunkline.toml").write_bytes(text)
    for command in ("up", "down"):
        done = run_here(f"{command} --home {tmp_path}", {"HOME": str(tmp_path)})
        assert done.code == 2 and said in done.err and len(done.err.splitlines()) == 1, done


def test_apply_looks_at_everything_first(shell: Shell) -> None:
    documents = "kind: Namespace\nmetadata: {name: half}\n---\nkind: Deploymnt\nmetadata: {name: x}\n"
    assert "cannot be applied" in shell("apply -f -", code=2, stdin=documents.encode()).err
    assert "half" not in shell("get namespaces").out
    shell("apply -f -", stdin=documents.split("---")[0].encode())
    assert shell("apply -f -", stdin=documents.split("---")[0].encode()).out == "namespace/half unchanged\n"
    assert "No resources found" in shell("get inferenceservices -n half").err
    shell("delete namespace half")


def test_models_and_experiments_are_listed(shell: Shell) -> None:
    shell("create model digits -d 'ten of them'")
    assert "digits" in shell("list models").out
    assert shell("list versions digits").out.split() == [
        "NUMBER",
        "NAME",
        "ALIASES",
        "METRICS",
        "PACKAGED",
        "CREATED",
    ]
    assert shell("list experiments").out.startswith("ID")
    assert "model 'digit'" in shell("inspect model digit", code=4).err
    assert yaml.safe_load(shell("inspect model digits -o yaml").out)["name"] == "digits"


def test_projects(shell: Shell) -> None:
    shell("create project vision")
    shell("create repo raw --project vision")
    assert "vision" in shell("list repos").out
    assert "raw" not in shell("list repos --project default").out
    shell("delete project vision", code=5)
    shell("delete repo raw --project vision")
    shell("delete project vision")


def test_status_and_its_link(shell: Shell) -> None:
    done = shell("status").out
    link = next(word for word in done.split() if "/login?link=" in word)
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
    with opener.open(link) as page:
        text = page.read().decode()
    assert "Inference services" in text
    status = json.loads(shell("status -o json").out)
    assert status["home"] == str(shell.server.home)


@pytest.mark.slow
def test_a_second_server_is_refused(shell: Shell) -> None:
    done = shell.server.cli("up", "--port", "0", "--gateway-port", "0")
    assert done.returncode == 5
    assert f"process {shell.server.process.pid}" in done.stderr.decode()


@pytest.mark.slow
def test_a_taken_port_is_one_line(shell: Shell, tmp_path: Path) -> None:
    port = json.loads((shell.server.home / "run" / "server.json").read_text())["port"]
    done = shell.server.cli(
        "up", "--home", str(tmp_path / "other"), "--port", str(port), "--gateway-port", "0"
    )
    assert done.returncode == 7
    said = done.stderr.decode().strip()
    assert said.count("\n") == 0 and f"port {port}" in said and "--port N" in said
    assert (tmp_path / "other").stat().st_mode & 0o777 == 0o700


@pytest.mark.slow
def test_another_host_needs_to_be_wanted(shell: Shell, tmp_path: Path) -> None:
    done = shell.server.cli("up", "--home", str(tmp_path / "other"), "--host", "0.0.0.0", "--port", "0")
    assert done.returncode == 2 and b"--remote" in done.stderr


@pytest.mark.slow
def test_a_stalled_upload_does_not_keep_the_server(tmp_path: Path) -> None:
    with running_server(tmp_path / "t") as server:
        client = server.client()
        client.create_repo("r")
        host, port = client.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as stalled:
            stalled.sendall(
                f"PUT /v1/projects/default/files?at=r@master:/x HTTP/1.1\r\nhost: {host}\r\ncontent-length: 1000\r\n"
                f"authorization: Bearer {client.token}\r\n\r\nabc".encode()
            )
            begun = time.monotonic()
            server.stop()
            assert time.monotonic() - begun < 15
