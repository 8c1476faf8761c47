"""Routes of files with wrong input: never a 500, always one line, nothing written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from trunkline.access.model import Scope
from trunkline.core.paths import clean_path
from trunkline.services import Services

FILES = "/v1/projects/default"


@pytest.fixture
def repo(owner: TestClient) -> TestClient:
    assert owner.post(f"{FILES}/repos", json={"name": "r"}).status_code in (200, 201)
    owner.put(f"{FILES}/files?at=r@master:/a", content=b"12345")
    return owner


def change(client: TestClient, *changes: dict[str, object], at: str = "r@master") -> tuple[int, str, str]:
    answer = client.post(f"{FILES}/files/change", json={"at": at, "changes": list(changes)})
    if answer.status_code == 200:
        return 200, "", ""
    error = answer.json()["error"]
    assert len(error["message"].splitlines()) == 1
    return answer.status_code, error["kind"], error["message"]


@pytest.mark.parametrize(
    ("one", "status", "kind"),
    [
        ({"op": "fetch", "url": "http://169.254.169.254/", "path": "/x"}, 403, "address_refused"),
        ({"op": "fetch", "url": "http://localhost/", "path": "/x"}, 403, "address_refused"),
        ({"op": "fetch", "url": "http://[::ffff:127.0.0.1]:8900/v1/repos", "path": "/x"}, 403, "address_refused"),
        ({"op": "fetch", "url": "file:///etc/passwd", "path": "/x"}, 422, "bad_url"),
        ({"op": "fetch", "url": "http://127.0.0.1/", "path": "/x", "recursive": True}, 422, "bad_url"),
        ({"op": "fetch", "url": "", "path": "/x"}, 422, "bad_url"),
        ({"op": "link", "source": "/etc/passwd", "path": "/x"}, 403, "link_refused"),
        ({"op": "link", "source": "relative", "path": "/x"}, 422, "bad_link"),
        ({"op": "take", "root": "0" * 64, "path": "/"}, 404, "no_tree"),
        ({"op": "take", "root": "zz", "path": "/"}, 422, None),
        ({"op": "copy", "source": "r@master:/none", "path": "/x"}, 404, "no_file"),
        ({"op": "copy", "source": "r@master:/a", "path": "/../x"}, 422, "bad_path"),
        ({"op": "delete", "path": "/none"}, 404, "no_file"),
        ({"op": "delete", "path": "/[", "glob": True}, 422, "bad_glob"),
        ({"op": "delete", "path": "/none*", "glob": True}, 404, "no_file"),
        ({"op": "delete", "path": "/a", "recursiv": True}, 422, "bad_field"),
        ({"op": "explode", "path": "/a"}, 422, "bad_field"),
        ({"op": "delete", "path": "\ud800"}, 422, "bad_field"),
    ],
)  # fmt: skip
def test_each_wrong_change_is_refused_whole(
    repo: TestClient, services: Services, one: dict[str, object], status: int, kind: str | None
) -> None:
    before = services.versioning.resolve("default", "r@master")[0].id
    found = repo.post(
        f"{FILES}/files/change",
        content=json.dumps(
            {"at": "r@master", "changes": [{"op": "copy", "source": "r@master:/a", "path": "/b"}, one]}
        ),
        headers={"content-type": "application/json"},
    )
    assert found.status_code == status, found.text
    assert kind is None or found.json()["error"]["kind"] == kind
    assert services.versioning.resolve("default", "r@master")[0].id == before


def test_changes_need_an_address_that_can_be_written(repo: TestClient) -> None:
    delete = {"op": "delete", "path": "/a"}
    assert change(repo, delete, at="none@master")[:2] == (404, "no_repo")
    assert change(repo, delete, at="r@master^")[0] in (404, 422)
    assert change(repo, delete, at="r@none")[:2] == (404, "no_branch")
    assert change(repo)[:2] == (422, "bad_field")
    assert change(repo, delete)[0] == 200


def test_only_the_owner_lets_the_server_fetch_or_link(repo: TestClient, services: Services) -> None:
    for scope in (Scope.JOB, Scope.WORKER, Scope.CONSOLE, Scope.LINK):
        token = services.access.issue(scope, "somebody", 60)
        headers = {"authorization": f"Bearer {token}"}
        for method, path in (
            ("POST", "files/change"), ("POST", "files/copy-in"), ("PUT", "unpack?at=r@master"),
            ("DELETE", "files?at=r@master:/a"),
        ):  # fmt: skip
            body = {"at": "r@master", "changes": [{"op": "link", "source": "/etc/passwd", "path": "/x"}]}
            answer = repo.request(method, f"{FILES}/{path}", json=body, headers=headers)
            assert (answer.status_code, answer.json()["error"]["kind"]) == (403, "wrong_scope"), (scope, path)


@pytest.mark.parametrize("raw", ["%ff", "%c3", "%ed%a0%80", "%c0%ae%c0%ae/x"])
def test_urls_that_are_not_utf8_name_nothing_else(repo: TestClient, raw: str) -> None:
    for method in ("GET", "PUT"):
        answer = repo.request(method, f"{FILES}/files?at=r@master:/{raw}")
        assert (answer.status_code, answer.json()["error"]["kind"]) == (422, "bad_url")
    assert repo.get(f"{FILES}/repos/{raw}").status_code in (404, 422)


@pytest.mark.parametrize(
    "path",
    [
        "/" + "x/" * 5000 + "x",
        "/" + "x" * 300,
        "/a%00b",
        "/a%0ab",
        "/a%7fb",
        "/..",
        "/a/../b",
        "/./a",
        "/a//b",
        "/%C2%85",
    ],
)
def test_paths_that_no_file_may_have(repo: TestClient, path: str) -> None:
    for method in ("GET", "PUT", "DELETE"):
        answer = repo.request(method, f"{FILES}/files?at=r@master:{path}")
        assert (answer.status_code, answer.json()["error"]["kind"]) == (422, "bad_path"), answer.text
        assert len(answer.text) < 15_000


def test_ranges_behind_the_end_are_explained(repo: TestClient) -> None:
    answer = repo.get(f"{FILES}/files?at=r@master:/a", headers={"range": "bytes=5-"})
    assert answer.status_code == 416 and answer.headers["content-range"] == "bytes */5"
    assert answer.json()["error"]["kind"] == "bad_range"
    assert repo.get(f"{FILES}/files?at=r@master:/*").content == b"12345"
    assert repo.get(f"{FILES}/files?at=r@master:/b*").status_code == 404


def test_times_that_no_file_has(repo: TestClient) -> None:
    for query in ("mtime=nan", "mtime=inf", "mtime=1e300", f"mtime_ns={2**64}", "mtime_ns=x"):
        answer = repo.put(f"{FILES}/files?at=r@master:/t&{query}", content=b"")
        assert answer.status_code == 422, query
    repo.put(f"{FILES}/files?at=r@master:/t&mtime_ns=-1234567890123456789", content=b"")
    assert repo.get(f"{FILES}/stat?at=r@master:/t").json()["modified_ns"] == -1234567890123456789


@pytest.fixture
def some(services: Services, owner: TestClient) -> Iterator[TestClient]:
    services.versioning.create_repo("default", "s")
    yield owner


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    path=st.text(max_size=20)
    | st.sampled_from(["..", "../../etc/passwd", "/..", "a/../../b", "C:\\x", "~", "."])
)
def test_whatever_is_put_is_found_again_or_refused(some: TestClient, services: Services, path: str) -> None:
    """No path with '..' can exist in the store, so none can be written outside of a folder."""
    answer = some.put(f"{FILES}/files?at=s@master:{quote(path)}", content=b"x")
    if answer.status_code != 200:
        assert answer.status_code in (404, 409, 422), answer.text
        return
    _, root, _ = services.versioning.resolve("default", "s@master")
    found = {info.path for info in services.versioning.walk(root)}
    assert clean_path(path) in found
    for one in found:
        assert not {"", ".", ".."} & set(one[1:].split("/"))
        assert (Path("/target") / one[1:]).is_relative_to("/target")
