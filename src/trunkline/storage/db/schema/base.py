"""What all tables share."""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData()


def time_column(name: str, *, nullable: bool = False) -> sa.Column[float]:
    """Seconds since the Unix epoch."""
    return sa.Column(name, sa.Float, nullable=nullable)


meta = sa.Table(
    "meta", metadata, sa.Column("key", sa.Text, primary_key=True), sa.Column("value", sa.Text, nullable=False)
)
