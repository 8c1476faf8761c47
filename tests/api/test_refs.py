"""Branches, transactions and following over HTTP."""

from __future__ import annotations

import pytest
from starlette.testclient import TestClient

from trunkline.access.model import Scope
from trunkline.jobs.model import CONTROL_QUEUE
from trunkline.services import FIRE_TRIGGERS, Services

HEADER = "x-trunkline-transaction"


@pytest.fixture
def data(owner: TestClient) -> TestClient:
    assert owner.post("/v1/projects/default/repos", json={"name": "data"}).status_code == 201
    return owner


def put(client: TestClient, address: str, content: bytes = b"x", **more: object) -> dict[str, object]:
    answer = client.put("/v1/projects/default/files", params={"at": address}, content=content, **more)  # type: ignore[arg-type]
    assert answer.status_code == 200, answer.text
    return answer.json()  # type: ignore[no-any-return]


def branch(client: TestClient, **ask: object) -> dict[str, object]:
    answer = client.post("/v1/projects/default/repos/data/branches", json=ask)
    assert answer.status_code == 201, answer.text
    return answer.json()  # type: ignore[no-any-return]


def test_triggers_and_details(data: TestClient) -> None:
    trigger = {"branch": "staging", "commits": 2, "all": True}
    made = branch(data, name="master", trigger=trigger)
    assert made["trigger"] == {"size": None, "rate_limit": None, "cron": None, **trigger}
    put(data, "data@staging:/a")
    last = put(data, "data@staging:/b")
    found = data.get("/v1/projects/default/repos/data/branches/master").json()
    assert (found["head"], found["all_provenance"], found["subvenance"]) == (last["id"], [], [])
    details = data.get("/v1/projects/default/commits", params={"at": "data@master", "details": True}).json()
    assert details["id"] == last["id"]
    assert (details["all_subvenance"], details["has_more_subvenance"]) == ([], False)
    plain = data.get("/v1/projects/default/commits", params={"at": "data@master"}).json()
    assert "all_subvenance" not in plain
    assert branch(data, name="master", drop_trigger=True)["trigger"] is None
    wrong = data.post(
        "/v1/projects/default/repos/data/branches",
        json={"name": "x", "trigger": {"branch": "y", "sise": "1"}},
    )
    assert wrong.status_code == 422 and "did you mean 'size'" in wrong.text


def test_listing_commits(data: TestClient) -> None:
    made = [put(data, "data@master:/a", str(n).encode())["id"] for n in range(4)]
    path = "/v1/projects/default/repos/data/commits"
    listed = data.get(path, params={"branch": "master", "since": made[1]}).json()["items"]
    assert [one["id"] for one in listed] == [made[3], made[2]]
    assert data.get(path, params={"origin": "auto"}).json()["items"] == []
    assert data.get(path, params={"origin": "nobody"}).status_code == 422
    assert data.get(path, params={"since": "f" * 32}).status_code == 404


@pytest.mark.slow
def test_the_clock_wakes_a_trigger(data: TestClient, services: Services) -> None:
    branch(data, name="master", trigger={"branch": "staging", "cron": "@every 1s"})
    put(data, "data@staging:/a")
    services.jobs.outbox.drain()
    with services.db.read() as connection:
        assert services.jobs.queue.next_ready_at(connection, CONTROL_QUEUE) is not None
    while services.versioning.inspect_branch("default", "data@master").head is None:
        services.jobs.step()
    with services.db.read() as connection:  # and goes on at the next second
        assert services.jobs.queue.next_ready_at(connection, CONTROL_QUEUE) is not None
    assert FIRE_TRIGGERS == "fire-triggers"  # the task's kind is in databases


def test_a_transaction(data: TestClient) -> None:
    put(data, "data@master:/a")
    started = data.post("/v1/transactions").json()["id"]
    inside = {HEADER: started}
    made = data.post("/v1/projects/default/repos", json={"name": "views"}, headers=inside)
    assert (made.status_code, made.json()["name"]) == (201, "views")
    path = "/v1/projects/default/repos/views/branches"
    made = data.post(path, json={"name": "v", "provenance": ["data@master"]}, headers=inside)
    assert made.json()["provenance"] == ["default/data@master"]
    opened = data.post("/v1/projects/default/repos/data/commits", json={}, headers=inside)
    assert (opened.json()["id"], opened.json()["status"]) == (started, "open")
    done = data.post("/v1/projects/default/commits/finish", json={"at": "data@master"}, headers=inside)
    assert done.json()["status"] == "finished"
    again = data.post("/v1/projects/default/repos", json={"name": "views"}, headers=inside)
    assert (again.status_code, again.json()["error"]["kind"]) == (409, "repo_exists")
    assert data.get("/v1/projects/default/repos/views").status_code == 404
    project = "/v1/projects/default"
    for path, said in (
        ("archive?at=data@master", "'put file'"), ("files?at=data@master:/a", "'put file'"), ("merge", "'merge branch'"),
        ("files/copy", "'copy file'"), ("files/change", "'put file' and 'delete file'"),
    ):  # fmt: skip
        method = "PUT" if "?" in path else "POST"
        refused = data.request(method, f"{project}/{path}", content=b"{}", headers=inside).json()["error"]
        assert refused["kind"] == "not_in_transaction"
        assert refused["message"].startswith(
            f"{said} cannot be part of a transaction: finish transaction {started}"
        )
    kinds = [one["kind"] for one in data.get(f"/v1/transactions/{started}").json()["operations"]]
    assert kinds == ["create_repo", "create_branch", "start_commit", "finish_commit"]
    assert [one["id"] for one in data.get("/v1/transactions").json()["items"]] == [started]

    finished = data.post(f"/v1/transactions/{started}/finish")
    assert finished.status_code == 200, finished.text
    assert finished.json()["answers"][3]["id"] == started
    view = data.get("/v1/projects/default/commits", params={"at": "views@v"}).json()
    assert (view["id"], view["provenance"]) == (started, [f"default/data@{started}"])
    assert data.get(f"/v1/transactions/{started}").status_code == 404


def test_squashing_in_a_transaction(data: TestClient) -> None:
    made = [put(data, "data@master:/a", str(n).encode())["id"] for n in range(3)]
    started = data.post("/v1/transactions").json()["id"]
    path = "/v1/projects/default/commits"
    for commit_id in made[:2]:
        ask = {"at": f"data@{commit_id}"}
        gone = data.post(f"{path}/squash", json=ask, headers={HEADER: started})
        assert [one["id"] for one in gone.json()["commits"]] == [commit_id]
        refused = data.post(f"{path}/drop", json=ask, headers={HEADER: started})
        assert refused.json()["error"]["kind"] == "not_in_transaction"
    listed = "/v1/projects/default/repos/data/commits"
    assert len(data.get(listed).json()["items"]) == 3
    answers = data.post(f"/v1/transactions/{started}/finish").json()["answers"]
    assert [one["id"] for answer in answers for one in answer["commits"]] == made[:2]
    assert [one["id"] for one in data.get(listed).json()["items"]] == made[2:]


def test_tagging_in_a_transaction(data: TestClient) -> None:
    made = put(data, "data@master:/a", b"1")["id"]
    started = data.post("/v1/transactions").json()["id"]
    path, inside = "/v1/projects/default/repos/data/tags", {HEADER: started}
    for name in ("v1", "v2"):
        answer = data.post(path, json={"name": name, "commit": "master"}, headers=inside)
        assert (answer.status_code, answer.json()["commit"]) == (201, made)
    assert data.delete(f"{path}/v2", headers=inside).status_code == 204
    assert data.get(path).json()["items"] == []
    answers = data.post(f"/v1/transactions/{started}/finish").json()["answers"]
    assert [one and one["name"] for one in answers] == ["v1", "v2", None]
    assert [one["name"] for one in data.get(path).json()["items"]] == ["v1"]


def test_what_cannot_be_gathered_is_refused_not_done(data: TestClient, services: Services) -> None:
    started = data.post("/v1/transactions").json()["id"]
    inside = {HEADER: started}
    for method, path, more in [
        ("POST", "/v1/projects", {"json": {"name": "p"}}),
        ("PUT", "/v1/projects/default/files", {"params": {"at": "data@master:/a"}, "content": b"x"}),
        ("DELETE", "/v1/projects/default/pipelines/p", {}),
        ("POST", "/v1/transactions", {}),
    ]:
        answer = data.request(method, path, headers=inside, **more)  # type: ignore[arg-type]
        assert (answer.status_code, answer.json()["error"]["kind"]) == (409, "not_in_transaction"), path
    assert [project.name for project in services.versioning.list_projects()] == ["default"]
    assert data.get("/v1/repos", headers=inside).status_code == 200
    unknown = data.post("/v1/projects/default/repos", json={"name": "x"}, headers={HEADER: "f" * 32})
    assert (unknown.status_code, unknown.json()["error"]["kind"]) == (404, "no_transaction")
    assert data.delete(f"/v1/transactions/{started}").status_code == 204


def test_only_the_owner_may_gather(data: TestClient, services: Services) -> None:
    started = data.post("/v1/transactions").json()["id"]
    token = services.access.issue(Scope.JOB, "job:default/x@1", None)
    data.headers["authorization"] = f"Bearer {token}"
    for method, path in [("POST", "/v1/transactions"), ("POST", f"/v1/transactions/{started}/finish")]:
        assert data.request(method, path).status_code == 403
    assert data.get(f"/v1/transactions/{started}").status_code == 403


def test_following_what_is_not_there(data: TestClient) -> None:
    assert data.get("/v1/projects/default/repos/data/branches/nothing/commits").status_code == 404
    put(data, "data@master:/a")
    path = "/v1/projects/default/repos/data/branches/master/commits"
    assert data.get(path, params={"after": "f" * 32}).status_code == 404
