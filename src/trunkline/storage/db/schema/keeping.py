"""Tables of keeping data: what collection, purging and backup must remember between two of their steps."""

from __future__ import annotations

import sqlalchemy as sa

from trunkline.storage.db.schema.base import metadata, time_column

tree_holds = sa.Table(
    "tree_holds",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("root", sa.Text, nullable=False),  # a tree that was staged, and that nothing else refers to yet
    time_column("expires_at"),
    sa.Index("tree_holds_root", "root"),
)
condemned_packs = sa.Table(
    "condemned_packs",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),  # its rows are gone, its object is about to be
    time_column("since"),
)
maintenance = sa.Table(
    "maintenance",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),  # always 'store': one such work at a time
    sa.Column("what", sa.Text, nullable=False),  # gc, fsck, purge, backup
    sa.Column("token", sa.Text, nullable=False),
    time_column("expires_at"),
)
purges = sa.Table(
    "purges",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("project", sa.Text, nullable=False),
    sa.Column("repo", sa.Text, nullable=False),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("everywhere", sa.Boolean, nullable=False),
    sa.Column("who", sa.Text, nullable=False),
    sa.Column("why", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),  # erasing: trees are rewritten, bytes may be left; done
    sa.Column("contents", sa.JSON, nullable=False),  # [{path, hash, size}]
    sa.Column("chunks", sa.JSON, nullable=False),  # hex hashes that must be gone; empty once they are
    sa.Column("report", sa.JSON, nullable=False),  # what was built from it
    time_column("created_at"),
    sa.Index("purges_repo", "project", "repo"),
    sqlite_autoincrement=True,
)
purged_roots = sa.Table(
    "purged_roots",
    metadata,
    sa.Column("purge_id", sa.Integer, sa.ForeignKey("purges.id"), primary_key=True),
    sa.Column("old_root", sa.Text, primary_key=True),
    sa.Column("new_root", sa.Text, nullable=False),
)
