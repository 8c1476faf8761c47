"""The registry on a real database, with real trees."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from tests.conftest import FakeClock
from trunkline.core.ids import TreeHash
from trunkline.errors import AlreadyExistsError, InvalidInputError, NotFoundError
from trunkline.jobs.outbox import Outbox
from trunkline.registry.service import RegistryService
from trunkline.storage.db.engine import Database
from trunkline.storage.db.schema import outbox as outbox_table
from trunkline.storage.objects.base import ObjectStore
from trunkline.testing.stores import Stores
from trunkline.versioning.model import PutFile
from trunkline.versioning.service import VersioningService

COMMIT = "0123456789abcdef0123456789abcdef"


class Registry:
    """A registry and the trees that it refers to."""

    def __init__(self, db: Database, clock: FakeClock, objects: ObjectStore) -> None:
        self.db = db
        publish = Outbox(db, clock).publish
        self.trees = VersioningService(db=db, objects=objects, clock=clock, publish=publish)
        self.service = RegistryService(db=db, clock=clock, versioning=self.trees, publish=publish)

    def tree(self, content: bytes) -> TreeHash:
        return self.trees.stage([PutFile(path="/model.pt", parts=[content])]).root

    def events(self) -> list[dict[str, object]]:
        with self.db.read() as connection:
            found = connection.execute(
                sa.select(outbox_table.c.payload).where(outbox_table.c.topic == "model.version.created")
            )
            return list(found.scalars())


@pytest.fixture
def registry(db: Database, clock: FakeClock, stores: Stores) -> Registry:
    return Registry(db, clock, stores.open_objects())


def test_models(registry: Registry) -> None:
    made = registry.service.create_model("digits", "scans", labels=["a"], metadata={"k": 1})
    assert (made.description, made.labels, made.metadata, made.version_count) == (
        "scans",
        ("a",),
        {"k": 1},
        0,
    )
    assert registry.service.create_model("digits", "other", exist_ok=True) == made
    with pytest.raises(AlreadyExistsError, match="model 'digits' exists already"):
        registry.service.create_model("digits")
    registry.service.create_model("3d-digits")
    assert [model.name for model in registry.service.list_models()] == ["3d-digits", "digits"]
    assert registry.service.get_model("digits") == made  # exact, though another name contains it


def test_a_model_that_is_not_there_names_the_nearest(registry: Registry) -> None:
    registry.service.create_model("digits")
    with pytest.raises(NotFoundError, match=r"there is no model 'digit'; did you mean 'digits'\?") as caught:
        registry.service.get_model("digit")
    assert caught.value.kind == "no_such_model"


@pytest.mark.parametrize(
    "name", ["", " ", "a/b", "12", "latest", "a@b", "-x", "a ", "x" * 129, "12345678901", "..", "é"]
)
def test_bad_model_names(registry: Registry, name: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        registry.service.create_model(name)
    assert caught.value.kind == "bad_name"


@pytest.mark.parametrize("name", ["", "7", "latest", "a/b"])
def test_bad_version_names(registry: Registry, name: str) -> None:
    registry.service.create_model("m")
    with pytest.raises(InvalidInputError):
        registry.service.add_version("m", name)
    with pytest.raises(InvalidInputError):
        registry.service.set_alias("m", name, "1")


def test_versions_are_numbered_and_found_by_whatever_names_them(registry: Registry) -> None:
    registry.service.create_model("m")
    root = registry.tree(b"one")
    first = registry.service.add_version(
        "m",
        COMMIT,
        checkpoint="uuid-1",
        checkpoint_root=root,
        metrics={"accuracy": 0.9},
        metadata={"commit": COMMIT},
    )
    second = registry.service.add_version("m", "second", notes="by hand")
    assert (first.number, second.number) == (1, 2)
    assert (first.checkpoint_root, first.metrics) == (root, {"accuracy": 0.9})
    get = registry.service.get_version
    assert get("m", "1") == get("m", COMMIT) == first
    assert get("m", "latest") == get("m", "2") == second
    assert [version.number for version in registry.service.list_versions("m")] == [2, 1]
    assert registry.service.get_model("m").version_count == 2
    assert registry.service.versions_of(COMMIT) == [first]
    assert registry.events() == [
        {"model": "m", "number": 1, "name": COMMIT},
        {"model": "m", "number": 2, "name": "second"},
    ]


def test_adding_the_same_version_again_changes_nothing(registry: Registry) -> None:
    registry.service.create_model("m")
    root = registry.tree(b"one")
    first = registry.service.add_version("m", COMMIT, checkpoint="u", checkpoint_root=root, metrics={"a": 1})
    assert (
        registry.service.add_version("m", COMMIT, checkpoint="u", checkpoint_root=root, metrics={"a": 2})
        == first
    )
    assert len(registry.events()) == 1
    with pytest.raises(AlreadyExistsError, match=r"is of another checkpoint \(u\): versions do not change"):
        registry.service.add_version("m", COMMIT, checkpoint="v", checkpoint_root=root)


def test_aliases_move(registry: Registry) -> None:
    registry.service.create_model("m")
    for name in ("a", "b"):
        registry.service.add_version("m", name)
    assert registry.service.set_alias("m", "live", "a").aliases == ("live",)
    assert registry.service.get_version("m", "live").name == "a"
    assert registry.service.set_alias("m", "live", "latest").name == "b"
    assert [version.aliases for version in registry.service.list_versions("m")] == [("live",), ()]
    with pytest.raises(AlreadyExistsError, match="choose another alias"):
        registry.service.set_alias("m", "a", "b")
    with pytest.raises(AlreadyExistsError, match="is an alias"):
        registry.service.add_version("m", "live")


def test_packages(registry: Registry) -> None:
    registry.service.create_model("m")
    registry.service.add_version("m", "a")
    root = registry.tree(b"packed")
    assert registry.service.set_package("m", "latest", root).package_root == root
    assert registry.service.set_package("m", "a", root).package_root == root
    assert registry.service.get_version("m", "1").package_root == root


def test_what_is_not_there(registry: Registry) -> None:
    with pytest.raises(NotFoundError, match="there is no model 'm'"):
        registry.service.add_version("m", "a")
    registry.service.create_model("m")
    with pytest.raises(NotFoundError, match=r"model 'm' has no version 'latest' \(it has none yet\)"):
        registry.service.get_version("m", "latest")
    registry.service.add_version("m", "second")
    with pytest.raises(NotFoundError, match=r"no version 'secnd' \(it has 1\); did you mean 'second'\?"):
        registry.service.get_version("m", "secnd")
    with pytest.raises(NotFoundError):
        registry.service.get_version("m", "2")
    missing = TreeHash("0" * 64)
    with pytest.raises(NotFoundError, match="no tree"):
        registry.service.add_version("m", "x", checkpoint_root=missing)
    with pytest.raises(NotFoundError, match="no tree"):
        registry.service.set_package("m", "second", missing)
    assert len(registry.service.list_versions("m")) == 1
