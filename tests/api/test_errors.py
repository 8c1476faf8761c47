from __future__ import annotations

import logging

import pytest
from starlette.testclient import TestClient

from trunkline import errors
from trunkline.api.errors import STATUS, answer, status_of
from trunkline.services import Services

CLASSES = [
    found
    for found in vars(errors).values()
    if isinstance(found, type)
    and issubclass(found, errors.TrunklineError)
    and found is not errors.TrunklineError
]


def test_every_error_class_has_a_status() -> None:
    assert set(STATUS) == set(CLASSES)


@pytest.mark.parametrize("kind", CLASSES)
def test_the_answer_says_everything_once(kind: type[errors.TrunklineError]) -> None:
    made = answer(kind("what, which, what to do", kind="k", details={"a": 1}))
    assert made.status_code == STATUS[kind]
    assert made.headers["x-trunkline-error"] == kind.__name__
    assert b'"kind":"k"' in made.body and b'"details":{"a":1}' in made.body


def test_a_size_limit_is_413() -> None:
    assert status_of(errors.LimitError("x", kind="body_too_large")) == 413
    assert status_of(errors.LimitError("x")) == 429


def test_every_answer_bears_a_request_id(owner: TestClient) -> None:
    assert owner.get("/v1/repos", headers={"x-request-id": "mine-1"}).headers["x-request-id"] == "mine-1"
    bad = owner.get("/v1/projects/nope", headers={"x-request-id": "two words"})
    assert len(bad.headers["x-request-id"]) == 32
    assert bad.json()["error"]["request_id"] == bad.headers["x-request-id"]


def test_a_wrong_field_is_named_with_the_nearest(owner: TestClient) -> None:
    error = owner.post("/v1/projects/default/repos", json={"name": "x", "descripton": "d"}).json()["error"]
    assert error["kind"] == "bad_field"
    assert error["message"] == "unknown field 'descripton'; did you mean 'description'?"


def test_a_wrong_type_is_named_without_its_value(owner: TestClient) -> None:
    body = {"type": "Opaque", "string_data": {"password": {"hush": "hush"}}}
    answer = owner.put("/v1/namespaces/default/secrets/s", json=body)
    assert answer.status_code == 422
    assert "string_data.password" in answer.json()["error"]["message"]
    assert "hush" not in answer.text


def test_what_is_not_json_is_said_so(owner: TestClient) -> None:
    headers = {"content-type": "application/json"}
    answer = owner.post("/v1/projects", content=b"{nope", headers=headers)
    assert answer.status_code == 422
    assert "not JSON" in answer.json()["error"]["message"]


def test_a_large_body_is_refused_before_it_is_held(owner: TestClient) -> None:
    def parts():
        for _ in range(1000):
            yield b" " * 1000

    answer = owner.post("/v1/projects", content=parts(), headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["kind"]) == (413, "body_too_large")


def test_unknown_routes_and_methods(owner: TestClient) -> None:
    assert owner.get("/v1/nope").json()["error"]["kind"] == "no_such_route"
    assert owner.patch("/v1/repos").status_code == 405


def test_a_bug_is_logged_and_not_told(
    services: Services, owner: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    services.db.close()
    with services.db.write() as connection:
        connection.exec_driver_sql("ALTER TABLE repos RENAME TO gone")
    with caplog.at_level(logging.ERROR):
        answer = owner.get("/v1/repos", headers={"x-request-id": "bug-1"})
    error = answer.json()["error"]
    assert answer.status_code in (500, 503)
    assert "Traceback" not in answer.text and "SELECT" not in answer.text
    assert error["request_id"] == "bug-1"


@pytest.mark.parametrize(
    "body",
    [b'{"name": "\\ud800"}', b'{"name": "x", "\\udfff": 1}', b'{"name": "x", "description": "\\ud83d"}'],
)
def test_text_that_no_utf8_can_hold_is_refused(owner: TestClient, body: bytes) -> None:
    owner.headers["content-type"] = "application/json"
    answer = owner.post("/v1/projects", content=body)
    assert (answer.status_code, answer.json()["error"]["kind"]) == (422, "bad_field")
    assert "surrogate" in answer.json()["error"]["message"]
    pair = owner.post("/v1/projects", content=b'{"name": "cats", "description": "\\ud83d\\ude3a"}')
    assert pair.json()["description"] == "\N{SMILING CAT FACE WITH OPEN MOUTH}"


def test_a_number_beyond_64_bits_is_refused(owner: TestClient) -> None:
    answer = owner.get(f"/v1/experiments/{10**30}")
    assert (answer.status_code, answer.json()["error"]["kind"]) == (422, "number_too_large")
