"""Tables of access and versioned data."""

from __future__ import annotations

import sqlalchemy as sa

from trunkline.storage.db.schema.base import metadata, time_column

# --- access -------------------------------------------------------------------------------------------------------

tokens = sa.Table(
    "tokens",
    metadata,
    sa.Column(
        "hash", sa.Text, primary_key=True
    ),  # SHA-256 of the token: the token itself is never stored here
    sa.Column("scope", sa.Text, nullable=False),  # admin, console, worker, job, trial
    sa.Column("subject", sa.Text, nullable=False),  # what it was given to, e.g. job:default/digits-model@<ID>
    time_column("created_at"),
    time_column("expires_at", nullable=True),
)

# --- versioning ---------------------------------------------------------------------------------------------------

projects = sa.Table(
    "projects",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("description", sa.Text, nullable=False, default=""),
    time_column("created_at"),
)
repos = sa.Table(
    "repos",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("project", sa.Text, sa.ForeignKey("projects.name"), nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("description", sa.Text, nullable=False, default=""),
    sa.Column(
        "owner", sa.Text, nullable=True
    ),  # e.g. pipeline:NAME; such a repo is changed only through its owner
    time_column("created_at"),
    sa.UniqueConstraint("project", "name"),
)
branches = sa.Table(
    "branches",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("repo_id", sa.Integer, sa.ForeignKey("repos.id", ondelete="CASCADE"), nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("head", sa.Integer, nullable=True),  # commits.pk
    time_column("created_at"),
    sa.UniqueConstraint("repo_id", "name"),
)
branch_provenance = sa.Table(
    "branch_provenance",
    metadata,
    sa.Column("branch_id", sa.Integer, sa.ForeignKey("branches.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("upstream_id", sa.Integer, sa.ForeignKey("branches.id"), primary_key=True),
    sa.Index("branch_provenance_upstream", "upstream_id"),
)
commits = sa.Table(
    "commits",
    metadata,
    sa.Column("pk", sa.Integer, primary_key=True),
    sa.Column("id", sa.Text, nullable=False),
    sa.Column("repo_id", sa.Integer, sa.ForeignKey("repos.id", ondelete="CASCADE"), nullable=False),
    sa.Column("branch", sa.Text, nullable=False),
    sa.Column("parent", sa.Integer, nullable=True),  # commits.pk
    sa.Column("origin", sa.Text, nullable=False),  # user, auto
    sa.Column("status", sa.Text, nullable=False),  # open, finished
    sa.Column("description", sa.Text, nullable=False, default=""),
    sa.Column("error", sa.Text, nullable=True),
    sa.Column("root", sa.Text, nullable=True),  # tree hash; of an open commit: what was written so far
    sa.Column("size", sa.BigInteger, nullable=False, default=0),
    sa.Column("file_count", sa.BigInteger, nullable=False, default=0),
    time_column("created_at"),
    time_column("finished_at", nullable=True),
    sa.UniqueConstraint("repo_id", "id"),
    sa.Index("commits_id", "id"),
    sa.Index("commits_parent", "parent"),
)
commit_provenance = sa.Table(
    "commit_provenance",
    metadata,
    sa.Column("commit_pk", sa.Integer, sa.ForeignKey("commits.pk", ondelete="CASCADE"), primary_key=True),
    sa.Column("upstream_pk", sa.Integer, sa.ForeignKey("commits.pk"), primary_key=True),
    sa.Column(
        "upstream_branch", sa.Text, primary_key=True
    ),  # whose head it was; it may have been made on another
    sa.Index("commit_provenance_upstream", "upstream_pk"),
)
packs = sa.Table(
    "packs",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),  # BLAKE3 of the pack file, hex
    sa.Column("size", sa.BigInteger, nullable=False),
    time_column("created_at"),
)
chunks = sa.Table(
    "chunks",
    metadata,
    sa.Column("hash", sa.LargeBinary, primary_key=True),  # BLAKE3 of the uncompressed bytes, 32 bytes
    sa.Column("pack_id", sa.Integer, sa.ForeignKey("packs.id"), nullable=False),
    sa.Column("offset", sa.BigInteger, nullable=False),
    sa.Column("length", sa.Integer, nullable=False),  # bytes in the pack
    sa.Column("raw_length", sa.Integer, nullable=False),  # bytes after decompression
    sa.Column("codec", sa.Integer, nullable=False),  # 0 stored, 1 zstd
    sa.Index("chunks_pack", "pack_id"),
)
links = sa.Table(
    "links",  # contents that were never copied in: they are read where they lie
    metadata,
    sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("url", sa.Text, nullable=False),  # file:///path (as it is, not quoted) or s3://bucket/key
    sa.Column("content", sa.Text, nullable=True),  # the hash of the file as people see it; null: not complete
    sa.Column("first_chunk", sa.LargeBinary, nullable=True),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("version", sa.Text, nullable=False),  # mtime in nanoseconds, or the bucket's ETag
    time_column("created_at"),
    sa.Index("links_content", "content"),
    sa.Index("links_url", "url"),
)
linked_chunks = sa.Table(
    "linked_chunks",  # where ``chunks`` has no such hash
    metadata,
    sa.Column("hash", sa.LargeBinary, primary_key=True),
    sa.Column("link_id", sa.BigInteger, sa.ForeignKey("links.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("offset", sa.BigInteger, nullable=False),
    sa.Column("length", sa.Integer, nullable=False),
    sa.Index("linked_chunks_link", "link_id"),
)
