"""Changing and naming history over HTTP."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.testclient import TestClient

from trunkline.access.model import Scope
from trunkline.services import Services


@pytest.fixture(autouse=True)
def commits(owner: TestClient) -> list[str]:
    owner.post("/v1/projects/default/repos", json={"name": "data"}).raise_for_status()
    return [put(owner, "data@master:/n", b"%d" % n) for n in range(3)]


def put(client: TestClient, at: str, content: bytes) -> str:
    answer = client.put("/v1/projects/default/files", params={"at": at}, content=content)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


def post(client: TestClient, path: str, **body: Any) -> Any:
    return client.post(f"/v1/projects/default/{path}", json=body)


def test_tags(owner: TestClient, commits: list[str]) -> None:
    made = post(owner, "repos/data/tags", name="v1.0", commit="master^")
    assert (made.status_code, made.json()["commit"]) == (201, commits[1])
    post(owner, "repos/data/tags", name="v1.1")
    page = owner.get("/v1/projects/default/repos/data/tags", params={"limit": 1}).json()
    assert [one["name"] for one in page["items"]] == ["v1.0"] and page["next"] == "v1.0"
    page = owner.get("/v1/projects/default/repos/data/tags", params={"cursor": "v1.0"}).json()
    assert [one["name"] for one in page["items"]] == ["v1.1"] and page["next"] is None
    got = owner.get("/v1/projects/default/files", params={"at": "data@v1.0:/n"})
    assert got.content == b"1"
    taken = post(owner, "repos/data/tags", name="v1.0", commit="master")
    assert (taken.status_code, taken.json()["error"]["kind"]) == (409, "tag_exists")
    assert (
        post(owner, "repos/data/tags", name="v1.0", commit="master", move=True).json()["commit"] == commits[2]
    )
    assert post(owner, "repos/data/tags", name="a b").json()["error"]["kind"] == "bad_name"
    assert owner.delete("/v1/projects/default/repos/data/tags/v1.1").status_code == 204
    assert owner.get("/v1/projects/default/repos/data/tags/v1.1").json()["error"]["kind"] == "no_tag"


def test_squash_and_drop(owner: TestClient, commits: list[str]) -> None:
    kind = post(owner, "commits/squash", at="data@master").json()["error"]["kind"]
    assert kind == "no_child"
    gone = post(owner, "commits/squash", at=f"data@{commits[1]}")
    assert [one["id"] for one in gone.json()["commits"]] == [commits[1]]
    gone = post(owner, "commits/drop", at=commits[2])
    assert (gone.status_code, gone.json()["opened"]) == (200, [])
    head = owner.get("/v1/projects/default/repos/data/branches/master").json()["head"]
    assert head == commits[0]
    refused = post(owner, "commits/drop", at="data@nope")
    assert (refused.status_code, refused.json()["error"]["kind"]) == (404, "no_branch")
    assert post(owner, "commits/drop", at="data@master", force=True).status_code == 422


def test_merge(owner: TestClient, commits: list[str]) -> None:
    post(owner, "repos/data/branches", name="dev", head="master")
    put(owner, "data@dev:/new", b"1")
    put(owner, "data@master:/n", b"9")
    tried = post(owner, "merge", source="data@dev", target="data@master", dry_run=True).json()
    assert (tried["commit"], tried["added"], tried["base"]) == (None, 1, commits[2])
    done = post(owner, "merge", source="data@dev", target="data@master").json()
    assert done["commit"]["file_count"] == 2
    put(owner, "data@dev:/n", b"8")
    answer = post(owner, "merge", source="data@dev", target="data@master")
    error = answer.json()["error"]
    assert (answer.status_code, error["kind"]) == (409, "merge_conflict")
    assert error["details"]["conflicts"] == [{"path": "/n", "reason": "both changed it"}]
    assert post(owner, "merge", source="data@dev", target="data@master", strategy="mine").status_code == 422
    done = post(owner, "merge", source="data@dev", target="data@master", strategy="theirs").json()
    assert done["conflict_count"] == 1 and done["conflicts"][0]["path"] == "/n"


def test_find(owner: TestClient, commits: list[str]) -> None:
    put(owner, "data@master:/other", b"1")
    query = {"at": "data@master:/n", "limit": 2}
    page = owner.get("/v1/projects/default/commits/find", params=query).json()
    assert [(one["commit"]["id"], one["op"]) for one in page["items"]] == [
        (commits[2], "changed"),
        (commits[1], "changed"),
    ]
    rest = owner.get("/v1/projects/default/commits/find", params={**query, "cursor": page["next"]}).json()
    assert [one["op"] for one in rest["items"]] == ["added"] and rest["next"] is None
    bad = owner.get("/v1/projects/default/commits/find", params={"at": "data@master"})
    assert (bad.status_code, bad.json()["error"]["kind"]) == (422, "no_path")


def test_a_shallow_diff_and_other_paths(owner: TestClient, commits: list[str]) -> None:
    put(owner, "data@master:/d/x", b"1")
    put(owner, "data@master:/d/y", b"1")
    query = {"at": "data@master", "old": f"data@{commits[2]}", "shallow": True}
    page = owner.get("/v1/projects/default/diff", params=query).json()
    assert [(one["op"], one["new"]["path"]) for one in page["items"]] == [("added", "/d/")]
    query = {"at": "data@master:/d", "old": f"data@{commits[2]}:/n"}
    assert owner.get("/v1/projects/default/diff", params=query).json()["error"]["kind"] == "bad_address"
    owner.post("/v1/projects/default/repos", json={"name": "copy"}).raise_for_status()
    put(owner, "copy@dev:/n", b"2")
    query = {"at": "copy@dev", "old": f"data@{commits[2]}"}
    assert owner.get("/v1/projects/default/diff", params=query).json()["items"] == []


def test_a_job_may_look_and_not_touch(anyone: TestClient, services: Services, commits: list[str]) -> None:
    token = services.access.issue(Scope.JOB, "job:default/x@1", None)
    headers = {"authorization": f"Bearer {token}"}
    at = {"at": "data@master:/n"}
    assert anyone.get("/v1/projects/default/commits/find", params=at, headers=headers).status_code == 200
    assert anyone.get("/v1/projects/default/repos/data/tags", headers=headers).status_code == 200
    for path, body in (
        ("commits/drop", {"at": "data@master"}),
        ("commits/squash", {"at": "data@master^"}),
        ("merge", {"source": "data@master", "target": "data@dev"}),
        ("repos/data/tags", {"name": "v1"}),
    ):
        answer = anyone.post(f"/v1/projects/default/{path}", json=body, headers=headers)
        assert answer.status_code == 403
