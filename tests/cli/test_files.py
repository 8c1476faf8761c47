"""Files in and out through commands, against a real server: every kind of source, every way to get, and every mistake."""

from __future__ import annotations

import gzip
import io
import itertools
import json
import os
import shutil
import stat
import subprocess
import tarfile
import unicodedata
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.cli.conftest import Shell
from tests.conftest import folder_on_disk
from tests.sources.conftest import WebServer
from trunkline.testing.server import PROGRAM, running_server

pytestmark = pytest.mark.slow

tmp_path = pytest.fixture(folder_on_disk)  # what is put with its whole path begins alike everywhere
place = pytest.fixture(folder_on_disk, scope="module")  # may be linked, as nothing in /dev


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory, place: Path) -> Iterator[Shell]:
    settings = {
        "TRUNKLINE_FETCH_HOSTS": json.dumps(["127.0.0.1"]),
        "TRUNKLINE_LINK_ROOTS": json.dumps([str(place)]),
        "TRUNKLINE_FETCH_BYTES_MAX": "1000000",
    }
    with running_server(tmp_path_factory.mktemp("home") / "t", settings=settings) as server:
        yield Shell(server)


@pytest.fixture
def web() -> Iterator[WebServer]:
    server = WebServer()
    yield server
    server.close()


@pytest.fixture
def repo(shell: Shell, request: pytest.FixtureRequest) -> str:
    name = request.node.name.split("[")[0][:60]
    shell(f"create repo {name}", code=0)
    return str(name)


def paths(shell: Shell, repo: str, path: str = "") -> list[str]:
    found = json.loads(shell(f"list files {repo}@master{path} -r -o json").out)
    return [file["path"] for file in found if not file["is_dir"]]


def commits(shell: Shell, repo: str) -> int:
    return len(json.loads(shell(f"list commits {repo} -o json").out))


def refused(shell: Shell, line: str, *words: str, code: int = 2, stdin: bytes = b"") -> None:
    done = shell(line, code=code, stdin=stdin)
    assert done.err.startswith("error: ") and len(done.err.splitlines()) == 1, done
    for word in words:
        assert word in done.err, done


def tar_bytes(**files: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def test_sources_of_all_kinds_are_one_commit(shell: Shell, repo: str, web: WebServer, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "x").write_text("x")
    (tmp_path / "a").write_text("a")
    web.serve("/sub/b%20b.txt", b"b")
    web.serve("/c.txt", b"c")
    names = tmp_path / "names"
    names.write_text(f"{tmp_path}/a\r\n\n{web.url}/c.txt\n")
    shell(f"put file {repo}@master:/in -r -f {tmp_path}/d -f {web.url}/sub/b%20b.txt -i {names}")
    assert (
        paths(shell, repo) == ["/in/a", "/in/b b.txt", "/in/c.txt", "/in/d/x"] and commits(shell, repo) == 1
    )
    shell(f"put file {repo}@master:/in/c.txt -a -f {web.url}/c.txt")
    assert shell(f"get file {repo}@master:/in/c.txt").out == "cc"
    shell(f"put file {repo}@master -f {web.url}/c.txt")
    shell(f"put file {repo}@master:/named -f {web.url}/c.txt")
    shell(f"put file {repo}@master -i -", stdin=f"{tmp_path}/a\n".encode())
    assert paths(shell, repo)[:1] == ["/a"] and {"/c.txt", "/named"} < set(paths(shell, repo))
    shell(f"put file {repo}@master:/full --full-path -f {tmp_path}/a -f {web.url}/sub/b%20b.txt")
    assert paths(shell, repo, ":/full") == sorted(["/full/sub/b b.txt", f"/full{tmp_path}/a"])


def test_archives_from_everywhere(shell: Shell, repo: str, web: WebServer, tmp_path: Path) -> None:
    packed = gzip.compress(tar_bytes(one=b"1"))
    (tmp_path / "a.tar.gz").write_bytes(packed)
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("two", "2")
    web.serve("/c.tgz", gzip.compress(tar_bytes(three=b"3")))
    shell(f"put file {repo}@master --untar -f {tmp_path}/a.tar.gz")
    shell(f"put file {repo}@master:/stdin --untar -f -", stdin=packed)
    shell(
        f"put file {repo}@master:/all --untar -f {tmp_path}/a.tar.gz -f {tmp_path}/b.zip -f {web.url}/c.tgz"
    )
    assert paths(shell, repo) == ["/all/one", "/all/three", "/all/two", "/one", "/stdin/one"]
    assert commits(shell, repo) == 3
    evil = tar_bytes(**{"good": b"1", "../evil": b"2"})
    refused(shell, f"put file {repo}@master --untar -f -", "'../evil' leads out of it", stdin=evil)
    refused(shell, f"put file {repo}@master --untar -f -", "no tar at all", stdin=b"hello" * 200)
    refused(shell, f"put file {repo}@master --untar -f {tmp_path}", "is a folder")
    refused(shell, f"put file {repo}@master --untar -f {tmp_path}/none", "there is no file", code=4)
    assert commits(shell, repo) == 3


def test_bad_sources(shell: Shell, repo: str, web: WebServer, tmp_path: Path) -> None:
    a, empty = tmp_path / "a", tmp_path / "empty"
    a.write_text("a")
    (tmp_path / "e").mkdir()
    (tmp_path / "e" / "a").write_text("other")
    empty.write_text("\n\n")
    os.mkfifo(tmp_path / "pipe")
    web.serve("/big", b"x" * 1_000_001)
    web.redirect("/out", "http://169.254.169.254/latest/meta-data/")
    put = f"put file {repo}@master"
    refused(shell, put, "nothing to put")
    refused(shell, f"{put} -i {empty}", "is empty")
    refused(shell, f"{put} -i {tmp_path}/none", "cannot be read")
    refused(shell, f"{put} -f - -f -", "once")
    refused(shell, f"{put}:/x -f - -i -", "once", stdin=b"x")
    refused(shell, f"{put} -i -", "stdin cannot be in a list", stdin=b"-\n")
    refused(shell, f"{put} -f -", "stdin is one file", stdin=b"x")
    refused(shell, f"{put}:/d/ -f -", "stdin is one file", stdin=b"x")
    refused(shell, f"{put} -f ''", "empty")
    refused(shell, f"{put} -f {tmp_path}/pipe", "no plain file")
    bad, names = tmp_path / "\udcffz", tmp_path / "names"
    bad.write_text("")
    names.write_bytes(os.fsencode(f"{bad}\n"))
    for way in (f"-f {bad}", f"-i {names}", f"-f {bad} --full-path", f"-f {a} -f {bad} -p 4"):
        refused(shell, f"{put} {way}", "\ufffdz has a name that is not UTF-8: rename it")
    refused(shell, f"{put} -f {a} -f {tmp_path}/e/a", "put them apart", code=5)
    refused(shell, f"{put} -f {tmp_path}/e", "with -r")
    refused(shell, f"{put} -f {web.url}/none", "does not exist", code=4)
    refused(shell, f"{put} -f {web.url}/big", "fetch_bytes_max", code=6)
    refused(shell, f"{put} -f {web.url}/out", "169.254.169.254", "fetch_hosts", code=3)
    refused(shell, f"{put} -f http://10.255.255.1/x", "fetch_private", code=3)
    refused(shell, f"{put} -f http://u:secret@127.0.0.1/x", "not usable")
    refused(shell, f"{put} -f {web.url}/", "no name for a file")
    refused(shell, f"{put}:/a/../b -f {a}", "'..' is not allowed")
    refused(shell, f"{put}:/{'x' * 300} -f {a}", "255 bytes")
    refused(shell, f"{put}:/{'x/' * 5000}x -f {a}", "4096")
    refused(shell, f"put file {repo}@master^ -f {a}", "ancestor")
    refused(shell, f"put file nope@master -f {a}", "no repo", code=4)
    refused(shell, f"put file {repo}@{'f' * 32}:/a -f {a}", "no commit", code=4)
    refused(shell, f"{put} --link --untar -f {a}", "--link")
    assert commits(shell, repo) == 0
    shell(f"{put} -f {a}")
    done = json.loads(shell(f"list commits {repo} -o json").out)[0]["id"]
    refused(shell, f"put file {repo}@{done}:/b -f {a}", "finished", code=5)


def test_get_in_every_way(shell: Shell, repo: str, tmp_path: Path) -> None:
    source = tmp_path / "s"
    (source / "d").mkdir(parents=True)
    files = {"a.txt": b"0123456789", "b.txt": b"b", "d/c.txt": b"c", "d/{x}": b"braces"}
    for name, data in files.items():
        (source / name).write_bytes(data)
        os.utime(source / name, ns=(1, 1_700_000_000_123_456_789))
    (source / "b.txt").chmod(0o755)
    shell(f"put file {repo}@master:/ -r -f {source}")
    get = f"get file {repo}@master"
    assert shell(f"{get}:/a.txt --offset 2 --length 3").out == "234"
    assert shell(f"{get}:/a.txt --offset 8 --length 99").out == "89"
    assert shell(f"{get}:/d/c*").out == "c" and shell(f"{get}:/{{z,b}}.txt").out == "b"
    assert shell(f"{get}:'/d/{{x}}'").out == "braces", "a name that is there is meant as it is"
    shell(f"{get}:/a.txt -o {tmp_path}/one --no-progress --offset 9")
    assert (tmp_path / "one").read_bytes() == b"9"
    assert shell(f"{get}:/b.txt -o -").out == "b", "- is stdout, as it is stdin for put"
    assert shell(f"{get}:/d/c.txt -r -o {tmp_path}/alone").err.startswith("1 file in ")
    shell(f"{get}:/ -r -o {tmp_path}/all")
    shell(f"{get}:/*.txt -r -o {tmp_path}/some")
    assert sorted(p.name for p in (tmp_path / "some").rglob("*") if p.is_file()) == ["a.txt", "b.txt"]
    for name, data in files.items():
        found = (tmp_path / "all" / name).stat()
        assert (tmp_path / "all" / name).read_bytes() == data
        assert found.st_mtime_ns == 1_700_000_000_123_456_789
        assert bool(found.st_mode & stat.S_IXUSR) == (name == "b.txt")
    shell(f"{get}:/ --tar -o {tmp_path}/all.tar")
    shell(f"put file {repo}@again --untar -f {tmp_path}/all.tar")
    first, second = (json.loads(shell(f"inspect file {repo}@{b}:/ -o json").out) for b in ("master", "again"))
    assert first["hash"] == second["hash"]
    times = {
        f["modified_ns"]
        for f in json.loads(shell(f"list files {repo}@again -r -o json").out)
        if not f["is_dir"]
    }
    assert times == {1_700_000_000_123_456_789}
    with tarfile.open(tmp_path / "all.tar") as archive:
        assert sorted(archive.getnames()) == sorted(files)
    shell(f"{get}:/d/c.txt --tar -o {tmp_path}/c.tar")
    shell(f"{get}:/*.txt --tar -o {tmp_path}/g.tar")
    with tarfile.open(tmp_path / "c.tar") as archive, tarfile.open(tmp_path / "g.tar") as other:
        assert archive.getnames() == ["d/c.txt"] and other.getnames() == ["a.txt", "b.txt"]


def test_a_pipe_that_is_got_into_stays_a_pipe(shell: Shell, repo: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"0123456789")
    shell(f"put file {repo}@master:/ -f {tmp_path}/a.txt")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        shell(f"get file {repo}@master:/a.txt -o {pipe} --no-progress")
        assert os.read(reader, 100) == b"0123456789"
    finally:
        os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode), "as root, /dev/null would have become a file"


def test_bad_ways_to_get(shell: Shell, repo: str, tmp_path: Path) -> None:
    shell(f"put file {repo}@master:/a -f -", stdin=b"12345")
    shell(f"put file {repo}@master:/d/b -f -", stdin=b"b")
    shell(f"put file {repo}@master:/d/c -f -", stdin=b"c")
    get = f"get file {repo}@master"
    refused(shell, f"{get}:/a --offset 5", "behind the end of /a, which has 5 bytes")
    refused(shell, f"{get}:/a --offset 99 --length 1", "behind the end")
    refused(shell, f"{get}:/a --offset -1", "--offset")
    refused(shell, f"{get}:/a --length 0", "--length")
    refused(shell, f"{get}:/ -r -o {tmp_path}/x --offset 1", "one file")
    refused(shell, f"{get}:/d/*", "matches /d/b, /d/c")
    refused(shell, f"{get}:/x*", "none matches it", code=4)
    refused(shell, f"{get}:/d", "-r")
    refused(shell, f"{get}:/nope", "no file or directory /nope", code=4)
    refused(shell, f"get file {repo}@nope:/a", "no branch", code=4)
    refused(shell, f"{get} -r", "-o FOLDER")
    refused(shell, f"{get} -r -o -", "-o FOLDER")
    refused(shell, f"{get}:/a -o {tmp_path}/none/x", "cannot write", code=7)
    refused(shell, f"{get}:/x* -r -o {tmp_path}/x", "holds no file that matches /x*", code=4)
    refused(shell, f"{get}:/x* --tar -o {tmp_path}/x.tar", "holds no file that matches /x*", code=4)
    (tmp_path / "into").mkdir()
    refused(shell, f"{get}:/a -o {tmp_path}/into", "is a folder: write -o", "into/NAME")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "into" / "d").symlink_to(tmp_path / "elsewhere")
    done = shell(f"{get}:/ -r -o {tmp_path}/into", code=2)
    assert "link" in done.err and list((tmp_path / "elsewhere").iterdir()) == []


def test_lists_walks_and_globs(shell: Shell, repo: str) -> None:
    for name in ("cats/1.png", "cats/2.jpg", "dogs/3.png", "x[1].txt"):
        shell(f"put file {repo}@master:'/{name}' -f -", stdin=b"x")
    found = json.loads(shell(f"glob file '{repo}@master:/(*)/(*).png' -o json").out)
    assert [(f["path"], f["groups"]) for f in found] == [
        ("/cats/1.png", ["cats", "1"]),
        ("/dogs/3.png", ["dogs", "3"]),
    ]
    for pattern, expected in (
        ("/**.png", ["/cats/1.png", "/dogs/3.png"]), ("/{cats,dogs}/?.jpg", ["/cats/2.jpg"]),
        ("/[!d]*/*", ["/cats/1.png", "/cats/2.jpg"]), ("/cats", ["/cats/"]), (r"/x\[1\].txt", ["/x[1].txt"]), ("/none*", []),
    ):  # fmt: skip
        found = json.loads(shell(f"glob file {repo}@master:'{pattern}' -o json").out)
        assert [file["path"] for file in found] == expected, pattern
    assert len(shell(f"glob file {repo}@master:/** -n 2").out.splitlines()) == 3
    walked = shell(f"walk file {repo}@master:/cats").out.splitlines()
    assert [line.split()[-1] for line in walked] == ["/cats/1.png", "/cats/2.jpg"]
    lines = shell(f"walk file {repo}@master:/cats -o json").out.splitlines()
    assert [json.loads(line)["path"] for line in lines] == ["/cats/1.png", "/cats/2.jpg"]
    assert len(shell(f"walk file {repo}@master -n 2").out.splitlines()) == 2
    assert len(json.loads(shell(f"list file {repo}@master -n 1 -o json").out)) == 1
    refused(shell, f"glob file {repo}@master:'/['", "never closed")
    refused(shell, f"glob file {repo}@master", "no pattern")
    refused(shell, f"walk file {repo}@master:/none", "no file or directory", code=4)
    refused(shell, f"list file {repo}@master -n -1", "-n")


def test_delete_and_copy(shell: Shell, repo: str) -> None:
    for name in ("a", "b", "c.tmp", "d.tmp", "e/f", "e/g.tmp"):
        shell(f"put file {repo}@master:/{name} -f -", stdin=name.encode())
    before = commits(shell, repo)
    refused(shell, f"delete file {repo}@master:/e", "-r")
    refused(shell, f"delete file {repo}@master:/a {repo}@master:/nope", "/nope", code=4)
    refused(shell, f"delete file {repo}@master:/a {repo}@other:/b", "one branch")
    refused(shell, f"delete file {repo}@master", "a path is missing")
    refused(shell, f"delete file {repo}@master:'/*' -g", "-r to delete it")
    refused(shell, f"delete file {repo}@master:'/*.none' -g", "matches", code=4)
    assert commits(shell, repo) == before
    shell(f"delete file {repo}@master:/a {repo}@master:/b")
    shell(f"delete file {repo}@master:'/**.tmp' -g")
    assert paths(shell, repo) == ["/e/f"] and commits(shell, repo) == before + 2
    shell(f"copy file {repo}@master:/e/f {repo}@master:/g")
    shell(f"copy file {repo}@master:/e/f {repo}@master:/g -a")
    assert shell(f"get file {repo}@master:/g").out == "e/fe/f"
    shell(f"create repo {repo}-2")
    shell(f"copy file {repo}@master:/e {repo}-2@master:/e")
    shell(f"copy file {repo}@master:/e {repo}-2@master:/e -a")
    assert shell(f"get file {repo}-2@master:/e/f").out == "e/fe/f"
    refused(shell, f"copy file {repo}@master:/none {repo}@master:/x", "no /none", code=4)
    shell(f"delete file {repo}@master:/e -r")
    assert paths(shell, repo) == ["/g"]


def test_links(shell: Shell, repo: str, place: Path, tmp_path: Path) -> None:
    folder = place / repo
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "a").write_bytes(b"a" * 5000)
    (folder / "b").write_bytes(b"bb")
    shell(f"put file {repo}@master --link -r -f {folder}")
    assert paths(shell, repo) == [f"/{repo}/b", f"/{repo}/sub/a"]
    assert shell(f"get file {repo}@master:/{repo}/b").out == "bb"
    assert f"/{repo}/b -> {folder}/b" in shell(f"list file {repo}@master:/{repo}").out
    assert f"Linked: file://{folder}/b" in shell(f"inspect file {repo}@master:/{repo}/b").out
    shell(f"put file {repo}@master:/one --link -f {folder}/b")
    refused(shell, f"put file {repo}@master --link -f {folder}", "-r")
    refused(shell, f"put file {repo}@master --link -f {tmp_path} -r", "link_roots", code=3)
    refused(shell, f"put file {repo}@master --link -f {folder}/none", "there is no", code=4)
    refused(shell, f"put file {repo}@master --link -f https://example.org/x", "can be linked")
    refused(shell, f"put file {repo}@master:/x --link -f -", "linked", stdin=b"x")
    (folder / "b").write_bytes(b"xx")
    refused(shell, f"get file {repo}@master:/one", f"{folder}/b", "put the content again", code=70)
    assert str(folder / "b") in shell("fsck", code=70).out + shell("fsck", code=70).err
    refused(shell, f"put file {repo}@master:/ --unlink", f"{folder}/b", code=70)
    (folder / "b").write_bytes(b"bb")
    assert "2 files" in shell(f"put file {repo}@master:/{repo} --unlink").err
    (folder / "b").unlink()
    assert shell(f"get file {repo}@master:/one").out == "bb"
    assert "->" not in shell(f"list file {repo}@master -r").out
    refused(shell, f"put file {repo}@master --unlink -f x", "--unlink")


def test_names_that_look_alike(shell: Shell, repo: str, tmp_path: Path) -> None:
    for name in ("caf\u00e9", "cafe\u0301"):
        (tmp_path / name).write_text(name)
    refused(shell, f"put file {repo}@master:/ -r -f {tmp_path}", "allow_lookalikes", code=5)
    assert commits(shell, repo) == 0


def test_open_commits_take_everything(shell: Shell, repo: str, web: WebServer, tmp_path: Path) -> None:
    web.serve("/u", b"u")
    shell(f"start commit {repo}@master")
    shell(f"put file {repo}@master -f {web.url}/u")
    shell(f"put file {repo}@master --untar -f -", stdin=tar_bytes(t=b"t"))
    shell(f"copy file {repo}@master:/u {repo}@master:/v")
    shell(f"delete file {repo}@master:/u")
    shell(f"finish commit {repo}@master")
    assert paths(shell, repo) == ["/t", "/v"] and commits(shell, repo) == 1


NAMES = st.text(
    st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="/"), min_size=1, max_size=8
).filter(
    lambda name: (
        name not in (".", "..")
        and unicodedata.is_normalized("NFC", name)
        and unicodedata.is_normalized("NFD", name)
    )
)
TREES = st.dictionaries(
    st.lists(NAMES, min_size=1, max_size=3).map("/".join),
    st.tuples(st.binary(max_size=40), st.integers(-(10**17), 4 * 10**18), st.booleans()),
    min_size=1,
    max_size=6,
).filter(lambda tree: not any(a != b and b.startswith(a + "/") for a in tree for b in tree))
NUMBER = itertools.count()


@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tree=TREES)
def test_contents_times_and_modes_survive_every_way(
    shell: Shell, place: Path, tree: dict[str, tuple[bytes, int, bool]]
) -> None:
    repo, folder = f"round{next(NUMBER)}", place / "round"
    shutil.rmtree(folder, ignore_errors=True)
    source = folder / "in"
    for name, (data, modified_ns, executable) in tree.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(data)
        (source / name).chmod(0o755 if executable else 0o644)
        os.utime(source / name, ns=(modified_ns, modified_ns))
    expected = seen(source)
    shell(f"create repo {repo}")
    shell(f"put file {repo}@put:/ -r -f {source}")
    shell(f"put file {repo}@link:/ -r --link -f {source}")
    shell(f"get file {repo}@put:/ --tar -o {folder}/t.tar")
    shell(f"put file {repo}@tar --untar -f {folder}/t.tar")
    shell(f"copy file {repo}@tar:/ {repo}@copy:/")
    trees = [
        json.loads(shell(f"list file {repo}@{branch} -r -o json").out)
        for branch in ("put", "link", "tar", "copy")
    ]
    for found in trees:
        got = {
            f["path"][1:]: (f["modified_ns"], f["executable"], f["hash"]) for f in found if not f["is_dir"]
        }
        assert {name: value[:2] for name, value in got.items()} == {
            name: value[1:] for name, value in expected.items()
        }
    for branch in ("put", "link", "copy"):
        shell(f"get file {repo}@{branch}:/ -r -o {folder}/{branch}")
        assert seen(folder / branch) == expected


def seen(folder: Path) -> dict[str, tuple[bytes, int, bool]]:
    found = {}
    for path in folder.rglob("*"):
        if path.is_file():
            info = path.stat()
            name = path.relative_to(folder).as_posix()
            found[name] = (path.read_bytes(), info.st_mtime_ns, bool(info.st_mode & stat.S_IXUSR))
    return found


def test_a_reader_that_has_enough_is_no_error(shell: Shell, repo: str, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(os.urandom(4 * 2**20))
    shell(f"put file {repo}@master:/big -f {tmp_path}/big")
    for line in (f"get file {repo}@master:/big", f"get file {repo}@master:/ --tar"):
        argv = [*PROGRAM, *line.split()]
        with subprocess.Popen(
            argv, env=shell.server.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            assert process.stdout is not None and process.stderr is not None
            assert len(process.stdout.read(1000)) == 1000
            process.stdout.close()
            assert process.stderr.read() == b"" and process.wait() == 0


# --- put again what hardly changed ---


def test_changed_sends_only_what_differs(shell: Shell, repo: str, tmp_path: Path) -> None:
    folder = tmp_path / "pets"
    for name in ("a/1", "a/2", "a-b", "b/c/3", "z"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    put = f"put file {repo}@master:/in -r -f {folder} --changed"
    shell(put)  # neither the branch nor the path is there yet
    assert paths(shell, repo) == ["/in/a-b", "/in/a/1", "/in/a/2", "/in/b/c/3", "/in/z"]
    assert "nothing differs" in shell(put).err and shell(f"{put} -o json").out == "null\n"
    assert commits(shell, repo) == 1
    (folder / "a/2").write_text("longer")
    (folder / "z").chmod(0o755)
    os.utime(folder / "a-b", ns=(5, 5))
    (folder / "b/c/4").write_text("new")
    (folder / "a/1").unlink()
    hidden = (folder / "b/c/3").stat()
    (folder / "b/c/3").write_text("b/c/X")
    os.utime(folder / "b/c/3", ns=(hidden.st_atime_ns, hidden.st_mtime_ns))
    shell(put)
    assert commits(shell, repo) == 2
    files = {
        one["path"]: one for one in json.loads(shell(f"list files {repo}@master:/in -r -o json").out) if not one["is_dir"]
    }  # fmt: skip
    assert sorted(files) == ["/in/a-b", "/in/a/1", "/in/a/2", "/in/b/c/3", "/in/b/c/4", "/in/z"]
    assert (files["/in/a/2"]["size"], files["/in/z"]["executable"], files["/in/a-b"]["modified_ns"]) == (
        6,
        True,
        5,
    )
    assert shell(f"get file {repo}@master:/in/b/c/3").out == "b/c/3"  # as the guide says
    assert "nothing differs" in shell(put).err


def test_changed_of_single_files_and_beside_folders(shell: Shell, repo: str, tmp_path: Path) -> None:
    for name in ("x/b", "x/a", "y/c", "d"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    line = f"put file {repo}@master -r -f {tmp_path}/y -f {tmp_path}/d -f {tmp_path}/x/b -f {tmp_path}/x/a --changed"
    shell(line)
    assert "nothing differs" in shell(line).err and commits(shell, repo) == 1
    (tmp_path / "x/a").write_text("other")
    (tmp_path / "y/e").write_text("more")
    shell(line)
    changed = json.loads(shell(f"diff file {repo}@master:/ -o json").out)
    assert sorted((one["op"], one["new"]["path"]) for one in changed) == [
        ("added", "/y/e"),
        ("changed", "/a"),
    ]


def test_changed_is_for_local_files(shell: Shell, repo: str, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    refused(shell, f"put file {repo}@master:/f -f - --changed", "no stdin")
    refused(shell, f"put file {repo}@master -f http://127.0.0.1:1/f --changed", "no URL")
    for option in ("--append", "--untar", "--link"):
        refused(shell, f"put file {repo}@master -f {tmp_path}/f --changed {option}", "--changed compares")
    assert commits(shell, repo) == 0
    shell(f"put file nowhere@master -f {tmp_path}/f --changed", code=4)
