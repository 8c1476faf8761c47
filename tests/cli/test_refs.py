"""Branches that follow or wait, transactions and subscriptions, as people type them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.cli.conftest import Shell
from trunkline.errors import TrunklineError

pytestmark = pytest.mark.slow


def put(shell: Shell, address: str, text: str) -> str:
    found = shell(f"put file {address} -f - -o json", stdin=text.encode())
    return str(json.loads(found.out)["id"])


def test_deferred_processing_and_triggers(shell: Shell) -> None:
    shell("create repo photos")
    shell(
        "create branch photos@master --trigger staging --trigger-size 1KB --trigger-commits 2 --trigger-all"
    )
    said = shell("create branch photos@other --trigger stagign --trigger-size 1KB")
    assert "there was no branch default/photos@stagign: it is made, too" in said.err
    assert (
        "there was no branch"
        not in shell("create branch photos@other --trigger stagign --trigger-size 2KB").err
    )
    shell("delete branch photos@other")
    shell("create branch photos@hourly -t staging --trigger-cron '0 * * * *'")
    put(shell, "photos@staging:/a", "x" * 1000)
    second = put(shell, "photos@staging:/b", "y")
    rows = [line.split(maxsplit=2) for line in shell("list branch photos").out.splitlines()]
    assert [*rows[0][:2], *rows[0][2].split()] == ["BRANCH", "HEAD", "TRIGGER", "CREATED"]
    told = {row[0]: row[1:] for row in rows[1:]}
    assert told["master"][0] == second
    assert told["master"][1].startswith("staging on Size(1KB) and Commits(2) ")
    assert told["hourly"][0] == "-"
    assert told["hourly"][1].startswith("staging on Cron(0 * * * *) ")
    assert told["staging"][1].startswith("- ")
    shell("create branch photos@before --head staging^")
    assert shell("get file photos@before:/a").out == "x" * 1000
    shell("create branch photos@x --trigger-size 1KB", code=2)
    shell("create branch photos@x --trigger y --trigger-rate-limit sometimes", code=2)
    shell("create branch photos@master --no-trigger")
    assert json.loads(shell("inspect branch photos@master -o json").out)["trigger"] is None
    shell("delete branch photos@hourly")


def test_a_branch_that_follows(shell: Shell) -> None:
    for name in ("left", "right", "joined"):
        shell(f"create repo {name}")
    shell("create branch joined@both -p left@master -p right@master")
    made = put(shell, "left@master:/a", "1")
    put(shell, "joined@both:/sum", "1")
    shell("finish commit joined@both -m 'by hand'")
    found = json.loads(shell(f"inspect commit left@{made} -o json").out)
    assert found["all_subvenance"] == [f"default/joined@{made}"]
    text = shell("inspect branch left@master").out
    assert re.search(r"Subvenance:\n  - default/joined@both", text)
    text = shell("inspect commit joined@both").out
    assert re.search(rf"All provenance:\n  - default/left@{made}", text)
    listed = shell("list commit joined --origin auto").out.splitlines()
    assert len(listed) == 2 and made in listed[1] and "AUTO" in listed[1]
    assert len(shell("list commit joined --origin user").out.splitlines()) == 1
    assert len(shell("list commit joined --origin user --all").out.splitlines()) == 2
    shell("create branch left@master -p joined@both", code=2)
    shell("create branch joined@both --no-provenance")
    assert json.loads(shell("inspect branch joined@both -o json").out)["provenance"] == []


def test_listing_commits_and_repos(shell: Shell) -> None:
    shell("create repo scans -d 'as they came'")
    made = [put(shell, "scans@master:/a", "x" * n) for n in (100, 58645, 3)]
    lines = shell(f"list commit scans@master --from {made[0]}").out.splitlines()
    assert [made[2] in lines[1], made[1] in lines[2], len(lines)] == [True, True, 3]
    assert "57.27KiB" in lines[2]
    assert made[1] in shell("list commit scans@master^ -n 1").out
    shell("list commit --from x", code=2)
    sets = shell("list commit -n 2").out.splitlines()
    assert sets[0].split() == ["ID", "SUBCOMMITS", "PROGRESS", "CREATED", "MODIFIED"]
    assert sets[1].split()[:3] == [made[2], "1", "▇▇▇▇▇▇▇▇"]
    assert shell("list repo").out.splitlines()[0].startswith("PROJECT NAME")
    assert re.search(r"^default +scans .* ≤ 3B +as they came$", shell("list repo").out, re.MULTILINE)
    shell("update repo scans -d 'sorted'")
    found = json.loads(shell("inspect repo scans -o json").out)
    assert (found["description"], found["size"], found["branches"]) == ("sorted", 3, ["master"])


def test_transactions(shell: Shell) -> None:
    shell("create repo one")
    shell("create repo two")
    shell("finish transaction", code=5)
    started = shell("start transaction").out.strip()
    shell("start transaction", code=5)
    assert shell("start commit one@master").out.strip() == started
    shell("start commit two@master")
    shell("start commit two@master", code=5)
    assert shell("finish commit one@master").err.endswith(f"once transaction {started} is finished\n")
    refused = shell("put file one@master:/a -f -", code=5, stdin=b"x")
    assert "cannot be part of a transaction" in refused.err
    shell("inspect branch one@master", code=4)
    assert shell("inspect transaction").out.count("start_commit") == 2
    assert re.search(rf"^\* +{started} 3 ", shell("list transactions").out, re.MULTILINE)
    shell("stop transaction")
    put(shell, "one@side:/b", "now")
    shell(f"resume transaction {started}")
    shell("finish transaction")
    found = json.loads(shell(f"inspect {started} -o json").out)
    assert [(c["repo"], c["status"]) for c in found["commits"]] == [("one", "finished"), ("two", "open")]
    assert "once" not in shell("finish commit two@master").err

    started = shell("start transaction").out.strip()
    assert shell("delete repo one").err == f"repo one deleted, once transaction {started} is finished\n"
    shell("delete transaction")
    shell("inspect repo one")
    shell(f"resume transaction {started}", code=4)


def test_a_transaction_that_is_gone_elsewhere(shell: Shell) -> None:
    started = shell("start transaction").out.strip()
    shell.server.client().delete_transaction(started)
    refused = shell("create repo never", code=4)
    assert "trunkline stop transaction" in refused.err
    shell("stop transaction")
    shell("create repo after")


def test_subscribing(shell: Shell) -> None:
    shell("create repo feed")
    made = [put(shell, "feed@master:/a", str(n)) for n in range(3)]
    lines = shell("subscribe commit feed@master -n 3 -o json").out.splitlines()
    assert [json.loads(line)["id"] for line in lines] == made
    assert made[2] in shell(f"subscribe commit feed@master --from {made[1]} -n 1").out
    shell("subscribe commit feed@nothing", code=4)


def test_in_one_block_of_a_program(shell: Shell, tmp_path: Path) -> None:
    client = shell.server.client()
    client.create_repo("p")
    client.create_repo("q")
    with client.open_transaction() as inside:
        first = inside.start_commit("p@master")
        second = inside.start_commit("q@master")
    assert first.id == second.id == client.inspect_commit("q@master").id
    try:
        with client.open_transaction() as inside:
            inside.create_repo("undone")
            raise RuntimeError("changed my mind")
    except RuntimeError:
        pass
    assert "undone" not in [repo.name for repo in client.list_repos()]
    with pytest.raises(TrunklineError), client.open_transaction() as inside:
        inside.create_repo("undone")
        inside.finish_commit("p@master")
        client.finish_commit("p@master")
    assert "undone" not in [repo.name for repo in client.list_repos()]
    assert client.list_transactions() == []
