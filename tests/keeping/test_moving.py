"""Backups of PostgreSQL, and a store that moves between databases: nothing is lost, nothing is overwritten."""

from __future__ import annotations

import shutil
import tarfile
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from tests.conftest import FakeClock
from tests.keeping.test_gc import fill, noise
from tests.versioning.conftest import open_service, put, shown
from trunkline.api import offline
from trunkline.errors import InvalidInputError, StateError, TrunklineError
from trunkline.services import Services, build
from trunkline.settings import Settings
from trunkline.storage.db import transfer
from trunkline.storage.db.engine import Database
from trunkline.storage.db.schema import commits, metadata, projects, purges, repos
from trunkline.storage.objects.local import LocalStore
from trunkline.testing.points import FaultPoints, How
from trunkline.testing.postgres import Postgres
from trunkline.versioning import backup

pytestmark = pytest.mark.local_only

FILES = {"/a": noise(1), "/d/b": b"text " * 1000}
OLD = Path(__file__).parent / "backups" / "version-1.tar.xz"


@pytest.fixture
def url(postgres: Postgres) -> Iterator[str]:
    found = postgres.take_database()
    yield found
    postgres.give_back(found)


@pytest.fixture
def other_url(postgres: Postgres) -> Iterator[str]:
    found = postgres.take_database()
    yield found
    postgres.give_back(found)


def started(home: Path, database_url: str | None = None) -> Services:
    (home / "run").mkdir(parents=True, exist_ok=True)
    return build(Settings(home=home, database_url=database_url))  # type: ignore[arg-type]


def lived_in(services: Services) -> None:
    """Some of everything: several tables, keys that were given away again, odd texts."""
    service = services.versioning
    fill(service, "r", FILES)
    service.create_branch("default", "r@dev", head="master")
    service.modify("default", "r@dev", [put("/ü", b"1")])
    service.create_tag(
        "default", "r@v1", commit="master", description="a 'quoted' \"text\" \\ with ünicode ☃ and \n lines"
    )
    service.modify("default", "r@dev", [put("/gone", b"secret" * 99)])
    service.purge("default", "r:/gone", why="asked", who="admin", lineage=services.lineage)
    service.modify("default", "r@dev", [put("/dropped", b"2")])
    service.drop("default", "r@dev")
    services.access.admin_token(services.settings.home / "token")


def saved(services: Services, place: Path) -> backup.BackupReport:
    home = services.settings.home
    target = backup.open_target(str(place))
    return services.versioning.backup(target, folder=home, release="test", files=backup.settings_files(home))


def rows(db: Database) -> dict[str, list[tuple[object, ...]]]:
    with db.read() as connection:
        return {
            table.name: sorted(connection.execute(sa.select(table)).all(), key=repr) for table in transfer.TABLES
        }  # fmt: skip


def restored(place: Path, home: Path, database_url: str | None = None) -> Services:
    settings = Settings(home=home, database_url=database_url)  # type: ignore[arg-type]
    _, report = offline.restore(str(place), settings)
    assert report.problems == ()
    return build(settings)


@pytest.mark.slow
def test_there_and_back(tmp_path: Path, url: str) -> None:
    first = started(tmp_path / "first")
    lived_in(first)
    before = rows(first.db)
    assert {name for name, found in before.items() if found} >= {
        "commits",
        "tags",
        "chunks",
        "purges",
        "outbox",
    }
    saved(first, tmp_path / "one")
    first.db.close()

    second = restored(tmp_path / "one", tmp_path / "second", url)
    assert not second.db.is_sqlite
    assert rows(second.db) == before
    assert not (tmp_path / "second" / "trunkline.db").exists()
    again = saved(second, tmp_path / "two")
    assert again.packs_copied == again.manifest.packs > 0
    second.db.close()

    third = restored(tmp_path / "two", tmp_path / "third")
    assert third.db.is_sqlite
    assert rows(third.db) == before
    assert shown(third.versioning, "r@master") == FILES
    assert third.versioning.check().problems == ()
    third.db.close()


@pytest.mark.slow
def test_numbers_that_were_given_away_stay_so(tmp_path: Path, url: str) -> None:
    """The last commit was dropped: the next one's key must be higher still, wherever the store has moved to."""
    first = started(tmp_path / "first")
    lived_in(first)
    saved(first, tmp_path / "one")
    dropped = newest(first, "/x")
    first.db.close()
    second = restored(tmp_path / "one", tmp_path / "second", url)
    assert newest(second, "/x") == dropped
    second.versioning.drop("default", "r@dev")
    saved(second, tmp_path / "two")
    second.db.close()
    third = restored(tmp_path / "two", tmp_path / "third")
    assert newest(third, "/x") == dropped + 1
    third.versioning.create_repo("default", "another")
    third.db.close()


def newest(services: Services, path: str) -> int:
    """The key of a new commit."""
    services.versioning.modify("default", "r@dev", [put(path)])
    with services.db.read() as connection:
        return connection.execute(sa.select(sa.func.max(commits.c.pk))).scalar_one()


@pytest.mark.slow
def test_writers_go_on_while_postgresql_is_backed_up(tmp_path: Path, url: str) -> None:
    services = started(tmp_path / "home", url)
    service = services.versioning
    service.create_repo("default", "r")
    acknowledged: list[str] = []
    ended = threading.Event()

    def write() -> None:
        while not ended.is_set():
            name = f"/{len(acknowledged)}"
            service.modify("default", "r@master", [put(name, noise(len(acknowledged), 5000))])
            acknowledged.append(name)

    writer = threading.Thread(target=write)
    writer.start()
    while len(acknowledged) < 3:
        threading.Event().wait(0.005)
    before = len(acknowledged)
    saved(services, tmp_path / "copies")
    ended.set()
    writer.join()
    services.db.close()
    found = restored(tmp_path / "copies", tmp_path / "new")
    files = shown(found.versioning, "r@master")
    assert set(acknowledged[:before]) <= set(files)
    assert all(files[f"/{n}"] == noise(n, 5000) for n in range(len(files)))
    found.db.close()


@pytest.mark.slow
def test_nothing_that_exists_is_restored_over(tmp_path: Path, url: str, other_url: str) -> None:
    first = started(tmp_path / "first", url)
    fill(first.versioning, "r", FILES)
    saved(first, tmp_path / "copies")
    place = str(tmp_path / "copies")
    with pytest.raises(StateError, match=r"is not empty \(table \w+ has rows\)"):
        offline.restore(place, Settings(home=tmp_path / "new", database_url=url))  # type: ignore[arg-type]
    assert shown(first.versioning, "r@master") == FILES
    first.db.close()
    with (
        closing(Database(other_url)) as other,
        other.only_server(),
        pytest.raises(StateError, match="runs on"),
    ):
        offline.restore(place, Settings(home=tmp_path / "new", database_url=other_url))  # type: ignore[arg-type]
    used = tmp_path / "objects"
    LocalStore(used).put("packs/aa/aa", [b"somebody's"])
    with pytest.raises(StateError, match="objects is not empty"):
        offline.restore(
            place, Settings(home=tmp_path / "new", database_url=other_url, objects=str(used))  # type: ignore[arg-type]
        )  # fmt: skip
    assert [info.key for info in LocalStore(used).list()] == ["packs/aa/aa"]
    with pytest.raises(InvalidInputError, match="no file of SQLite"):
        offline.restore(place, Settings(home=tmp_path / "new", database_url=f"sqlite:///{tmp_path}/x.db"))  # type: ignore[arg-type]
    assert not list(tmp_path.glob(".new*")) and not (tmp_path / "new").exists()


@pytest.mark.slow
def test_settings_that_are_there_say_where_to(tmp_path: Path, url: str) -> None:
    first = started(tmp_path / "first")
    (tmp_path / "first" / "trunkline.toml").write_text('domain = "old.org"\n')
    fill(first.versioning, "r", FILES)
    saved(first, tmp_path / "copies")
    first.db.close()
    home = tmp_path / "new"
    home.mkdir()
    text = f'database_url = "{url}"\nobjects = "{tmp_path / "far"}"\n'
    (home / "trunkline.toml").write_text(text)
    offline.restore(str(tmp_path / "copies"), Settings(home=home))
    assert (home / "trunkline.toml").read_text() == text
    assert (home / "trunkline.toml.old").read_text() == 'domain = "old.org"\n'
    assert not (home / "objects").exists()
    services = build(Settings(home=home))
    assert not services.db.is_sqlite
    assert shown(services.versioning, "r@master") == FILES
    services.db.close()
    assert [path.name for path in tmp_path.glob(".new*")] == []


@pytest.mark.slow
def test_what_postgresql_cannot_hold_is_named_and_leaves_nothing(tmp_path: Path, url: str) -> None:
    first = started(tmp_path / "first")
    fill(first.versioning, "r", FILES)
    with first.db.write() as connection:
        connection.execute(sa.update(repos).values(description="a\0b"))
    saved(first, tmp_path / "copies")
    first.db.close()
    far = tmp_path / "far"
    settings = Settings(home=tmp_path / "new", database_url=url, objects=str(far))  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match=r"table repos has a NUL character"):
        offline.restore(str(tmp_path / "copies"), settings)
    assert [path.name for path in tmp_path.iterdir() if "new" in path.name] == []
    assert list(LocalStore(far).list()) == []
    with closing(Database(url)) as db:
        db.check_unused()


def test_every_table_is_either_copied_or_left_on_purpose() -> None:
    copied = {table.name for table in transfer.TABLES}
    left = {table.name for table in transfer.OF_THIS_MACHINE}
    assert copied.isdisjoint(left)
    assert copied | left | {"meta"} == set(metadata.tables)


@pytest.mark.slow
def test_values_at_the_edges_survive(tmp_path: Path, url: str) -> None:
    numbers = [2**63 - 1, -(2**63), 0]
    with closing(Database(f"sqlite:///{tmp_path / 'a.db'}")) as one, closing(Database(url)) as two:
        with one.write() as connection:
            for number, at in enumerate((1e-320, 1.7976931348623157e308, 1700000000.1234567)):
                connection.execute(sa.insert(projects).values(name=f"p{number}", created_at=at))
            made = {"report": [None, {"ü": float("inf")}, 1.5, "\0"], "contents": numbers, "chunks": None}
            connection.execute(
                sa.insert(purges).values(
                    project="p", repo="r", path="/ ", everywhere=True, who="", why="é", state="done", created_at=0.1, **made
                )
            )  # fmt: skip
        one.snapshot(tmp_path / "copy.db")
        two.fill_from(tmp_path / "copy.db")
        assert rows(one) == rows(two)
        two.snapshot(tmp_path / "back.db")
        with closing(Database(f"sqlite:///{tmp_path / 'back.db'}")) as three:
            assert rows(one) == rows(three)
            assert three.damage() == []


@pytest.mark.slow
@pytest.mark.parametrize("how", ["error", "lost_response"])
def test_a_restore_that_breaks_leaves_all_or_nothing(postgres: Postgres, tmp_path: Path, how: How) -> None:
    """At some of all system calls and statements in turn, and at each commit."""
    first = started(tmp_path / "first")
    lived_in(first)
    saved(first, tmp_path / "copies")
    first.db.close()
    counted = FaultPoints()
    assert attempt(postgres, tmp_path, counted)
    commits_of = [number for number, what in enumerate(counted.trail, 1) if "commit" in what.lower()]
    assert commits_of
    numbers = sorted({*range(2 + len(how), len(counted.trail), len(counted.trail) // 12), *commits_of})
    outcomes = [attempt(postgres, tmp_path, FaultPoints(at, how)) for at in numbers]
    assert False in outcomes


def attempt(postgres: Postgres, folder: Path, points: FaultPoints) -> bool:
    """Whether it was restored; asserts that it is there whole, or not at all."""
    url = postgres.take_database()
    home, far = folder / "run" / "new", folder / "run" / "far"
    home.parent.mkdir()
    settings = Settings(home=home, database_url=url, objects=str(far))  # type: ignore[arg-type]
    try:
        try:
            with points.armed(folder / "run"):
                offline.restore(str(folder / "copies"), settings)
        except (TrunklineError, OSError, psycopg.Error):
            assert points.has_struck
        with closing(Database(url)) as db:
            if is_unused(db):
                assert not home.exists(), points.trail[-1]
                return False
            service = open_service(db, LocalStore(far), FakeClock())
            assert service.check().problems == (), points.trail[-1]
            assert shown(service, "r@master") == FILES
            return True
    finally:
        shutil.rmtree(home.parent)
        postgres.give_back(url)


def is_unused(db: Database) -> bool:
    with db.read() as connection:
        return transfer.used_table(connection) is None


@pytest.mark.slow
def test_backups_of_the_first_version_are_restored(tmp_path: Path, url: str) -> None:
    """``backups/version-1.tar.xz`` was made by trunkline 0.1.0, before PostgreSQL could be backed up."""
    with tarfile.open(OLD) as archive:
        archive.extractall(tmp_path, filter="data")
    for number, database_url in enumerate((None, url)):
        services = restored(tmp_path / "backup", tmp_path / f"home{number}", database_url)
        assert shown(services.versioning, "r@master") == {"/a": b"one+two", "/d/b": b"text " * 1000}
        assert Settings(home=tmp_path / f"home{number}").domain == "example.org"
        services.db.close()


@pytest.mark.slow
def test_a_backup_of_postgresql_that_breaks_leaves_the_one_before(tmp_path: Path, url: str) -> None:
    services = started(tmp_path / "home", url)
    fill(services.versioning, "r", FILES)
    place = tmp_path / "run" / "copies"
    first = saved(services, place).manifest
    services.versioning.modify("default", "r@master", [put("/c", noise(2))])
    counted = FaultPoints()
    with counted.armed(tmp_path):
        saved(services, place)
    broken = 0
    for at in range(1, len(counted.trail) + 1, len(counted.trail) // 20):
        points = FaultPoints(at, "error")
        before = [one.id for one in backup.list_backups(LocalStore(place))]
        try:
            with points.armed(tmp_path):
                saved(services, place)
        except (TrunklineError, OSError):
            assert points.has_struck
            services.versioning.forget_crashed_work()
            assert [one.id for one in backup.list_backups(LocalStore(place))] == before, points.trail[-1]
            broken += 1
        assert not list((tmp_path / "home").glob(".backup-*"))
    assert broken > 10
    services.db.close()
    for number, backup_id in enumerate((first.id, None)):
        home = tmp_path / f"new{number}"
        _, report = offline.restore(str(place), Settings(home=home), backup_id=backup_id)
        assert report.problems == ()
        with closing(Database(f"sqlite:///{home / 'trunkline.db'}")) as db:
            service = open_service(db, LocalStore(home / "objects"), FakeClock())
            assert shown(service, "r@master") == (FILES if backup_id else {**FILES, "/c": noise(2)})
