"""``trunkline why``: each kind of reason, from real jobs."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Shell
from trunkline.pipelines.why import counted, in_words
from trunkline.sdk.work import FINAL

WAIT_SECONDS = 90.0


def spec(folder: Path, script: str, **transform: Any) -> Path:
    file = folder / "edges.json"
    file.write_text(
        json.dumps(
            {
                "pipeline": {"name": "edges"}, "input": {"pfs": {"repo": "images", "glob": "/*"}}, "datum_tries": 2,
                "transform": {"cmd": ["sh", "-e"], "stdin": script.splitlines(), **transform},
            }
        )
    )  # fmt: skip
    return file


def put(shell: Shell, **files: str) -> str:
    client = shell.server.client()
    commit = client.put_files("images@master", [(name, text.encode()) for name, text in files.items()]).id
    return ended(shell, commit)


def ended(shell: Shell, commit: str) -> str:
    client = shell.server.client()
    deadline = time.monotonic() + WAIT_SECONDS
    while commit not in [job.id for job in client.list_jobs("edges") if job.status in FINAL]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return commit


def why(shell: Shell, commit: str) -> tuple[dict[str, int], dict[str, Any]]:
    found = json.loads(shell(f"why edges@{commit} -o json").out)
    return found["kinds"], {one["paths"][0]: one for one in found["datums"]}


@pytest.mark.slow
def test_each_reason(shell: Shell, tmp_path: Path) -> None:
    shell("create repo images")
    script = 'test "$(cat /pfs/images/*)" != bad; cp /pfs/images/* /pfs/out'
    shell(f"create pipeline -f {spec(tmp_path, script)}")

    first = put(shell, a="1", b="2", c="3")
    kinds, datums = why(shell, first)
    assert kinds == {"new": 3} and datums["images:/a"]["text"] == "new"

    second = put(shell, b="other")
    kinds, datums = why(shell, second)
    assert kinds == {"changed": 1, "unchanged": 2}
    assert list(datums) == ["images:/b"] and datums["images:/b"]["text"] == "changed input images:/b"
    shown = shell(f"why edges@{second}").out.splitlines()
    assert shown[0].endswith(f"succeeded, built on job {first}")
    assert shown[1] == "3 datums: 1 with changed inputs, 2 unchanged"
    assert shown[2].split() == ["DATUM", "INPUTS", "STATUS", "WHY"] and len(shown) == 4

    third = put(shell, b="2")  # as it was in the first
    kinds, datums = why(shell, third)
    assert kinds == {"cached": 1, "unchanged": 2}
    assert (
        datums["images:/b"]["from_job"] == first and f"known from job {first}" in datums["images:/b"]["text"]
    )

    bad = put(shell, b="bad", d="4")
    kinds, datums = why(shell, bad)
    assert (kinds, datums["images:/b"]["attempts"]) == ({"new": 1, "changed": 1, "unchanged": 2}, 2)
    assert datums["images:/b"]["text"] == "changed input images:/b; 2 tries"
    assert ", 1 retried" in shell(f"why {bad}").out

    shell(f"update pipeline -f {spec(tmp_path, script + '; true', env={'X': 'y'})}")
    client = shell.server.client()
    code = ""
    deadline = time.monotonic() + WAIT_SECONDS
    while not code:
        assert time.monotonic() < deadline
        code = next((job.id for job in client.list_jobs("edges") if job.version == 2), "")
    ended(shell, code)
    kinds, datums = why(shell, code)
    assert kinds["code"] >= 2
    assert datums["images:/a"]["code"] == ["transform.stdin", "transform.env"]
    assert datums["images:/a"]["text"] == "changed code: transform.stdin, transform.env"

    shell("delete file images@master:/a")
    last = put(shell, b="fine")
    kinds, datums = why(shell, last)
    assert datums["images:/b"]["kind"] in ("changed", "again")
    page = client.why_job(f"edges@{first}", limit=2)
    assert len(page.datums) == 2 and page.next is not None
    assert len(client.why_job(f"edges@{first}").datums) == 3


@pytest.mark.slow
def test_what_is_not_there(shell: Shell) -> None:
    assert "there is no pipeline" in shell("why nosuch@" + "a" * 32, code=4).err
    assert "nothing bears the ID" in shell("why " + "a" * 32, code=4).err


@pytest.mark.parametrize(
    ("status", "reason", "attempts", "text"),
    [
        ("succeeded", {"kind": "new"}, 1, "new"),
        ("succeeded", {"kind": "changed", "files": ["a:/x", "a:/y"]}, 3, "changed input a:/x, a:/y; 3 tries"),
        (
            "succeeded", {"kind": "changed", "files": ["a:/x"], "code": ["environment"]}, 1,
            "changed input a:/x and changed code: environment",
        ),
        ("succeeded", {"kind": "forced"}, 1, "processed again by request (--reprocess, or reprocess_spec: every_job)"),
        ("failed", {"kind": "again", "was": "recovered", "from": "j1"}, 1, "again: it was recovered before, in job j1"),
        (
            "skipped", {"kind": "cached", "was": "code", "code": ["transform.cmd"], "from": "j1"}, 0,
            "not processed: the result is known from job j1 (changed code: transform.cmd)",
        ),
        ("removed", {"kind": "removed"}, 0, "its input is gone, and so is its output"),
    ],
)  # fmt: skip
def test_the_words(status: str, reason: dict[str, Any], attempts: int, text: str) -> None:
    assert in_words(status, reason, attempts) == text


def test_the_numbers() -> None:
    rows = [
        ("succeeded", {"kind": "new"}, 1), ("failed", {"kind": "new"}, 3), ("removed", {"kind": "removed"}, 0),
        ("skipped", {"kind": "cached"}, 0),
    ]  # fmt: skip
    assert counted(rows, 10) == ({"new": 2, "cached": 1, "removed": 1, "unchanged": 7}, 1)
    assert counted([], 0) == ({}, 0)
