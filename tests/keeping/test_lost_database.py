"""A database that is gone or damaged is called that: nothing goes on with an empty one, by which gc would delete every pack."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import FakeClock
from tests.keeping.test_gc import fill, noise
from tests.versioning.conftest import put, shown
from trunkline.api import offline
from trunkline.api.server import shut_down
from trunkline.errors import CorruptionError
from trunkline.services import build
from trunkline.settings import Settings

pytestmark = pytest.mark.local_only

FILES = {f"/{number}": noise(number) for number in range(3)}


@pytest.fixture
def settings(tmp_path: Path, clock: FakeClock) -> Settings:
    """A data directory without a server."""
    settings = Settings(home=tmp_path / "home")
    (settings.home / "run").mkdir(parents=True)
    services = build(settings, clock=clock)
    fill(services.versioning, "r", FILES)
    services.stop()
    return settings


def database(settings: Settings) -> Path:
    return settings.home / "trunkline.db"


def packs(settings: Settings) -> list[Path]:
    return sorted(path for path in settings.objects_dir.rglob("*") if path.is_file())


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100_000])


def no_header(path: Path) -> None:
    path.write_bytes(b"no header" + path.read_bytes()[9:])


def bad_pages(path: Path) -> None:
    data = bytearray(path.read_bytes())
    for start in range(4096, len(data), 4096):
        data[start : start + 300] = b"\xff" * 300
    path.write_bytes(data)


USES: list[Callable[[Settings], object]] = [
    build,
    shut_down,
    lambda settings: offline.check(settings, repair=False),
    lambda settings: offline.check(settings, repair=True),
]


@pytest.mark.parametrize("lose", [Path.unlink, lambda path: path.write_bytes(b"")], ids=["gone", "empty"])
def test_a_lost_database_is_not_taken_for_a_new_one(
    settings: Settings, lose: Callable[[Path], object]
) -> None:
    path, before = database(settings), packs(settings)
    kept = path.read_bytes()
    lose(path)
    for use in [*USES, *USES]:  # none of them makes one that the next would find
        with pytest.raises(CorruptionError, match=r"holds packs.* restore a backup") as caught:
            use(settings)
        assert caught.value.kind == "database_lost"
    assert before and packs(settings) == before
    path.write_bytes(kept)
    services = build(settings)
    assert shown(services.versioning, "r@master") == FILES
    services.stop()


@pytest.mark.parametrize("damage", [cut, no_header, bad_pages])
def test_a_damaged_database_is_named(settings: Settings, damage: Callable[[Path], None]) -> None:
    damage(database(settings))
    for use in USES:
        with pytest.raises(CorruptionError, match=r"the database is damaged: .*restore a backup") as caught:
            use(settings)
        assert caught.value.kind == "database_damaged"


def test_damage_is_named_by_a_server_that_runs(settings: Settings) -> None:
    services = build(settings)
    try:
        data = bytearray(database(settings).read_bytes())
        for start in range(4096, len(data), 4096):
            data[start : start + 300] = b"\xff" * 300
        with database(settings).open("r+b") as file:
            file.write(data)
        with pytest.raises(CorruptionError, match="the database is damaged"):
            services.versioning.modify("default", "r@master", [put("/more", noise(9))])
    finally:
        services.db.close()


def test_a_new_place_is_a_new_place(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    services = build(settings)
    services.stop()
    assert database(settings).exists()
