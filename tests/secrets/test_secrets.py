"""Namespaces and secrets; above all, that values leave by one way only."""

from __future__ import annotations

import base64

import pytest

from tests.conftest import FakeClock
from trunkline.errors import AlreadyExistsError, InvalidInputError, LimitError, NotFoundError, StateError
from trunkline.secrets.service import SECRET_BYTES_MAX, SecretsService
from trunkline.storage.db.engine import Database


@pytest.fixture
def secrets(db: Database, clock: FakeClock) -> SecretsService:
    return SecretsService(db, clock)


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def test_default_is_always_there(secrets: SecretsService, db: Database, clock: FakeClock) -> None:
    assert [found.name for found in SecretsService(db, clock).list_namespaces()] == ["default"]
    with pytest.raises(StateError):
        secrets.delete_namespace("default")


def test_namespaces(secrets: SecretsService) -> None:
    secrets.create_namespace("models")
    with pytest.raises(AlreadyExistsError, match="namespace models exists already"):
        secrets.create_namespace("models")
    secrets.create_namespace("models", exist_ok=True)
    secrets.apply("models", "login", "Opaque", {}, {"a": "b"})
    with pytest.raises(StateError, match=r"not empty \(secret login\)"):
        secrets.delete_namespace("models")
    secrets.delete("models", "login")
    secrets.delete_namespace("models")
    with pytest.raises(NotFoundError):
        secrets.delete_namespace("models")
    with pytest.raises(InvalidInputError):
        secrets.create_namespace("Models")


def test_values_come_back_only_one_by_one(secrets: SecretsService) -> None:
    made = secrets.apply(
        "default", "login", "Opaque", {"user": b64("ann"), "pass": b64("old")}, {"pass": "n€w"}
    )
    assert made.keys == ("pass", "user")
    assert "n€w" not in repr(made) and "ann" not in repr(secrets.get("default", "login"))
    assert secrets.value("default", "login", "pass") == "n€w"
    assert secrets.value("default", "login", "user") == "ann"
    secrets.apply("default", "login", "Opaque", {"only": b64("this")})
    assert secrets.list("default")[0].keys == ("only",)


def test_a_pipeline_looks_in_its_project_first(secrets: SecretsService) -> None:
    secrets.create_namespace("p")
    secrets.apply("default", "login", string_data={"k": "default"})
    assert secrets.find(("p", "default"), "login").namespace == "default"  # type: ignore[union-attr]
    secrets.apply("p", "login", string_data={"k": "own"})
    assert secrets.find(("p", "default"), "login").namespace == "p"  # type: ignore[union-attr]
    assert secrets.find(("p", "default"), "nosuch") is None


def test_refusals_never_show_the_value(secrets: SecretsService) -> None:
    with pytest.raises(InvalidInputError, match=r"data\.pass is not base64") as caught:
        secrets.apply("default", "login", "Opaque", {"pass": "hunter2!"})
    assert "hunter2" not in str(caught.value) and caught.value.__cause__ is None
    with pytest.raises(NotFoundError, match="has no key 'nosuch'; it has a"):
        secrets.apply("default", "login", string_data={"a": "hunter2"})
        secrets.value("default", "login", "nosuch")
    with pytest.raises(NotFoundError, match="no secret other in namespace default"):
        secrets.value("default", "other", "k")
    with pytest.raises(NotFoundError, match="create namespace nosuch"):
        secrets.apply("nosuch", "login", string_data={"a": "b"})
    with pytest.raises(InvalidInputError, match="not allowed"):
        secrets.apply("default", "login", string_data={"bad key": "b"})
    with pytest.raises(LimitError):
        secrets.apply("default", "login", string_data={"a": "x" * SECRET_BYTES_MAX})
    secrets.apply("default", "bytes", "Opaque", {"k": base64.b64encode(b"\xff").decode()})
    with pytest.raises(InvalidInputError, match="is not text"):
        secrets.value("default", "bytes", "k")
