"""SQL that one test's engine has compiled is there for the engines of all others."""

from __future__ import annotations

from typing import Any

from sqlalchemy.dialects import registry
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.engine import Engine
from sqlalchemy.util import LRUCache

_compiled: LRUCache[Any, Any] = LRUCache(2000)


class SharingDialect(SQLiteDialect_pysqlite):
    """SQLite's, of which all instances are the same to the cache: a server compiles a statement once, and a test, which has a
    new engine, would compile all of them again."""

    supports_statement_cache = True

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self)

    def __hash__(self) -> int:
        return hash(type(self))

    @classmethod
    def engine_created(cls, engine: Engine) -> None:
        engine.update_execution_options(compiled_cache=_compiled)


registry.register("sqlite", __name__, SharingDialect.__name__)
