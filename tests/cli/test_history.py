"""Tags, squash, drop, merge and find, as people type them."""

from __future__ import annotations

import json

import pytest

from tests.cli.conftest import Shell

pytestmark = pytest.mark.slow


def commit(shell: Shell, address: str, content: bytes = b"1") -> str:
    made = shell(f"put file {address} -f - -o json", stdin=content)
    return str(json.loads(made.out)["id"])


def test_tags(shell: Shell) -> None:
    shell("create repo named")
    first = commit(shell, "named@master:/a")
    commit(shell, "named@master:/a", b"2")
    done = shell("create tag named@v1.0 --commit master^ -d 'what we sent'")
    assert done.err == f"tag default/named@v1.0 names commit {first}\n"
    assert shell("get file named@v1.0:/a").out == "1"
    assert "--move" in shell("create tag named@v1.0", code=5).err
    rows = shell("list tags named").out.splitlines()
    assert rows[0].split() == ["TAG", "COMMIT", "CREATED", "DESCRIPTION"]
    assert rows[1].split()[:2] == ["v1.0", first] and rows[1].endswith("what we sent")
    assert f"Commit: {first}" in shell("inspect tag named@v1.0").out
    assert shell("list commits named@v1.0 -o json").out.count('"id"') == 1
    assert "only a branch can be written to" in shell("put file named@v1.0:/x -f -", stdin=b"", code=2).err
    assert "names a commit" in shell("delete branch named@v1.0", code=2).err
    assert "kept by tag" in shell("delete repo named", code=5).err
    shell("delete tag named@v1.0")
    assert "no tag" in shell("inspect tag named@v1.0", code=4).err
    shell("delete repo named")


def test_squash_and_drop(shell: Shell) -> None:
    shell("create repo past")
    ids = [commit(shell, f"past@master:/{n}") for n in range(4)]
    assert "use 'drop commit'" in shell("squash commit past@master", code=5).err
    assert shell("squash commit past@master^").err == f"commit default/past@{ids[2]} squashed\n"
    assert shell("drop commit past@master").err == f"commit default/past@{ids[3]} dropped\n"
    assert shell(f"delete commit {ids[1]}").err == f"commit default/past@{ids[1]} dropped\n"
    found = json.loads(shell("drop commit past@master -o json").out)
    assert [one["id"] for one in found["commits"]] == [ids[0]]
    assert json.loads(shell("list commits past -o json").out) == []
    assert "no commits yet" in shell("drop commit past@master", code=4).err


def test_merge(shell: Shell) -> None:
    shell("create repo lines")
    commit(shell, "lines@master:/a")
    shell("create branch lines@dev --head master")
    commit(shell, "lines@dev:/b")
    assert "would make one commit" in shell("merge branch lines@dev lines@master --dry-run").err
    told = shell("merge branch lines@dev lines@master -m 'all of it'").err
    assert "finished: 1 file added, 0 changed, 0 deleted" in told
    assert "has it all already" in shell("merge branch lines@dev lines@master").err
    for line, content in (("dev", b"2"), ("master", b"3")):
        for name in "ab":
            commit(shell, f"lines@{line}:/{name}", content)
    before = shell("list commits lines -o json").out
    done = shell("merge branch lines@dev lines@master", code=5)
    assert [line.split() for line in done.out.splitlines()] == [
        ["PATH", "CONFLICT"], ["/a", "both", "changed", "it"], ["/b", "both", "changed", "it"],
    ]  # fmt: skip
    assert done.err.count("\n") == 1 and "in 2 files" in done.err
    listed = json.loads(shell("merge branch lines@dev lines@master -o json", code=5).out)
    assert [one["path"] for one in listed] == ["/a", "/b"]
    assert shell("list commits lines -o json").out == before
    assert "2 conflicts settled" in shell("merge branch lines@dev lines@master --strategy theirs").err
    assert shell("get file lines@master:/a").out == "2"


def test_find_and_diff(shell: Shell) -> None:
    shell("create repo sought")
    first = commit(shell, "sought@master:/d/a")
    commit(shell, "sought@master:/other")
    last = commit(shell, "sought@master:/d/b")
    rows = shell("find commit sought@master:/d").out.splitlines()
    assert rows[0].split() == ["COMMIT", "BRANCH", "OP", "FINISHED", "DESCRIPTION"]
    assert [row.split()[:3] for row in rows[1:]] == [[last, "master", "~"], [first, "master", "+"]]
    assert len(shell("find commits sought@master:/d -n 1").out.splitlines()) == 2
    refused = shell("find commit sought@master", code=2)
    assert "names no path" in refused.err and refused.out == ""
    assert len(shell("find commit sought@master:/nope").out.splitlines()) == 1
    found = json.loads(shell(f"find commit sought@master:/d --from {first} -o json").out)
    assert [one["commit"]["id"] for one in found] == [last]
    shown = shell(f"diff file sought@master sought@{first} -s").out.splitlines()
    assert [row.split()[::2] for row in shown[1:]] == [["~", "/d/"], ["+", "/other"]]
