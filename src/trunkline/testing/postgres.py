"""A real PostgreSQL for tests, from the programs that this machine has."""

from __future__ import annotations

import contextlib
import secrets
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from psycopg import sql

from trunkline.errors import UnavailableError
from trunkline.storage.db.engine import Database
from trunkline.storage.db.schema import metadata
from trunkline.testing.programs import as_nobody, find_program, free_ports, own_folder, running_program

START_SECONDS = 60.0
LEAVE_MS = 10_000
"""So long a session that was told to end may take."""
_TEMPLATE = "trunkline_template"
_QUICK = ("fsync=off", "full_page_writes=off", "max_connections=300", "shared_buffers=32MB", "autovacuum=off")
"""Tests kill clients, not the machine."""


@dataclass(frozen=True, kw_only=True)
class Postgres:
    """A running server."""

    port: int
    user: str
    password: str
    process: subprocess.Popen[bytes]
    given_back: list[str] = field(default_factory=list)

    def url(self, database: str, *, password: str | None = None) -> str:
        word = self.password if password is None else password
        return f"postgresql://{self.user}:{word}@127.0.0.1:{self.port}/{database}"

    def new_database(self, *, empty: bool = False, like: str | None = None) -> str:
        """The URL of a new database; it has the tables already, unless it is to be ``empty``, or what the one at ``like``
        has, to which nobody may be connected."""
        name = f"t{secrets.token_hex(6)}"
        template = like.rpartition("/")[2] if like else "template0" if empty else _TEMPLATE
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
            sql.Identifier(name), sql.Identifier(template)
        )
        self.execute(statement)
        return self.url(name)

    def take_database(self) -> str:
        """The URL of a database with empty tables: one that was given back, or a new one (which takes ten times as long)."""
        return self.given_back.pop() if self.given_back else self.new_database()

    def give_back(self, url: str) -> None:
        """Empty a database for the next taker, whoever is still connected to it; drop it if that does not work.

        It gets a new name: a thread or a process that one test has left behind connects again to where it was, and would
        write into the next test's data.
        """
        name, new_name = url.rpartition("/")[2], f"t{secrets.token_hex(6)}"
        try:
            self.execute(
                sql.SQL(
                    "SELECT pg_terminate_backend(pid, {}) FROM pg_stat_activity WHERE datname = {}"
                ).format(sql.Literal(LEAVE_MS), sql.Literal(name))
            )
            self.execute(
                sql.SQL("ALTER DATABASE {} RENAME TO {}").format(
                    sql.Identifier(name), sql.Identifier(new_name)
                )
            )
            self._empty(new_name)
        except psycopg.Error:
            self.drop_database(url)
            self.drop_database(self.url(new_name))
        else:
            self.given_back.append(self.url(new_name))

    def _empty(self, name: str) -> None:
        tables = [table for table in metadata.tables if table != "meta"]
        looks = [
            sql.SQL("SELECT {} WHERE EXISTS (SELECT FROM {})").format(
                sql.Literal(table), sql.Identifier(table)
            )
            for table in tables
        ]
        with psycopg.connect(self.url(name), autocommit=True) as connection:
            found = connection.execute(sql.SQL(" UNION ALL ").join(looks)).fetchall()
            used = sql.SQL(", ").join(sql.Identifier(table) for (table,) in found)
            if found:
                connection.execute(sql.SQL("TRUNCATE {} RESTART IDENTITY CASCADE").format(used))
            connection.execute("DELETE FROM meta WHERE key <> 'schema_version'")

    def drop_database(self, url: str) -> None:
        """With whoever is connected to it."""
        name = url.rpartition("/")[2]
        self.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def execute(self, statement: sql.Composed, database: str = "postgres") -> None:
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            connection.execute(statement)


def is_installed() -> bool:
    """Whether this machine has PostgreSQL's server programs."""
    return _program("initdb") is not None and _program("postgres") is not None


@contextlib.contextmanager
def running_postgres() -> Iterator[Postgres]:
    """A server for the length of a block, with its data in a temporary folder.

    Its default collation is not that of bytes, as anybody's may be.

    :raises UnavailableError: if the programs are not on this machine.
    """
    initdb, postgres = _program("initdb"), _program("postgres")
    if initdb is None or postgres is None:
        raise UnavailableError("there is no PostgreSQL server on this machine: install one")
    with own_folder("postgres") as folder:
        password, (port,) = secrets.token_hex(16), free_ports(1)
        _create(initdb, folder, password)
        argv = [postgres, "-D", str(folder / "data"), "-k", str(folder), "-h", "127.0.0.1", "-p", str(port)]
        for setting in _QUICK:
            argv += ["-c", setting]

        def is_ready() -> bool:
            with contextlib.suppress(psycopg.OperationalError):
                psycopg.connect(server.url("postgres")).close()
                return True
            return False

        server = Postgres(port=port, user="trunkline", password=password, process=None)  # type: ignore[arg-type]
        with running_program(
            argv, folder, is_ready=is_ready, start_seconds=START_SECONDS, stop_signal=signal.SIGINT
        ) as process:
            server = Postgres(port=port, user="trunkline", password=password, process=process)
            server.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(_TEMPLATE)))
            Database(server.url(_TEMPLATE)).close()
            yield server


def _program(name: str) -> str | None:
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return find_program(name, *folders)


def _create(initdb: str, folder: Path, password: str) -> None:
    word = folder / "password"
    word.write_text(password)
    word.chmod(0o644)  # for the user that the server runs as; the folder is closed to others
    argv = [initdb, "-D", str(folder / "data"), "-U", "trunkline", "-E", "UTF8", "-N", "-A", "scram-sha-256"]
    argv += [f"--pwfile={word}", "--locale=C.UTF-8"]
    natural = ["--locale-provider=icu", "--icu-locale=en-US"]
    for more in (natural, []):
        done = subprocess.run(
            [*argv, *more], cwd=folder, capture_output=True, text=True, check=False, **as_nobody()  # type: ignore[call-overload]
        )  # fmt: skip
        if done.returncode == 0:
            word.unlink()
            return
    raise UnavailableError(f"initdb failed: {done.stderr[-1000:]}")
