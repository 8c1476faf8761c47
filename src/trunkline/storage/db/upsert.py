"""``INSERT … ON CONFLICT`` for both databases.

PostgreSQL's construct compiles for SQLite too; SQLite's does not compile for PostgreSQL. Whether a row was
inserted is what ``returning`` returns: the number of rows is not known on PostgreSQL.
"""

from __future__ import annotations

from sqlalchemy.dialects.postgresql import Insert
from sqlalchemy.dialects.postgresql import insert as upsert

__all__ = ["Insert", "upsert"]
