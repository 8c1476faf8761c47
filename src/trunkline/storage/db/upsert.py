"""``INSERT … ON CONFLICT`` for both databases.

PostgreSQL's construct compiles for SQLite too; SQLite's does not compile for PostgreSQL.
"""

from __future__ import annotations

from sqlalchemy.dialects.postgresql import Insert
from sqlalchemy.dialects.postgresql import insert as upsert

__all__ = ["Insert", "upsert"]
