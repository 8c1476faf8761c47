"""``column IN (one of many texts)`` as one parameter: to write each into the statement takes longer than to look it up."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import Dialect
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator, TypeEngine


class _Texts(TypeDecorator[list[str]]):
    """As each database takes a list."""

    impl = sa.JSON
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return sa.JSON() if dialect.name == "sqlite" else postgresql.ARRAY(sa.Text)


class Among(FunctionElement[bool]):
    """Whether a column has one of the texts in the list that the parameter ``name`` is given."""

    name = "among"
    type = sa.Boolean()
    inherit_cache = True

    def __init__(self, column: sa.Column[str], name: str) -> None:
        super().__init__(column, sa.bindparam(name, type_=_Texts()))

    def self_group(self, against: Any = None) -> Any:
        """As it is: SQLAlchemy would write ``= 1`` behind it for SQLite, which then looks at each row."""
        return self


@compiles(Among)
def _as_array(element: Among, compiler: SQLCompiler, **how: Any) -> str:
    column, texts = (compiler.process(one, **how) for one in element.clauses)
    return f"{column} = ANY ({texts})"


@compiles(Among, "sqlite")
def _as_json(element: Among, compiler: SQLCompiler, **how: Any) -> str:
    column, texts = (compiler.process(one, **how) for one in element.clauses)
    return f"{column} IN (SELECT value FROM json_each({texts}))"
