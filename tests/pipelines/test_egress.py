"""Outputs that leave: only what changed goes, what vanished is deleted, and nothing is ever half there."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.conftest import FakeClock
from tests.pipelines.conftest import World, make_world, spec
from trunkline.core.status import Status
from trunkline.errors import InvalidInputError, NotFoundError, PermissionDeniedError, UnavailableError
from trunkline.pipelines.egress import step as egress_step
from trunkline.pipelines.egress.base import Parcel, Target
from trunkline.pipelines.model import Job
from trunkline.settings import Settings
from trunkline.storage import bucketwriter
from trunkline.storage.db.engine import Database
from trunkline.testing.bucket import REGION, BucketServer
from trunkline.testing.postgres import Postgres
from trunkline.testing.programs import free_ports
from trunkline.testing.stores import Stores
from trunkline.versioning.model import Change, DeletePath

pytestmark = pytest.mark.slow


@pytest.fixture
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("target").resolve()


@pytest.fixture
def make(db: Database, clock: FakeClock, tmp_path: Path, stores: Stores, place: Path) -> Callable[..., World]:
    def made(**settings: Any) -> World:
        given: Settings = stores.settings(tmp_path).model_copy(update={"egress_folders": [place], **settings})
        world = make_world(db, clock, given, stores)
        world.versioning.create_repo("default", "images")
        return world

    return made


@pytest.fixture
def world(make: Callable[..., World]) -> World:
    return make()


def run(world: World, files: dict[str, str], delete: tuple[str, ...] = ()) -> Job:
    """A commit to ``images``; each file is copied to the output, ``__`` in its name a folder's end."""
    changes: list[Change] = [*(DeletePath(path=path) for path in delete), *world.puts(files)]
    world.versioning.modify("default", "images@master", changes)
    world.settle()
    contents = world.files("images@master")
    world.work("edges", lambda path: {path.replace("__", "/"): contents[path]})
    return newest(world)


def newest(world: World) -> Job:
    return world.pipelines.list_jobs("default", "edges")[0]


def tree_of(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): file.read_text()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


# --- a folder -----------------------------------------------------------------------------------------------------


def test_only_what_changed_is_written_and_what_vanished_is_deleted(world: World, place: Path) -> None:
    target = place / "deep" / "out"
    world.pipelines.create("default", spec(egress={"URL": target.as_uri()}))
    first = run(world, {"/a": "1", "/sub__b": "2", "/sub__c": "3"})
    assert (first.status, tree_of(target)) == (Status.SUCCEEDED, {"a": "1", "sub/b": "2", "sub/c": "3"})
    assert (first.egress["files_written"], first.egress["bytes_written"]) == (3, 3)
    assert first.egress["target"] == target.as_uri()
    (target / "foreign").write_text("not ours")
    (target / "a").write_text("touched, and not written again")
    second = run(world, {"/sub__c": "33"}, delete=("/sub__b",))
    assert tree_of(target) == {"a": "touched, and not written again", "sub/c": "33", "foreign": "not ours"}
    assert (second.egress["files_written"], second.egress["files_deleted"]) == (1, 1)
    third = run(world, {"/z": "9"}, delete=("/sub__c",))
    assert third.egress["files_deleted"] == 1
    assert not (target / "sub").exists()  # it was ours, and is empty


def test_a_file_becomes_a_folder_and_a_folder_a_file(world: World, place: Path) -> None:
    world.pipelines.create("default", spec(egress={"URL": place.as_uri()}))
    run(world, {"/x": "file", "/y__in": "folder"})
    done = run(world, {"/x__in": "folder now", "/y": "file now"}, delete=("/x", "/y__in"))
    assert done.status == Status.SUCCEEDED
    assert tree_of(place) == {"x/in": "folder now", "y": "file now"}


def test_reprocess_sends_all_again(world: World, place: Path) -> None:
    world.pipelines.create("default", spec(egress={"URL": place.as_uri()}))
    run(world, {"/a": "1", "/b": "2"})
    (place / "a").unlink()
    world.pipelines.rerun("default", "edges", reprocess=True)
    world.settle()
    world.work("edges", lambda path: {path: "1"})
    assert newest(world).egress["files_written"] == 2
    assert tree_of(place) == {"a": "1", "b": "1"}


def test_no_link_leads_out_of_the_target(world: World, place: Path, tmp_path_factory: Any) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (place / "sub").symlink_to(outside)
    world.pipelines.create("default", spec(egress={"URL": place.as_uri()}))
    done = run(world, {"/sub__b": "2"})
    assert done.status == Status.FAILED
    assert "could not be sent" in done.reason and "in the way" in done.reason
    assert list(outside.iterdir()) == []


def test_other_peoples_folder_in_the_way_fails_the_job(world: World, place: Path) -> None:
    (place / "a").mkdir()
    (place / "a" / "theirs").write_text("x")
    world.pipelines.create("default", spec(egress={"URL": place.as_uri()}))
    done = run(world, {"/a": "1"})
    assert done.status == Status.FAILED and "/a" in done.reason
    assert tree_of(place) == {"a/theirs": "x"}


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("file:///etc/cron.d", PermissionDeniedError),
        ("file://relative/path", InvalidInputError),
        ("file:///{place}/../elsewhere", PermissionDeniedError),
        ("ftp://host/x", InvalidInputError),
        ("s3://Bad_Bucket/x", InvalidInputError),
    ],
)
def test_targets_that_may_not_be(world: World, place: Path, url: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        world.pipelines.create("default", spec(egress={"URL": url.replace("/{place}", str(place))}))


def test_the_data_directory_is_no_target(make: Callable[..., World], tmp_path: Path) -> None:
    world = make(egress_folders=[Path("/")])
    with pytest.raises(PermissionDeniedError, match="data directory"):
        world.pipelines.create("default", spec(egress={"URL": (world.settings.home / "x").as_uri()}))


# --- when it goes wrong -------------------------------------------------------------------------------------------


class Flaky(Target):
    """A target that is away for a while, and may be cut after some files."""

    def __init__(self, inner: Target, failures: int, after_files: int = 0) -> None:
        self.inner = inner
        self.failures = failures
        self.after_files = after_files

    @property
    def name(self) -> str:
        return self.inner.name

    def send(self, parcel: Parcel) -> None:
        if self.failures:
            self.failures -= 1
            if self.after_files:
                self.inner.send(_Cut(parcel, self.after_files))
            raise UnavailableError("the other side is away", kind="egress_failed")
        self.inner.send(parcel)


class _Cut(Parcel):
    def __init__(self, inner: Parcel, files: int) -> None:
        self.__dict__.update(inner.__dict__)
        self._files = files

    def contents(self) -> Iterator[Any]:
        for number, one in enumerate(super().contents()):
            if number == self._files:
                raise UnavailableError("cut", kind="egress_failed")
            yield one


def flaky(world: World, failures: int, after_files: int = 0) -> None:
    """Let the next tries fail."""
    step = world.pipelines._egress
    real = step._open_target
    assert real is not None
    kept: dict[str, Flaky] = {}

    def open_target(project: str, egress: Any) -> Target:
        target = real(project, egress)
        return kept.setdefault(target.name, Flaky(target, failures, after_files))

    step._open_target = open_target


def test_it_is_tried_again_and_then_succeeds(world: World, clock: FakeClock, place: Path) -> None:
    world.pipelines.create("default", spec(egress={"URL": place.as_uri()}))
    flaky(world, 2)
    waiting = run(world, {"/a": "1"})
    assert (waiting.status, waiting.phase) == (Status.RUNNING, "egressing")
    assert "away" in waiting.egress["error"]
    for seconds in egress_step.RETRY_SECONDS[:2]:
        clock.advance(seconds)
        world.settle()
    done = newest(world)
    assert (done.status, tree_of(place)) == (Status.SUCCEEDED, {"a": "1"})
    assert done.egress["attempts"] == 3 and "error" not in done.egress


def test_after_the_last_try_the_job_fails_and_says_why(world: World, clock: FakeClock, place: Path) -> None:
    world.pipelines.create("default", spec(egress={"URL": place.as_uri()}))
    flaky(world, 99)
    run(world, {"/a": "1"})
    for seconds in egress_step.RETRY_SECONDS:
        assert newest(world).status == Status.RUNNING
        clock.advance(seconds)
        world.settle()
    done = newest(world)
    assert done.status == Status.FAILED
    assert f"could not be sent to {place.as_uri()} (tried 6 times)" in done.reason and "away" in done.reason


def test_what_a_failed_try_has_written_is_known_to_the_next_job(
    world: World, clock: FakeClock, place: Path
) -> None:
    world.pipelines.create("default", spec(egress={"URL": place.as_uri()}))
    run(world, {"/keep": "0"})
    flaky(world, 1, after_files=2)
    half = run(world, {"/a": "1", "/b": "2", "/c": "3"})
    assert tree_of(place) == {"keep": "0", "a": "1", "b": "2"}
    world.pipelines.stop_job("default", "edges", half.id)
    world.settle()
    clock.advance(100)
    done = run(world, {"/c": "3", "/b": "22"}, delete=("/a",))
    assert done.status == Status.SUCCEEDED
    assert tree_of(place) == {"keep": "0", "b": "22", "c": "3"}


def test_a_crash_in_between_repeats_it(world: World, clock: FakeClock, place: Path) -> None:
    world.pipelines.create("default", spec(egress={"URL": place.as_uri()}))
    flaky(world, 1, after_files=1)
    run(world, {"/a": "1", "/b": "2"})
    again = world.restart()
    clock.advance(100)
    again.settle()
    assert (newest(again).status, tree_of(place)) == (Status.SUCCEEDED, {"a": "1", "b": "2"})


# --- a bucket -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_bucket(make: Callable[..., World], bucket_server: BucketServer, monkeypatch: Any) -> None:
    import boto3

    monkeypatch.setenv("AWS_REGION", REGION)
    world = make(fetch_s3_endpoint=bucket_server.endpoint)
    url = bucket_server.new_url()
    client = boto3.client("s3", endpoint_url=bucket_server.endpoint, region_name=REGION)
    prefix = url.split("/", 3)[3] + "/"

    def there() -> dict[str, bytes]:
        found = client.list_objects_v2(Bucket=bucket_server.bucket, Prefix=prefix).get("Contents", [])
        return {
            one["Key"][len(prefix) :]: client.get_object(Bucket=bucket_server.bucket, Key=one["Key"])[
                "Body"
            ].read()
            for one in found
        }

    world.pipelines.create("default", spec(egress={"object_storage": {"url": url}}))
    large = "x" * (9 << 20)
    first = run(world, {"/a": "1", "/sub__b": "2", "/large": large, "/ünï codé%41": "3"})
    assert first.status == Status.SUCCEEDED, first.reason
    assert there() == {"a": b"1", "sub/b": b"2", "large": large.encode(), "ünï codé%41": b"3"}
    client.put_object(Bucket=bucket_server.bucket, Key=f"{prefix}foreign", Body=b"theirs")
    second = run(world, {"/a": "11"}, delete=("/sub__b", "/large"))
    assert there() == {"a": b"11", "ünï codé%41": b"3", "foreign": b"theirs"}
    assert (second.egress["files_written"], second.egress["files_deleted"]) == (1, 2)


@pytest.mark.slow
def test_a_bucket_that_does_not_let_us_in(
    make: Callable[..., World], bucket_server: BucketServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make(fetch_s3_endpoint=bucket_server.endpoint)
    world.pipelines.create("default", spec(egress={"URL": bucket_server.new_url()}))
    monkeypatch.setenv("AWS_REGION", REGION)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-right-one")
    done = run(world, {"/a": "1"})
    assert done.status == Status.FAILED
    assert "may not be written with the credentials" in done.reason


@pytest.mark.slow
def test_a_bucket_service_that_is_away_is_tried_again(
    make: Callable[..., World], bucket_server: BucketServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    [port] = free_ports(1)
    monkeypatch.setattr(bucketwriter, "RETRIES_MAX", 0)
    monkeypatch.setenv("AWS_REGION", REGION)
    world = make(fetch_s3_endpoint=f"http://127.0.0.1:{port}")
    world.pipelines.create("default", spec(egress={"URL": bucket_server.new_url()}))
    waiting = run(world, {"/a": "1"})
    assert (waiting.status, waiting.phase) == (Status.RUNNING, "egressing")
    assert "cannot be written" in waiting.egress["error"]


# --- tables -------------------------------------------------------------------------------------------------------


def sqlite_at(place: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(place / "x.db")
    connection.execute("CREATE TABLE people (name TEXT, age INTEGER)")
    connection.execute("CREATE TABLE other (id INTEGER)")
    connection.execute("INSERT INTO people VALUES ('old', 1)")
    connection.commit()
    return connection


def tables(url: str, format_: str = "CSV", columns: tuple[str, ...] = (), **more: Any) -> dict[str, Any]:
    file_format = {"type": format_, "columns": list(columns)}
    return spec(egress={"sql_database": {"url": url, "file_format": file_format, **more}})


def test_sqlite_rows_are_replaced_where_a_file_changed(world: World, place: Path) -> None:
    connection = sqlite_at(place)
    world.pipelines.create("default", tables(f"sqlite://{place}/x.db"))
    first = run(
        world, {"/people__1": "name,age\nann,30\nbob,\n", "/people__2": '"c, d",5\n', "/other__x": "7\n"}
    )
    assert first.status == Status.SUCCEEDED, first.reason
    people = connection.execute("SELECT * FROM people ORDER BY name").fetchall()
    assert people == [("ann", 30), ("bob", None), ("c, d", 5)]
    assert (first.egress["rows_written"], first.egress["tables"]) == (4, 2)
    connection.execute("INSERT INTO other VALUES (8)")
    connection.commit()
    second = run(world, {"/people__2": "dan,6\n"}, delete=("/people__1",))
    assert connection.execute("SELECT * FROM people").fetchall() == [("dan", 6)]
    assert connection.execute("SELECT * FROM other").fetchall() == [(7,), (8,)]  # nothing of it changed
    assert second.egress["tables"] == 1
    run(world, {"/other__x": "9\n"}, delete=("/people__2",))
    assert connection.execute("SELECT * FROM people").fetchall() == []


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"/people__1": "a,1,2\n"}, "/people/1, line 1: it has 3 fields, not 2 (name, age)"),
        ({"/stray": "x"}, "/stray is in no folder"),
        ({"/nobody__1": "x"}, "has no table 'nobody'"),
    ],
)
def test_bad_rows_change_no_table(world: World, place: Path, files: dict[str, str], said: str) -> None:
    connection = sqlite_at(place)
    world.pipelines.create("default", tables(f"sqlite://{place}/x.db"))
    done = run(world, {"/other__x": "7\n", **files})
    assert done.status == Status.FAILED
    assert said in done.reason
    assert connection.execute("SELECT * FROM people").fetchall() == [("old", 1)]
    assert connection.execute("SELECT * FROM other").fetchall() == []


def test_json_lines(world: World, place: Path) -> None:
    connection = sqlite_at(place)
    world.pipelines.create("default", tables(f"sqlite://{place}/x.db", "JSON", ("name", "age")))
    done = run(world, {"/people__1": '{"name": "ann", "age": 3}\n\n{"age": 4}\n{"name": ["x"]}'})
    assert done.status == Status.SUCCEEDED, done.reason
    assert connection.execute("SELECT * FROM people").fetchall() == [("ann", 3), (None, 4), ('["x"]', None)]


@pytest.fixture
def database(postgres: Postgres) -> Iterator[psycopg.Connection[Any]]:
    url = postgres.new_database(empty=True)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute('CREATE TABLE "My Table" (id int PRIMARY KEY, at timestamptz, ok bool, note text)')
        connection.execute("INSERT INTO \"My Table\" VALUES (1, now(), true, 'old')")
        yield connection


def postgres_spec(world: World, postgres: Postgres, database: psycopg.Connection[Any], *rest: Any) -> None:
    world.secrets.apply("default", "pg", string_data={"password": postgres.password})
    url = f"postgres://{postgres.user}@127.0.0.1:{postgres.port}/{database.info.dbname}"
    world.pipelines.create("default", tables(url, *rest, secret={"name": "pg", "key": "password"}))


@pytest.mark.slow
def test_postgresql(world: World, postgres: Postgres, database: psycopg.Connection[Any]) -> None:
    postgres_spec(world, postgres, database, "CSV", ("id", "note", "ok"))
    first = run(world, {"/My Table__1": 'id,note,ok\n1,"a ""b"",\nc",true\n2,,f\n'})
    assert first.status == Status.SUCCEEDED, first.reason
    rows = database.execute('SELECT id, note, ok, at FROM "My Table" ORDER BY id').fetchall()
    assert rows == [(1, 'a "b",\nc', True, None), (2, None, False, None)]
    assert postgres.password not in str(first.egress)
    bad = run(world, {"/My Table__2": "1,twice,t\n"})
    assert bad.status == Status.FAILED and "duplicate key" in bad.reason
    assert database.execute('SELECT count(*) FROM "My Table"').fetchone() == (2,)


@pytest.mark.slow
def test_postgresql_json(world: World, postgres: Postgres, database: psycopg.Connection[Any]) -> None:
    postgres_spec(world, postgres, database, "JSON")
    done = run(world, {"/My Table__1": '{"id": 5, "ok": true, "at": "2020-01-01T00:00:00Z"}\n{"id": 6}\n'})
    assert done.status == Status.SUCCEEDED, done.reason
    assert database.execute('SELECT id, ok FROM "My Table" ORDER BY id').fetchall() == [(5, True), (6, None)]


@pytest.mark.slow
def test_postgresql_wrong_password(
    world: World, postgres: Postgres, database: psycopg.Connection[Any]
) -> None:
    postgres_spec(world, postgres, database)
    world.secrets.apply("default", "pg", string_data={"password": "wrong-word"})
    done = run(world, {"/My Table__1": "5,,,\n"})
    assert done.status == Status.FAILED and "does not let that user in" in done.reason
    assert "wrong-word" not in done.reason


def test_a_password_in_the_url_and_a_secret_that_is_not_there(world: World) -> None:
    with pytest.raises(InvalidInputError, match="must have no password"):
        world.pipelines.create("default", tables("postgresql://me:pw@h/db"))
    with pytest.raises(NotFoundError, match="there is no secret nope"):
        world.pipelines.create("default", tables("postgresql://me@h/db", secret={"name": "nope", "key": "k"}))


def test_a_target_without_rights(world: World, place: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    place.chmod(0o500)
    world.pipelines.create("default", spec(egress={"URL": place.as_uri()}))
    done = run(world, {"/a": "1"})
    place.chmod(0o700)
    assert done.status == Status.FAILED and "Permission denied" in done.reason
