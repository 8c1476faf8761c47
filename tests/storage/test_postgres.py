"""The two doors on a real PostgreSQL: one writer at a time, consistent snapshots, one server, and errors of our own."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Iterator
from contextlib import closing

import psycopg
import pytest
import sqlalchemy as sa

from trunkline.errors import InvalidInputError, StateError, UnavailableError
from trunkline.storage.db import schema
from trunkline.storage.db.engine import Database
from trunkline.storage.db.schema import meta, projects, queues, repos
from trunkline.testing.postgres import Postgres
from trunkline.testing.programs import free_ports

pytestmark = pytest.mark.slow


@pytest.fixture
def url(postgres: Postgres) -> Iterator[str]:
    found = postgres.take_database()
    yield found
    postgres.give_back(found)


@pytest.fixture
def db(url: str) -> Iterator[Database]:
    database = Database(url)
    yield database
    database.close()


def _count(connection: sa.Connection) -> int:
    return int(connection.execute(sa.select(meta.c.value).where(meta.c.key == "count")).scalar_one())


def _set_count(connection: sa.Connection, count: int) -> None:
    connection.execute(sa.update(meta).where(meta.c.key == "count").values(value=str(count)))


@pytest.fixture
def counted(db: Database) -> Database:
    with db.write() as connection:
        connection.execute(sa.insert(meta).values(key="count", value="0"))
    return db


def test_writers_lose_no_update_and_never_deadlock(counted: Database, url: str) -> None:
    other = Database(url)  # as another process has it

    def add(db: Database) -> None:
        for _ in range(25):
            with db.write() as connection:
                _set_count(connection, _count(connection) + 1)

    threads = [threading.Thread(target=add, args=(db,)) for db in (counted, other) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with counted.read() as connection:
        assert _count(connection) == 150
    other.close()


def test_a_read_is_one_snapshot(counted: Database) -> None:
    with counted.read() as reader:
        assert _count(reader) == 0
        with counted.write() as writer:
            _set_count(writer, 1)
        assert _count(reader) == 0
    with counted.read() as reader:
        assert _count(reader) == 1


def test_a_read_cannot_write(counted: Database) -> None:
    with pytest.raises(UnavailableError, match="read-only"), counted.read() as connection:
        _set_count(connection, 1)


def test_a_write_that_fails_changes_nothing(counted: Database) -> None:
    with pytest.raises(RuntimeError), counted.write() as connection:
        _set_count(connection, 5)
        raise RuntimeError
    with counted.read() as connection:
        assert _count(connection) == 0


def test_only_one_server_may_use_it(db: Database, url: str) -> None:
    other = Database(url)
    with db.only_server():
        with pytest.raises(StateError, match="another server") as caught, other.only_server():
            pass
        assert caught.value.kind == "already_running"
        assert make_password(url) not in str(caught.value)
    with other.only_server():
        pass
    other.close()


def test_a_server_that_lost_its_lock_and_was_replaced_writes_no_more(
    counted: Database, postgres: Postgres, url: str
) -> None:
    with counted.only_server():
        with psycopg.connect(postgres.url("postgres"), autocommit=True) as admin:
            admin.execute(
                "SELECT pg_terminate_backend(l.pid) FROM pg_locks l JOIN pg_database d ON d.oid = l.database "
                "WHERE l.locktype = 'advisory' AND d.datname = %s",
                (url.rpartition("/")[2],),
            )
        with counted.write() as connection:  # nobody else has come
            _set_count(connection, 1)
        other = Database(url)
        with other.only_server():
            with pytest.raises(UnavailableError, match="taken over"), counted.write() as connection:
                _set_count(connection, 2)
            with other.write() as connection:
                assert _count(connection) == 1
        other.close()


def make_password(url: str) -> str:
    return str(sa.make_url(url).password)


def test_many_open_an_empty_database_at_once(postgres: Postgres) -> None:
    url = postgres.new_database(empty=True)
    failures: list[BaseException] = []

    def open_it() -> None:
        try:
            Database(url).close()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=open_it) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    db = Database(url)
    with db.read() as connection:
        assert set(sa.inspect(connection).get_table_names()) == set(schema.metadata.tables)
    db.close()
    postgres.drop_database(url)


def test_a_newer_database_is_left_alone(db: Database, url: str) -> None:
    with db.write() as connection:
        connection.execute(sa.update(meta).where(meta.c.key == "schema_version").values(value="999"))
    with pytest.raises(UnavailableError, match="upgrade trunkline"):
        Database(url)
    with db.write() as connection:
        connection.execute(
            sa.update(meta).where(meta.c.key == "schema_version").values(value=str(schema.SCHEMA_VERSION))
        )


def test_text_sorts_by_its_bytes(db: Database) -> None:
    names = ["B", "a", "a-b", "a_b", "ab", "ä", "Z"]
    with db.write() as connection:
        connection.execute(
            sa.insert(projects), [{"name": name, "description": "", "created_at": 0.0} for name in names]
        )
    with db.read() as connection:
        found = connection.execute(sa.select(projects.c.name).order_by(projects.c.name)).scalars().all()
        above = (
            connection.execute(
                sa.select(projects.c.name).where(projects.c.name > "a-b").order_by(projects.c.name)
            )
            .scalars()
            .all()
        )
    assert list(found) == sorted(names)
    assert list(above) == ["a_b", "ab", "ä"]


def test_json_is_what_it_was(db: Database) -> None:
    options = {"nan": float("nan"), "inf": float("inf"), "nul": "a\0b", "big": 2**70, "text": "ü😀"}
    with db.write() as connection:
        connection.execute(sa.insert(queues).values(name="q", worker="w", workers_max=1, options=options))
    with db.read() as connection:
        found = connection.execute(sa.select(queues.c.options)).scalar_one()
    assert repr(found) == repr(options)


def test_what_cannot_be_stored_is_refused_in_our_words(db: Database) -> None:
    row = {"created_at": 0.0, "description": ""}
    for name, said in (("a\0b", "NUL character"), ("a\ud800", "surrogate")):
        with pytest.raises(InvalidInputError, match=said), db.write() as connection:
            connection.execute(sa.insert(projects).values(name=name, **row))
    with pytest.raises(InvalidInputError, match="64 bits"), db.write() as connection:
        connection.execute(sa.insert(repos).values(id=2**64, project="p", name="r", **row))


def test_a_connection_that_breaks_is_an_error_once(counted: Database, postgres: Postgres, url: str) -> None:
    with pytest.raises(UnavailableError, match="does not answer") as caught, counted.write() as connection:
        pid = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
        with psycopg.connect(postgres.url("postgres"), autocommit=True) as admin:
            admin.execute("SELECT pg_terminate_backend(%s)", (pid,))
        _set_count(connection, 7)
    assert "\n" not in str(caught.value)
    with counted.write() as connection:  # and the next one has a new connection
        assert _count(connection) == 0


def test_idle_connections_that_broke_cost_nothing(counted: Database, postgres: Postgres) -> None:
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as admin:
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'trunkline'"
        )
    with counted.read() as connection:
        assert _count(connection) == 0


def test_nobody_there_and_a_wrong_password_are_one_line_without_it(postgres: Postgres) -> None:
    (port,) = free_ports(1)
    for url in (
        f"postgresql://u:not-to-be-shown@127.0.0.1:{port}/d",
        postgres.url("postgres", password="not-to-be-shown"),
        f"{postgres.url('postgres')}_missing",
    ):
        with pytest.raises(UnavailableError) as caught:
            Database(url)
        assert "\n" not in str(caught.value)
        shown = "".join(traceback.format_exception(caught.value))
        assert "not-to-be-shown" not in shown
        assert postgres.password not in shown


def test_urls_that_make_no_sense() -> None:
    for url in ("not a url", "mysql://host/db", "postgresql:/"):
        with pytest.raises(InvalidInputError, match="database_url"):
            Database(url)


def test_a_database_that_cannot_hold_every_text_is_refused(postgres: Postgres) -> None:
    from psycopg import sql

    postgres.execute(
        sql.SQL(
            "CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' LOCALE_PROVIDER libc TEMPLATE template0"
        ).format()
    )
    with pytest.raises(InvalidInputError, match="UTF8"):
        Database(postgres.url("latin"))


def test_acknowledged_means_synced(postgres: Postgres, url: str) -> None:
    from psycopg import sql

    name = url.rpartition("/")[2]
    postgres.execute(sql.SQL("ALTER DATABASE {} SET synchronous_commit = off").format(sql.Identifier(name)))
    db = Database(url)
    with db.read() as connection:
        assert connection.exec_driver_sql("SHOW synchronous_commit").scalar_one() == "on"
    db.close()
    postgres.execute(sql.SQL("ALTER DATABASE {} RESET synchronous_commit").format(sql.Identifier(name)))


def test_who_was_left_behind_cannot_write_into_the_next_tests_data(postgres: Postgres) -> None:
    """A pool connects again by itself; so a database that is given back is another one when it is taken."""
    url = postgres.new_database()
    left = Database(url)
    add = sa.insert(queues).values(name="late", worker="w", options={})
    with left.write() as connection:
        connection.execute(add)
    postgres.give_back(url)
    with pytest.raises(UnavailableError), left.write() as connection:
        connection.execute(add)
    left.close()
    taken = postgres.take_database()
    assert taken != url
    with closing(Database(taken)) as db, db.read() as connection:
        assert connection.execute(sa.select(queues)).all() == []
    postgres.give_back(taken)
