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
    sa.Column(
        "quiet", sa.Boolean, nullable=False, server_default=sa.false()
    ),  # a commit upstream is taken up with the next one of another input, and makes none by itself
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
    sa.Index("commits_repo", "repo_id", "pk"),
    sqlite_autoincrement=True,  # a key is never used again: they say which of two commits is the newer
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
branch_triggers = sa.Table(
    "branch_triggers",
    metadata,
    sa.Column("branch_id", sa.Integer, sa.ForeignKey("branches.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("source_id", sa.Integer, sa.ForeignKey("branches.id", ondelete="CASCADE"), nullable=False),
    sa.Column("spec", sa.JSON, nullable=False),  # size, commits, rate_limit, cron, all
    time_column("next_at", nullable=True),  # when to look at it by the clock
    sa.Index("branch_triggers_source", "source_id"),
    sa.Index("branch_triggers_next", "next_at"),
)
transactions = sa.Table(
    "transactions",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),  # the ID of the commit set that it will make
    time_column("created_at"),
)
transaction_operations = sa.Table(
    "transaction_operations",
    metadata,
    sa.Column(
        "transaction_id", sa.Text, sa.ForeignKey("transactions.id", ondelete="CASCADE"), primary_key=True
    ),
    sa.Column("seq", sa.Integer, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),  # e.g. create_branch
    sa.Column("arguments", sa.JSON, nullable=False),
)
tags = sa.Table(
    "tags",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("repo_id", sa.Integer, sa.ForeignKey("repos.id", ondelete="CASCADE"), nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    # Without ON DELETE on purpose: nothing can remove a tagged commit by accident.
    sa.Column("commit_pk", sa.Integer, sa.ForeignKey("commits.pk"), nullable=False),
    sa.Column("description", sa.Text, nullable=False, default=""),
    time_column("created_at"),
    sa.UniqueConstraint("repo_id", "name"),
    sa.Index("tags_commit", "commit_pk"),
)
merges = sa.Table(
    "merges",  # what was merged into a commit, besides its parent; always an older commit of the same repo
    metadata,
    sa.Column("commit_pk", sa.Integer, sa.ForeignKey("commits.pk", ondelete="CASCADE"), primary_key=True),
    sa.Column("source_pk", sa.Integer, sa.ForeignKey("commits.pk", ondelete="CASCADE"), primary_key=True),
    sa.Index("merges_source", "source_pk"),
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
uploads = sa.Table(
    "uploads",  # files that arrive in parts, see versioning.service.uploads
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("repo_id", sa.Integer, sa.ForeignKey("repos.id", ondelete="CASCADE"), nullable=False),
    sa.Column("address", sa.Text, nullable=False),  # project/repo@branch or project/repo@branch=ID
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("modified_at", sa.Float, nullable=True),
    time_column("created_at"),
    time_column("expires_at"),
    sa.Column("commit_id", sa.Text, nullable=True),  # of the commit that it ended in
    sa.Column("root", sa.Text, nullable=True),  # the tree of that commit then
    sa.Index("uploads_repo", "repo_id", "path"),
)
upload_parts = sa.Table(
    "upload_parts",
    metadata,
    sa.Column("upload_id", sa.Text, sa.ForeignKey("uploads.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("root", sa.Text, nullable=False),  # hash of a tree that holds the part as its only file
    sa.Column("hash", sa.Text, nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
    time_column("created_at"),
)
links = sa.Table(
    "links",  # contents that were never copied in: they are read where they lie
    metadata,
    sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("url", sa.Text, nullable=False),  # file:///path (as it is, not quoted) or s3://bucket/key
    sa.Column("content", sa.Text, nullable=True),  # the hash of the file as people see it; null: not complete
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
