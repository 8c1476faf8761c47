from __future__ import annotations

import re

import pytest
from anyio.from_thread import BlockingPortal
from fastapi.routing import APIRoute
from starlette.testclient import TestClient

from tests.quick import app_over, client_of
from trunkline.access.model import Scope
from trunkline.api.app import NOUNS, create_app
from trunkline.api.auth import OPEN_PATHS, GuardedRoute, scopes_of
from trunkline.services import Services

ROUTES = [route for noun in NOUNS for route in noun.router.routes if isinstance(route, APIRoute)]
CALLS = [(method, route) for route in ROUTES for method in sorted(route.methods)]
CALL_IDS = [f"{method} {route.path}" for method, route in CALLS]
NEVER_FOR_JOBS = re.compile(
    r"secret|lease|worker|console-link|/trials/\{trial_id\}/(metrics|checkpoints|progress)"
)


def path_of(route: APIRoute) -> str:
    return re.sub(r"\{(\w+)\}", "1", route.path)


def test_every_route_of_the_application_is_guarded(services: Services) -> None:
    app = create_app(services)
    assert len(ROUTES) > 80
    assert all(isinstance(route, GuardedRoute) for route in ROUTES)
    found = {(path, method.upper()) for path, methods in app.openapi()["paths"].items() for method in methods}
    assert found == {(r.path, m) for m, r in CALLS if r.include_in_schema}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, portal: BlockingPortal):
    from trunkline.services import build
    from trunkline.settings import Settings

    home = tmp_path_factory.mktemp("home")
    services = build(Settings(home=home))
    client = client_of(app_over(services), portal, "http://127.0.0.1:8900")
    yield services, client
    services.db.close()


@pytest.mark.parametrize(("method", "route"), CALLS, ids=CALL_IDS)
def test_nobody_gets_in_without_a_token(shared, method: str, route: APIRoute) -> None:
    _, client = shared
    if route.path in OPEN_PATHS:
        return
    for headers in (
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": "Basic x"},
        {"cookie": "trunkline_console=x"},
    ):
        answer = client.request(method, path_of(route), headers=headers)
        assert answer.status_code == 401
        assert answer.json()["error"]["kind"] in ("no_token", "bad_token")


@pytest.mark.parametrize("scope", [Scope.JOB, Scope.WORKER, Scope.CONSOLE, Scope.LINK])
def test_a_scope_opens_only_what_names_it(shared, scope: Scope) -> None:
    services, client = shared
    headers = {"authorization": f"Bearer {services.access.issue(scope, 'someone', 600)}"}
    for method, route in CALLS:
        if route.path in OPEN_PATHS or scope in scopes_of(route.endpoint):
            continue
        answer = client.request(method, path_of(route), headers=headers)
        assert (answer.status_code, answer.json()["error"]["kind"]) == (403, "wrong_scope"), route.path


SPOUTS_ONLY = {
    ("PUT", "/v1/projects/{project}/files"), ("DELETE", "/v1/projects/{project}/files"),
    ("POST", "/v1/projects/{project}/files/change"), ("PUT", "/v1/projects/{project}/archive"),
}  # fmt: skip
"""These look at whose token it is: a spout that runs may write to its own output, and no job may."""


def test_what_jobs_may_never_do(shared) -> None:
    for method, route in CALLS:
        allowed = Scope.JOB in scopes_of(route.endpoint)
        if NEVER_FOR_JOBS.search(route.path):
            assert not allowed, route.path
        if method == "DELETE" or (
            method in ("POST", "PUT") and re.search("repos|pipelines|projects", route.path)
        ):
            assert allowed == ((method, route.path) in SPOUTS_ONLY), f"{method} {route.path}"


@pytest.mark.parametrize("subject", ["job:default/edges@" + "1" * 32, "spout:default/edges@master#1"])
def test_only_a_spout_that_runs_may_write(services: Services, anyone: TestClient, subject: str) -> None:
    services.versioning.create_repo("default", "edges")
    headers = {"authorization": f"Bearer {services.access.issue('job', subject, 60)}"}
    change = {"at": "edges@master", "changes": [{"op": "delete", "path": "/x"}]}
    at = {"at": "edges@master:/x"}
    answers = [
        anyone.put("/v1/projects/default/files", params=at, content=b"x", headers=headers),
        anyone.delete("/v1/projects/default/files", params=at, headers=headers),
        anyone.post("/v1/projects/default/files/change", json=change, headers=headers),
        anyone.put("/v1/projects/default/archive", params=at, content=b"x", headers=headers),
    ]
    assert [(one.status_code, one.json()["error"]["kind"]) for one in answers] == [(403, "wrong_scope")] * 4


def test_link_tokens_open_nothing(shared) -> None:
    assert not [r.path for r in ROUTES if Scope.LINK in scopes_of(r.endpoint)]


def test_a_job_may_read(services: Services, anyone: TestClient) -> None:
    headers = {"authorization": f"Bearer {services.access.issue('job', 'job:default/x@1', 60)}"}
    assert anyone.get("/v1/repos", headers=headers).status_code == 200
    assert anyone.post("/v1/projects/default/repos", json={"name": "x"}, headers=headers).status_code == 403


def test_an_unknown_path_tells_nothing_without_a_token(anyone: TestClient) -> None:
    assert anyone.get("/v1/nothing").status_code == 401


def test_a_sign_of_life_is_open(anyone: TestClient) -> None:
    assert anyone.get("/healthz").text == "ok\n"


@pytest.mark.parametrize("host", ["evil.example:8900", "127.0.0.1.evil.example", "", "[::2]:8900"])
def test_foreign_host_names_are_refused(owner: TestClient, host: str) -> None:
    answer = owner.get("/v1/repos", headers={"host": host})
    assert (answer.status_code, answer.json()["error"]["kind"]) == (403, "bad_host")


@pytest.mark.parametrize("host", ["127.0.0.1:8900", "localhost:1", "[::1]:8900", "LOCALHOST"])
def test_loopback_names_are_fine(owner: TestClient, host: str) -> None:
    assert owner.get("/v1/repos", headers={"host": host}).status_code == 200


def test_pages_from_elsewhere_are_refused(owner: TestClient) -> None:
    assert owner.get("/v1/repos", headers={"origin": "http://127.0.0.1:8900"}).status_code == 200
    for origin in ("http://evil.example", "http://127.0.0.1:9999", "null"):
        assert owner.get("/v1/repos", headers={"origin": origin}).json()["error"]["kind"] == "bad_origin"


def test_the_console_opens_with_a_link_once(services: Services, anyone: TestClient) -> None:
    link = services.access.console_link_token()
    answer = anyone.get(f"/login?link={link}", follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=lax" in cookie
    page = anyone.get("/")
    assert page.status_code == 200 and "Repos" in page.text
    assert "script-src 'self'" in page.headers["content-security-policy"]
    assert anyone.get("/v1/repos").status_code == 403
    again = anyone.get(f"/login?link={link}", follow_redirects=False)
    assert (again.status_code, again.json()["error"]["kind"]) == (401, "link_used")
