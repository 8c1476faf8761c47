"""What the API and the settings say about doors."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.testclient import TestClient

from tests.api.conftest import BASE_URL
from tests.quick import app_over
from trunkline.access.model import Scope
from trunkline.errors import InvalidInputError
from trunkline.services import Services, build
from trunkline.settings import load_settings


@pytest.mark.parametrize(
    ("value", "doors"), [("", ()), ("s3", ("s3",)), ("all", ("s3",)), ("s3, all", ("s3",)), (["s3"], ("s3",))]
)
def test_doors_are_named(tmp_path: Path, value: object, doors: tuple[str, ...]) -> None:
    assert load_settings(home=tmp_path, doors=value).doors == doors


@pytest.mark.parametrize("value", ["s4", "s3,pachyderm2", ["s3", 4], 7])
def test_unknown_doors(tmp_path: Path, value: object) -> None:
    with pytest.raises(InvalidInputError):
        load_settings(home=tmp_path, doors=value)


def test_doors_from_the_environment_and_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "trunkline.toml").write_text('doors = ["all"]\n')
    assert load_settings(home=tmp_path).doors == ("s3",)
    assert load_settings(home=tmp_path).door_urls == {"s3": "http://127.0.0.1:30600"}
    monkeypatch.setenv("TRUNKLINE_DOORS", "")
    assert load_settings(home=tmp_path).doors == ()


def test_a_closed_door_has_no_keys(owner: TestClient) -> None:
    answer = owner.get("/v1/s3credentials")
    assert (answer.status_code, answer.json()["error"]["kind"]) == (503, "door_closed")
    assert owner.get("/v1/status").json()["doors"] == {}


def test_keys_are_given_to_who_asks_for_its_own(services: Services) -> None:
    opened = build(services.settings.model_copy(update={"doors": ("s3",)}))
    token = opened.access.admin_token(services.settings.token_file)
    client = TestClient(app_over(opened), base_url=BASE_URL)
    asked = {
        scope: client.get(
            "/v1/s3credentials", headers={"authorization": f"Bearer {opened.access.issue(scope, 'x', None)}"}
        )
        for scope in (Scope.JOB, Scope.WORKER, Scope.CONSOLE)
    }
    assert [answer.status_code for answer in asked.values()] == [200, 403, 403]
    mine = client.get("/v1/s3credentials", headers={"authorization": f"Bearer {token}"})
    assert mine.headers["cache-control"] == "no-store"
    assert mine.json()["endpoint_url"] == "http://127.0.0.1:30600"
    assert mine.json()["access_key_id"] != asked[Scope.JOB].json()["access_key_id"]
    assert client.get("/v1/s3credentials").status_code == 401
    opened.db.close()
